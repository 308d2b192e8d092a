-- Who reads which tenants, as rules that follow the tenants' labels; and the newest merged alerts of a few tenants in the order of
-- their indexes. Software of an older revision writes tenants as it always has: triggers keep the wall for it too.

----------------------------------------------------------------------------------------------------------------------
-- Rules. The wall itself goes on asking alertwell.reader alone, by index.

CREATE TABLE alertwell.reader_rule (
    rule_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    role name NOT NULL,
    everything boolean NOT NULL DEFAULT false,
    labels jsonb CHECK (jsonb_typeof(labels) = 'object' AND labels <> '{}'),
    tenant_id uuid REFERENCES alertwell.tenant ON DELETE CASCADE,
    added_at timestamptz NOT NULL DEFAULT now(),
    added_by text NOT NULL CHECK (added_by <> ''),
    CHECK (everything::integer + num_nonnulls(labels, tenant_id) = 1),
    UNIQUE NULLS NOT DISTINCT (role, everything, labels, tenant_id)
);
COMMENT ON COLUMN alertwell.reader_rule.labels IS 'A tenant that has all of these labels is seen, from when it has them on.';
CREATE INDEX reader_rule_by_tenant ON alertwell.reader_rule (tenant_id) WHERE tenant_id IS NOT NULL;

ALTER TABLE alertwell.reader ADD COLUMN by_rule boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN alertwell.reader.by_rule IS 'Kept by triggers from alertwell.reader_rule; false: written by hand, and left alone.';
CREATE INDEX reader_by_tenant ON alertwell.reader (tenant_id);

CREATE VIEW alertwell.reader_ruled AS
SELECT u.role, t.tenant_id FROM alertwell.reader_rule u JOIN alertwell.tenant t ON t.tenant_id = u.tenant_id
UNION
SELECT u.role, t.tenant_id FROM alertwell.reader_rule u JOIN alertwell.tenant t ON t.labels @> u.labels
UNION
SELECT u.role, NULL FROM alertwell.reader_rule u WHERE u.everything;
COMMENT ON VIEW alertwell.reader_ruled IS 'What the rules come to now: each is a row of alertwell.reader.';

-- With the owner's rights: whoever may enrol a tenant decides by its labels who reads it, and writes alertwell.reader no other way.
CREATE FUNCTION alertwell.apply_reader_rules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    reader name;
BEGIN
    -- A tenant that is being enrolled now does not see this rule yet, nor is it seen here: one waits for the other. Not where a
    -- tenant's own rule goes, as with the tenant itself: no label gives what that rule gave.
    IF TG_OP <> 'DELETE' OR OLD.tenant_id IS NULL THEN
        LOCK TABLE alertwell.tenant IN SHARE MODE;
    END IF;
    FOREACH reader IN ARRAY CASE TG_OP WHEN 'INSERT' THEN ARRAY[NEW.role] WHEN 'DELETE' THEN ARRAY[OLD.role]
                            ELSE ARRAY[OLD.role, NEW.role] END LOOP
        DELETE FROM alertwell.reader r
        USING (SELECT h.tenant_id FROM alertwell.reader h WHERE h.role = reader AND h.by_rule
               EXCEPT SELECT u.tenant_id FROM alertwell.reader_ruled u WHERE u.role = reader) gone
        WHERE r.role = reader AND r.by_rule AND r.tenant_id IS NOT DISTINCT FROM gone.tenant_id;
        INSERT INTO alertwell.reader (role, tenant_id, by_rule)
        SELECT u.role, u.tenant_id, true FROM alertwell.reader_ruled u WHERE u.role = reader
        ON CONFLICT DO NOTHING;
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER reader_rule_changed AFTER INSERT OR UPDATE OR DELETE ON alertwell.reader_rule
FOR EACH ROW EXECUTE FUNCTION alertwell.apply_reader_rules();

CREATE FUNCTION alertwell.apply_labels() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM alertwell.reader_rule u WHERE u.labels IS NOT NULL) THEN
        RETURN NULL;
    END IF;
    IF TG_OP = 'UPDATE' THEN
        DELETE FROM alertwell.reader r USING touched n
        WHERE r.by_rule AND r.tenant_id = n.tenant_id
          AND NOT EXISTS (SELECT FROM alertwell.reader_rule u
                          WHERE u.role = r.role AND (u.tenant_id = n.tenant_id OR n.labels @> u.labels));
    END IF;
    INSERT INTO alertwell.reader (role, tenant_id, by_rule)
    SELECT DISTINCT u.role, n.tenant_id, true
    FROM touched n JOIN alertwell.reader_rule u ON n.labels @> u.labels
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END
$$;

CREATE TRIGGER labels_given AFTER INSERT ON alertwell.tenant REFERENCING NEW TABLE AS touched
FOR EACH STATEMENT EXECUTE FUNCTION alertwell.apply_labels();
CREATE TRIGGER labels_changed AFTER UPDATE ON alertwell.tenant REFERENCING NEW TABLE AS touched
FOR EACH STATEMENT EXECUTE FUNCTION alertwell.apply_labels();

-- Whoever may read the alerts themselves (the owner, the service, superusers and their members) meets no wall in the views either.
CREATE OR REPLACE VIEW alertwell.reader_scope WITH (security_barrier) AS
SELECT has_table_privilege(current_user, 'alertwell.alert'::regclass, 'SELECT')
       OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id IS NULL) AS everything
FROM pg_namespace n
WHERE n.nspname = 'alertwell';

----------------------------------------------------------------------------------------------------------------------
-- The newest for a reader of a few tenants: each of the first 4 has a branch that reads its own index in order, and the branches
-- are merged, so that a LIMIT ends them all. What a reader has beyond these comes as before. A branch is a barrier of its own.
DO $$
DECLARE
    branches text := 'SELECT * FROM alertwell.alert_merged_for_all';
BEGIN
    FOR place IN 0..3 LOOP
        EXECUTE format($view$
            CREATE VIEW alertwell.alert_merged_for_some_%s WITH (security_barrier) AS
            SELECT m.* FROM alertwell.alert_merged_with_tenant m
            WHERE m.tenant_id = (SELECT r.tenant_id FROM alertwell.reader r
                                 WHERE r.role = current_user AND NOT (SELECT everything FROM alertwell.reader_scope)
                                 ORDER BY r.tenant_id OFFSET %s LIMIT 1)
            ORDER BY m.last_processed_at DESC
            $view$, place, place);
        branches := branches || format(' UNION ALL SELECT * FROM alertwell.alert_merged_for_some_%s', place);
    END LOOP;
    EXECUTE 'CREATE OR REPLACE VIEW alertwell.readable_alert_merged WITH (security_barrier) AS ' || branches
            || ' UNION ALL SELECT * FROM alertwell.alert_merged_for_some';
END
$$;

CREATE OR REPLACE VIEW alertwell.alert_merged_for_some WITH (security_barrier) AS
SELECT m.* FROM alertwell.alert_merged_with_tenant m
WHERE (SELECT count(*) > 4 AND NOT (SELECT everything FROM alertwell.reader_scope)
       FROM alertwell.reader r WHERE r.role = current_user)
  AND EXISTS (SELECT FROM alertwell.reader r
              WHERE r.role = current_user AND r.tenant_id = m.tenant_id
                AND r.tenant_id > (SELECT l.tenant_id FROM alertwell.reader l WHERE l.role = current_user
                                   ORDER BY l.tenant_id OFFSET 3 LIMIT 1) OFFSET 0)
ORDER BY m.last_processed_at DESC;

-- What stands in the newest record: the row has come through the wall already, and its record is of the same tenant.
CREATE OR REPLACE VIEW soc.alerts_merged AS
SELECT m.tenant_id,
       m.tenant_name,
       m.alert_id,
       m.incident_id,
       m.sources,
       m.full_ids,
       m.detections,
       m.title,
       (SELECT alertwell.first_text(a.raw, 'Description', 'description')
        FROM alertwell.alert a
        WHERE a.tenant_id = m.tenant_id AND a.source = m.newest_source AND a.full_id = m.newest_full_id) AS description,
       (ARRAY['unknown', 'informational', 'low', 'medium', 'high'])[m.severity_rank + 1] AS severity,
       m.severity_rank,
       m.status,
       m.category,
       m.detection_source,
       m.service_source,
       m.device_name,
       m.device_id,
       m.device_group,
       m.user_name,
       m.file_sha256,
       m.threat_name,
       m.mitre_techniques,
       m.assigned_to,
       m.classification,
       m.determination,
       m.remediation_action,
       (SELECT alertwell.first_text(a.raw, 'LinkToMTP', 'LinkToWDATP', 'alertWebUrl')
        FROM alertwell.alert a
        WHERE a.tenant_id = m.tenant_id AND a.source = m.newest_source AND a.full_id = m.newest_full_id) AS alert_url,
       (SELECT alertwell.first_text(a.raw, 'IncidentLinkToMTP', 'IncidentLinkToWDATP', 'incidentWebUrl')
        FROM alertwell.alert a
        WHERE a.tenant_id = m.tenant_id AND a.source = m.newest_source AND a.full_id = m.newest_full_id) AS incident_url,
       m.event_time,
       m.last_processed_at,
       m.created_at,
       m.resolved_at,
       m.first_seen_at,
       m.updated_at,
       m.arrival,
       m.newest_source,
       m.newest_full_id,
       m.labels,
       m.external_ref
FROM alertwell.readable_alert_merged m;

UPDATE alertwell.schema_version SET revision = 12;

-- More sources than one, and what takes the place of one that ends.

----------------------------------------------------------------------------------------------------------------------
-- The end of a source

ALTER TABLE alertwell.stream
    ADD COLUMN gone_since timestamptz,
    ADD COLUMN history text NOT NULL DEFAULT 'initial' CHECK (history IN ('initial', 'fallback'));
COMMENT ON COLUMN alertwell.stream.gone_since IS 'When the source was first missing without having been back since; null while it is there.';
COMMENT ON COLUMN alertwell.stream.history IS 'How alerts from before enrolled_at arrive.';

----------------------------------------------------------------------------------------------------------------------
-- One row a tenant and alert id, kept with each store, whatever software does it: triggers keep it, so that software of
-- revision 1 works on this schema too. alert_merging says what a row is to be; alert_merged holds it.

CREATE TABLE alertwell.alert_merged (
    tenant_id uuid NOT NULL,
    alert_id text NOT NULL,
    last_processed_at timestamptz NOT NULL,
    oldest_processed_at timestamptz NOT NULL,
    first_seen_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    event_time timestamptz,
    created_at timestamptz,
    resolved_at timestamptz,
    severity_rank smallint NOT NULL,
    detections integer NOT NULL,
    arrival text NOT NULL,
    newest_source text NOT NULL,
    newest_full_id text NOT NULL,
    sources text[] NOT NULL,
    full_ids text[] NOT NULL,
    incident_id text,
    title text,
    status text,
    category text,
    detection_source text,
    service_source text,
    device_name text,
    device_id text,
    device_group text,
    user_name text,
    file_sha256 text,
    threat_name text,
    mitre_techniques text[],
    assigned_to text,
    classification text,
    determination text,
    remediation_action text,
    PRIMARY KEY (tenant_id, alert_id)
);
COMMENT ON COLUMN alertwell.alert_merged.oldest_processed_at IS
    'Oldest update time of its records: where retention takes one of them, the row is merged anew.';

-- Nobody stores between this and the commit: what is held now is merged here, what comes later by the triggers.
LOCK TABLE alertwell.alert IN SHARE ROW EXCLUSIVE MODE;

CREATE VIEW alertwell.alert_merging AS
SELECT a.tenant_id,
       a.alert_id,
       max(a.last_processed_at) AS last_processed_at,
       min(a.last_processed_at) AS oldest_processed_at,
       min(a.first_seen_at) AS first_seen_at,
       max(a.updated_at) AS updated_at,
       (array_agg(a.event_time ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.event_time IS NOT NULL))[1] AS event_time,
       (array_agg(a.created_at ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.created_at IS NOT NULL))[1] AS created_at,
       (array_agg(a.resolved_at ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.resolved_at IS NOT NULL))[1] AS resolved_at,
       coalesce((array_agg(a.severity_rank ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.severity_rank > 0))[1], 0::smallint) AS severity_rank,
       (SELECT max(c.records) FROM (SELECT count(*)::integer AS records FROM unnest(array_agg(a.source)) s GROUP BY s) c) AS detections,
       (array_agg(a.arrival ORDER BY a.first_seen_at, a.source, a.full_id))[1] AS arrival,
       (array_agg(a.source ORDER BY a.last_processed_at DESC, a.source, a.full_id))[1] AS newest_source,
       (array_agg(a.full_id ORDER BY a.last_processed_at DESC, a.source, a.full_id))[1] AS newest_full_id,
       array_agg(DISTINCT a.source) AS sources,
       array_agg(DISTINCT a.full_id) AS full_ids,
       (array_agg(a.incident_id ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.incident_id IS NOT NULL))[1] AS incident_id,
       (array_agg(a.title ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.title IS NOT NULL))[1] AS title,
       coalesce((array_agg(a.status ORDER BY a.last_processed_at DESC, a.source, a.full_id)
                    FILTER (WHERE a.status <> 'unknown'))[1], max(a.status)) AS status,
       (array_agg(a.category ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.category IS NOT NULL))[1] AS category,
       (array_agg(a.detection_source ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.detection_source IS NOT NULL))[1] AS detection_source,
       (array_agg(a.service_source ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.service_source IS NOT NULL))[1] AS service_source,
       (array_agg(a.device_name ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.device_name IS NOT NULL))[1] AS device_name,
       (array_agg(a.device_id ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.device_id IS NOT NULL))[1] AS device_id,
       (array_agg(a.device_group ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.device_group IS NOT NULL))[1] AS device_group,
       (array_agg(a.user_name ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.user_name IS NOT NULL))[1] AS user_name,
       (array_agg(a.file_sha256 ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.file_sha256 IS NOT NULL))[1] AS file_sha256,
       (array_agg(a.threat_name ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.threat_name IS NOT NULL))[1] AS threat_name,
       (array_agg(a.mitre_techniques::text ORDER BY a.last_processed_at DESC, a.source, a.full_id)
           FILTER (WHERE a.mitre_techniques IS NOT NULL))[1]::text[] AS mitre_techniques,
       (array_agg(a.assigned_to ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.assigned_to IS NOT NULL))[1] AS assigned_to,
       (array_agg(a.classification ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.classification IS NOT NULL))[1] AS classification,
       (array_agg(a.determination ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.determination IS NOT NULL))[1] AS determination,
       (array_agg(a.remediation_action ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.remediation_action IS NOT NULL))[1] AS remediation_action
FROM alertwell.alert a
WHERE a.alert_id IS NOT NULL
GROUP BY a.tenant_id, a.alert_id;
COMMENT ON VIEW alertwell.alert_merging IS
    'The freshest of each field, by the records'' update times; a record that does not know a field says nothing about it.';

INSERT INTO alertwell.alert_merged SELECT * FROM alertwell.alert_merging;
CREATE INDEX alert_merged_newest ON alertwell.alert_merged (tenant_id, last_processed_at);
CREATE INDEX alert_merged_newest_of_all ON alertwell.alert_merged (last_processed_at);
CREATE INDEX alert_merged_aging ON alertwell.alert_merged (oldest_processed_at) WHERE oldest_processed_at < last_processed_at;
CREATE INDEX alert_by_incident ON alertwell.alert (tenant_id, incident_id) WHERE incident_id IS NOT NULL;

-- Whoever merges alerts of a tenant holds this until the commit. So the records that are read under it are all there are,
-- and rows are never locked crosswise.
CREATE FUNCTION alertwell.lock_merging(tenant uuid) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT pg_advisory_xact_lock(hashtextextended(tenant::text, 0)) $$;

-- Merge these alerts of a tenant anew; one without records is forgotten. Always by index: a plan that was made while the
-- table was small would be kept for as long as the connection lives.
CREATE FUNCTION alertwell.merge_alerts(tenant uuid, alert_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    PERFORM alertwell.lock_merging(tenant);
    WITH fresh AS MATERIALIZED (
        SELECT * FROM alertwell.alert_merging g WHERE g.tenant_id = tenant AND g.alert_id = ANY (alert_ids)
    ), gone AS (
        DELETE FROM alertwell.alert_merged m
        WHERE m.tenant_id = tenant AND m.alert_id = ANY (alert_ids)
          AND NOT EXISTS (SELECT FROM fresh f WHERE f.alert_id = m.alert_id)
    )
    INSERT INTO alertwell.alert_merged AS m SELECT * FROM fresh
    ON CONFLICT (tenant_id, alert_id) DO UPDATE
    SET (last_processed_at, oldest_processed_at, first_seen_at, updated_at, event_time, created_at,
         resolved_at, severity_rank, detections, arrival, newest_source, newest_full_id, sources, full_ids,
         incident_id, title, status, category, detection_source, service_source, device_name, device_id,
         device_group, user_name, file_sha256, threat_name, mitre_techniques, assigned_to, classification,
         determination, remediation_action)
      = (excluded.last_processed_at, excluded.oldest_processed_at, excluded.first_seen_at,
         excluded.updated_at, excluded.event_time, excluded.created_at, excluded.resolved_at,
         excluded.severity_rank, excluded.detections, excluded.arrival, excluded.newest_source,
         excluded.newest_full_id, excluded.sources, excluded.full_ids, excluded.incident_id, excluded.title,
         excluded.status, excluded.category, excluded.detection_source, excluded.service_source,
         excluded.device_name, excluded.device_id, excluded.device_group, excluded.user_name,
         excluded.file_sha256, excluded.threat_name, excluded.mitre_techniques, excluded.assigned_to,
         excluded.classification, excluded.determination, excluded.remediation_action)
    WHERE m IS DISTINCT FROM excluded;
END
$$;

-- Most alerts have one record, and come as new: such a row is written as it is; only the others look for their records.
CREATE FUNCTION alertwell.merge_inserted() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    several record;
BEGIN
    PERFORM alertwell.lock_merging(t.tenant_id)
    FROM (SELECT DISTINCT n.tenant_id FROM inserted n WHERE n.alert_id IS NOT NULL ORDER BY n.tenant_id) t;
    FOR several IN
        WITH r AS (
            SELECT n.*, count(*) OVER (PARTITION BY n.tenant_id, n.alert_id) AS records
            FROM inserted n WHERE n.alert_id IS NOT NULL
        ), written AS (
            INSERT INTO alertwell.alert_merged
            SELECT r.tenant_id, r.alert_id, r.last_processed_at, r.last_processed_at, r.first_seen_at,
                   r.updated_at, r.event_time, r.created_at, r.resolved_at, r.severity_rank, 1, r.arrival,
                   r.source, r.full_id, ARRAY[r.source], ARRAY[r.full_id], r.incident_id, r.title, r.status,
                   r.category, r.detection_source, r.service_source, r.device_name, r.device_id,
                   r.device_group, r.user_name, r.file_sha256, r.threat_name, r.mitre_techniques,
                   r.assigned_to, r.classification, r.determination, r.remediation_action
            FROM r WHERE r.records = 1
            ON CONFLICT (tenant_id, alert_id) DO NOTHING
            RETURNING tenant_id, alert_id
        ), rest AS (
            SELECT n.tenant_id, n.alert_id FROM inserted n WHERE n.alert_id IS NOT NULL
            EXCEPT SELECT w.tenant_id, w.alert_id FROM written w
        )
        SELECT e.tenant_id, array_agg(e.alert_id) AS alert_ids FROM rest e GROUP BY e.tenant_id ORDER BY e.tenant_id
    LOOP
        PERFORM alertwell.merge_alerts(several.tenant_id, several.alert_ids);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE FUNCTION alertwell.merge_updated() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    several record;
BEGIN
    FOR several IN
        SELECT e.tenant_id, array_agg(e.alert_id) AS alert_ids
        FROM (SELECT n.tenant_id, n.alert_id FROM is_now n UNION SELECT o.tenant_id, o.alert_id FROM was o) e
        WHERE e.alert_id IS NOT NULL
        GROUP BY e.tenant_id ORDER BY e.tenant_id
    LOOP
        PERFORM alertwell.merge_alerts(several.tenant_id, several.alert_ids);
    END LOOP;
    RETURN NULL;
END
$$;

CREATE TRIGGER merge_inserted AFTER INSERT ON alertwell.alert REFERENCING NEW TABLE AS inserted
FOR EACH STATEMENT EXECUTE FUNCTION alertwell.merge_inserted();
CREATE TRIGGER merge_updated AFTER UPDATE ON alertwell.alert REFERENCING OLD TABLE AS was NEW TABLE AS is_now
FOR EACH STATEMENT EXECUTE FUNCTION alertwell.merge_updated();

-- The wall, as for alerts. Each branch is ordered, so that the newest come from an index through it. What stands in the
-- newest record is looked up outside of it, through the wall of alerts: for the rows that come out of a LIMIT.
CREATE VIEW alertwell.alert_merged_with_tenant AS
SELECT m.*, t.name AS tenant_name, t.labels, t.external_ref
FROM alertwell.alert_merged m
LEFT JOIN alertwell.tenant t ON t.tenant_id = m.tenant_id;

CREATE VIEW alertwell.alert_merged_for_all WITH (security_barrier) AS
SELECT m.* FROM alertwell.alert_merged_with_tenant m
WHERE (SELECT everything FROM alertwell.reader_scope)
ORDER BY m.last_processed_at DESC;

CREATE VIEW alertwell.alert_merged_for_some WITH (security_barrier) AS
SELECT m.* FROM alertwell.alert_merged_with_tenant m
WHERE NOT (SELECT everything FROM alertwell.reader_scope)
  AND EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = m.tenant_id)
ORDER BY m.last_processed_at DESC;

CREATE VIEW alertwell.readable_alert_merged WITH (security_barrier) AS
SELECT * FROM alertwell.alert_merged_for_all UNION ALL SELECT * FROM alertwell.alert_merged_for_some;

CREATE VIEW soc.alerts_merged AS
SELECT m.tenant_id,
       m.tenant_name,
       m.alert_id,
       m.incident_id,
       m.sources,
       m.full_ids,
       m.detections,
       m.title,
       (SELECT alertwell.first_text(a.raw, 'Description', 'description')
        FROM alertwell.readable_alert a
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
        FROM alertwell.readable_alert a
        WHERE a.tenant_id = m.tenant_id AND a.source = m.newest_source AND a.full_id = m.newest_full_id) AS alert_url,
       (SELECT alertwell.first_text(a.raw, 'IncidentLinkToMTP', 'IncidentLinkToWDATP', 'incidentWebUrl')
        FROM alertwell.readable_alert a
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
COMMENT ON VIEW soc.alerts_merged IS
    'One row a tenant and alert_id: the freshest of each field of its records in soc.alerts, whatever source they came from.';
COMMENT ON COLUMN soc.alerts_merged.full_ids IS 'Its records: each is a row of soc.alerts.';
COMMENT ON COLUMN soc.alerts_merged.detections IS 'How many records the source that tells most has of it.';
COMMENT ON COLUMN soc.alerts_merged.incident_id IS 'The incident that it belongs to now, after merges of incidents.';
COMMENT ON COLUMN soc.alerts_merged.arrival IS 'How its first record came. Open tickets for live and catch_up.';

----------------------------------------------------------------------------------------------------------------------
-- Incidents

CREATE TABLE alertwell.incident (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    incident_id text NOT NULL,
    last_update timestamptz NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    created_at timestamptz,
    content_hash bigint NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    severity_rank smallint NOT NULL DEFAULT 0,
    status text NOT NULL,
    source_updated_text text NOT NULL,
    title text,
    classification text,
    determination text,
    assigned_to text,
    redirect_incident_id text,
    tags text[],
    incident_url text,
    alert_ids text[],
    raw jsonb NOT NULL,
    raw_exact bytea,
    PRIMARY KEY (tenant_id, source, incident_id)
);
CREATE INDEX incident_newest ON alertwell.incident (tenant_id, last_update);
CREATE INDEX incident_redirected ON alertwell.incident (tenant_id, incident_id) WHERE redirect_incident_id IS NOT NULL;
CREATE INDEX incident_by_time ON alertwell.incident USING brin (last_update);

-- How incidents travel: the fields of service.model.Incident in their order (a test holds them together).
CREATE TYPE alertwell.incoming_incident AS (
    incident_id text,
    last_update timestamptz,
    source_updated_text text,
    content_hash bigint,
    raw text,
    raw_exact bytea,
    title text,
    severity_rank smallint,
    status text,
    classification text,
    determination text,
    assigned_to text,
    redirect_incident_id text,
    tags text[],
    created_at timestamptz,
    incident_url text,
    alert_ids text[]
);

DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE alertwell.incident ALTER COLUMN raw SET COMPRESSION lz4;
    END IF;
END
$$;

CREATE VIEW soc.incidents WITH (security_barrier) AS
SELECT i.tenant_id,
       t.name AS tenant_name,
       i.source,
       i.incident_id,
       i.redirect_incident_id,
       i.alert_ids,
       i.title,
       (ARRAY['unknown', 'informational', 'low', 'medium', 'high'])[i.severity_rank + 1] AS severity,
       i.severity_rank,
       i.status,
       i.classification,
       i.determination,
       i.assigned_to,
       i.tags,
       i.incident_url,
       i.created_at,
       i.last_update AS source_updated_at,
       i.source_updated_text,
       i.first_seen_at,
       i.updated_at,
       i.revision,
       t.labels,
       t.external_ref,
       i.raw,
       i.raw_exact
FROM alertwell.incident i
LEFT JOIN alertwell.tenant t ON t.tenant_id = i.tenant_id
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = i.tenant_id);
COMMENT ON VIEW soc.incidents IS 'The current row of every incident, keyed (tenant_id, source, incident_id).';
COMMENT ON COLUMN soc.incidents.redirect_incident_id IS
    'The incident that this one was merged into; its alerts in soc.alerts have followed it.';
COMMENT ON COLUMN soc.incidents.alert_ids IS 'alert_id of the alerts that the source showed inside of it; null where it shows none.';
COMMENT ON COLUMN soc.incidents.raw IS 'The whole record without its alerts, which are rows of soc.alerts.';

-- Items are top-level records; what came inside of incidents is counted here.
ALTER TABLE alertwell.poll ADD COLUMN nested bigint NOT NULL DEFAULT 0;

UPDATE alertwell.schema_version SET revision = 2;

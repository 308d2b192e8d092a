-- Changes of incidents in the change feed, beside those of alerts.

-- What a change is of. Software of revisions 1 and 2 knows changes of alerts alone: the default says so for it, and alerts
-- are inserted without naming the column.
ALTER TABLE alertwell.alert_change
    ADD COLUMN record text NOT NULL DEFAULT 'alert' CHECK (record IN ('alert', 'incident'));
COMMENT ON COLUMN alertwell.alert_change.full_id IS 'full_id of an alert; incident_id of an incident.';

-- No alert has the key null, so changes of alerts do not look for an incident.
CREATE OR REPLACE VIEW alertwell.numbered_change AS
SELECT f.seq,
       c.change_id,
       f.tenant_id::text AS tenant_id,
       t.name AS tenant_name,
       c.source,
       CASE WHEN c.record = 'alert' THEN c.full_id END AS full_id,
       a.alert_id,
       c.revision,
       c.kind,
       c.changed::text AS changed,
       c.arrival,
       c.at,
       (ARRAY['unknown', 'informational', 'low', 'medium', 'high'])[coalesce(a.severity_rank, i.severity_rank) + 1] AS severity,
       coalesce(a.status, i.status) AS status,
       coalesce(a.title, i.title) AS title,
       a.raw::text AS alert,
       f.tenant_id AS reader_key,
       c.record,
       CASE WHEN c.record = 'incident' THEN c.full_id ELSE a.incident_id END AS incident_id,
       i.raw::text AS incident
FROM alertwell.feed f
JOIN alertwell.alert_change c ON c.tenant_id = f.tenant_id AND c.batch = f.batch AND c.n = f.n
LEFT JOIN alertwell.alert a
       ON a.tenant_id = f.tenant_id AND a.source = c.source AND a.full_id = c.full_id AND c.record = 'alert'
LEFT JOIN alertwell.incident i
       ON i.tenant_id = f.tenant_id AND i.source = c.source
          AND i.incident_id = CASE WHEN c.record = 'incident' THEN c.full_id END
LEFT JOIN alertwell.tenant t ON t.tenant_id = f.tenant_id;

CREATE OR REPLACE VIEW alertwell.change_for_all WITH (security_barrier) AS
SELECT c.* FROM alertwell.numbered_change c
WHERE (SELECT everything FROM alertwell.reader_scope);

CREATE OR REPLACE VIEW alertwell.change_for_some WITH (security_barrier) AS
SELECT c.* FROM alertwell.numbered_change c
WHERE NOT (SELECT everything FROM alertwell.reader_scope)
  AND EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = c.reader_key);

CREATE OR REPLACE VIEW soc.change_feed WITH (security_barrier) AS
SELECT c.seq, c.change_id, c.tenant_id, c.tenant_name, c.source, c.full_id, c.alert_id, c.revision, c.kind, c.changed,
       c.arrival, c.at, c.severity, c.status, c.title, c.alert, c.record, c.incident_id, c.incident
FROM (SELECT * FROM alertwell.change_for_all UNION ALL SELECT * FROM alertwell.change_for_some) c;
COMMENT ON COLUMN soc.change_feed.changed IS 'JSON object {field: [old, new]} of an update or a merge.';
COMMENT ON COLUMN soc.change_feed.full_id IS 'The alert''s id at the source; null for changes of incidents.';
COMMENT ON COLUMN soc.change_feed.record IS 'What changed: alert or incident.';
COMMENT ON COLUMN soc.change_feed.incident_id IS 'The incident that changed; for an alert the one that it belongs to now.';
COMMENT ON COLUMN soc.change_feed.incident IS
    'The incident''s record as it is held now (JSON text); null for alerts, and once it is purged or retired.';

-- A function's result cannot be replaced, so it is made anew, and gets owner and grants of the one that it follows.
SELECT set_config('alertwell.changes_owner', p.proowner::text, true),
       set_config('alertwell.changes_granted', coalesce(p.proacl, acldefault('f', p.proowner))::text, true)
FROM pg_proc p WHERE p.oid = 'soc.changes(bigint, integer)'::regprocedure;
DROP FUNCTION soc.changes(bigint, integer);

-- Reads the feed in stretches that grow while they bring too little: a page costs about as much as its rows, wherever in
-- the feed it begins and however few of the tenants the reader sees (seq is nearly dense; LIMIT does not reach through
-- the wall).
CREATE FUNCTION soc.changes(after bigint DEFAULT NULL, max_rows integer DEFAULT 1000)
RETURNS TABLE (seq bigint, change_id uuid, tenant_id text, tenant_name text, source text, full_id text, alert_id text,
               revision integer, kind text, changed jsonb, arrival text, at timestamptz, severity text, status text,
               title text, alert jsonb, record text, incident_id text, incident jsonb)
LANGUAGE plpgsql STABLE SECURITY INVOKER
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_custom_plan
SET max_parallel_workers_per_gather = 0
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    head bigint;
    pruned bigint;
    below bigint;
    above bigint;
    width bigint := greatest(max_rows, 1000);
    missing bigint := max_rows;
    found bigint;
BEGIN
    SELECT f.head_seq, f.pruned_to INTO head, pruned FROM soc.feed f;
    IF after < pruned THEN
        RAISE EXCEPTION 'position % is older than the feed, which begins after %', after, pruned
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'Changes in between are gone: read soc.alerts and soc.incidents anew, then go on from soc.feed.head_seq.';
    ELSIF after > head THEN
        RAISE EXCEPTION 'position % is beyond the head of the feed, %', after, head
            USING ERRCODE = 'invalid_parameter_value',
                  HINT = 'The database was restored, or the position belongs to another database: see soc.feed.restored_at.';
    END IF;
    above := coalesce(after, pruned);
    WHILE above < head AND (missing > 0 OR max_rows IS NULL) LOOP
        below := above + least(width, head - above);
        RETURN QUERY
            SELECT c.seq, c.change_id, c.tenant_id, c.tenant_name, c.source, c.full_id, c.alert_id, c.revision, c.kind,
                   c.changed::jsonb, c.arrival, c.at, c.severity, c.status, c.title, c.alert::jsonb, c.record, c.incident_id,
                   c.incident::jsonb
            FROM soc.change_feed c
            WHERE c.seq > above AND c.seq <= below
            ORDER BY c.seq
            LIMIT missing;
        GET DIAGNOSTICS found = ROW_COUNT;
        missing := missing - found;
        above := below;
        width := least(width, 1::bigint << 57) * 8;
    END LOOP;
END
$$;
COMMENT ON FUNCTION soc.changes(bigint, integer) IS
    'Changes after a position (null: from the oldest kept). A position older than the feed or beyond its head is an error.';

DO $$
DECLARE
    owner oid := current_setting('alertwell.changes_owner')::oid;
    granted aclitem[] := current_setting('alertwell.changes_granted')::aclitem[];
    one record;
BEGIN
    IF granted <> acldefault('f', owner) THEN
        REVOKE ALL ON FUNCTION soc.changes(bigint, integer) FROM PUBLIC;
        FOR one IN SELECT DISTINCT g.grantee, g.is_grantable FROM aclexplode(granted) g WHERE g.grantee <> owner LOOP
            EXECUTE format('GRANT EXECUTE ON FUNCTION soc.changes(bigint, integer) TO %s %s',
                           CASE WHEN one.grantee = 0 THEN 'PUBLIC' ELSE one.grantee::regrole::text END,
                           CASE WHEN one.is_grantable THEN 'WITH GRANT OPTION' END);
        END LOOP;
    END IF;
    IF owner <> current_user::regrole THEN
        EXECUTE format('ALTER FUNCTION soc.changes(bigint, integer) OWNER TO %s', owner::regrole);
    END IF;
END
$$;

UPDATE alertwell.schema_version SET revision = 3;

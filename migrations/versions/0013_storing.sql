-- Merging alerts at a fraction of what it cost: the records of an alert are sorted once and not once a field. What a merged row
-- is stays what the view alert_merging says; a test holds the two together. Software of older revisions works on it as before.

-- Merge these alerts of a tenant anew; one without records is forgotten. Always by index: a plan that was made while the
-- table was small would be kept for as long as the connection lives. The records come sorted into a GroupAggregate, so an
-- aggregate's first value is the freshest record's.
CREATE OR REPLACE FUNCTION alertwell.merge_alerts(tenant uuid, alert_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_hashagg = off
SET jit = off
AS $$
BEGIN
    PERFORM alertwell.lock_merging(tenant);
    WITH fresh AS MATERIALIZED (
        SELECT tenant AS tenant_id,
               r.alert_id AS alert_id,
               max(r.last_processed_at) AS last_processed_at,
               min(r.last_processed_at) AS oldest_processed_at,
               min(r.first_seen_at) AS first_seen_at,
               max(r.updated_at) AS updated_at,
               (array_agg(r.event_time) FILTER (WHERE r.event_time IS NOT NULL))[1] AS event_time,
               (array_agg(r.created_at) FILTER (WHERE r.created_at IS NOT NULL))[1] AS created_at,
               CASE WHEN bool_or(r.status <> 'unknown') THEN (array_agg(r.resolved_at) FILTER (WHERE r.status <> 'unknown'))[1]
                    ELSE (array_agg(r.resolved_at) FILTER (WHERE r.resolved_at IS NOT NULL))[1] END AS resolved_at,
               coalesce((array_agg(r.severity_rank) FILTER (WHERE r.severity_rank > 0))[1], 0::smallint) AS severity_rank,
               CASE WHEN min(r.source) = max(r.source) THEN count(*)::integer
                    ELSE (SELECT max(c.records) FROM (SELECT count(*)::integer AS records
                                                      FROM unnest(array_agg(r.source)) s GROUP BY s) c) END AS detections,
               CASE WHEN min(r.arrival) = max(r.arrival) THEN min(r.arrival)
                    ELSE (SELECT s.arrival
                          FROM unnest(array_agg(r.first_seen_at), array_agg(r.source), array_agg(r.full_id), array_agg(r.arrival))
                               AS s (first_seen_at, source, full_id, arrival)
                          ORDER BY s.first_seen_at, s.source, s.full_id LIMIT 1) END AS arrival,
               (array_agg(r.source))[1] AS newest_source,
               (array_agg(r.full_id))[1] AS newest_full_id,
               CASE WHEN min(r.source) = max(r.source) THEN ARRAY[min(r.source)]
                    ELSE ARRAY(SELECT DISTINCT s FROM unnest(array_agg(r.source)) s ORDER BY s) END AS sources,
               ARRAY(SELECT DISTINCT s FROM unnest(array_agg(r.full_id)) s ORDER BY s) AS full_ids,
               (array_agg(r.incident_id) FILTER (WHERE r.incident_id IS NOT NULL))[1] AS incident_id,
               (array_agg(r.title) FILTER (WHERE r.title IS NOT NULL))[1] AS title,
               coalesce((array_agg(r.status) FILTER (WHERE r.status <> 'unknown'))[1], max(r.status)) AS status,
               (array_agg(r.category) FILTER (WHERE r.category IS NOT NULL))[1] AS category,
               (array_agg(r.detection_source) FILTER (WHERE r.detection_source IS NOT NULL))[1] AS detection_source,
               (array_agg(r.service_source) FILTER (WHERE r.service_source IS NOT NULL))[1] AS service_source,
               (array_agg(r.device_name) FILTER (WHERE r.device_name IS NOT NULL))[1] AS device_name,
               (array_agg(r.device_id) FILTER (WHERE r.device_id IS NOT NULL))[1] AS device_id,
               (array_agg(r.device_group) FILTER (WHERE r.device_group IS NOT NULL))[1] AS device_group,
               (array_agg(r.user_name) FILTER (WHERE r.user_name IS NOT NULL))[1] AS user_name,
               (array_agg(r.file_sha256) FILTER (WHERE r.file_sha256 IS NOT NULL))[1] AS file_sha256,
               (array_agg(r.threat_name) FILTER (WHERE r.threat_name IS NOT NULL))[1] AS threat_name,
               (array_agg(r.mitre_techniques::text) FILTER (WHERE r.mitre_techniques IS NOT NULL))[1]::text[] AS mitre_techniques,
               CASE WHEN bool_or(r.status <> 'unknown') THEN (array_agg(r.assigned_to) FILTER (WHERE r.status <> 'unknown'))[1]
                    ELSE (array_agg(r.assigned_to) FILTER (WHERE r.assigned_to IS NOT NULL))[1] END AS assigned_to,
               CASE WHEN bool_or(r.status <> 'unknown') THEN (array_agg(r.classification) FILTER (WHERE r.status <> 'unknown'))[1]
                    ELSE (array_agg(r.classification) FILTER (WHERE r.classification IS NOT NULL))[1] END AS classification,
               CASE WHEN bool_or(r.status <> 'unknown') THEN (array_agg(r.determination) FILTER (WHERE r.status <> 'unknown'))[1]
                    ELSE (array_agg(r.determination) FILTER (WHERE r.determination IS NOT NULL))[1] END AS determination,
               (array_agg(r.remediation_action) FILTER (WHERE r.remediation_action IS NOT NULL))[1] AS remediation_action
        FROM (
            SELECT a.alert_id, a.last_processed_at, a.first_seen_at, a.updated_at, a.source, a.full_id, a.arrival,
                   a.severity_rank, a.status, a.mitre_techniques, a.event_time, a.created_at,
                   a.resolved_at, a.incident_id, a.title, a.category, a.detection_source,
                   a.service_source, a.device_name, a.device_id, a.device_group, a.user_name,
                   a.file_sha256, a.threat_name, a.assigned_to, a.classification, a.determination,
                   a.remediation_action
            FROM alertwell.alert a
            WHERE a.tenant_id = tenant AND a.alert_id = ANY (alert_ids)
            ORDER BY a.alert_id, a.last_processed_at DESC, a.source, a.full_id
        ) r
        GROUP BY r.alert_id
    ), gone AS (
        DELETE FROM alertwell.alert_merged m
        WHERE m.tenant_id = tenant AND m.alert_id = ANY (alert_ids)
          AND NOT EXISTS (SELECT FROM fresh f WHERE f.alert_id = m.alert_id)
    )
    INSERT INTO alertwell.alert_merged AS m SELECT * FROM fresh
    ON CONFLICT (tenant_id, alert_id) DO UPDATE
    SET (last_processed_at, oldest_processed_at, first_seen_at, updated_at, event_time, created_at, resolved_at,
         severity_rank, detections, arrival, newest_source, newest_full_id, sources, full_ids, incident_id,
         title, status, category, detection_source, service_source, device_name, device_id, device_group,
         user_name, file_sha256, threat_name, mitre_techniques, assigned_to, classification, determination,
         remediation_action)
      = (excluded.last_processed_at, excluded.oldest_processed_at, excluded.first_seen_at, excluded.updated_at,
         excluded.event_time, excluded.created_at, excluded.resolved_at, excluded.severity_rank,
         excluded.detections, excluded.arrival, excluded.newest_source, excluded.newest_full_id,
         excluded.sources, excluded.full_ids, excluded.incident_id, excluded.title, excluded.status,
         excluded.category, excluded.detection_source, excluded.service_source, excluded.device_name,
         excluded.device_id, excluded.device_group, excluded.user_name, excluded.file_sha256,
         excluded.threat_name, excluded.mitre_techniques, excluded.assigned_to, excluded.classification,
         excluded.determination, excluded.remediation_action)
    WHERE m IS DISTINCT FROM excluded;
END
$$;

-- Most alerts have one record, and come as new: such a row is written as it is; only the others look for their records.
-- The record itself (raw) is left where it is: sorting it cost more than all the rest.
CREATE OR REPLACE FUNCTION alertwell.merge_inserted() RETURNS trigger
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
            SELECT n.tenant_id, n.alert_id, n.last_processed_at, n.first_seen_at, n.updated_at, n.source, n.full_id,
                   n.arrival, n.severity_rank, n.status, n.mitre_techniques, n.event_time,
                   n.created_at, n.resolved_at, n.incident_id, n.title, n.category,
                   n.detection_source, n.service_source, n.device_name, n.device_id, n.device_group,
                   n.user_name, n.file_sha256, n.threat_name, n.assigned_to, n.classification,
                   n.determination, n.remediation_action,
                   count(*) OVER (PARTITION BY n.tenant_id, n.alert_id) AS records
            FROM inserted n WHERE n.alert_id IS NOT NULL
        ), written AS (
            INSERT INTO alertwell.alert_merged
            SELECT r.tenant_id, r.alert_id, r.last_processed_at, r.last_processed_at, r.first_seen_at, r.updated_at,
                   r.event_time, r.created_at, r.resolved_at, r.severity_rank, 1, r.arrival,
                   r.source, r.full_id, ARRAY[r.source], ARRAY[r.full_id], r.incident_id, r.title,
                   r.status, r.category, r.detection_source, r.service_source, r.device_name,
                   r.device_id, r.device_group, r.user_name, r.file_sha256, r.threat_name,
                   r.mitre_techniques, r.assigned_to, r.classification, r.determination,
                   r.remediation_action
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

UPDATE alertwell.schema_version SET revision = 13;

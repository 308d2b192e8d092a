-- Storing a few alerts at a fraction of what it cost: merging them is planned once a connection, and not each time. Software of
-- older revisions works on it as before.

-- Merge these alerts of a tenant anew; one without records is forgotten. Planned once a connection: to plan it costs more than
-- merging a few alerts. So the plan must be right whatever it was made of: each alert is looked up as a range in order, which only
-- the index by alert id has; an array of ids would be compared with all that the tenant has where the table was empty. The
-- records come sorted into a GroupAggregate, so an aggregate's first value is the freshest record's.
CREATE OR REPLACE FUNCTION alertwell.merge_alerts(tenant uuid, alert_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_hashagg = off
SET plan_cache_mode = force_generic_plan
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
            FROM (SELECT DISTINCT u.alert_id FROM unnest(alert_ids) AS u (alert_id)) w
            CROSS JOIN LATERAL (
                SELECT * FROM alertwell.alert o
                WHERE o.tenant_id = tenant AND o.alert_id BETWEEN w.alert_id AND w.alert_id ORDER BY o.alert_id
            ) a
            ORDER BY a.alert_id, a.last_processed_at DESC, a.source, a.full_id
        ) r
        GROUP BY r.alert_id
    ), gone AS (
        DELETE FROM alertwell.alert_merged m
        WHERE m.ctid = ANY (ARRAY(
            SELECT h.place
            FROM (SELECT u.alert_id FROM unnest(alert_ids) AS u (alert_id) EXCEPT SELECT f.alert_id FROM fresh f) w
            CROSS JOIN LATERAL (
                SELECT o.ctid AS place FROM alertwell.alert_merged o
                WHERE o.tenant_id = tenant AND o.alert_id BETWEEN w.alert_id AND w.alert_id ORDER BY o.alert_id
            ) h))
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

UPDATE alertwell.schema_version SET revision = 15;

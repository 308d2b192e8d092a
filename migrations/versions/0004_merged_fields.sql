-- What a person did with an alert is told by one record, whole; and incidents are found by what was merged into them.

-- Nobody stores between this and the commit, as in 0002.
LOCK TABLE alertwell.alert IN SHARE ROW EXCLUSIVE MODE;

-- A record that knows the status knows the rest of the work too: nobody assigned, no verdict, not resolved any more. So these
-- fields come from the freshest such record, null included, and from others only where there is none.
CREATE OR REPLACE VIEW alertwell.alert_merging AS
SELECT a.tenant_id,
       a.alert_id,
       max(a.last_processed_at) AS last_processed_at,
       min(a.last_processed_at) AS oldest_processed_at,
       min(a.first_seen_at) AS first_seen_at,
       max(a.updated_at) AS updated_at,
       (array_agg(a.event_time ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.event_time IS NOT NULL))[1] AS event_time,
       (array_agg(a.created_at ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.created_at IS NOT NULL))[1] AS created_at,
       (array_agg(a.resolved_at ORDER BY (a.status <> 'unknown') IS TRUE DESC, a.last_processed_at DESC, a.source, a.full_id)
           FILTER (WHERE a.status <> 'unknown' OR a.resolved_at IS NOT NULL))[1] AS resolved_at,
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
       (array_agg(a.assigned_to ORDER BY (a.status <> 'unknown') IS TRUE DESC, a.last_processed_at DESC, a.source, a.full_id)
           FILTER (WHERE a.status <> 'unknown' OR a.assigned_to IS NOT NULL))[1] AS assigned_to,
       (array_agg(a.classification ORDER BY (a.status <> 'unknown') IS TRUE DESC, a.last_processed_at DESC, a.source, a.full_id)
           FILTER (WHERE a.status <> 'unknown' OR a.classification IS NOT NULL))[1] AS classification,
       (array_agg(a.determination ORDER BY (a.status <> 'unknown') IS TRUE DESC, a.last_processed_at DESC, a.source, a.full_id)
           FILTER (WHERE a.status <> 'unknown' OR a.determination IS NOT NULL))[1] AS determination,
       (array_agg(a.remediation_action ORDER BY a.last_processed_at DESC, a.source, a.full_id) FILTER (WHERE a.remediation_action IS NOT NULL))[1] AS remediation_action
FROM alertwell.alert a
WHERE a.alert_id IS NOT NULL
GROUP BY a.tenant_id, a.alert_id;
COMMENT ON VIEW alertwell.alert_merging IS
    'The freshest of each field, by the records'' update times; a record that does not know a field says nothing about it. One that knows the status knows assigned_to, classification, determination and resolved_at, also where they are null.';

-- One record is its row already, and without a known status all is as it was: this looks at the others, each by index.
UPDATE alertwell.alert_merged m
SET (assigned_to, classification, determination, resolved_at)
  = (f.assigned_to, f.classification, f.determination, f.resolved_at)
FROM alertwell.alert_merged k
CROSS JOIN LATERAL (
    SELECT a.assigned_to, a.classification, a.determination, a.resolved_at
    FROM alertwell.alert a
    WHERE a.tenant_id = k.tenant_id AND a.alert_id = k.alert_id AND a.status <> 'unknown'
    ORDER BY a.last_processed_at DESC, a.source, a.full_id
    LIMIT 1
) f
WHERE k.status <> 'unknown' AND (cardinality(k.sources) > 1 OR k.detections > 1)
  AND m.tenant_id = k.tenant_id AND m.alert_id = k.alert_id
  AND (m.assigned_to, m.classification, m.determination, m.resolved_at)
      IS DISTINCT FROM (f.assigned_to, f.classification, f.determination, f.resolved_at);

-- Whatever source tells of an incident, its newest record says where its alerts belong; and from there back to those that
-- were merged into it.
CREATE INDEX incident_by_id ON alertwell.incident (tenant_id, incident_id);
CREATE INDEX incident_redirecting ON alertwell.incident (tenant_id, redirect_incident_id) WHERE redirect_incident_id IS NOT NULL;
DROP INDEX alertwell.incident_redirected;

UPDATE alertwell.schema_version SET revision = 4;

-- Why a stream needs a person, as a word beside the sentence: for alarms and for counting. Software of an older revision does not
-- write it: soc.coverage shows it only in the states that have one.

ALTER TABLE alertwell.stream ADD COLUMN cause text;
COMMENT ON COLUMN alertwell.stream.cause IS 'A word of service/causes.py; null unless a person must act or the source is gone.';

CREATE OR REPLACE VIEW soc.coverage WITH (security_barrier) AS
SELECT s.tenant_id,
       t.name AS tenant_name,
       s.source,
       s.state,
       s.state_reason,
       s.state_since,
       s.enabled AND t.state = 'active' AS enabled,
       s.wanted,
       s.watermark,
       held.coverage,
       CASE WHEN isempty(held.coverage) THEN '{}'
            ELSE s.wanted * tstzmultirange(tstzrange(NULL, upper(held.coverage))) - held.coverage END AS gaps,
       (SELECT upper(r) FROM unnest(held.coverage) r WHERE r @> lower(s.wanted)) AS proven_until,
       extract(epoch FROM statement_timestamp() - p.read_to)::double precision AS data_age_seconds,
       s.late_arrivals,
       s.last_verified_at,
       p.last_success_at,
       p.next_poll_at,
       CASE WHEN s.state IN ('needs_attention', 'retired') THEN s.cause END AS cause
FROM alertwell.stream s
JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
CROSS JOIN LATERAL (SELECT s.coverage + coalesce(tstzmultirange(p.proven), '{}') AS coverage) held
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = s.tenant_id);
COMMENT ON COLUMN soc.coverage.cause IS 'A stable word for what a person must mend, such as role_missing; null unless needs_attention or retired.';

UPDATE alertwell.schema_version SET revision = 6;

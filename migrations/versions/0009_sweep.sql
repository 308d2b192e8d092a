-- Reading the recent past a second time: where a sweep stands, what it verified, and how late a stream's records come.
-- Software of an older revision writes none of it, and nothing of what it writes contradicts it.

ALTER TABLE alertwell.stream
    ADD COLUMN lateness jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(lateness) = 'object'),
    ADD COLUMN verified tstzmultirange NOT NULL DEFAULT '{}';
COMMENT ON COLUMN alertwell.stream.lateness IS
    'How many records came late, by classes of how late: the upper end of each in seconds.';
COMMENT ON COLUMN alertwell.stream.overlap IS 'Grown to the lateness seen, within OVERLAP_MAX; null: as OVERLAP says.';
COMMENT ON COLUMN alertwell.stream.verified IS 'What the last whole sweep read again, begun at last_verified_at.';

-- A stream that is there begins with its own next point in time, and not together with all others at the update.
ALTER TABLE alertwell.stream_progress
    ADD COLUMN sweep_started_at timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN sweep_span tstzrange,
    ADD COLUMN sweep_left tstzrange,
    ADD COLUMN sweep_late integer NOT NULL DEFAULT 0,
    ADD COLUMN sweep_lateness interval NOT NULL DEFAULT '0';
COMMENT ON COLUMN alertwell.stream_progress.sweep_left IS 'What the sweep under way has still to read; null: none is under way.';

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
       CASE WHEN s.state IN ('needs_attention', 'retired') THEN s.cause END AS cause,
       s.verified * held.coverage AS verified,
       s.overlap,
       s.observed_lateness
FROM alertwell.stream s
JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
CROSS JOIN LATERAL (SELECT s.coverage + coalesce(tstzmultirange(p.proven), '{}') AS coverage) held
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = s.tenant_id);
COMMENT ON COLUMN soc.coverage.late_arrivals IS
    'Records that came after their update time was proven, found by a sweep or a live window that reached back.';
COMMENT ON COLUMN soc.coverage.last_verified_at IS
    'When the last whole sweep began: all in verified was read a second time since then; null before the first.';
COMMENT ON COLUMN soc.coverage.verified IS 'Update times in coverage that the last whole sweep read a second time.';
COMMENT ON COLUMN soc.coverage.overlap IS 'How far behind now proof ends, where it has grown; null: as OVERLAP says.';
COMMENT ON COLUMN soc.coverage.observed_lateness IS
    'The 99.9th percentile of the lateness of records that came late; null where none did.';

UPDATE alertwell.schema_version SET revision = 9;

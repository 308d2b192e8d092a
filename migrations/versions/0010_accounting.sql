-- What became of every item of a stream's answers, and what is usual of a stream, so that a silence of it can be judged.
-- Software of an older revision counts nothing here, and nothing of what it writes contradicts it.

-- What polls stored is added by the transaction that stores it. What was idle is the owner's total, written as it stands: written
-- twice it is the same.
ALTER TABLE alertwell.stream_progress
    ADD COLUMN items bigint NOT NULL DEFAULT 0,
    ADD COLUMN inserted bigint NOT NULL DEFAULT 0,
    ADD COLUMN updated bigint NOT NULL DEFAULT 0,
    ADD COLUMN unchanged bigint NOT NULL DEFAULT 0,
    ADD COLUMN stale bigint NOT NULL DEFAULT 0,
    ADD COLUMN duplicate bigint NOT NULL DEFAULT 0,
    ADD COLUMN rejected bigint NOT NULL DEFAULT 0,
    ADD COLUMN idle_items bigint NOT NULL DEFAULT 0,
    ADD COLUMN idle_unchanged bigint NOT NULL DEFAULT 0,
    ADD COLUMN idle_stale bigint NOT NULL DEFAULT 0,
    ADD COLUMN idle_duplicate bigint NOT NULL DEFAULT 0,
    ADD COLUMN sweep_held integer NOT NULL DEFAULT 0,
    ADD COLUMN sweep_missing integer NOT NULL DEFAULT 0,
    ADD CHECK (items = inserted + updated + unchanged + stale + duplicate + rejected),
    ADD CHECK (idle_items = idle_unchanged + idle_stale + idle_duplicate);
COMMENT ON COLUMN alertwell.stream_progress.items IS 'Top-level records of answers of which something was stored.';
COMMENT ON COLUMN alertwell.stream_progress.idle_items IS 'Top-level records of answers of which nothing had to be stored.';
COMMENT ON COLUMN alertwell.stream_progress.sweep_held IS 'Records held of what the sweep under way has read again.';
COMMENT ON COLUMN alertwell.stream_progress.sweep_missing IS 'How many of them its answers did not have.';

-- What is usual of a stream; written with the progress, and only where it has changed: at most once an hour, but for backlogs.
CREATE TABLE alertwell.stream_volume (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    began_at timestamptz NOT NULL,
    last_hour timestamptz,
    hours bytea NOT NULL DEFAULT '',
    weekly real,
    silent_since timestamptz,
    missing integer NOT NULL DEFAULT 0,
    held integer NOT NULL DEFAULT 0,
    missing_since timestamptz,
    missing_span tstzrange,
    PRIMARY KEY (tenant_id, source),
    FOREIGN KEY (tenant_id, source) REFERENCES alertwell.stream ON DELETE CASCADE
);
COMMENT ON COLUMN alertwell.stream_volume.began_at IS 'Records held since then are the API''s of today: same place, app, parameters.';
COMMENT ON COLUMN alertwell.stream_volume.hours IS
    'Hours of update time with records, bit n (the lowest of the first byte first) is n hours before last_hour; eight weeks.';
COMMENT ON COLUMN alertwell.stream_volume.missing IS 'Records that the API does not return any more, of so many held; 0: none, or not sure.';

CREATE VIEW soc.accounting WITH (security_barrier) AS
SELECT s.tenant_id,
       t.name AS tenant_name,
       s.source,
       p.items + p.idle_items AS items,
       p.inserted,
       p.updated,
       p.unchanged + p.idle_unchanged AS unchanged,
       p.stale + p.idle_stale AS stale,
       p.duplicate + p.idle_duplicate AS duplicate,
       p.rejected
FROM alertwell.stream s
JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = s.tenant_id);
COMMENT ON VIEW soc.accounting IS
    'What became of every top-level record of a stream''s answers: items are the sum of all columns after it.';

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
       CASE WHEN s.state IN ('needs_attention', 'retired') OR s.cause IN ('silent', 'not_returned') THEN s.cause END AS cause,
       s.verified * held.coverage AS verified,
       s.overlap,
       s.observed_lateness,
       v.silent_since,
       v.weekly::double precision AS expected,
       coalesce(v.missing, 0) AS not_returned
FROM alertwell.stream s
JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
LEFT JOIN alertwell.stream_volume v ON v.tenant_id = s.tenant_id AND v.source = s.source
CROSS JOIN LATERAL (SELECT s.coverage + coalesce(tstzmultirange(p.proven), '{}') AS coverage) held
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = s.tenant_id);
COMMENT ON COLUMN soc.coverage.silent_since IS
    'Since when it has brought nothing where it used to, beyond chance; null while its silence is nothing unusual.';
COMMENT ON COLUMN soc.coverage.expected IS
    'In how many hours of a week it brings records, as learned from the eight weeks before the last one; null until enough is.';
COMMENT ON COLUMN soc.coverage.not_returned IS 'Records that the API returned before and does not return any more, as asked again.';

UPDATE alertwell.schema_version SET revision = 10;

-- The collector: tenants, streams, leases, alerts, the change feed, and the public schema soc.
-- Private tables live in schema alertwell and are granted to nobody; readers get views and functions of schema soc alone.

CREATE SCHEMA IF NOT EXISTS alertwell;
CREATE SCHEMA soc;
COMMENT ON SCHEMA alertwell IS 'Private to Alertwell. Read schema soc instead.';
COMMENT ON SCHEMA soc IS 'Public contract of Alertwell: views and functions for SOC tooling; additive changes only.';

-- What this schema is, and the oldest software that works on it (rolling upgrades).
CREATE TABLE alertwell.schema_version (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    revision integer NOT NULL,
    works_with_from integer NOT NULL
);
INSERT INTO alertwell.schema_version (revision, works_with_from) VALUES (1, 1);

----------------------------------------------------------------------------------------------------------------------
-- Tenants and what is collected from them

CREATE TABLE alertwell.tenant (
    tenant_id uuid PRIMARY KEY,
    name text NOT NULL CHECK (name <> ''),
    cloud text NOT NULL DEFAULT 'public',
    region text,
    state text NOT NULL DEFAULT 'active' CHECK (state IN ('pending', 'active', 'paused', 'removed')),
    state_reason text,
    labels jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(labels) = 'object'),
    external_ref text,
    consented_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- A tenant's (source '') or a stream's own app. A table of its own, so that no view ever touches it by accident.
CREATE TABLE alertwell.credential (
    tenant_id uuid NOT NULL REFERENCES alertwell.tenant ON DELETE CASCADE,
    source text NOT NULL DEFAULT '',
    app_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('client_secret')),
    sealed bytea NOT NULL,
    version integer NOT NULL DEFAULT 1,
    expires_at timestamptz,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, source)
);

CREATE TABLE alertwell.stream (
    tenant_id uuid NOT NULL REFERENCES alertwell.tenant ON DELETE CASCADE,
    source text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    parameters jsonb NOT NULL DEFAULT '{}' CHECK (jsonb_typeof(parameters) = 'object'),
    enrolled_at timestamptz NOT NULL DEFAULT now(),
    wanted tstzmultirange NOT NULL,
    backfill tstzmultirange NOT NULL DEFAULT '{}',
    coverage tstzmultirange NOT NULL DEFAULT '{}',
    watermark timestamptz,
    reach interval,
    failures integer NOT NULL DEFAULT 0,
    state text NOT NULL DEFAULT 'new'
        CHECK (state IN ('new', 'ok', 'catching_up', 'throttled', 'degraded', 'needs_attention', 'retired')),
    state_reason text,
    state_since timestamptz NOT NULL DEFAULT now(),
    overlap interval,
    observed_lateness interval,
    late_arrivals bigint NOT NULL DEFAULT 0,
    last_verified_at timestamptz,
    PRIMARY KEY (tenant_id, source)
) WITH (fillfactor = 80);
COMMENT ON COLUMN alertwell.stream.wanted IS 'Update times that are to be held.';
COMMENT ON COLUMN alertwell.stream.backfill IS 'The part of wanted that a person added later: its alerts arrive as backfill.';
COMMENT ON COLUMN alertwell.stream.coverage IS 'Update times proven read; stream_progress.proven comes on top.';

-- What idle polls move, written in batches; no index beside the key, so that every update is HOT.
CREATE TABLE alertwell.stream_progress (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    last_success_at timestamptz,
    read_to timestamptz,
    proven tstzrange,
    next_poll_at timestamptz,
    PRIMARY KEY (tenant_id, source),
    FOREIGN KEY (tenant_id, source) REFERENCES alertwell.stream ON DELETE CASCADE
) WITH (fillfactor = 60, autovacuum_vacuum_scale_factor = 0.05);

-- Why an interval is a gap, where more is known than "not read yet".
CREATE TABLE alertwell.gap_reason (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    span tstzrange NOT NULL,
    reason text NOT NULL,
    opened_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, source, span),
    FOREIGN KEY (tenant_id, source) REFERENCES alertwell.stream ON DELETE CASCADE
);

----------------------------------------------------------------------------------------------------------------------
-- Ownership

CREATE TABLE alertwell.replica (
    replica_id uuid PRIMARY KEY,
    host text NOT NULL,
    version text NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50);

CREATE TABLE alertwell.lease (
    tenant_id uuid PRIMARY KEY REFERENCES alertwell.tenant ON DELETE CASCADE,
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 70);
COMMENT ON COLUMN alertwell.lease.epoch IS
    'Grows whenever the owner changes, or anything an owner has read of the tenant: an older epoch writes nothing.';

-- Grows with each change of tenants, streams and credentials: replicas look here every second.
CREATE TABLE alertwell.roster (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    version bigint NOT NULL DEFAULT 0
);
INSERT INTO alertwell.roster DEFAULT VALUES;

----------------------------------------------------------------------------------------------------------------------
-- Alerts and their changes. No foreign keys here: they cost 6 % each.

CREATE TABLE alertwell.alert (
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    full_id text NOT NULL,
    last_processed_at timestamptz NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    event_time timestamptz,
    created_at timestamptz,
    resolved_at timestamptz,
    content_hash bigint NOT NULL,
    revision integer NOT NULL DEFAULT 1,
    severity_rank smallint NOT NULL DEFAULT 0,
    arrival text NOT NULL,
    source_updated_text text NOT NULL,
    alert_id text,
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
    raw jsonb NOT NULL,
    raw_exact bytea,
    PRIMARY KEY (tenant_id, source, full_id)
);
CREATE INDEX alert_newest ON alertwell.alert (tenant_id, last_processed_at);
CREATE INDEX alert_by_alert_id ON alertwell.alert (tenant_id, alert_id);
CREATE INDEX alert_by_time ON alertwell.alert USING brin (last_processed_at);

-- How records travel: one array of these a statement, in the order of service.model.Alert (a test holds them together).
-- An array a column costs the client two and a half times as much CPU.
CREATE TYPE alertwell.incoming_alert AS (
    full_id text,
    last_processed_at timestamptz,
    source_updated_text text,
    content_hash bigint,
    raw text,
    raw_exact bytea,
    alert_id text,
    incident_id text,
    title text,
    severity_rank smallint,
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
    event_time timestamptz,
    created_at timestamptz,
    resolved_at timestamptz,
    arrival text
);

CREATE SEQUENCE alertwell.change_batch;

CREATE TABLE alertwell.alert_change (
    tenant_id uuid NOT NULL,
    batch bigint NOT NULL,
    n integer NOT NULL,
    change_id uuid NOT NULL DEFAULT gen_random_uuid(),
    at timestamptz NOT NULL DEFAULT now(),
    revision integer NOT NULL,
    kind text NOT NULL CHECK (kind IN ('created', 'updated', 'merged', 'purged')),
    arrival text,
    source text,
    full_id text,
    changed jsonb,
    PRIMARY KEY (tenant_id, batch, n)
);
CREATE INDEX alert_change_at ON alertwell.alert_change USING brin (at);

-- Batches of committed changes that have no number yet: one row a storing statement, so the feed costs next to nothing here.
CREATE TABLE alertwell.unnumbered (
    tenant_id uuid NOT NULL,
    batch bigint NOT NULL,
    changes integer NOT NULL,
    at timestamptz NOT NULL DEFAULT now()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

CREATE TABLE alertwell.feed (
    seq bigint PRIMARY KEY,
    tenant_id uuid NOT NULL,
    batch bigint NOT NULL,
    n integer NOT NULL
);
CREATE INDEX feed_by_tenant ON alertwell.feed (tenant_id, seq);

-- Where numbering stands, and on which database: where the identity differs from what the server says (restore, a failover
-- that lost a tail), numbers given since may be known to readers, so seq jumps by 2^32.
CREATE TABLE alertwell.feed_head (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    last_seq bigint NOT NULL DEFAULT 0,
    pruned_to bigint NOT NULL DEFAULT 0,
    identity text,
    restored_at timestamptz
);
INSERT INTO alertwell.feed_head DEFAULT VALUES;

----------------------------------------------------------------------------------------------------------------------
-- Polls and rejects

CREATE TABLE alertwell.poll (
    tenant_id uuid NOT NULL,
    poll_id uuid NOT NULL,
    source text NOT NULL,
    replica_id uuid NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL DEFAULT now(),
    outcome text NOT NULL,
    error text,
    windows integer NOT NULL,
    items bigint NOT NULL,
    inserted bigint NOT NULL,
    updated bigint NOT NULL,
    unchanged bigint NOT NULL,
    stale bigint NOT NULL,
    duplicate bigint NOT NULL,
    rejected bigint NOT NULL,
    CHECK (items = inserted + updated + unchanged + stale + duplicate + rejected),
    PRIMARY KEY (tenant_id, poll_id)
);
CREATE INDEX poll_started ON alertwell.poll USING brin (started_at);

CREATE TABLE alertwell.reject (
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id uuid NOT NULL,
    source text NOT NULL,
    digest bytea NOT NULL,
    reason text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    seen_count bigint NOT NULL DEFAULT 1,
    raw bytea NOT NULL,
    PRIMARY KEY (tenant_id, source, digest)
);
CREATE INDEX reject_by_id ON alertwell.reject (id);

-- lz4 stores the raw records in half the time of pglz at the same size; not every build has it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM pg_settings WHERE name = 'default_toast_compression' AND 'lz4' = ANY (enumvals)) THEN
        ALTER TABLE alertwell.alert ALTER COLUMN raw SET COMPRESSION lz4;
        ALTER TABLE alertwell.alert_change ALTER COLUMN changed SET COMPRESSION lz4;
    END IF;
END
$$;

----------------------------------------------------------------------------------------------------------------------
-- The wall between readers. A role sees the tenants that `reader` names for it; tenant_id null means all of them.
-- The owner of schema alertwell (and its members, and superusers) sees all.
--
-- Where a relation is large, its view is the union of two branches, of which one never runs: one question with OR could be
-- answered by reading the whole relation alone, and a reader of few tenants would pay for everybody's alerts. Each branch
-- is a security_barrier of its own: PostgreSQL takes a UNION ALL apart without regard to the one around it (tested).

CREATE TABLE alertwell.reader (
    role name NOT NULL,
    tenant_id uuid,
    UNIQUE NULLS NOT DISTINCT (role, tenant_id)
);

CREATE VIEW alertwell.reader_scope WITH (security_barrier) AS
SELECT pg_has_role(current_user, n.nspowner, 'USAGE')
       OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id IS NULL) AS everything
FROM pg_namespace n
WHERE n.nspname = 'alertwell';

----------------------------------------------------------------------------------------------------------------------
-- Schema soc

CREATE VIEW soc.tenants WITH (security_barrier) AS
SELECT t.tenant_id, t.name, t.cloud, t.region, t.state, t.state_reason, t.labels, t.external_ref, t.consented_at,
       ARRAY(SELECT s.source FROM alertwell.stream s WHERE s.tenant_id = t.tenant_id ORDER BY s.source) AS sources
FROM alertwell.tenant t
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = t.tenant_id);
COMMENT ON VIEW soc.tenants IS 'Customers and what is collected from them.';

-- The wall in front of alerts. What soc.alerts computes from raw stands outside of it, in a function that says it is
-- expensive: so it is computed for the rows that come out of a LIMIT, not for all that go into its sort.
CREATE VIEW alertwell.alert_with_tenant AS
SELECT a.*, t.name AS tenant_name, t.labels, t.external_ref
FROM alertwell.alert a
LEFT JOIN alertwell.tenant t ON t.tenant_id = a.tenant_id;

CREATE VIEW alertwell.alert_for_all WITH (security_barrier) AS
SELECT a.* FROM alertwell.alert_with_tenant a
WHERE (SELECT everything FROM alertwell.reader_scope);

CREATE VIEW alertwell.alert_for_some WITH (security_barrier) AS
SELECT a.* FROM alertwell.alert_with_tenant a
WHERE NOT (SELECT everything FROM alertwell.reader_scope)
  AND EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = a.tenant_id);

CREATE VIEW alertwell.readable_alert WITH (security_barrier) AS
SELECT * FROM alertwell.alert_for_all UNION ALL SELECT * FROM alertwell.alert_for_some;

-- A view's functions run with the reader's rights (EXECUTE is everybody's, the schema is not): it reads its arguments only.
CREATE FUNCTION alertwell.first_text(raw jsonb, VARIADIC fields text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 1000
AS $$
DECLARE
    field text;
BEGIN
    FOREACH field IN ARRAY fields LOOP
        IF raw OPERATOR(pg_catalog.->>) field OPERATOR(pg_catalog.<>) '' THEN
            RETURN raw OPERATOR(pg_catalog.->>) field;
        END IF;
    END LOOP;
    RETURN NULL;
END
$$;
COMMENT ON FUNCTION alertwell.first_text(jsonb, text[]) IS 'The first of these fields of a record that is there and not empty.';

CREATE VIEW soc.alerts AS
SELECT a.tenant_id,
       a.tenant_name,
       a.source,
       a.full_id,
       a.alert_id,
       a.incident_id,
       a.title,
       alertwell.first_text(a.raw, 'Description', 'description') AS description,
       (ARRAY['unknown', 'informational', 'low', 'medium', 'high'])[a.severity_rank + 1] AS severity,
       a.severity_rank,
       a.status,
       a.category,
       a.detection_source,
       a.service_source,
       a.device_name,
       a.device_id,
       a.device_group,
       a.user_name,
       a.file_sha256,
       a.threat_name,
       a.mitre_techniques,
       a.assigned_to,
       a.classification,
       a.determination,
       a.remediation_action,
       alertwell.first_text(a.raw, 'LinkToMTP', 'LinkToWDATP', 'alertWebUrl') AS alert_url,
       alertwell.first_text(a.raw, 'IncidentLinkToMTP', 'IncidentLinkToWDATP', 'incidentWebUrl') AS incident_url,
       a.event_time,
       a.last_processed_at,
       a.last_processed_at AS source_updated_at,
       a.source_updated_text,
       a.created_at,
       a.resolved_at,
       a.first_seen_at,
       a.updated_at,
       a.revision,
       a.arrival,
       a.labels,
       a.external_ref,
       a.raw,
       a.raw_exact
FROM alertwell.readable_alert a;
COMMENT ON VIEW soc.alerts IS 'The current row of every alert, keyed (tenant_id, source, full_id).';
COMMENT ON COLUMN soc.alerts.severity IS 'informational, low, medium, high or unknown; the source''s own word is in raw.';
COMMENT ON COLUMN soc.alerts.status IS 'new, in_progress, resolved or unknown; null for siem, whose records never change.';
COMMENT ON COLUMN soc.alerts.last_processed_at IS
    'The source''s own update time, floored to microseconds (siem: LastProcessedTimeUtc); source_updated_text has all its digits.';
COMMENT ON COLUMN soc.alerts.first_seen_at IS 'When Alertwell stored it first.';
COMMENT ON COLUMN soc.alerts.updated_at IS 'When Alertwell last saw its content change.';
COMMENT ON COLUMN soc.alerts.arrival IS
    'How it came: live, catch_up, initial, backfill, sweep or fallback. Open tickets for live and catch_up.';
COMMENT ON COLUMN soc.alerts.raw IS
    'The whole record. Where it held NUL or lone surrogates, U+FFFD stands in their place and raw_exact has its bytes.';
COMMENT ON COLUMN soc.alerts.raw_exact IS 'The record''s exact bytes, only where jsonb cannot hold them unchanged; else null.';

CREATE VIEW alertwell.numbered_change AS
SELECT f.seq,
       c.change_id,
       f.tenant_id::text AS tenant_id,
       t.name AS tenant_name,
       c.source,
       c.full_id,
       a.alert_id,
       c.revision,
       c.kind,
       c.changed::text AS changed,
       c.arrival,
       c.at,
       (ARRAY['unknown', 'informational', 'low', 'medium', 'high'])[a.severity_rank + 1] AS severity,
       a.status,
       a.title,
       a.raw::text AS alert,
       f.tenant_id AS reader_key
FROM alertwell.feed f
JOIN alertwell.alert_change c ON c.tenant_id = f.tenant_id AND c.batch = f.batch AND c.n = f.n
LEFT JOIN alertwell.alert a ON a.tenant_id = f.tenant_id AND a.source = c.source AND a.full_id = c.full_id
LEFT JOIN alertwell.tenant t ON t.tenant_id = f.tenant_id;

CREATE VIEW alertwell.change_for_all WITH (security_barrier) AS
SELECT c.* FROM alertwell.numbered_change c
WHERE (SELECT everything FROM alertwell.reader_scope);

CREATE VIEW alertwell.change_for_some WITH (security_barrier) AS
SELECT c.* FROM alertwell.numbered_change c
WHERE NOT (SELECT everything FROM alertwell.reader_scope)
  AND EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = c.reader_key);

CREATE VIEW soc.change_feed WITH (security_barrier) AS
SELECT c.seq, c.change_id, c.tenant_id, c.tenant_name, c.source, c.full_id, c.alert_id, c.revision, c.kind, c.changed,
       c.arrival, c.at, c.severity, c.status, c.title, c.alert
FROM (SELECT * FROM alertwell.change_for_all UNION ALL SELECT * FROM alertwell.change_for_some) c;
COMMENT ON VIEW soc.change_feed IS
    'Committed changes in the order of seq, each numbered after its commit: read seq > the last one seen and none is missed. Holes come from purges, restores and what a reader may not see. Plain types for rising-column readers.';
COMMENT ON COLUMN soc.change_feed.changed IS 'JSON object {field: [old, new]} of an update.';
COMMENT ON COLUMN soc.change_feed.alert IS 'The alert''s record as it is held now (JSON text); null once it is purged or retired.';

-- One row for everybody: positions and amounts. statement_timestamp(), for a volatile function would be computed even
-- where nobody asks for its column.
CREATE VIEW soc.feed AS
SELECT (SELECT min(f.seq) FROM alertwell.feed f WHERE f.seq > h.pruned_to) AS oldest_seq,
       h.last_seq AS head_seq,
       h.pruned_to,
       (SELECT coalesce(sum(u.changes), 0)::bigint FROM alertwell.unnumbered u) AS unnumbered,
       (SELECT extract(epoch FROM statement_timestamp() - min(u.at))::double precision FROM alertwell.unnumbered u)
           AS oldest_unnumbered_seconds,
       h.restored_at
FROM alertwell.feed_head h;
COMMENT ON VIEW soc.feed IS
    'Where the feed stands. restored_at: when seq last jumped because the database was restored or failed over.';

-- Reads the feed in stretches that grow while they bring too little: a page costs about as much as its rows, wherever in
-- the feed it begins and however few of the tenants the reader sees (seq is nearly dense; LIMIT does not reach through
-- the wall).
CREATE FUNCTION soc.changes(after bigint DEFAULT NULL, max_rows integer DEFAULT 1000)
RETURNS TABLE (seq bigint, change_id uuid, tenant_id text, tenant_name text, source text, full_id text, alert_id text,
               revision integer, kind text, changed jsonb, arrival text, at timestamptz, severity text, status text,
               title text, alert jsonb)
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
                  HINT = 'Changes in between are gone: read soc.alerts anew, then go on from soc.feed.head_seq.';
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
                   c.changed::jsonb, c.arrival, c.at, c.severity, c.status, c.title, c.alert::jsonb
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

CREATE VIEW soc.coverage WITH (security_barrier) AS
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
       p.next_poll_at
FROM alertwell.stream s
JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
CROSS JOIN LATERAL (SELECT s.coverage + coalesce(tstzmultirange(p.proven), '{}') AS coverage) held
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = s.tenant_id);
COMMENT ON VIEW soc.coverage IS
    'What is proven: for every update time inside coverage, all alerts that the source showed are held.';
COMMENT ON COLUMN soc.coverage.gaps IS 'Wanted, below the end of coverage, and not proven yet; healed by themselves, newest first.';
COMMENT ON COLUMN soc.coverage.proven_until IS 'End of the contiguous coverage from the start of wanted; null before that start is read.';
COMMENT ON COLUMN soc.coverage.data_age_seconds IS 'Now minus the end of the last live window read; grows while nothing polls.';

CREATE VIEW soc.gaps WITH (security_barrier) AS
SELECT c.tenant_id::text AS tenant_id,
       c.tenant_name,
       c.source,
       lower(g.span) AS gap_from,
       upper(g.span) AS gap_to,
       coalesce(w.reason, CASE WHEN lower(g.span) < s.enrolled_at THEN 'history not read yet' ELSE 'not read yet' END) AS reason,
       coalesce(w.opened_at, s.enrolled_at) AS opened_at,
       lower(g.span) + s.reach AS lost_after
FROM soc.coverage c
JOIN alertwell.stream s ON s.tenant_id = c.tenant_id AND s.source = c.source
CROSS JOIN LATERAL unnest(c.gaps) AS g(span)
LEFT JOIN LATERAL (SELECT r.reason, r.opened_at FROM alertwell.gap_reason r
                   WHERE r.tenant_id = s.tenant_id AND r.source = s.source AND r.span && g.span
                   ORDER BY r.opened_at DESC LIMIT 1) w ON true;
COMMENT ON VIEW soc.gaps IS 'Intervals that are wanted and not proven, with the reason; lost_after: when the source itself forgets them.';

-- A reject is shown whatever it is made of. Not for parallel plans: before PostgreSQL 17 an exception cannot be caught there.
CREATE FUNCTION soc.readable(raw bytea) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN convert_from(raw, 'UTF8');
EXCEPTION WHEN OTHERS THEN
    RETURN encode(raw, 'escape');
END
$$;

COMMENT ON FUNCTION soc.readable(bytea) IS 'Bytes as text where they are UTF-8 without NUL, else with escapes (encode, escape).';

CREATE VIEW soc.rejects WITH (security_barrier) AS
SELECT j.id,
       j.tenant_id,
       t.name AS tenant_name,
       j.source,
       j.reason,
       j.received_at,
       j.last_seen_at,
       j.seen_count,
       soc.readable(j.raw) AS raw
FROM alertwell.reject j
LEFT JOIN alertwell.tenant t ON t.tenant_id = j.tenant_id
WHERE (SELECT everything FROM alertwell.reader_scope)
   OR EXISTS (SELECT FROM alertwell.reader r WHERE r.role = current_user AND r.tenant_id = j.tenant_id);
COMMENT ON VIEW soc.rejects IS 'Records and bodies that could not be stored as alerts, whole, with the reason; seen again counts up.';

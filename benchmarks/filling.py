"""Fills a database with millions of alerts as the storing path would have left them, server-side and without WAL.

50 tenants, 400 days, in the order of arrival; one record an alert; changes and the feed for the last 90 days, rows of polls
for the last 30, one for ten alerts: what the default retention keeps. Ids, columns and their sizes are those of the SIEM API; a
raw record has about 600 bytes as jsonb, a third of a real one, so that ten million fit on a small disk. Indexes are made after
the rows, which is how they come out of a load in their own order: ids and times rise.
"""

from __future__ import annotations

import time

import asyncpg

from service.store.embedded import Cluster

DAYS = 400
DAYS_OF_CHANGES = 90
DAYS_OF_POLLS = 30
CHUNK = 250_000
PER_BATCH = 10  # changes a storing statement
TABLES = ("alert", "alert_change", "feed", "alert_merged", "poll", "unnumbered")

# $1 tenants, $2 first and $3 last number, $4 all of them, $5 the oldest time
ALERTS = """
INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, first_seen_at, updated_at, event_time, created_at,
                             content_hash, severity_rank, arrival, source_updated_text, alert_id, title, category,
                             detection_source, service_source, device_name, device_id, device_group, user_name, raw)
SELECT ($1::uuid[])[1 + n % cardinality($1::uuid[])], 'siem',
       i.alert_id || ':' || encode(int8send(hashint8extended(n, 1)), 'base64'),
       t.at, t.at, t.at, t.at, t.at, hashint8extended(n, 2), (ARRAY[1, 2, 2, 2, 3, 3, 3, 3, 4, 1])[1 + d.dice % 10], 'live',
       to_char(t.at, 'YYYY-MM-DD"T"HH24:MI:SS.US"7Z"'), i.alert_id, 'Suspicious process number ' || d.dice % 100, 'Execution',
       'EDR',
       'microsoftDefenderForEndpoint', h.host || '.contoso.example',
       encode(int8send(hashint8extended(h.number, 3)), 'hex') || h.host,
       'Workstations', 'CONTOSO\\user' || d.dice % 90,
       jsonb_build_object('AlertId', i.alert_id, 'AlertTitle', 'Suspicious process number ' || d.dice % 100, 'Severity', 'Medium',
                          'ComputerDnsName', h.host, 'LinkToMTP', 'https://security.microsoft.com/alerts/' || i.alert_id,
                          'Description', repeat('What was seen on the device. ', 10), 'FileName', 'powershell.exe',
                          'FileHash', hashint8extended(n, 4), 'LastProcessedTimeUtc', t.at)
FROM generate_series($2::bigint, $3::bigint) n,
     LATERAL (SELECT $5::timestamptz + (now() - $5::timestamptz) * (n::float8 / $4::float8) AS at) t,
     LATERAL (SELECT abs(hashint8(n))::bigint AS dice) d,
     LATERAL (SELECT (d.dice / 1000 % 200)::int AS number, 'ws-' || lpad((d.dice / 1000 % 200)::text, 3, '0') AS host) h,
     LATERAL (SELECT 'da' ||
              621355968000000000 + (extract(epoch FROM t.at) * 10000000)::bigint || '_' || hashint8(n) AS alert_id) i
"""
MERGED = """
INSERT INTO alertwell.alert_merged (
    tenant_id, alert_id, last_processed_at, oldest_processed_at, first_seen_at, updated_at, event_time, created_at, severity_rank,
    detections, arrival, newest_source, newest_full_id, sources, full_ids, title, category, detection_source, service_source,
    device_name, device_id, device_group, user_name)
SELECT tenant_id, alert_id, last_processed_at, last_processed_at, first_seen_at, updated_at, event_time, created_at,
       severity_rank, 1, arrival, source, full_id, ARRAY[source], ARRAY[full_id], title, category,
       detection_source, service_source, device_name, device_id, device_group, user_name
FROM alertwell.alert
"""
CHANGES = f"""
WITH numbered AS (
    SELECT a.tenant_id, a.full_id, a.first_seen_at, row_number() OVER () - 1 AS n, count(*) OVER () AS of
    FROM alertwell.alert a WHERE a.last_processed_at >= now() - interval '{DAYS_OF_CHANGES} days'
), batches AS (
    SELECT *, row_number() OVER (PARTITION BY tenant_id ORDER BY n) - 1 AS mine FROM numbered
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, at, revision, kind, arrival, source, full_id)
    SELECT tenant_id, n - mine % {PER_BATCH}, 1 + mine % {PER_BATCH}, first_seen_at, 1, 'created', 'live', 'siem', full_id
    FROM batches ORDER BY batches.n
)
INSERT INTO alertwell.feed (seq, tenant_id, batch, n)
SELECT $1::bigint - of + n + 1, tenant_id, n - mine % {PER_BATCH}, 1 + mine % {PER_BATCH} FROM batches ORDER BY batches.n
"""
POLLS = f"""
INSERT INTO alertwell.poll (tenant_id, poll_id, source, replica_id, started_at, ended_at, outcome, windows, items, inserted,
                            updated,                           unchanged, stale, duplicate, rejected)
SELECT ($1::uuid[])[1 + n % cardinality($1::uuid[])], gen_random_uuid(), 'siem', ($1::uuid[])[1],
       now() - interval '{DAYS_OF_POLLS} days' * (n::float8 / $2), now(), 'complete', 1, 12, 10, 0, 2, 0, 0, 0
FROM generate_series($2::bigint, 1, -1) n
"""


async def tune(cluster: Cluster, admin: asyncpg.Connection, **settings: str) -> None:
    """Server settings from the next start on, and that start."""
    for name, value in settings.items():
        await admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
    await cluster.restart()


async def fill(admin: asyncpg.Connection, tenants: list[str], rows: int) -> float:
    """Empty the tables and write so many alerts; the seconds that it took. The server runs with wal_level minimal."""
    started = time.monotonic()
    async with admin.transaction():
        await admin.execute(
            "SET LOCAL jit = off; SET LOCAL maintenance_work_mem = '512MB'; SET LOCAL work_mem = '256MB'"
        )
        names = ", ".join("alertwell." + name for name in TABLES)
        await admin.execute(f"TRUNCATE {names}")
        await admin.execute("ALTER TABLE alertwell.alert DISABLE TRIGGER USER")
        made = await _without_indexes(admin)
        oldest = await admin.fetchval(f"SELECT date_trunc('day', now() - interval '{DAYS} days', 'UTC')")
        for start in range(0, rows, CHUNK):
            await admin.execute(ALERTS, tenants, start, min(start + CHUNK, rows) - 1, rows, oldest)
        await admin.execute(MERGED)
        await admin.execute(CHANGES, rows)
        await admin.execute(POLLS, tenants, max(1, rows * DAYS_OF_POLLS // DAYS // PER_BATCH))
        for statement in made:
            await admin.execute(statement)
        await admin.execute("ALTER TABLE alertwell.alert ENABLE TRIGGER USER")
        await admin.execute(
            "UPDATE alertwell.feed_head SET last_seq = $1,"
            " pruned_to = coalesce((SELECT min(seq) - 1 FROM alertwell.feed), 0)",
            rows,
        )
        await admin.execute("SELECT setval('alertwell.change_batch', $1)", max(rows, 1))
        await admin.execute(
            "UPDATE alertwell.stream SET wanted = tstzmultirange(tstzrange($1, NULL)),"
            " coverage = tstzmultirange(tstzrange($1, now())), watermark = now()",
            oldest,
        )
    await admin.execute("VACUUM ANALYZE")
    return time.monotonic() - started


async def _without_indexes(admin: asyncpg.Connection) -> list[str]:
    """Drop all indexes of the tables; the statements that make them again come back."""
    made = []
    for row in await admin.fetch(
        """
        SELECT i.indexrelid::regclass::text AS name, i.indrelid::regclass::text AS relation, c.conname::text AS constraint,
               pg_get_indexdef(i.indexrelid) AS index, pg_get_constraintdef(c.oid) AS definition
        FROM pg_index i LEFT JOIN pg_constraint c ON c.conindid = i.indexrelid
        WHERE i.indrelid = ANY (SELECT ('alertwell.' || t)::regclass FROM unnest($1::text[]) t)
        """,
        list(TABLES),
    ):
        if row["constraint"]:
            await admin.execute(f"ALTER TABLE {row['relation']} DROP CONSTRAINT {row['constraint']}")
            made.append(
                f"ALTER TABLE {row['relation']} ADD CONSTRAINT {row['constraint']} {row['definition']}"
            )
        else:
            await admin.execute(f"DROP INDEX {row['name']}")
            made.append(row["index"])
    return made

"""Retention: what is past its time goes in small batches, each its own short transaction.

The horizon of alerts is the start of a day (UTC): wanted and coverage give up whole days first, then alerts before the same
moment are deleted, unless coverage still claims them, or the incident that they are shown in is younger.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Final
from uuid import UUID

from service.store import leases, pool

_BATCH = 2000
_STREAMS = 500
_LOCK = 0x72657465

_HORIZON = "date_trunc('day', now() - $1::interval, 'UTC')"

# $1 how long it is kept, $2 how many. Oldest first: that is the order of an index, and nothing else is read.
STATEMENTS: Final = {
    "alerts": f"""
        DELETE FROM alertwell.alert WHERE ctid = ANY (ARRAY(
            SELECT a.ctid FROM alertwell.alert a
            WHERE a.last_processed_at < {_HORIZON}
              AND NOT EXISTS (  -- whatever shrink has done or left: what is still claimed is still held
                  SELECT FROM alertwell.stream s
                  LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
                  WHERE s.tenant_id = a.tenant_id AND s.source = a.source
                    AND (s.coverage @> a.last_processed_at OR p.proven @> a.last_processed_at))
              AND NOT EXISTS (  -- each reading of its incident would bring it back, as news
                  SELECT FROM alertwell.incident i
                  WHERE i.tenant_id = a.tenant_id AND i.source = a.source AND i.incident_id = a.incident_id
                    AND i.last_update >= {_HORIZON})
            ORDER BY a.last_processed_at LIMIT $2))
    """,  # noqa: S608 - made of constants
    # after alerts: a row whose newest record is past its time has none left, but for records that stay for another reason
    "alerts_merged": f"""
        DELETE FROM alertwell.alert_merged WHERE ctid = ANY (ARRAY(
            SELECT m.ctid FROM alertwell.alert_merged m
            WHERE m.last_processed_at < {_HORIZON}
              AND NOT EXISTS (
                  SELECT FROM alertwell.alert a WHERE a.tenant_id = m.tenant_id AND a.alert_id = m.alert_id)
            ORDER BY m.last_processed_at LIMIT $2))
    """,  # noqa: S608 - made of constants
    "incidents": f"""
        DELETE FROM alertwell.incident WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM alertwell.incident
            WHERE last_update < {_HORIZON} ORDER BY last_update LIMIT $2))
    """,  # noqa: S608 - made of constants
    "polls": """
        DELETE FROM alertwell.poll WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM alertwell.poll WHERE started_at < now() - $1::interval ORDER BY started_at LIMIT $2))
    """,
    "rejects": """
        DELETE FROM alertwell.reject WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM alertwell.reject WHERE last_seen_at < now() - $1::interval LIMIT $2))
    """,
}


async def begin(connection: pool.Connection) -> bool:
    """Whether this transaction may delete in bulk: one at a time does, or two would wait for each other's rows."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK))


async def wait(connection: pool.Connection) -> None:
    """The same for somebody who cannot come back later."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)


async def prune(database: pool.Database, what: str, keep: timedelta) -> int:
    """Delete one batch of `alerts`, `alerts_merged`, `incidents`, `polls` or `rejects` older than `keep`; 0 when nothing is
    left to delete.
    """
    async with database.transaction() as connection:
        if not await begin(connection):
            return 0  # another replica is at it
        done = await connection.execute(STATEMENTS[what], keep, _BATCH)
    return int(done.removeprefix("DELETE "))


async def merge(database: pool.Database, keep: timedelta) -> int:
    """Merge one batch of alerts anew that have lost some of their records to retention; 0 when all are merged."""
    async with database.transaction() as connection:
        if not await begin(connection):
            return 0
        rows = await connection.fetch(
            f"""
            WITH aging AS (
                SELECT m.tenant_id, m.alert_id FROM alertwell.alert_merged m
                WHERE m.oldest_processed_at < {_HORIZON} AND m.oldest_processed_at < m.last_processed_at
                  AND m.oldest_processed_at IS DISTINCT FROM (
                      SELECT min(a.last_processed_at) FROM alertwell.alert a
                      WHERE a.tenant_id = m.tenant_id AND a.alert_id = m.alert_id)
                LIMIT $2
            ), tenant AS (
                SELECT tenant_id, array_agg(alert_id) AS alert_ids FROM aging GROUP BY tenant_id ORDER BY tenant_id
            )
            SELECT cardinality(alert_ids), alertwell.merge_alerts(tenant_id, alert_ids) FROM tenant
            """,  # noqa: S608 - made of constants
            keep,
            _BATCH,
        )
    return sum(row[0] for row in rows)


async def shrink(database: pool.Database, keep: timedelta) -> int:
    """Stop promising what is past retention: wanted and coverage lose it together. How many streams shrank comes back.

    Their leases' epochs grow, so that no owner goes on with an older picture. A few hundred streams a transaction.
    """
    shrunk = 0
    while True:
        async with database.transaction() as connection:
            tenant_ids = await _past(connection, keep) if await begin(connection) else []
            if not tenant_ids:
                return shrunk
            await leases.lock(connection, tenant_ids)
            shrunk += await _shrink(connection, tenant_ids, keep)
            await leases.changed(connection, tenant_ids)


async def _past(connection: pool.Connection, keep: timedelta) -> list[UUID]:
    rows = await connection.fetch(
        f"""
        SELECT DISTINCT s.tenant_id
        FROM alertwell.stream s
        LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
        WHERE least(lower(s.wanted), lower(s.coverage), lower(s.backfill), lower(p.proven)) < {_HORIZON}
        LIMIT $2
        """,  # noqa: S608 - made of constants
        keep,
        _STREAMS,
    )
    return [row["tenant_id"] for row in rows]


async def _shrink(connection: pool.Connection, tenant_ids: list[UUID], keep: timedelta) -> int:
    rows = await connection.fetch(
        f"""
        WITH kept AS (
            SELECT tstzmultirange(tstzrange({_HORIZON}, NULL)) AS days, {_HORIZON} AS since
        ), shrunk AS (
            UPDATE alertwell.stream s
            SET wanted = s.wanted * k.days, coverage = s.coverage * k.days, backfill = s.backfill * k.days
            FROM kept k
            WHERE s.tenant_id = ANY ($2::uuid[])
              AND NOT (s.wanted <@ k.days AND s.coverage <@ k.days AND s.backfill <@ k.days)
            RETURNING s.tenant_id
        ), progress AS (
            UPDATE alertwell.stream_progress p SET proven = nullif(p.proven * tstzrange(k.since, NULL), 'empty')
            FROM kept k WHERE p.tenant_id = ANY ($2::uuid[]) AND lower(p.proven) < k.since
        ), reasons AS (
            DELETE FROM alertwell.gap_reason r USING kept k
            WHERE r.tenant_id = ANY ($2::uuid[]) AND upper(r.span) <= k.since
        )
        SELECT FROM shrunk
        """,  # noqa: S608 - made of constants
        keep,
        tenant_ids,
    )
    return len(rows)

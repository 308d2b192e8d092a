"""Retention: what is past its time goes in small batches, each its own short transaction."""

from __future__ import annotations

from datetime import timedelta

from service.store import pool

_BATCH = 2000
_LOCK = 0x72657465

_STATEMENTS = {
    "alerts": """
        DELETE FROM alertwell.alert WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM alertwell.alert WHERE last_processed_at < now() - $1::interval LIMIT $2))
    """,
    "polls": """
        DELETE FROM alertwell.poll WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM alertwell.poll WHERE started_at < now() - $1::interval LIMIT $2))
    """,
    "rejects": """
        DELETE FROM alertwell.reject WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM alertwell.reject WHERE last_seen_at < now() - $1::interval LIMIT $2))
    """,
}


async def prune(database: pool.Database, what: str, keep: timedelta) -> int:
    """Delete one batch of `alerts`, `polls` or `rejects` older than `keep`; 0 when nothing is left to delete."""
    async with database.transaction() as connection:
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
            return 0  # another replica is at it
        done = await connection.execute(_STATEMENTS[what], keep, _BATCH)
    return int(done.removeprefix("DELETE "))


async def shrink(database: pool.Database, keep: timedelta) -> int:
    """Stop promising what is past retention: wanted and coverage lose it together. How many streams shrank comes back.

    Their leases' epochs grow, so that no owner goes on with an older picture.
    """
    async with database.transaction() as connection:
        rows = await connection.fetch(
            """
            WITH horizon AS (
                SELECT tstzmultirange(tstzrange(date_trunc('day', now() - $1::interval), NULL)) AS kept
            ), shrunk AS (
                UPDATE alertwell.stream s
                SET wanted = s.wanted * h.kept, coverage = s.coverage * h.kept, backfill = s.backfill * h.kept
                FROM horizon h WHERE NOT s.wanted <@ h.kept OR NOT s.coverage <@ h.kept
                RETURNING s.tenant_id
            )
            UPDATE alertwell.lease l SET epoch = l.epoch + 1
            WHERE l.tenant_id IN (SELECT tenant_id FROM shrunk)
            RETURNING l.tenant_id
            """,
            keep,
        )
        if rows:
            await connection.execute("UPDATE alertwell.roster SET version = version + 1")
    return len(rows)

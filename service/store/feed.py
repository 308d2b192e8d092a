"""Numbering the change feed: committed changes get dense numbers, so that a reader of seq > last never misses one.

A number taken inside a storing transaction would lose rows for readers, because transactions commit out of order. So
each storing statement leaves one row in alertwell.unnumbered, and one sequencer at a time turns those rows into numbers:
what its snapshot sees is committed, and what is not committed yet is numbered later, and higher.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from service.store import pool, retention, servers

_LOCK = 0x66656564  # one sequencer at a time, whichever replica it runs on
_JUMP = 2**32
_BATCHES = 200
_IDENTITY = """
    concat_ws('/', (SELECT system_identifier FROM pg_control_system()),
                   left(pg_walfile_name(pg_current_wal_lsn()), 8),
                   (SELECT oid FROM pg_database WHERE datname = current_database()),
                   'alertwell.feed'::regclass::oid)
"""
_SOMETHING_TO_DO = f"""
    SELECT EXISTS (SELECT FROM alertwell.unnumbered)
           OR EXISTS (SELECT FROM alertwell.feed_head WHERE identity IS DISTINCT FROM {_IDENTITY} OR last_seq < $1)
"""  # noqa: S608 - made of constants


@dataclass(slots=True)
class Seen:
    """The highest number that a process knows to be given: a server that lost it, and does not know, gives it again else."""

    seq: int = 0


async def number(database: pool.Database, seen: Seen | None = None) -> int:
    """Number what is committed and has no number yet; how many changes got one (0: nothing to do, or another one is at it).

    What is `seen` is never given a second time. Raises DatabaseUnavailable.
    """
    seen = seen or Seen()
    async with database.transaction() as connection:
        # In a statement of its own: taken inside the numbering one, the snapshot would be older than the lock.
        look = await connection.fetchrow(
            "SELECT pg_try_advisory_xact_lock($1) AS ours, last_seq FROM alertwell.feed_head", _LOCK
        )
        assert look is not None  # noqa: S101 - the migration made the row
        known, seen.seq = seen.seq, max(seen.seq, look["last_seq"])
        if not look["ours"] or not await connection.fetchval(_SOMETHING_TO_DO, known):
            return 0
        last = await _last_seq(connection, known)
        numbered = await connection.fetchval(
            """
            WITH taken AS (
                DELETE FROM alertwell.unnumbered
                WHERE ctid = ANY (ARRAY(  -- by batch: an alert's changes in their order; locked is what a purge deletes
                    SELECT ctid FROM alertwell.unnumbered ORDER BY batch LIMIT $2 FOR UPDATE SKIP LOCKED))
                RETURNING tenant_id, batch
            ), given AS (
                INSERT INTO alertwell.feed (seq, tenant_id, batch, n)
                SELECT $1 + row_number() OVER (ORDER BY c.batch, c.n), c.tenant_id, c.batch, c.n
                FROM taken JOIN alertwell.alert_change c USING (tenant_id, batch)
                RETURNING seq
            )
            SELECT count(*) FROM given
            """,
            last,
            _BATCHES,
        )
        if numbered:
            await connection.execute("UPDATE alertwell.feed_head SET last_seq = $1::bigint", last + numbered)
            await connection.execute("SELECT pg_notify('soc_changes', $1)", str(last + numbered))
    seen.seq = max(seen.seq, last + numbered)
    return int(numbered)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Committed changes that have no number yet, and how long the oldest of them has been waiting (seconds)."""

    unnumbered: int
    oldest_seconds: float


async def backlog(database: pool.Database) -> Backlog:
    """How far numbering is behind."""
    async with database.connection() as connection:
        row = await connection.fetchrow("SELECT unnumbered, oldest_unnumbered_seconds FROM soc.feed")
    assert row is not None  # noqa: S101 - soc.feed always has one row
    return Backlog(row["unnumbered"], float(row["oldest_unnumbered_seconds"] or 0))


async def _last_seq(connection: pool.Connection, seen: int) -> int:
    """The number to go on from. On another database than the one that gave it (restored, or failed over with a lost
    tail), readers may know numbers that we do not: jump far beyond them and say when.

    A new database is given its identity by the first look, before there is anything to number: a standby knows it then.
    """
    # nobody reads a number before it is on disk
    identity = await connection.fetchval(f"SELECT {_IDENTITY}, {servers.DURABLE}")
    head = await connection.fetchrow("SELECT last_seq, identity FROM alertwell.feed_head FOR UPDATE")
    assert head is not None  # noqa: S101 - the migration made the row
    last = int(head["last_seq"])
    if head["identity"] == identity and last >= seen:
        return last
    # new; one that lost its first numbers lost its identity with them
    if head["identity"] is None and last >= seen:
        await connection.execute("UPDATE alertwell.feed_head SET identity = $1", identity)
        return last
    # a jump can be lost itself: once more then
    jumped = last + _JUMP * (1 + max(seen - last, 0) // _JUMP)
    await connection.execute(
        "UPDATE alertwell.feed_head SET identity = $1, restored_at = now(), last_seq = $2",
        identity,
        jumped,
    )
    # what owners remember may be lost with the tail: `leases.fence` refuses it, and this lets them look at once
    await connection.execute("UPDATE alertwell.roster SET version = version + 1")
    return jumped


# $1 how long changes are kept, $2 how many of the oldest are looked at.
PRUNE: Final = """
    WITH old AS MATERIALIZED (
        SELECT f.seq, f.entry, c.ctid AS change, c.at
        FROM (SELECT f.ctid AS entry, f.* FROM alertwell.feed f
              WHERE f.seq > (SELECT pruned_to FROM alertwell.feed_head) ORDER BY f.seq LIMIT $2) f
        LEFT JOIN alertwell.alert_change c USING (tenant_id, batch, n)
    ), cut AS (  -- everything before the first one that is kept
        SELECT coalesce(min(seq) - 1, (SELECT max(seq) FROM old)) AS seq
        FROM old WHERE at >= now() - $1::interval
    ), gone AS (  -- by their places, which are theirs for life: joined, the whole feed would be read for each batch
        DELETE FROM alertwell.feed WHERE ctid = ANY (ARRAY(
            SELECT o.entry FROM old o, cut WHERE o.seq <= cut.seq))
        RETURNING seq
    ), changes AS (
        DELETE FROM alertwell.alert_change WHERE ctid = ANY (ARRAY(
            SELECT o.change FROM old o, cut WHERE o.seq <= cut.seq AND o.change IS NOT NULL))
    )
    SELECT count(*) AS n, max(seq) AS seq FROM gone
"""


async def prune(database: pool.Database, *, older_than: timedelta, limit: int) -> int:
    """Forget at most `limit` of the oldest changes that are past their retention; how many went comes back.

    The feed is cut from its old end only, and `soc.feed` moves with it: a reader that fell behind gets an error.
    """
    async with database.transaction() as connection:
        if not await retention.begin(connection):
            return 0
        row = await connection.fetchrow(
            PRUNE,
            older_than,
            limit,
        )
        assert row is not None  # noqa: S101 - an aggregate always brings a row
        if row["n"]:
            await connection.execute("UPDATE alertwell.feed_head SET pruned_to = $1", row["seq"])
        return int(row["n"])

"""Retention: batches, and promises that shrink before anything is deleted."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from service import errors, model
from service.intervals import Intervals
from service.store import leases, ranges, retention, streams
from tests.store import rows

KEEP = timedelta(days=30)


def horizon() -> datetime:
    """The start of the first day that is kept."""
    return (datetime.now(UTC) - KEEP).replace(hour=0, minute=0, second=0, microsecond=0)


async def age(
    connection: asyncpg.Connection, table: str, column: str, days: int, where: str = "true"
) -> None:
    await connection.execute(
        f"UPDATE alertwell.{table} SET {column} = {column} - make_interval(days => $1) WHERE {where}", days
    )


async def test_what_is_past_goes_in_batches(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
):
    """Old alerts, polls and rejects go a batch at a time until none is left; young ones stay."""
    monkeypatch.setattr(retention, "_BATCH", 3)
    many = [rows.alert(f"old{n}:1", horizon() - timedelta(seconds=n + 1)) for n in range(7)]
    rejected = [model.Reject("not JSON", b"%d" % n) for n in range(4)]
    await owner.store(*many, rows.alert("young:1"), rejects=rejected)
    await age(pool, "poll", "started_at", 31)
    await age(pool, "reject", "last_seen_at", 31, "raw <> '0'")
    database = owner.database
    assert [await retention.prune(database, "alerts", KEEP) for _ in range(4)] == [3, 3, 1, 0]
    assert [await retention.prune(database, "rejects", KEEP) for _ in range(2)] == [3, 0]
    assert [await retention.prune(database, "polls", KEEP) for _ in range(2)] == [1, 0]
    left = await rows.counts(pool)
    assert (left["alert"], left["reject"], left["poll"], left["alert_change"]) == (1, 1, 0, 8)


async def test_one_deletes_at_a_time(owner: rows.Owner):
    """While another replica is at it there is nothing to do."""
    await owner.store(rows.alert("old:1", horizon() - timedelta(days=1)))
    async with owner.database.transaction() as other:
        assert await retention.begin(other)
        assert await retention.prune(owner.database, "alerts", KEEP) == 0
        assert await retention.shrink(owner.database, KEEP) == 0
    assert await retention.prune(owner.database, "alerts", KEEP) == 1


async def test_promises_end_where_alerts_are_deleted(owner: rows.Owner, pool: asyncpg.Pool):
    """Wanted, coverage, backfill and what idle polls proved lose the same past, and nothing that is still covered is deleted."""
    start, edge = horizon() - timedelta(days=9), horizon()
    await pool.execute(
        "UPDATE alertwell.stream SET wanted = $1, coverage = $2, backfill = $3",
        ranges.encode(Intervals.of((start, None))),
        ranges.encode(Intervals.of((start, edge + timedelta(days=1)))),
        ranges.encode(Intervals.of((start, edge))),
    )
    await pool.execute(
        "UPDATE alertwell.stream_progress SET proven = $1",
        ranges.encode_pair(start, edge + timedelta(days=2)),
    )
    await streams.note_gap(
        owner.database,
        owner.lease,
        "siem",
        owner.poll,
        span=(start, edge - timedelta(days=1)),
        reason="x",
        sample=b"",
    )
    await owner.store(
        rows.alert("past:1", edge - timedelta(microseconds=1)),
        rows.alert("edge:1", edge),
        rows.alert("last:1", edge + timedelta(hours=1)),
    )
    assert await retention.shrink(owner.database, KEEP) == 1
    row = await pool.fetchrow("SELECT * FROM alertwell.stream NATURAL JOIN alertwell.stream_progress")
    assert ranges.decode(row["wanted"]) == Intervals.of((edge, None))
    assert ranges.decode(row["coverage"]) == Intervals.of((edge, edge + timedelta(days=2)))
    assert ranges.decode(row["backfill"]) == Intervals()
    assert await pool.fetchval("SELECT count(*) FROM alertwell.gap_reason") == 0
    assert await retention.prune(owner.database, "alerts", KEEP) == 1
    held = await pool.fetch("SELECT full_id FROM soc.alerts ORDER BY last_processed_at")
    assert [one[0] for one in held] == ["edge:1", "last:1"]
    assert await retention.shrink(owner.database, KEEP) == 0


async def test_progress_alone_shrinks(owner: rows.Owner, pool: asyncpg.Pool):
    """What idle polls proved in the past goes, wholly or up to the horizon."""
    edge = horizon()
    await pool.execute(
        "UPDATE alertwell.stream_progress SET proven = $1",
        ranges.encode_pair(edge - KEEP, edge - timedelta(days=1)),
    )
    await retention.shrink(owner.database, KEEP)
    assert await pool.fetchval("SELECT proven FROM alertwell.stream_progress") is None
    await pool.execute(
        "UPDATE alertwell.stream_progress SET proven = $1",
        ranges.encode_pair(edge - KEEP, edge + timedelta(days=1)),
    )
    await retention.shrink(owner.database, KEEP)
    assert await pool.fetchval("SELECT proven FROM alertwell.stream_progress") == ranges.encode_pair(
        edge, edge + timedelta(days=1)
    )


async def test_owners_learn_that_promises_shrank(owner: rows.Owner, pool: asyncpg.Pool):
    """The epoch and the roster grow where a stream shrank, and only there."""
    await rows.enrol(owner.database, 2)
    [other] = await rows.claim(owner.database)
    await pool.execute(
        "UPDATE alertwell.stream SET wanted = '{[2001-01-01,)}' WHERE tenant_id = $1", owner.lease.tenant_id
    )
    before = await leases.roster_version(owner.database)
    assert await retention.shrink(owner.database, KEEP) == 1
    assert await leases.roster_version(owner.database) == before + 1
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("a:1"))
    held = {lease.tenant_id: lease.epoch for lease in await leases.held(owner.database, rows.REPLICA)}
    assert held == {owner.lease.tenant_id: owner.lease.epoch + 1, rows.tenant_id(2): other.epoch}


async def test_many_streams_shrink_in_batches(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
):
    """Each batch is a transaction of its own; all are done in one call."""
    monkeypatch.setattr(retention, "_STREAMS", 4)
    await rows.enrol(owner.database, *range(2, 12))
    await pool.execute("UPDATE alertwell.stream SET wanted = '{[2001-01-01,)}'")
    before = await leases.roster_version(owner.database)
    assert await retention.shrink(owner.database, KEEP) == 11
    assert await leases.roster_version(owner.database) == before + 3


async def test_an_alert_that_is_being_updated_is_not_deleted(owner: rows.Owner, pool: asyncpg.Pool):
    """A store that makes an old alert young again while retention is at it keeps it."""
    await owner.store(rows.alert("a:1", horizon() - timedelta(days=1)))
    async with owner.database.transaction() as updating:
        await updating.execute("UPDATE alertwell.alert SET last_processed_at = now()")
        prune = asyncio.create_task(retention.prune(owner.database, "alerts", KEEP))
        await rows.blocked(pool)
    assert await prune == 0
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert") == 1


async def test_an_update_waits_for_retention_and_stores_anew(owner: rows.Owner, pool: asyncpg.Pool):
    """A newer version that comes while retention deletes the old one is stored as a new alert."""
    await owner.store(rows.alert("a:1", horizon() - timedelta(days=1)))
    async with owner.database.transaction() as deleting:
        await deleting.execute("DELETE FROM alertwell.alert")
        store = asyncio.create_task(owner.store(rows.alert("a:1")))
        await rows.blocked(pool)
    assert (await store).updated == 1
    assert await pool.fetchval("SELECT last_processed_at FROM alertwell.alert") == rows.NOON


async def test_what_is_still_claimed_is_not_deleted(owner: rows.Owner, pool: asyncpg.Pool):
    """Where promises could not be taken back yet, their alerts stay, whatever the hour; then they go."""
    past = horizon() - timedelta(days=2)
    covered = Intervals.of((past - timedelta(hours=1), past + timedelta(hours=1)))
    await owner.store(
        rows.alert("claimed:1", past), rows.alert("old:1", past - timedelta(days=1)), folded=covered
    )
    assert await retention.prune(owner.database, "alerts", KEEP) == 1
    assert await pool.fetchval("SELECT full_id FROM alertwell.alert") == "claimed:1"
    assert await retention.shrink(owner.database, KEEP) == 1
    assert await retention.prune(owner.database, "alerts", KEEP) == 1

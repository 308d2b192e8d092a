"""Backfills and rewinds: what they write, that they may be run twice, and whom they tell."""

import json

import asyncpg
import pytest

from service import errors
from service.intervals import Intervals
from service.store import backfills, leases, pool, ranges, reports, streams
from tests.store import rows

T = rows.tenant_id(1)


async def widen(
    database: pool.Database, start: float, end: float, *, beyond=Intervals(), share=None
) -> Intervals:
    return await backfills.widen(
        database, T, "siem", rows.interval(start, end), beyond=beyond, share=share, actor="kim@host"
    )


async def rewind(database: pool.Database, start: float, end: float, reason: str = "late alerts") -> Intervals:
    return await backfills.rewind(
        database, T, "siem", rows.interval(start, end), reason=reason, actor="kim@host"
    )


async def wants(pool: asyncpg.Pool, start: float) -> None:
    """Wanted from an hour on, and all of it proven to NOON, the last two hours by idle polls."""
    await pool.execute(
        "UPDATE alertwell.stream SET wanted = $1, coverage = $2",
        ranges.encode(Intervals.of((rows.hour(start), None))),
        ranges.encode(rows.interval(start, -2)),
    )
    await pool.execute(
        "UPDATE alertwell.stream_progress SET proven = $1", ranges.encode_pair(rows.hour(-2), rows.hour(0))
    )


async def gaps(pool: asyncpg.Pool) -> list[tuple]:
    found = await pool.fetch("SELECT gap_from, gap_to, reason FROM soc.gaps ORDER BY gap_from")
    return [tuple(row) for row in found]


async def test_a_backfill_wants_only_what_was_not_wanted(database: pool.Database, owner, pool: asyncpg.Pool):
    """Wanted and backfill grow by the same, the gap says why, the owner is told and fenced, and the audit has it."""
    await wants(pool, -24)
    version = await leases.roster_version(database)
    assert await widen(database, -96, 0, share=0.1) == rows.interval(-96, -24)
    row = await pool.fetchrow("SELECT * FROM alertwell.stream")
    assert ranges.decode(row["wanted"]) == Intervals.of((rows.hour(-96), None))
    assert ranges.decode(row["backfill"]) == rows.interval(-96, -24)
    assert ranges.decode(row["coverage"]) == rows.interval(-24, -2)
    assert row["gap_share"] == 0.1
    assert await gaps(pool) == [(rows.hour(-96), rows.hour(-24), "asked for by a backfill")]
    assert await leases.roster_version(database) == version + 1
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("a"))
    [loaded] = await streams.load(database, [T])
    assert (loaded.stream.gap_share, loaded.stream.backfill) == (0.1, rows.interval(-96, -24))
    audited = await pool.fetchrow("SELECT * FROM soc.audit WHERE action = 'stream.backfilled'")
    assert (audited["actor"], audited["tenant_id"]) == ("kim@host", T)
    assert json.loads(audited["detail"]) == {
        "source": "siem",
        "added": [[rows.hour(-96).isoformat(), rows.hour(-24).isoformat()]],
        "share": 0.1,
    }


@pytest.mark.usefixtures("owner")
async def test_a_backfill_run_twice_changes_nothing(database: pool.Database, pool: asyncpg.Pool):
    """The second time nothing is added, nobody disturbed, nothing audited; another share alone is taken over."""
    await wants(pool, -24)
    await widen(database, -96, -48, share=0.1)
    before = await pool.fetchrow("SELECT * FROM alertwell.stream"), await leases.roster_version(database)
    assert not await widen(database, -96, -48)
    assert not await widen(database, -90, -60, share=0.1)
    assert (
        await pool.fetchrow("SELECT * FROM alertwell.stream"),
        await leases.roster_version(database),
    ) == before
    assert await pool.fetchval("SELECT count(*) FROM alertwell.audit WHERE action = 'stream.backfilled'") == 1
    assert not await widen(database, -96, -48, share=0.5)
    assert await pool.fetchval("SELECT gap_share FROM alertwell.stream") == 0.5
    assert await widen(database, -96, 0) == rows.interval(-48, -24)
    assert await pool.fetchval("SELECT gap_share FROM alertwell.stream") == 0.5


@pytest.mark.usefixtures("owner")
async def test_what_lies_beyond_reach_says_so(database: pool.Database, pool: asyncpg.Pool):
    """The part that the source cannot be asked for has a reason of its own."""
    await wants(pool, -24)
    await pool.execute(
        "UPDATE alertwell.stream SET coverage = coverage + $1", ranges.encode(rows.interval(-60, -50))
    )
    await widen(database, -96, 0, beyond=rows.interval(-96, -60))
    assert await gaps(pool) == [
        (rows.hour(-96), rows.hour(-60), backfills.BEYOND),
        (rows.hour(-50), rows.hour(-24), backfills.ASKED),
    ]


async def test_a_rewind_takes_proof_back(database: pool.Database, owner, pool: asyncpg.Pool):
    """Also what idle polls have proven; the gap says why; a second one finds nothing to take."""
    await wants(pool, -24)
    assert await rewind(database, -3, -1) == rows.interval(-3, -1)
    row = await pool.fetchrow("SELECT * FROM soc.coverage")
    assert ranges.decode(row["coverage"]) == rows.interval(-24, -3) | rows.interval(-1, 0)
    assert await pool.fetchval("SELECT proven FROM alertwell.stream_progress") is None
    assert await gaps(pool) == [(rows.hour(-3), rows.hour(-1), "rewound: late alerts")]
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("a"))
    assert not await rewind(database, -3, -1)
    assert await rewind(database, -4, -1, "again") == rows.interval(-4, -3)
    found = await pool.fetch("SELECT detail FROM soc.audit WHERE action = 'stream.rewound' ORDER BY audit_id")
    assert [json.loads(row["detail"])["reason"] for row in found] == ["late alerts", "again"]
    assert len(await gaps(pool)) == 1


@pytest.mark.usefixtures("owner")
async def test_a_reason_of_last_time_does_not_stay(database: pool.Database, pool: asyncpg.Pool):
    """An interval that is read and taken back anew shows the newer reason; read again, it has none."""
    await wants(pool, -24)
    await rewind(database, -3, -1, "first")
    await pool.execute("UPDATE alertwell.stream SET coverage = $1", ranges.encode(rows.interval(-24, 0)))
    await rewind(database, -3, -1, "second")
    assert [reason for _, _, reason in await gaps(pool)] == ["rewound: second"]
    [lease] = await leases.held(database, rows.REPLICA)
    await rows.Owner(database, lease).store(rows.alert("a"), folded=rows.interval(-3, -1))
    assert await gaps(pool) == []
    assert await pool.fetchval("SELECT count(*) FROM alertwell.gap_reason") == 0


@pytest.mark.usefixtures("owner")
async def test_what_is_left_of_a_backfill(database: pool.Database, pool: asyncpg.Pool):
    """It is shown until it is read, and its alerts are counted."""
    await wants(pool, -24)
    assert await backfills.unfinished(database) == []
    await widen(database, -96, -24)
    [left] = await backfills.unfinished(database, T)
    assert (left["source"], left["left_seconds"], left["asked_seconds"]) == ("siem", 72 * 3600, 72 * 3600)
    [lease] = await leases.held(database, rows.REPLICA)
    held = rows.Owner(database, lease)
    await held.store(
        rows.alert("a", rows.hour(-30)), rows.alert("b", rows.hour(-24)), folded=rows.interval(-48, -24)
    )
    [left] = (await reports.overview(database, ttl=60)).backfills
    assert left["left_seconds"] == 48 * 3600
    assert await backfills.held(database, T, "siem", rows.interval(-96, -24)) == 1
    seen = await backfills.look(database, T, "siem", ttl=60)
    assert seen is not None
    assert (seen.polled, seen.backfill) == (True, rows.interval(-96, -24))
    assert rows.interval(-96, 0) - seen.coverage == rows.interval(-96, -48)
    await pool.execute("UPDATE alertwell.stream SET coverage = coverage + backfill")
    assert await backfills.unfinished(database) == []


@pytest.mark.usefixtures("owner")
async def test_streams_that_are_not_there(database: pool.Database):
    """Nothing is found, and nothing written, of a source that the tenant has no stream of."""
    assert await backfills.look(database, T, "mde_alerts", ttl=60) is None
    assert await backfills.sources(database, T) == ["siem"]
    with pytest.raises(errors.BadInput, match="no stream of mde_alerts"):
        await backfills.widen(
            database, T, "mde_alerts", rows.interval(-9, -8), beyond=Intervals(), share=None, actor="kim@host"
        )

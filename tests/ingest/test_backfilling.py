"""Backfills and rewinds against the simulator's truth, while live alerts go on."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from service.ingest import ration, worker
from service.intervals import Intervals
from service.simulator import ticks
from service.store import backfills, leases, streams
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO
from tests.ingest.waiting import until

DAY = 86_400.0
T = UUID(CONTOSO)


async def widen(bench, days: float, *, share: float | None = None, source: str = "siem") -> Intervals:
    asked = Intervals.of((bench.now - timedelta(days=days), bench.now))
    return await backfills.widen(
        bench.database, T, source, asked, beyond=Intervals(), share=share, actor="kim@host"
    )


async def anew(bench):
    """The stream as a replica takes it whose forerunner is dead."""
    await leases.retire(bench.database, bench.replica_id)
    bench.replica_id = uuid4()
    return await bench.claim()


def backlog(bench, days: float, count: int) -> set[str]:
    """So many alerts, evenly spread over the days before the world's time."""
    return {
        stages.file(bench.shown, CONTOSO, f"old{n}", bench.ago((n + 0.5) * days * DAY / count))
        for n in range(count)
    }


async def test_three_days_while_live_alerts_go_on(bench):
    """What is asked for later is read beside new alerts, each stored once and told apart; killed in between, it goes on."""
    old = backlog(bench, 3, 300)
    mine = await bench.take()
    await bench.turn(mine)
    held = await bench.books.alerts()
    assert 0 < len(held) < 10
    assert len(await widen(bench, 3)) == 1
    mine = await anew(bench)
    dying = {"after": 3}

    async def dies(*_window) -> None:
        dying["after"] -= 1
        if not dying["after"]:
            raise asyncio.CancelledError

    bench.listen(instead=dies)
    bench.advance(60)
    stages.file(bench.shown, CONTOSO, "new0", bench.ago(5))
    with pytest.raises(asyncio.CancelledError):
        await bench.turn(mine)
    assert "new0" in await bench.books.alerts()
    assert await bench.books.count() < len(bench.shown.full_ids(CONTOSO))
    for n in range(1, 4):
        mine = await anew(bench)
        bench.advance(60)
        stages.file(bench.shown, CONTOSO, f"new{n}", bench.ago(5))
        await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert not await bench.books.gaps()
    rows = await bench.books.alerts()
    assert {row["arrival"] for key, row in rows.items() if key.startswith("new")} == {"live"}
    assert {rows[key]["arrival"] for key in old - held.keys()} == {"backfill"}
    assert {rows[key]["arrival"] for key in held} == {"initial"}
    assert not await widen(bench, 3)
    asked = bench.requests()
    await bench.turn(await anew(bench))
    assert bench.requests() == asked + 1
    assert await backfills.unfinished(bench.database) == []


async def test_its_share_is_kept(staged):
    """A poll reads as much of a backfill as its share of the quota allows, says when it goes on, and other gaps do not wait."""
    async with staged() as bench:
        mine = await bench.take(source="mde_alerts")
        await bench.turn(mine)
        # 1 % of 100 calls a minute is one, and of 1,500 an hour 15
        await widen(bench, 30, share=0.01, source="mde_alerts")
        mine = await anew(bench)
        heard = bench.listen()
        loop = asyncio.get_running_loop()
        began = loop.time()
        await bench.turn(mine)
        assert len(heard.windows) == 2
        assert 50 < mine.ration_due - began < 70
        assert mine.stream.state == "catching_up"
        await bench.turn(mine, live=False)
        assert len(heard.windows) == 2  # a live one, and one of the gap
        # an outage opens another gap: it is newer, nobody asked for it, and it is read at once
        bench.advance(4 * 3600)
        await bench.turn(mine)
        read = heard.windows[2:]
        assert len(read) == 2
        assert read[1][0] > bench.now - timedelta(hours=5)
        assert mine.ration_due > 0
        left = [gap["reason"] for gap in await bench.books.gaps()]
        assert left == ["asked for by a backfill"]


async def test_the_worker_waits_for_the_share(staged):
    """A stream whose backfill has used up its share is not started again until it may go on."""
    async with staged() as bench:
        await bench.turn(await bench.take(source="mde_alerts"))
        await widen(bench, 30, share=0.01, source="mde_alerts")
        mine = await anew(bench)
        heard = bench.listen()
        (loaded,) = await streams.load(bench.database, [T])
        polls = worker.Worker(bench.desk, bench.replica_id, slots=4, budget=60.0)
        polls.may_poll_until = float("inf")
        polls.adopt([(mine.lease, loaded)])
        polls.start_due()
        await until(lambda: polls.idle(T), 20)
        assert len(heard.windows) == 2
        polls.start_due()
        assert polls.idle(T)
        await polls.stop(1.0)


async def test_a_full_answer_that_uses_up_its_share_is_narrowed(bench):
    """Where nothing is left for the parts of a full answer, the next one asks for a narrower window: it ends."""
    since = bench.ago(2 * DAY)
    bench.shown.add_backlog(CONTOSO, 1000, since=since, until=since + 3600 * ticks.SECOND)
    mine = await bench.take()
    await bench.turn(mine)
    await widen(bench, 4)
    mine = await anew(bench)
    mine.memory.ration = ration.Ration([(1, 3600.0)], 1.0)
    await bench.turn(mine)
    turns = 0
    while mine.stream.state == "catching_up":
        mine.memory.ration = ration.Ration([(1, 3600.0)], 1.0)  # one more
        asked = bench.requests()
        await bench.turn(mine, live=False)
        assert bench.requests() == asked + 1
        turns += 1
        assert turns < 100
    assert turns > 3
    await bench.books.same_as(bench.shown)
    assert not await bench.books.gaps()


async def test_a_rewind_reads_again(bench):
    """An alert that came later than the overlap is found when its time is taken back; nothing is doubled."""
    mine = await bench.take()
    stages.file(bench.shown, CONTOSO, "there", bench.ago(1800))
    await bench.turn(mine)
    bench.advance(7200)
    await bench.turn(mine)
    late = stages.file(bench.shown, CONTOSO, "late", bench.ago(3600))
    bench.advance(7200)
    await bench.turn(mine)
    assert late not in await bench.books.alerts()
    assert not await bench.books.gaps()
    asked = Intervals.of((bench.now - timedelta(seconds=11_800), bench.now - timedelta(seconds=9_000)))
    taken = await backfills.rewind(
        bench.database, T, "siem", asked, reason="the portal shows it", actor="kim@host"
    )
    assert taken == asked
    [gap] = await bench.books.gaps()
    assert gap["reason"] == "rewound: the portal shows it"
    mine = await anew(bench)
    heard = bench.listen()
    await bench.turn(mine)
    assert len(heard.windows) == 2
    await bench.books.same_as(bench.shown)
    assert (await bench.books.alerts())[late]["arrival"] == "catch_up"
    assert not await bench.books.gaps()


async def test_a_running_replica_hears_of_it_and_another_goes_on(stage):
    """Told while it polls, it reads; killed, the next one ends what was asked for."""
    now = ticks.now()
    for n in range(40):
        stages.file(stage.shown, CONTOSO, f"old{n}", now - round((n + 0.5) * 3 * DAY / 40 * ticks.SECOND))
    await stage.enrol(CONTOSO, lookback=600)
    asked = Intervals.of((stages.moment(now) - timedelta(days=3), stages.moment(now)))

    async def ask() -> Intervals:
        return await backfills.widen(
            stage.database, T, "siem", asked, beyond=Intervals(), share=None, actor="kim@host"
        )

    async with processes.running(stage) as first:
        await first.logs("tenants_taken")
        assert await ask()
        await until(lambda: _holds(stage, 2), 20)
        first.process.kill()
    stages.file(stage.shown, CONTOSO, "new", ticks.now())
    async with stage.collecting():
        assert not await ask()
        await stage.stored()
        await stage.well()
    await stage.books.same_as(stage.shown)
    assert not await stage.books.gaps()


async def _holds(stage, count: int) -> bool:
    return await stage.books.count() >= count

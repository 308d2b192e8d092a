"""Records that come late, and what finds them: the overlap, an overlap that has grown, the sweep, nothing."""

from __future__ import annotations

from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from service import errors, model
from service.ingest import plan
from service.intervals import Intervals
from service.simulator import ticks
from service.store import leases, proofs, sweeps
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, moment
from tests.ingest.waiting import until

MINUTE = 60.0
HOUR = 3600.0
DAY = 86_400.0


@pytest.fixture
async def swept(staged):
    """A bench whose streams are swept every six hours."""
    async with staged(sweep_interval=6 * HOUR) as bench:
        yield bench


def late(bench, full_id: str, seconds: float, *, ago: float = 0.0) -> str:
    """File a record of so long ago that can be seen `seconds` after its time."""
    at = bench.ago(ago)
    return stages.file(bench.shown, CONTOSO, full_id, at, visible_at=at + round(seconds * ticks.SECOND))


async def epoch(bench) -> int:
    """The epoch of Contoso's lease."""
    return await bench.books.rows.fetchval(
        "SELECT epoch FROM alertwell.lease WHERE tenant_id = $1", UUID(CONTOSO)
    )


async def go_on(bench, mine, seconds: float, *, step: float = 10 * MINUTE, busy: bool = True):
    """Turns, a step apart, each with a fresh record while `busy`; the stream is taken anew where its epoch has grown."""
    passed = 0.0
    while passed < seconds:
        bench.advance(step)
        passed += step
        if busy:
            stages.file(bench.shown, CONTOSO, f"fresh {bench.clock()}", bench.ago(1))
        taken = await bench.turn(mine)
        if taken.lease_lost:
            mine = await bench.again()
    return mine


async def test_five_minutes_late_is_the_overlaps_work(swept):
    """Nothing of its time was proven yet: found by the next poll, and no late arrival."""
    mine = await swept.take()
    mine = await go_on(swept, mine, 30 * MINUTE, step=MINUTE)
    late(swept, "late", 5 * MINUTE)
    mine = await go_on(swept, mine, 15 * MINUTE, step=MINUTE)
    await swept.books.same_as(swept.shown)
    assert (await swept.books.alerts())["late"]["arrival"] == "live"
    row = await swept.books.stream()
    assert (row["late_arrivals"], row["overlap"]) == (0, None)
    assert timedelta(minutes=5) <= row["observed_lateness"] <= timedelta(minutes=7)


async def test_twenty_minutes_late_lets_the_overlap_grow(swept):
    """Found by a live window that reaches back to the watermark: counted, the proof taken back; the next one is no news."""
    mine = await swept.take()
    mine = await go_on(swept, mine, 30 * MINUTE, step=MINUTE)
    late(swept, "first", 20 * MINUTE, ago=-MINUTE)
    mine = await go_on(swept, mine, 20 * MINUTE, step=MINUTE, busy=False)
    before, was = mine.stream.coverage, await epoch(swept)
    swept.advance(MINUTE)
    with capture_logs() as logs:
        taken = await swept.turn(mine)
    assert taken.lease_lost
    assert [
        (one["count"], one["greatest_lateness_seconds"]) for one in logs if one["event"] == "late_arrivals"
    ] == [(1, 1200)]
    row = await swept.books.stream()
    assert row["late_arrivals"] == 1
    grown = row["overlap"]
    assert grown == row["observed_lateness"] == timedelta(seconds=1218)
    assert await epoch(swept) == was + 1
    # to the microsecond: what the newest answer would have proven with this overlap
    coverage = await swept.books.coverage()
    assert coverage == before.below(swept.now - grown)
    assert coverage.upper == swept.now - grown

    mine = await swept.again()
    assert mine.stream.coverage == coverage
    late(swept, "second", 20 * MINUTE)
    mine = await go_on(swept, mine, 40 * MINUTE, step=MINUTE)
    await swept.books.same_as(swept.shown)
    row = await swept.books.stream()
    assert row["late_arrivals"] == 1
    assert row["overlap"] == grown
    assert (await swept.books.alerts())["second"]["arrival"] == "live"
    assert stages.series(swept.desk.metrics)["alertwell_late_arrivals_total{source=siem}"] == 1


async def test_three_hours_late_is_found_by_the_sweep(swept):
    """No live window of a busy stream reaches there: the sweep finds it, it is counted and said once, and never again."""
    mine = await swept.take()
    mine = await go_on(swept, mine, HOUR)
    late(swept, "late", 3 * HOUR)
    with capture_logs() as logs:
        mine = await go_on(swept, mine, 14 * HOUR, step=20 * MINUTE)
    await swept.books.same_as(swept.shown)
    assert (await swept.books.alerts())["late"]["arrival"] == "sweep"
    row = await swept.books.stream()
    assert row["late_arrivals"] == 1
    assert row["overlap"] == timedelta(minutes=30)
    told = [one for one in logs if one["event"] == "late_arrivals"]
    assert [(one["found_by"], one["count"]) for one in told] == [("sweep", 1)]
    assert 3 * HOUR <= told[0]["greatest_lateness_seconds"] <= 9 * HOUR
    assert stages.series(swept.desk.metrics)["alertwell_late_arrivals_total{source=siem}"] == 1
    assert swept.now - row["last_verified_at"] <= timedelta(hours=6, minutes=20)
    (verified,) = row["verified"]
    assert verified.upper > row["last_verified_at"] - timedelta(hours=1)
    assert not await swept.books.gaps()
    assert await swept.books.state() == "ok"


async def test_thirty_hours_late_is_not_found(swept):
    """Later than SWEEP_SPAN: nothing finds it, as the documents say; what they claim of that time is as re-read then."""
    mine = await swept.take()
    mine = await go_on(swept, mine, HOUR)
    late(swept, "late", 30 * HOUR)
    mine = await go_on(swept, mine, 40 * HOUR, step=HOUR)
    assert "late" in swept.shown.full_ids(CONTOSO)
    assert "late" not in await swept.books.alerts()
    assert (await swept.books.stream())["late_arrivals"] == 0


async def test_an_idle_sweep_reads_a_day_and_stores_nothing(swept):
    """A quiet stream costs a few requests every six hours, and no row of a poll; nothing is asked for beyond the span."""
    mine = await swept.take(lookback=3 * DAY)
    await stages.taken(swept, mine)
    again = []

    async def note(since, until):
        if until < swept.now - timedelta(minutes=5):
            again.append((since, until))

    swept.listen(instead=note)
    mine.memory.width = plan.FIRST_WIDTH
    mine = await go_on(swept, mine, 6 * HOUR, step=15 * MINUTE, busy=False)
    began = (await swept.books.stream())["last_verified_at"]
    assert began == mine.stream.sweep.started_at
    start = (began - timedelta(hours=24)).replace(microsecond=began.microsecond // 1000 * 1000)
    assert again[0][1] - again[0][0] == timedelta(hours=6, milliseconds=2)
    assert min(again)[0] == start - timedelta(milliseconds=1)
    assert len(again) == 2
    assert not await swept.books.polls()
    assert not mine.stream.sweep.left


async def test_a_sweep_goes_on_after_a_restart(staged):
    """What one replica has read again is not read again by the next; what both found is said once, at the end."""
    async with staged(sweep_interval=DAY) as bench:
        mine = await bench.take(lookback=2 * DAY)
        await stages.taken(bench, mine)
        mine.memory.width = timedelta(hours=6)
        for n, ago in enumerate((4 * HOUR, 20 * HOUR)):
            stages.file(bench.shown, CONTOSO, f"late {n}", bench.ago(ago))
        stages.file(bench.shown, CONTOSO, "fresh", bench.ago(1))
        await begin(bench)
        mine = await bench.again()
        mine.memory.width = timedelta(hours=6)
        await bench.turn(mine)
        assert len(mine.stream.sweep.left) == 1
        assert mine.stream.sweep.left.upper < bench.now - timedelta(hours=6, minutes=9)
        assert {"late 0", "fresh"} == (await bench.books.alerts()).keys()
        await bench.books.rows.execute("UPDATE alertwell.lease SET owner = NULL, epoch = epoch + 1")
        bench.replica_id = uuid4()
        heir = await bench.claim()
        assert heir.stream.sweep == mine.stream.sweep
        listener = bench.listen()
        with capture_logs() as logs:
            for _ in range(8):
                bench.advance(MINUTE)
                if (await bench.turn(heir)).lease_lost:
                    heir = await bench.again()
        older = bench.now - timedelta(hours=5)
        assert max(until for _, until in listener.windows if until < older) == (
            mine.stream.sweep.left.upper + timedelta(milliseconds=1)
        )
        assert [one["count"] for one in logs if one["event"] == "late_arrivals"] == [2]
        row = await bench.books.stream()
        assert row["late_arrivals"] == 2
        assert row["last_verified_at"] == mine.stream.sweep.started_at
        await bench.books.same_as(bench.shown)


async def begin(bench) -> None:
    """Make a sweep due: the last one began long ago."""
    await bench.books.rows.execute(
        "UPDATE alertwell.stream_progress SET sweep_started_at = $1", bench.now - timedelta(days=3)
    )
    await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")


async def test_a_failing_part_is_not_verified(staged):
    """What fails for good is left out; the rest is read again, nothing counts as verified, and live windows do not suffer."""
    async with staged(sweep_interval=DAY) as bench:
        mine = await bench.take(lookback=2 * DAY)
        await stages.taken(bench, mine)
        stages.file(bench.shown, CONTOSO, "late", bench.ago(20 * HOUR))
        await begin(bench)
        mine = await bench.again()
        bad = moment(bench.ago(10 * HOUR))

        async def refuse(since, until):
            if since <= bad < until:
                bench.simulator.plan("siem", CONTOSO, "400")

        bench.listen(instead=refuse)
        for _ in range(60):
            bench.advance(MINUTE)
            mine.memory.sweep_after = 0.0
            if (await bench.turn(mine)).lease_lost:
                refused = mine.memory
                mine = await bench.again()
                mine.memory = refused
            assert mine.stream.state == "ok"
        assert "late" in await bench.books.alerts()
        assert not mine.stream.sweep.left
        row = await bench.books.stream()
        assert (row["last_verified_at"], row["late_arrivals"]) == (None, 1)
        assert not await bench.books.gaps()


async def test_an_update_that_came_late_counts_and_an_unchanged_record_never(staged):
    """An alert's newer version, of a time that is proven: found by the sweep, counted; the next sweep finds nothing."""
    async with staged(sweep_interval=6 * HOUR) as bench:
        mine = await bench.take(source="graph_alerts", lookback=DAY)
        desk = bench.file_desk()
        same = desk.add_alert(at=bench.ago(100))
        changed = desk.add_alert(at=bench.ago(90))
        await stages.taken(bench, mine)
        for n in range(80):
            bench.advance(10 * MINUTE)
            desk.add_alert(at=bench.ago(1))
            if n == 10:
                desk.update_alert(
                    changed, at=bench.ago(60), status="Resolved", visible_at=bench.ago(-4 * HOUR)
                )
            if (await bench.turn(mine)).lease_lost:
                mine = await bench.again()
        held = await bench.books.same_alerts(bench.shown, "graph_alerts")
        assert (held[changed]["status"], held[changed]["revision"]) == ("resolved", 2)
        assert held[same]["revision"] == 1
        assert (await bench.books.stream())["late_arrivals"] == 1


async def test_a_flush_under_way_brings_nothing_back(bench):
    """Proof that a flush took along before the overlap grew is written by nobody: the epoch is another one."""
    mine = await bench.take()
    await bench.turn(mine)
    bench.advance(5 * MINUTE)
    await bench.poll(mine).live()
    growth = timedelta(minutes=5)
    taken_back = plan.too_early(mine.stream.coverage, growth)
    await sweeps.widen_overlap(bench.database, mine.lease, mine.stream, timedelta(minutes=15), taken_back)
    await bench.turn(mine)  # its flush is the old owner's
    assert (
        await bench.books.coverage() == mine.stream.coverage - taken_back
        or (await bench.books.coverage()).upper == taken_back.lower
    )
    held = await leases.held(bench.database, bench.replica_id)
    assert held[0].epoch == mine.lease.epoch + 1


async def test_what_was_counted_outlives_a_grown_overlap(bench):
    """Items of idle polls that no flush has written yet go along with it: the next owner counts on from the row."""
    stages.file(bench.shown, CONTOSO, "held", bench.ago(60))
    mine = await bench.take()
    await stages.taken(bench, mine)
    bench.advance(MINUTE)
    poll = bench.poll(mine)
    await poll.live()  # brings nothing new, and nothing of it is written
    counted = poll.tally.stream.idle
    assert counted.unchanged > mine.stream.idle.unchanged
    await sweeps.widen_overlap(
        bench.database, mine.lease, poll.tally.stream, timedelta(minutes=15), Intervals()
    )
    assert (await bench.again()).stream.idle == counted


async def test_first_reads_of_gaps_say_nothing_of_lateness(bench):
    """A backlog of days is old, and not late."""
    bench.shown.add_backlog(CONTOSO, 300, since=bench.ago(3 * DAY), until=bench.ago(0))
    mine = await bench.take(lookback=3 * DAY)
    await stages.taken(bench, mine)
    row = await bench.books.stream()
    assert (row["late_arrivals"], row["observed_lateness"], row["overlap"]) == (0, None, None)
    assert mine.stream.lateness == {}


async def test_replicas_sweep_and_the_overlap_grows_for_all(stage):
    """Two collectors, sweeps every second: late records are found, counted and stored once, whoever owns the tenant."""
    choices = {"sweep_interval": "1s", "sweep_span": "1h", "overlap_max": "3s"}
    await stage.enrol(CONTOSO)
    async with stage.collecting(**choices):
        await stage.well()
        stages.file(stage.shown, CONTOSO, "before", stage.shown.clock())
        await stage.stored()  # and with it what is proven: else it goes out with the next flush
        async with stage.collecting(**choices):
            for n in range(3):
                now = stage.shown.clock()
                stages.file(stage.shown, CONTOSO, f"late {n}", now - (n + 5) * 60 * ticks.SECOND)
                stages.file(stage.shown, CONTOSO, f"fresh {n}", now)
                await stage.stored()
        stages.file(stage.shown, CONTOSO, "late at last", stage.shown.clock() - 1000 * ticks.SECOND)
        await stage.stored()

        async def verified():
            return (await stage.books.stream())["last_verified_at"]

        await until(verified)
    await stage.books.same_as(stage.shown)
    row = await stage.books.stream()
    assert row["late_arrivals"] == 4
    assert row["overlap"] == timedelta(seconds=3)
    assert {row["revision"] for row in (await stage.books.alerts()).values()} == {1}


async def test_a_late_writer_neither_verifies_nor_widens(bench):
    """Both ask for the lease first: of an epoch that is over nothing is written, and nothing grows."""
    mine = await bench.take()
    await bench.turn(mine)
    before = await bench.books.stream()
    await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    was = await epoch(bench)
    with pytest.raises(errors.LeaseLost):
        await sweeps.verify(bench.database, mine.lease, "siem", model.Sweep(bench.now), mine.stream.coverage)
    with pytest.raises(errors.LeaseLost):
        await sweeps.widen_overlap(
            bench.database, mine.lease, mine.stream, timedelta(minutes=20), mine.stream.coverage
        )
    after = await bench.books.stream()
    names = ("coverage", "overlap", "last_verified_at", "verified")
    assert [after[name] for name in names] == [before[name] for name in names]
    assert await epoch(bench) == was


async def test_what_was_verified_elsewhere_is_not_verified_here(swept):
    """With the proof, other parameters take back what a sweep verified, and the sweep under way."""
    mine = await swept.take()
    mine = await go_on(swept, mine, 7 * HOUR, step=30 * MINUTE)
    assert (await swept.books.stream())["last_verified_at"]
    async with swept.database.transaction() as connection:
        await proofs.take_back(connection, [(UUID(CONTOSO), "siem")])
    row = await swept.books.stream()
    assert (row["last_verified_at"], list(row["verified"]), list(row["coverage"])) == (None, [], [])
    left = await swept.books.rows.fetchval("SELECT sweep_left FROM alertwell.stream_progress")
    assert left is None

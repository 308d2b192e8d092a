"""A stream that brings nothing: an API that lies, a silence beyond chance, a customer without licence, and a quiet one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from structlog.testing import capture_logs

from service.ingest import volume, worker
from service.intervals import Intervals
from service.simulator import directory, ticks
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, moment

MINUTE = 60.0
HOUR = 3600.0
WEEK = 168 * HOUR


@pytest.fixture
async def swept(staged):
    """A bench whose streams are swept every six hours."""
    async with staged(sweep_interval=6 * HOUR) as bench:
        yield bench


async def go_on(bench, mine, seconds: float, step: float = 20 * MINUTE):
    """Turns, a step apart; the stream is taken anew where its epoch has grown."""
    passed = 0.0
    while passed < seconds:
        bench.advance(step)
        passed += step
        mine.memory.sweep_after = 0.0
        if (await bench.turn(mine)).lease_lost:
            mine = await bench.again()
    return mine


def files(bench, count: int, *, every: float) -> None:
    """So many alerts, the newest a minute ago."""
    for n in range(count):
        stages.file(bench.shown, CONTOSO, f"alert {n}", bench.ago(MINUTE + n * every))


def silent_streams(bench, mine) -> float:
    """alertwell_silent_streams of a replica that polls this stream."""
    shown = worker.Worker(bench.desk, bench.replica_id, slots=1, budget=1.0)
    shown._owned = {mine.lease.tenant_id: {mine.stream.source: mine}}
    shown.show()
    return stages.series(bench.desk.metrics)["alertwell_silent_streams"]


@pytest.mark.parametrize("source", ["siem", "graph_alerts"])
async def test_an_api_that_answers_nothing_is_found_out(swept, source):
    """What the sweep asks for again is held and does not come: said after the second one, and empty answers prove nothing. Once
    it comes again, all is as it was, and what was filed meanwhile is held.
    """
    api = "siem" if source == "siem" else "graph"
    if source == "siem":
        files(swept, 8, every=10 * MINUTE)
    else:
        for n in range(8):
            swept.file_desk().add_alert(at=swept.ago(MINUTE + n * 10 * MINUTE))
    mine = await swept.take(source=source, lookback=24 * HOUR)
    await stages.taken(swept, mine)
    assert mine.stream.volume.began_at
    swept.simulator.plan(api, CONTOSO, "empty", None)
    with capture_logs() as logs:
        mine = await go_on(swept, mine, 9 * HOUR, step=HOUR)
    row = await swept.books.stream()
    assert (row["state"], row["cause"], row["not_returned"]) == ("degraded", "not_returned", 8)
    assert "does not return 8 of 8 records" in row["state_reason"]
    assert row["last_verified_at"] is None
    assert [one["missing"] for one in logs if one["event"] == "records_not_returned"] == [8]
    assert silent_streams(swept, mine) == 1
    proven = await swept.books.coverage()
    mine = await go_on(swept, mine, HOUR)
    assert await swept.books.coverage() == proven
    if source == "siem":
        stages.file(swept.shown, CONTOSO, "unseen", swept.ago(MINUTE))
    else:
        swept.file_desk().add_alert(at=swept.ago(MINUTE))
    mine = await go_on(swept, mine, 5 * HOUR, step=HOUR)
    assert await swept.books.count() == 8
    heir = await swept.again()
    assert heir.stream.volume == mine.stream.volume

    swept.simulator.script.clear()
    mine = await go_on(swept, mine, 3 * HOUR)
    row = await swept.books.stream()
    assert (row["state"], row["cause"], row["not_returned"]) == ("ok", None, 0)
    assert row["last_verified_at"]
    assert await swept.books.count() == 9
    assert (await swept.books.coverage()).covers(
        type("Span", (), {"since": proven.lower, "until": swept.now - timedelta(hours=1)})
    )
    assert silent_streams(swept, mine) == 0


async def test_an_update_under_way_and_few_deleted_records_are_no_silence(swept):
    """Fewer than half of what is held is missing: nothing is said, and the sweep counts."""
    files(swept, 8, every=10 * MINUTE)
    mine = await swept.take(lookback=24 * HOUR)
    await stages.taken(swept, mine)
    swept.shown.tenants[CONTOSO].given = None  # all of them are gone
    for n in range(5):
        stages.file(swept.shown, CONTOSO, f"alert {n}", swept.ago(MINUTE + n * 10 * MINUTE))
    mine = await go_on(swept, mine, 9 * HOUR, step=HOUR)
    row = await swept.books.stream()
    assert (row["state"], row["cause"], row["not_returned"]) == ("ok", None, 0)
    assert row["last_verified_at"]


async def learned(bench, mine, *, hours: int, every: int) -> None:
    """Eight weeks as if they had been read: proven, with a record every so many hours, the last of them `hours` ago."""
    last = bench.now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=hours)
    moments = [last - timedelta(hours=n) for n in range(0, volume.SPAN, every)]
    usual = volume.seen(replace(mine.stream.volume, began_at=bench.now), moments)
    span = Intervals.of((bench.now - timedelta(hours=volume.SPAN + hours), bench.now))
    mine.stream = replace(
        mine.stream,
        volume=usual,
        watermark=last,
        coverage=span,
        unfolded=span,
        wanted=span | mine.stream.wanted,
    )
    await bench.books.rows.execute(
        "UPDATE alertwell.stream SET watermark = $1, wanted = tstzmultirange(tstzrange($2, NULL))",
        last,
        span.lower,
    )


async def test_a_silence_beyond_chance_is_shown_until_it_ends(bench):
    """Alerts every hour for weeks, then none for two days: said once, with its reason, everywhere; the next alert ends it."""
    mine = await bench.take()
    await learned(bench, mine, hours=48, every=2)
    with capture_logs() as logs:
        await bench.turn(mine)
        bench.advance(HOUR)
        await bench.turn(mine)
    assert [one["event"] for one in logs if one["event"].startswith("silence")] == ["silence"]
    row = await bench.books.stream()
    assert (row["state"], row["cause"]) == ("ok", "silent")
    assert row["silent_since"] == mine.stream.watermark
    assert row["expected"] == pytest.approx(84, abs=1)
    assert f"no records since {mine.stream.watermark:%Y-%m-%d %H:%M} UTC" in row["state_reason"]
    assert "alertwell doctor --tenant Contoso" in row["state_reason"]
    assert silent_streams(bench, mine) == 1
    mine = await bench.again()
    assert (mine.stream.cause, mine.stream.volume.silent_since) == ("silent", row["silent_since"])
    version = "SELECT xmin::text FROM alertwell.stream"
    before = await bench.books.rows.fetchval(version)
    bench.advance(HOUR)
    await bench.turn(mine)
    assert await bench.books.rows.fetchval(version) == before or not mine.stream.unfolded
    stages.file(bench.shown, CONTOSO, "again", bench.ago(1))
    bench.advance(MINUTE)
    await bench.turn(mine)
    row = await bench.books.stream()
    assert (row["state"], row["state_reason"], row["cause"], row["silent_since"]) == ("ok", None, None, None)
    assert silent_streams(bench, mine) == 0


async def test_a_quiet_customer_is_not_silent(bench):
    """One alert every five days, and now none for two weeks; and one that never had any."""
    mine = await bench.take()
    await learned(bench, mine, hours=14 * 24, every=120)
    await bench.turn(mine)
    row = await bench.books.stream()
    assert (row["state"], row["state_reason"], row["silent_since"], row["expected"]) == (
        "ok",
        None,
        None,
        pytest.approx(1.5, abs=0.2),
    )
    mine.stream = replace(mine.stream, volume=replace(mine.stream.volume, last=0, hours=0), watermark=None)
    bench.advance(HOUR)
    await bench.turn(mine)
    row = await bench.books.stream()
    assert (row["state"], row["cause"], row["silent_since"], row["expected"]) == ("ok", None, None, None)


async def test_a_tenant_without_licence_says_so(bench):
    """An API that refuses is no silence: the cause is its own word, and known at once."""
    bench.shown.tenants[CONTOSO].unlicensed.add(directory.GRAPH_RESOURCE)
    mine = await bench.take(source="graph_alerts")
    await bench.turn(mine)
    row = await bench.books.stream()
    assert (row["state"], row["cause"]) == ("needs_attention", "no_licence")
    assert row["silent_since"] is None
    assert silent_streams(bench, mine) == 0


async def test_hours_are_learned_from_all_that_is_read(bench):
    """A backlog and the live window teach the same hours; they are kept with the progress, and taken anew with the stream."""
    found = [bench.ago(n * HOUR + 120) for n in (0, 3, 30, 100)]
    for n, at in enumerate(found):
        stages.file(bench.shown, CONTOSO, f"alert {n}", at)
    mine = await bench.take(lookback=WEEK)
    await stages.taken(bench, mine)
    known = {mine.stream.volume.last - n for n in range(volume.SPAN) if mine.stream.volume.hours >> n & 1}
    assert known == {at // ticks.SECOND // 3600 for at in found}
    assert (await bench.again()).stream.volume == mine.stream.volume
    assert moment(found[0]) > datetime(2020, 1, 1, tzinfo=UTC)
    bench.advance(MINUTE)
    written = mine.stream.volume
    await bench.turn(mine)
    assert mine.volume is written  # an idle poll brings nothing to be written of it

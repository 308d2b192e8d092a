"""What a poll reads and stores, compared with the simulator's truth: real TLS, real tokens, a clock in hand."""

from __future__ import annotations

from datetime import timedelta
from uuid import uuid4

import pytest

from service import model
from service.intervals import Intervals
from service.simulator import runs, server, siem, ticks, world
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, MIB, moment

MS = timedelta(milliseconds=1)


async def test_every_row_is_the_truth(clock, database, books, tmp_path):
    """A day of stories with ties, revisions and seven digits: every row is what the simulator knows, each once."""
    quirks = runs.Quirks(tied_share=0.3, revised_share=0.2)
    shown = world.World(11, clock, quirks)
    shown.add_tenant(CONTOSO, "Contoso", rate=0.6, history=86_400)
    async with (
        server.Simulator(shown, directory=tmp_path / "ca") as simulator,
        stages.bench(shown, simulator, database, books, clock) as bench,
    ):
        mine = await bench.take(lookback=86_400)
        await bench.turn(mine)
    assert len(shown.truth(CONTOSO)) > 500
    await books.same_as(shown)
    assert mine.stream.state == "ok"
    assert (await books.stream())["proven_until"] == bench.now - timedelta(minutes=10)
    assert not await books.gaps()


async def test_times_are_floored_to_microseconds(bench):
    """Seven digits are cut, never rounded, and the text keeps them all."""
    at = bench.ago(2000) + 1_234_567
    stages.file(bench.shown, CONTOSO, "da1_1:a", at + 9_999_999 - 1_234_567)
    stages.file(bench.shown, CONTOSO, "da1_1:b", at)
    await bench.turn(await bench.take())
    rows = await bench.books.alerts()
    assert rows["da1_1:a"]["last_processed_at"].microsecond == 999_999
    assert rows["da1_1:b"]["last_processed_at"].microsecond == 123_456
    assert rows["da1_1:b"]["source_updated_text"].endswith(".1234567Z")


async def test_late_arrivals_inside_the_overlap_are_stored(bench):
    """An alert that becomes visible minutes after its time is found, since nothing of that was proven yet."""
    mine = await bench.take()
    late = stages.file(
        bench.shown, CONTOSO, "late", bench.ago(500), visible_at=bench.clock() + 60 * ticks.SECOND
    )
    stages.file(bench.shown, CONTOSO, "newer", bench.ago(1))
    await bench.turn(mine)
    assert late not in await bench.books.alerts()
    assert not mine.stream.coverage.contains(moment(bench.ago(500)))
    bench.advance(90)
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert (await bench.books.alerts())[late]["arrival"] == "initial"
    assert mine.stream.watermark == moment(bench.ago(91))


@pytest.mark.parametrize("edge", [0, 9_999])
async def test_thousands_at_one_instant_at_an_edge(bench, edge):
    """1,500 alerts of one instant, around the border of the first live window, are all stored once."""
    instant = bench.ago(7200) + edge
    bench.shown.add_backlog(CONTOSO, 1500, since=instant, until=instant)
    mine = await bench.take(lookback=20_000)
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert not await bench.books.gaps()


async def test_a_newer_version_replaces_and_an_older_one_does_not(bench):
    """The row follows the newest LastProcessedTimeUtc; what comes later but is older counts as stale."""
    mine = await bench.take()
    stages.file(bench.shown, CONTOSO, "a", bench.ago(300), AlertTitle="second")
    await bench.turn(mine)
    stages.file(bench.shown, CONTOSO, "a", bench.ago(400), AlertTitle="first")
    taken = await bench.turn(mine)
    assert taken._poll.tally.counts == model.Counts(items=2, unchanged=1, duplicate=1)
    stages.file(bench.shown, CONTOSO, "a", bench.ago(200), AlertTitle="third")
    taken = await bench.turn(mine)
    assert taken._poll.tally.counts == model.Counts(items=3, updated=1, duplicate=2)
    row = (await bench.books.alerts())["a"]
    assert (row["title"], row["revision"]) == ("third", 2)


async def test_an_older_version_alone_is_stale(bench):
    """Read in a gap, after the newer one: left alone, and counted."""
    mine = await bench.take(lookback=20_000)
    stages.file(bench.shown, CONTOSO, "a", bench.ago(15_000), AlertTitle="old")
    stages.file(bench.shown, CONTOSO, "a", bench.ago(300), AlertTitle="new")
    taken = await bench.turn(mine)
    assert taken._poll.tally.counts == model.Counts(items=2, inserted=1, stale=1)
    assert (await bench.books.alerts())["a"]["title"] == "new"


async def test_one_id_twice_in_an_answer(bench):
    """Of two records with one FullId and time the last counts, and the answer adds up."""
    mine = await bench.take()
    at = bench.ago(100)
    for title in ("one", "two"):
        stages.file(bench.shown, CONTOSO, "a", at, AlertTitle=title)
    taken = await bench.turn(mine)
    assert taken._poll.tally.counts == model.Counts(items=2, inserted=1, duplicate=1)
    bench.simulator.plan("siem", CONTOSO, "twice")
    await bench.turn(mine)
    assert list(await bench.books.alerts()) == ["a"]


async def test_the_live_window_comes_first_then_gaps_newest_first(bench):
    """A backlog of days: the newest two hours first, then older and older, in windows that follow its density."""
    bench.shown.add_backlog(CONTOSO, 1500, since=bench.ago(5 * 86_400), until=bench.ago(0))
    mine = await bench.take(lookback=5 * 86_400)
    listener = bench.listen()
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    live, *gaps = listener.windows
    assert live[1] - live[0] == timedelta(hours=2) + 2 * MS
    assert gaps == sorted(gaps, reverse=True)
    assert all(newer[0] == older[1] - 2 * MS for newer, older in zip([live, *gaps], gaps, strict=False))
    assert all(until - since <= timedelta(days=4) + 2 * MS for since, until in gaps)
    arrivals = {row["arrival"] for row in (await bench.books.alerts()).values()}
    assert arrivals == {"initial"}


async def test_progress_in_a_backlog_survives_a_restart(bench):
    """What a replica has read of a backlog is not asked for again by the one that follows it."""
    bench.shown.add_backlog(CONTOSO, 900, since=bench.ago(5 * 86_400), until=bench.ago(0))
    mine = await bench.take(lookback=5 * 86_400)
    first = bench.poll(mine)
    await first.live()
    turns = iter([True, True, False])
    await first.gaps(lambda: next(turns))
    half = await bench.books.coverage()
    assert half.upper - half.lower > timedelta(hours=12)
    await bench.books.rows.execute("UPDATE alertwell.lease SET owner = NULL, epoch = epoch + 1")
    bench.replica_id = uuid4()
    mine = await bench.claim()
    listener = bench.listen()
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    _, *gaps = listener.windows
    assert gaps[0][1] == half.lower + MS


@pytest.mark.parametrize("count", [999, 1000, 1001])
async def test_an_answer_that_may_be_full_is_split(bench, count):
    """Exactly 1,000 records are taken for an answer that was cut: its window is proven in two parts, in a few requests."""
    bench.shown.add_backlog(CONTOSO, count, since=bench.ago(3000), until=bench.ago(700))
    mine = await bench.take()
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert bench.requests() == (3 if count == 1000 else 1)
    assert mine.stream.coverage.covers(model.Window(moment(bench.ago(3600)), moment(bench.ago(600))))


async def test_answers_that_are_cut_lose_nothing(bench):
    """Behind an API that keeps the newest 1,000 of each answer, a backlog of 3,500 is whole in the end."""
    bench.simulator.siem.choices = siem.Choices(cap=1000)
    bench.shown.add_backlog(CONTOSO, 3500, since=bench.ago(6 * 3600), until=bench.ago(0))
    mine = await bench.take(lookback=6 * 3600)
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert not await bench.books.gaps()
    assert bench.requests() < 20


async def test_a_full_millisecond_stays_a_gap(bench):
    """1,000 alerts at one instant cannot be told from an answer that was cut: stored, and said to be unproven."""
    instant = bench.ago(1500)
    bench.shown.add_backlog(CONTOSO, 1000, since=instant, until=instant)
    stages.file(bench.shown, CONTOSO, "around", bench.ago(1400))
    bench.simulator.siem.choices = siem.Choices(cap=1000)
    mine = await bench.take()
    await bench.turn(mine)
    assert await bench.books.count() == 1001
    (gap,) = await bench.books.gaps()
    assert gap["gap_to"] - gap["gap_from"] <= 4 * MS
    assert "cannot be narrowed" in gap["reason"]
    assert mine.stream.state == "ok"


async def test_bodies_that_are_too_large_are_split(clock, database, books, tmp_path):
    """With bodies of at most 64 KiB, 400 alerts of 2 KiB come in parts, the live window's and the gaps'."""
    shown = world.World(5, clock)
    shown.add_tenant(CONTOSO, "Contoso")
    async with (
        server.Simulator(shown, directory=tmp_path / "ca") as simulator,
        stages.bench(shown, simulator, database, books, clock, max_body=MIB // 16) as bench,
    ):
        shown.add_backlog(CONTOSO, 400, since=bench.ago(4 * 3600), until=bench.ago(0))
        mine = await bench.take(lookback=4 * 3600)
        await bench.turn(mine)
        await books.same_as(shown)
        assert not await books.gaps()
        assert mine.stream.state == "ok"


async def test_a_record_that_is_too_large_alone_stays_a_gap(clock, database, books, tmp_path):
    """A record over the limit costs its own milliseconds and nothing else."""
    shown = world.World(5, clock)
    shown.add_tenant(CONTOSO, "Contoso")
    async with (
        server.Simulator(shown, directory=tmp_path / "ca") as simulator,
        stages.bench(shown, simulator, database, books, clock, max_body=MIB // 16) as bench,
    ):
        shown.add_backlog(CONTOSO, 20, since=bench.ago(3000), until=bench.ago(700))
        raw = stages.record("huge", bench.ago(1500), Description="x" * 70_000)
        shown.add_record(CONTOSO, raw, at=bench.ago(1500), full_id=None)
        mine = await bench.take()
        await bench.turn(mine)
        await books.same_as(shown)
        (gap,) = await books.gaps()
        assert gap["gap_from"] <= moment(bench.ago(1500)) < gap["gap_to"]
        assert gap["gap_to"] - gap["gap_from"] <= 4 * MS
        assert gap["reason"] == "the answer is over 65536 bytes"
        samples = await books.rows.fetch("SELECT reason, raw FROM soc.rejects")
        assert [row["reason"] for row in samples] == ["the answer is over 65536 bytes"]
        assert samples[0]["raw"].startswith("[{")


async def test_a_record_of_2099_stops_nothing(bench):
    """It is stored, moves no watermark beyond the present, and costs the proof of its own milliseconds only."""
    stages.file(bench.shown, CONTOSO, "sound", bench.ago(900))
    raw = stages.record("2099", ticks.parse("2099-01-01T00:00:00Z"))
    bench.shown.add_record(CONTOSO, raw, at=bench.ago(1000), full_id="2099")
    mine = await bench.take()
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert mine.stream.watermark <= bench.now
    (gap,) = await bench.books.gaps()
    assert gap["gap_to"] - gap["gap_from"] <= 4 * MS
    assert "another window" in gap["reason"]
    stages.file(bench.shown, CONTOSO, "next", bench.clock() + 30 * ticks.SECOND)
    bench.advance(60)
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert mine.stream.coverage.upper == bench.now - timedelta(minutes=10)


async def test_bad_records_are_kept_and_the_rest_is_stored(bench):
    """No key, no time, no object, another tenant: each is a reject with its reason, the alerts between them are rows."""
    at = bench.ago(100)
    other = "22222222-2222-2222-2222-222222222222"
    bad = {
        b"null": "not an object",
        b'{"LastProcessedTimeUtc":"2026-10-01T08:00:00Z"}': "FullId missing",
        stages.record("", at): "FullId empty",
        stages.record("no-time", at, LastProcessedTimeUtc=None): "LastProcessedTimeUtc missing",
        stages.record("bad-time", at, LastProcessedTimeUtc="yesterday"): "LastProcessedTimeUtc unreadable",
        stages.record("k" * 600, at): "FullId too long",
        stages.record("theirs", at, TenantId=other): "another tenant",
        b'{"FullId":"broken","LastProcessedTimeUtc":"2026-10-01T08:00:00Z","x":}': "not JSON",
    }
    stages.file(bench.shown, CONTOSO, "before", at)
    for raw in bad:
        bench.shown.add_record(CONTOSO, raw, at=at, full_id=None)
    stages.file(bench.shown, CONTOSO, "after", at)
    mine = await bench.take()
    taken = await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    found = await bench.books.rejects()
    assert {row["raw"].encode() for row in found} == set(bad)
    for row in found:
        assert bad[row["raw"].encode()] in row["reason"]
    counts = taken._poll.tally.counts
    assert (counts.items, counts.inserted, counts.rejected) == (10, 2, 8)
    assert not await bench.books.gaps()
    # the same ones again: counted up, not kept twice
    await bench.turn(mine)
    assert len(await bench.books.rejects()) == 8
    assert {row["seen_count"] for row in await bench.books.rejects()} == {2}


async def test_text_that_jsonb_cannot_hold_is_stored(bench):
    """NUL and lone surrogates cost no alert; the exact bytes are kept beside the row."""
    raw = stages.record("odd", bench.ago(100), AlertTitle="a\x00b\ud800c")
    bench.shown.add_record(CONTOSO, raw, at=bench.ago(100), full_id=None)
    await bench.turn(await bench.take())
    row = (await bench.books.alerts())["odd"]
    assert row["title"] == "a\ufffdb\ufffdc"
    assert row["raw_exact"] == raw


async def test_items_add_up_in_rows_and_metrics(bench):
    """What the simulator sent is what was counted, and what was inserted is what is held."""
    bench.shown.add_backlog(CONTOSO, 700, since=bench.ago(86_400), until=bench.ago(0))
    bench.shown.add_record(CONTOSO, b"null", at=bench.ago(5), full_id=None)
    mine = await bench.take(lookback=86_400)
    for _ in range(3):
        await bench.turn(mine)
        bench.advance(60)
    seen = stages.series(bench.desk.metrics)
    sent = bench.simulator.counters["siem_records"]
    assert seen["alertwell_items_total{source=siem}"] == sent
    results = {key: value for key, value in seen.items() if key.startswith("alertwell_alerts_total")}
    assert sum(results.values()) == sent
    assert results["alertwell_alerts_total{result=inserted}{source=siem}"] == 700 == await bench.books.count()
    rows = await bench.books.polls()
    assert sum(row["inserted"] for row in rows) == 700
    assert (
        sum(row["rejected"] for row in rows)
        == results["alertwell_alerts_total{result=rejected}{source=siem}"]
        == 3
    )
    assert seen["alertwell_polls_total{outcome=complete}{source=siem}"] == 3


async def test_a_quiet_stream_is_proven_without_alerts(bench):
    """Empty answers prove as well; the proof waits in memory for the flush, and leaves no row of a poll."""
    mine = await bench.take()
    await bench.poll(mine).live()
    assert not await bench.books.coverage()
    await bench.turn(mine)
    proven = Intervals.of((moment(bench.ago(3600)), moment(bench.ago(600))))
    assert mine.stream.coverage == mine.stream.unfolded == proven == await bench.books.coverage()
    bench.advance(60)
    await bench.turn(mine)
    assert await bench.books.coverage() == Intervals.of((moment(bench.ago(3660)), moment(bench.ago(600))))
    assert not await bench.books.polls()


async def test_an_outage_becomes_a_gap_that_is_healed(bench):
    """After half a day of silence the live window comes first and the hole after it, as catch_up."""
    mine = await bench.take()
    await bench.turn(mine)
    bench.advance(43_200)
    bench.shown.add_backlog(CONTOSO, 300, since=bench.ago(43_000), until=bench.ago(0))
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert len(mine.stream.coverage) == 1
    by_arrival = {row["arrival"] for row in (await bench.books.alerts()).values()}
    assert by_arrival == {"live", "catch_up"}


async def test_a_rewind_is_read_again(bench):
    """Coverage that was taken back is a gap like any other; nothing is stored twice."""
    bench.shown.add_backlog(CONTOSO, 50, since=bench.ago(3000), until=bench.ago(700))
    mine = await bench.take()
    await bench.turn(mine)
    await bench.books.rows.execute(
        "UPDATE alertwell.stream SET coverage = coverage - tstzmultirange(tstzrange($1, $2))",
        moment(bench.ago(3000)),
        moment(bench.ago(2000)),
    )
    await bench.books.rows.execute("UPDATE alertwell.lease SET owner = NULL, epoch = epoch + 1")
    mine = await bench.claim()
    assert len(mine.stream.coverage) == 2
    await bench.turn(mine)
    assert len(mine.stream.coverage) == 1
    await bench.books.same_as(bench.shown)
    assert {row["revision"] for row in (await bench.books.alerts()).values()} == {1}


async def test_no_transaction_is_open_while_an_answer_is_awaited(bench):
    """During each request no connection of the collector is inside a transaction."""
    bench.shown.add_backlog(CONTOSO, 300, since=bench.ago(20_000), until=bench.ago(100))
    open_ones = []

    async def before(_since, _until):
        open_ones.append(
            await bench.books.rows.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND xact_start IS NOT NULL AND backend_type = 'client backend'"
            )
        )

    bench.listen(instead=before)
    mine = await bench.take(lookback=20_000)
    await bench.turn(mine)
    bench.advance(60)
    await bench.turn(mine)
    assert len(open_ones) >= 3
    assert not any(open_ones)

"""Every item of every answer is counted once, whatever becomes of it: in rows of polls, on the stream, in memory, in metrics."""

from __future__ import annotations

import random
from dataclasses import fields, replace

from service import metrics, model
from service.intervals import Intervals
from service.store import streams
from tests.ingest import stages
from tests.ingest.stages import CONTOSO

NAMES = ("items", *metrics.RESULTS)


async def on_the_stream(bench) -> dict[str, int]:
    """soc.accounting of the one stream; its sums hold."""
    row = dict(await bench.books.rows.fetchrow("SELECT * FROM soc.accounting"))
    assert row["items"] == sum(row[name] for name in metrics.RESULTS)
    return {name: row[name] for name in NAMES}


def measured(bench, source: str = "siem") -> dict[str, int]:
    """The same from /metrics."""
    seen = stages.series(bench.desk.metrics)
    of = {
        name: seen[f"alertwell_alerts_total{{result={name}}}{{source={source}}}"] for name in metrics.RESULTS
    }
    return {"items": seen[f"alertwell_items_total{{source={source}}}"], **of}


def watched(taken, total: model.Counts) -> model.Counts:
    """What a turn tallied, added."""
    tally = taken._poll.tally
    assert tally.counts.balanced
    return total + tally.counts


def plain(counts: model.Counts) -> dict[str, int]:
    return {field.name: getattr(counts, field.name) for field in fields(counts) if field.name in NAMES}


async def test_sums_hold_in_rows_memory_and_metrics_under_faults(bench):
    """Records twice, older, strange, answers that fail: the polls' tallies are on the stream and in the metrics."""
    dice = random.Random(11)
    mine = await bench.take(lookback=7200)
    bench.shown.add_backlog(CONTOSO, 200, since=bench.ago(7200), until=bench.ago(0))
    total = model.Counts()
    faults = [*("twice", "older", "strange") * 3, "html", "500", "truncated", "204", *[None] * 12]
    dice.shuffle(faults)
    for n, fault in enumerate(faults):
        if fault:
            bench.simulator.plan("siem", CONTOSO, fault)
        if dice.random() < 0.5:
            stages.file(bench.shown, CONTOSO, f"fresh {n}", bench.ago(1))
        total = watched(await bench.turn(mine), total)
        if n == 12:  # another replica goes on with what is in the row
            await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
            mine = await bench.again()
        bench.advance(60)
    assert total.balanced
    assert min(total.duplicate, total.rejected, total.unchanged, total.inserted) > 0
    assert await on_the_stream(bench) == measured(bench) == plain(total)
    polls = await bench.books.polls()
    assert sum(row["inserted"] for row in polls) == total.inserted == await bench.books.count()
    assert sum(row["rejected"] for row in polls) == total.rejected
    idle = total.items - sum(row["items"] for row in polls)
    assert mine.stream.idle.items == idle > 0
    kept = await bench.books.rows.fetchval(
        "SELECT sum(seen_count) FROM alertwell.reject"
        " WHERE reason <> ALL (SELECT error FROM alertwell.poll WHERE error IS NOT NULL)"
    )
    assert kept == total.rejected


async def test_nested_partial_and_relieved_answers_count_once(staged):
    """Incidents with alerts inside, parts of answers, incidents read without their alerts: each answer is counted once."""
    async with staged() as bench:
        mine = await bench.take(source="graph_incidents", lookback=7200)
        desk = bench.file_desk()
        for n in range(6):
            desk.add_incident(at=bench.ago(600 - n), alerts=2)
        total = model.Counts()
        for fault in (
            None,
            "206",
            "twice",
            "older",
            "strange",
            "expand-500",
            "expand-500",
            "expand-500",
            None,
            None,
        ):
            if fault:
                bench.simulator.plan("graph", CONTOSO, fault)
            total = watched(await bench.turn(mine), total)
            bench.advance(60)
        assert total.inserted == 6
        assert total.rejected > 0
        assert await on_the_stream(bench) == measured(bench, "graph_incidents") == plain(total)


async def test_a_flush_that_is_tried_again_adds_nothing(bench):
    """The answer to a COMMIT may be lost: what an idle poll counted is written as a total, and goes along with what is stored."""
    stages.file(bench.shown, CONTOSO, "one", bench.ago(60))
    mine = await bench.take()
    await bench.turn(mine)
    for _ in range(3):
        bench.advance(60)
        await bench.turn(mine)
    progress = mine.progress(0.0, bench.now)
    assert progress is None
    assert mine.stream.idle == model.Counts(items=3, unchanged=3)
    before = await on_the_stream(bench)
    again = streams.Progress(
        mine.lease, "siem", None, None, None, Intervals(), bench.now, mine.stream.sweep, mine.stream.idle
    )
    for _ in range(2):
        assert await streams.flush(bench.database, [again])
    assert (
        await on_the_stream(bench)
        == before
        == {**dict.fromkeys(NAMES, 0), "items": 4, "inserted": 1, "unchanged": 3}
    )
    bench.advance(60)
    await bench.poll(mine).live()  # idle, and nothing flushed: the tally alone has it
    versions = "SELECT xmin::text FROM alertwell.stream_progress"
    before_version = await bench.books.rows.fetchval(versions)
    stages.file(bench.shown, CONTOSO, "two", bench.ago(1))
    bench.advance(60)
    mine = await bench.again()
    assert mine.stream.idle.items == 3
    await bench.turn(mine)
    assert await bench.books.rows.fetchval(versions) != before_version
    assert (await on_the_stream(bench))["items"] == 6


async def test_a_reject_seen_again_counts_up_and_is_not_stored_again(bench):
    """A bad record that each answer brings, and bodies that cannot be read, poll after poll: one row each, and the count."""
    bench.shown.add_record(CONTOSO, b'{"FullId": 7}', at=bench.ago(5), full_id=None)
    mine = await bench.take()
    for _ in range(4):
        await bench.turn(mine)
        bench.advance(60)
    [row] = await bench.books.rows.fetch("SELECT seen_count, raw FROM alertwell.reject")
    assert (row["seen_count"], row["raw"]) == (4, b'{"FullId": 7}')
    assert (await on_the_stream(bench))["rejected"] == 4
    bench.simulator.plan("siem", CONTOSO, "html", None)
    for _ in range(3):
        await bench.turn(mine)
        bench.advance(60)
    found = await bench.books.rows.fetch("SELECT seen_count, reason FROM alertwell.reject ORDER BY id")
    assert [one["seen_count"] for one in found] == [4, 3]
    assert "HTML" in found[1]["reason"] or "JSON" in found[1]["reason"]
    assert (await on_the_stream(bench))["rejected"] == 4
    assert stages.series(bench.desk.metrics)["alertwell_rejects_total{source=siem}"] == 7


async def test_a_poll_that_fails_half_way_keeps_what_it_counted(bench):
    """The newer part of its window had nothing to be stored, the older one failed: the next flush writes what it counted."""
    stages.file(bench.shown, CONTOSO, "one", bench.ago(60))
    mine = await bench.take()
    await bench.turn(mine)
    mine.stream = replace(mine.stream, idle=model.Counts(items=2, unchanged=1, stale=1))
    assert not mine.moved
    progress = mine.progress(float("inf"), bench.now)
    assert progress is not None
    await streams.flush(bench.database, [progress])
    mine.written(progress, 0.0)
    assert mine.progress(float("inf"), bench.now) is None
    assert (await on_the_stream(bench))["items"] == 3
    assert (await bench.again()).stream.idle == mine.stream.idle

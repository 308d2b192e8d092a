"""What goes wrong with a poll, and what is left of it: in the end what is stored is the truth, once."""

from __future__ import annotations

import dataclasses
import json
import time
from datetime import timedelta

import pytest

from service import errors, model
from service.ingest import plan
from service.simulator import chaos, server, ticks, world
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, MIB, moment

MS = timedelta(milliseconds=1)
# all of them, each until it is mended: tests/chaos/test_fault_matrix_api.py
PASSING = ("500", "truncated", "reset-inside", "html", "206", "302", "404", "400", "403", "older", "strange")


def poison(*moments):
    """The API answers 500 to every request whose window holds one of these times."""

    async def instead(since, until):
        if any(since <= each <= until for each in moments):
            raise errors.Transient("the API has a fault (500)", status=500)

    return instead


@pytest.fixture
async def small(clock, database, books, tmp_path):
    """A bench with bodies of at most 1 MiB and requests of at most a second, and 60 alerts."""
    shown = world.World(5, clock)
    shown.add_tenant(CONTOSO, "Contoso")
    async with (
        server.Simulator(shown, directory=tmp_path / "ca") as simulator,
        stages.bench(shown, simulator, database, books, clock, max_body=MIB, request_timeout=1.0) as made,
    ):
        shown.add_backlog(CONTOSO, 60, since=made.ago(3600), until=made.ago(0))
        yield made


async def test_each_fault_passes(small):
    """One answer goes wrong, the next is right: every alert is held once, and the stream is well again."""
    mine = await small.take()
    for name in PASSING:
        stages.file(small.shown, CONTOSO, name, small.clock())
        small.simulator.plan("siem", CONTOSO, name)
        await small.turn(mine)
        assert not small.simulator.script.planned["siem", CONTOSO], name
        await small.turn(mine)
        assert (mine.stream.state, mine.stream.failures) == ("ok", 0), name
        assert len(await small.books.alerts()) == len(small.shown.full_ids(CONTOSO)), name
        small.advance(60)
    await small.turn(mine)
    await small.books.same_as(small.shown)
    assert mine.stream.coverage.upper == small.now - timedelta(minutes=10)
    assert not await small.books.gaps()


@pytest.mark.parametrize("name", ["429", "429-date"])
async def test_throttled_waits_from_the_answer_on(small, name):
    """Retry-After counts from the answer, however long the poll took before it."""
    small.simulator.plan("siem", CONTOSO, dataclasses.replace(chaos.FAULTS[name], seconds=1))
    mine = await small.take()
    taken = await small.turn(mine)
    taken._started -= 300  # a poll that had read gaps for five minutes
    small.simulator.plan("siem", CONTOSO, name)
    await taken.take()
    assert mine.due - time.monotonic() > 5
    assert await small.books.state() == "throttled"
    assert await small.books.count() == 0


async def test_a_401_renews_the_token_once(small):
    """One refusal costs a new token and nothing else; a second in a row needs a person."""
    small.simulator.plan("siem", CONTOSO, "401")
    mine = await small.take()
    await small.turn(mine)
    assert mine.stream.state == "ok"
    assert small.simulator.token_requests[CONTOSO] == 2
    small.simulator.plan("siem", CONTOSO, "401", 2)
    await small.turn(mine)
    assert mine.stream.state == "needs_attention"
    assert "401" in mine.stream.state_reason


async def test_a_body_that_cannot_be_read_costs_its_own_milliseconds(bench):
    """A record that breaks the whole answer's JSON: everything around it is stored, its place is a gap with the reason."""
    bench.shown.add_backlog(CONTOSO, 300, since=bench.ago(3600), until=bench.ago(0))
    at = bench.ago(1500) + 5_000
    bench.shown.add_record(CONTOSO, b'{"FullId": "never ends', at=at, full_id=None)
    mine = await bench.take()
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    (gap,) = await bench.books.gaps()
    assert gap["gap_from"] <= moment(at) < gap["gap_to"]
    assert gap["gap_to"] - gap["gap_from"] <= 4 * MS
    assert "JSON array" in gap["reason"]
    assert any("never ends" in row["raw"] for row in await bench.books.rejects())
    assert mine.stream.state == "ok"


async def test_what_was_set_aside_is_not_searched_anew_by_each_poll(bench):
    """The next poll reads around it, as long as it is young as well as when it is a gap, and tries it again in an hour."""
    at = bench.ago(30)
    bench.shown.add_record(CONTOSO, b'{"FullId": "never ends', at=at, full_id=None)
    mine = await bench.take()
    await bench.turn(mine)
    searched = bench.requests()
    assert searched > 20
    stages.file(bench.shown, CONTOSO, "next", bench.clock() + 10 * ticks.SECOND)
    bench.advance(60)
    await bench.turn(mine)
    assert bench.requests() - searched == 2
    await bench.books.same_as(bench.shown)
    bench.advance(3600)
    await bench.turn(mine)
    assert bench.requests() - searched > 3
    assert mine.stream.state == "ok"
    assert len(await bench.books.gaps()) == 1


async def test_a_window_that_fails_for_good_is_found_after_some_polls(bench):
    """A 500 may be the API's: only from the fourth poll on it is taken for the window's own, and searched."""
    bench.shown.add_backlog(CONTOSO, 100, since=bench.ago(3600), until=bench.ago(0))
    at = moment(bench.ago(1700))
    bench.listen(instead=poison(at))
    mine = await bench.take()
    for failures in (1, 2, 3):
        await bench.turn(mine)
        assert (mine.stream.state, mine.stream.failures) == ("degraded", failures)
    assert await bench.books.count() == 0
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    (gap,) = await bench.books.gaps()
    assert gap["gap_from"] <= at < gap["gap_to"]
    assert gap["gap_to"] - gap["gap_from"] <= 4 * MS
    assert gap["reason"] == "the API has a fault (500)"
    assert mine.stream.state == "ok"


async def test_two_bad_places_in_both_halves_are_found(bench):
    """They do not look like an API at fault for ever, and the stream goes on around both."""
    bench.shown.add_backlog(CONTOSO, 100, since=bench.ago(3600), until=bench.ago(0))
    places = [moment(bench.ago(1000)), moment(bench.ago(2500))]
    bench.listen(instead=poison(*places))
    mine = await bench.take()
    for _ in range(4):
        await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert [
        gap["gap_from"] <= at < gap["gap_to"]
        for gap, at in zip(await bench.books.gaps(), reversed(places), strict=True)
    ]
    assert mine.stream.state == "ok"


async def test_an_api_at_fault_is_not_searched(bench):
    """Where the window and all its quarters fail, the poll ends: an outage is not made worse by thousands of requests."""
    listener = bench.listen(instead=poison(*(moment(bench.ago(second)) for second in range(0, 7200, 60))))
    mine = await bench.take()
    for _ in range(6):
        await bench.turn(mine)
    assert len(listener.windows) == 3 + 3 * 7
    assert mine.stream.state == "degraded"


async def test_endless_bodies_end(bench):
    """An API that answers too much to whatever is asked is given up, and nothing is proven."""

    async def instead(_since, _until):
        raise errors.TooLarge("the answer is over 1 bytes", status=200)

    listener = bench.listen(instead=instead)
    mine = await bench.take()
    await bench.turn(mine)
    assert mine.stream.state == "degraded"
    assert not mine.stream.coverage
    assert len(listener.windows) < 50


async def test_a_gap_that_fails_does_not_hold_up_the_older_ones(bench):
    """History with a region that the API cannot give: it is set aside in small steps, and what lies behind is read."""
    bench.shown.add_backlog(CONTOSO, 300, since=bench.ago(86_400), until=bench.ago(0))
    begin, end = moment(bench.ago(40_000)), moment(bench.ago(30_000))

    async def instead(since, until):
        if since < end and begin < until:
            raise errors.Transient("the API has a fault (500)", status=500)

    bench.listen(instead=instead)
    mine = await bench.take(lookback=86_400)
    turns = 0
    while bench.poll(mine).open_gaps() or not turns:
        await bench.turn(mine)
        turns += 1
        assert turns < 60
    assert mine.stream.state == "ok"
    gaps = await bench.books.gaps()
    assert all("500" in gap["reason"] for gap in gaps)
    assert gaps[0]["gap_from"] <= begin
    assert gaps[-1]["gap_to"] >= end
    # what was set aside with it is little, and all else is held
    unread = sum((gap["gap_to"] - gap["gap_from"] for gap in gaps), timedelta()) - (end - begin)
    assert unread < (end - begin) / 4
    held = (await bench.books.alerts()).keys()
    for full_id, raw in bench.shown.truth(CONTOSO).items():
        at = moment(ticks.parse(json.loads(raw)["LastProcessedTimeUtc"]))
        assert full_id in held or any(gap["gap_from"] <= at < gap["gap_to"] for gap in gaps)


async def test_a_gap_that_is_forbidden_leaves_the_live_window_alone(bench):
    """Old windows that the API refuses with 401 or 403 say nothing of the stream: its newest alerts keep coming."""

    async def instead(since, _until):
        if since < moment(bench.ago(8000)):
            raise errors.Attention("the API forbids the access (403)", code="forbidden", status=403)

    bench.listen(instead=instead)
    mine = await bench.take(lookback=30_000)
    for _ in range(3):
        stages.file(bench.shown, CONTOSO, f"at {bench.clock()}", bench.clock())
        await bench.turn(mine)
        await bench.books.same_as(bench.shown)
        assert mine.stream.state == "catching_up"
        bench.advance(60)
    assert "forbids" in (await bench.books.gaps())[-1]["reason"]


async def test_throttled_in_a_gap_waits_with_everything(bench):
    """The quota is the tenant's, so that the live window waits as well."""
    calls = []

    async def instead(since, _until):
        calls.append(since)
        if len(calls) > 1:
            raise errors.Throttled("the API's quota is used up (429)", status=429, retry_after=50)

    bench.listen(instead=instead)
    mine = await bench.take(lookback=30_000)
    await bench.turn(mine)
    assert await bench.books.state() == "throttled"
    assert 45 < mine.due - time.monotonic() <= 50
    assert mine.stream.coverage


@pytest.mark.parametrize("date", [None, timedelta(days=2), timedelta(days=-2)])
async def test_without_a_credible_date_nothing_is_proven(bench, date):
    """The alerts are stored, the coverage stays as it was; gaps are not asked for again and again."""
    bench.shown.add_backlog(CONTOSO, 50, since=bench.ago(20_000), until=bench.ago(0))
    mine = await bench.take(lookback=20_000)
    await bench.poll(mine).live()
    mine = await again(bench)
    before = mine.stream.coverage

    async def after(answer):
        return dataclasses.replace(answer, date=None if date is None else answer.date + date)

    listener = bench.listen(after=after)
    stages.file(bench.shown, CONTOSO, "new", bench.clock())
    taken = await bench.turn(mine)
    assert mine.stream.coverage == before
    assert "new" in await bench.books.alerts()
    assert len(listener.windows) == 2
    assert "Date" in taken._poll.tally.gap_error
    assert "Date header is missing or more than a day off" in mine.stream.state_reason


async def again(bench):
    """Give the tenant back and take it again, so that memory says what the database does."""
    await bench.books.rows.execute("UPDATE alertwell.lease SET owner = NULL, epoch = epoch + 1")
    return await bench.claim()


async def test_one_wrong_clock_does_not_move_the_others(bench):
    """The median of some answers counts: a single Date far off changes no window, a lasting difference does."""
    clock = bench.desk.clock
    ours = clock.ours()
    for _ in range(5):
        clock.learn(ours)
    clock.learn(ours + timedelta(days=300))
    assert clock.offset == timedelta()
    for _ in range(3):
        clock.learn(ours + timedelta(hours=1))
    assert abs(clock.offset - timedelta(hours=1)) < timedelta(seconds=5)


async def test_a_world_an_hour_ahead_is_read_by_its_own_clock(bench):
    """Where our clock is wrong, windows follow the Date of the answers."""
    bench.advance(3600)
    bench.shown.add_backlog(CONTOSO, 30, since=bench.ago(3000), until=bench.ago(0))
    mine = await bench.take(lookback=7000)
    await bench.turn(mine)
    await bench.books.same_as(bench.shown)
    assert mine.stream.coverage.upper == bench.now - timedelta(minutes=10)


async def test_gone_is_transient_at_first(bench):
    """A 410 shows as degraded; retired comes after a day of it."""
    bench.simulator.plan("siem", CONTOSO, "410", None)
    mine = await bench.take()
    await bench.turn(mine)
    assert mine.stream.state == "degraded"
    bench.advance(25 * 3600)
    await bench.turn(mine)
    assert mine.stream.state == "retired"
    bench.simulator.script.clear()
    await bench.turn(mine)
    assert (mine.stream.state, mine.stream.gone_since) == ("ok", None)


async def test_a_bug_of_one_poll_is_logged_and_tried_again(bench):
    """Whatever is raised, the stream has a next time and nobody else is touched."""

    async def instead(_since, _until):
        raise KeyError("a bug")

    bench.listen(instead=instead)
    mine = await bench.take()
    before = time.monotonic()
    await bench.turn(mine)
    assert before + 60 <= mine.due < before + 120
    assert "alertwell_polls_total{outcome=bug}{source=siem}" in stages.series(bench.desk.metrics)


async def test_narrow_widths_recover(bench):
    """After failures the windows of gaps are narrow; each that is read well makes the next one wider."""
    mine = await bench.take(lookback=400_000)
    mine.memory.width = plan.NARROWEST
    listener = bench.listen()
    await bench.turn(mine)
    assert not bench.poll(mine).open_gaps()
    assert len(listener.windows) < 25


async def test_a_lost_lease_is_no_failure(bench):
    """The poll ends, writes nothing and says so."""
    mine = await bench.take()
    stages.file(bench.shown, CONTOSO, "a", bench.ago(5))
    await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    taken = await bench.turn(mine)
    assert taken.lease_lost
    assert await bench.books.count() == 0
    assert not await bench.books.polls()
    assert mine.stream.failures == 0
    assert isinstance(mine.lease, model.Lease)

"""What bounds bad neighbours, part by part: places for polls and tokens, room for answers, the pace after a 429."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from service import errors, model
from service.auth import threads
from service.ingest import slots, sweep, unpacking
from service.intervals import Intervals
from service.transport import budget, pace

CONTOSO = UUID("11111111-1111-1111-1111-111111111111")
FABRIKAM = UUID("22222222-2222-2222-2222-222222222222")
ACCESS = model.Access(model.Tenant(CONTOSO, "Contoso"), None)
REQUEST = model.Request("siem", "/api/alerts", ())


class Silent:
    """A sender that never answers."""

    @contextlib.asynccontextmanager
    async def send(self, access, request):
        """Wait for ever."""
        del access, request
        await asyncio.Event().wait()
        yield


def asks(places: slots.Slots, *, probation: bool = False) -> asyncio.Task[str]:
    """A poll that waits for an answer; what ended it comes back."""

    async def poll() -> str:
        place = places.take(probation=probation)
        try:
            async with slots.Patient(Silent(), place).send(ACCESS, REQUEST):
                return "answered"
        except errors.Transient as failure:
            return str(failure)
        finally:
            places.give(place)

    return asyncio.create_task(poll())


async def turned() -> None:
    """Let every task go as far as it can."""
    for _ in range(5):
        await asyncio.sleep(0)


def test_probation_has_a_quarter_of_the_places():
    """What failed holds a quarter of the places, and the others hold all that is left."""
    places = slots.Slots(8)
    suspects = [places.take(probation=True) for _ in range(2)]
    assert places.free
    assert not places.probation_left
    places.give(suspects.pop())
    assert places.probation_left


async def test_one_hung_request_at_a_time_is_given_up():
    """The request that has waited for longest ends where its place is needed, and no second one before that place is free."""
    places = slots.Slots(3, patience=0.0)
    polls = [asks(places, probation=True), asks(places), asks(places)]
    await turned()
    assert not places.free
    places.make_room()
    places.make_room()
    await turned()
    assert [poll.done() for poll in polls] == [False, True, False]
    assert "needed the place" in await polls[1]
    assert places.free
    places.make_room()
    places.make_room()
    await turned()
    assert [poll.done() for poll in polls] == [False, True, True]
    places.make_room()  # those on probation make room for each other alone
    await turned()
    assert not polls[0].done()
    places.make_room(probation=True)
    await asyncio.gather(*polls)
    assert places.polls == 0


def test_patience_grows_on_probation():
    """Who is slow, and not dead, gets the time that it needs in the end."""
    places = slots.Slots(8, patience=15.0)
    assert [places.take(probation=True, failures=count).patience for count in (1, 2, 3)] == [
        30.0,
        60.0,
        120.0,
    ]
    assert places.take(failures=3).patience == 15.0


@pytest.mark.parametrize(("patience", "stalled"), [(3600.0, False), (0.0, True)])
async def test_who_is_left_alone(patience, stalled):
    """A request that has not waited for long, and one that waits for room of ours, keep their places."""
    places = slots.Slots(1, patience=patience, stalled=lambda _: stalled)
    poll = asks(places)
    await turned()
    places.make_room()
    await turned()
    assert not poll.done()
    poll.cancel()
    await asyncio.gather(poll, return_exceptions=True)


def test_gaps_of_one_tenant_take_their_turn():
    """While places for gaps abound a tenant has several, and one where they are scarce; all have half of the places together."""
    places = slots.Slots(8)
    assert places.take_gap("a")
    assert places.take_gap("a")
    assert not places.take_gap("a")
    assert places.take_gap("b")
    assert places.take_gap("c")
    assert not places.take_gap("d")
    places.give_gap("a")
    assert places.take_gap("d")


def test_a_sweep_that_is_long_due_has_a_place():
    """Sweeps wait while all places are taken, but for one that a whole interval has passed by."""
    places = slots.Slots(2)
    held = [places.take(), places.take()]
    assert not places.take_sweep(long_due=False)
    assert places.take_sweep(long_due=True)
    assert not places.take_sweep(long_due=True)
    places.give_sweep()
    places.give(held.pop())
    assert places.take_sweep(long_due=False)


@pytest.mark.parametrize(("hours", "expected"), [(7, False), (13, True)])
def test_when_a_sweep_is_long_due(hours, expected):
    """Two intervals after the last one began, one of them was missed."""
    now = datetime(2026, 11, 22, tzinfo=UTC)
    stream = model.Stream(CONTOSO, "siem", {}, now - timedelta(hours=hours), Intervals())
    assert sweep.long_due(stream, now, timedelta(hours=6)) is expected


async def test_answers_are_unpacked_one_after_the_other():
    """Answers that are larger than the room together wait in their order; a small one and a cancelled one hold up nobody."""
    rooms = unpacking.Unpacking(10 * unpacking.SMALL, at_once=8)
    order = []

    async def unpack(name, size):
        async with rooms.room(size):
            order.append(name)

    async with rooms.room(99 * unpacking.SMALL):  # larger than all of it: alone
        first = asyncio.create_task(unpack("first", 2 * unpacking.SMALL))
        gone = asyncio.create_task(unpack("gone", 9 * unpacking.SMALL))
        last = asyncio.create_task(unpack("last", 9 * unpacking.SMALL))
        await turned()
        await unpack("small", unpacking.SMALL)
        assert rooms.waiting == 3
        gone.cancel()
        await turned()
    await asyncio.gather(first, last)
    assert order == ["small", "first", "last"]
    assert rooms.waiting == 0
    async with rooms.room(10 * unpacking.SMALL):
        pass


async def test_large_answers_leave_database_connections():
    """However little they are together, only so many that are not small are stored at a time."""
    rooms = unpacking.Unpacking(1000 * unpacking.SMALL, at_once=1)

    async def unpack():
        async with rooms.room(2 * unpacking.SMALL):
            return "stored"

    async with rooms.room(2 * unpacking.SMALL):
        other = asyncio.create_task(unpack())
        await turned()
        assert rooms.waiting == 1
    assert await other == "stored"


async def test_others_have_their_turn_between_the_steps_of_an_answer():
    """A large answer is read while others go on; what its reading raises is raised."""
    turns = []

    def steps(end):
        for number in range(3):
            turns.append(number)
            yield
        return end()

    async def other():
        for _ in range(3):
            turns.append("other")
            await asyncio.sleep(0)

    page = model.Page(0, (), (), 0)
    read, _ = await asyncio.gather(unpacking.read(steps(lambda: page)), other())
    assert read is page
    assert turns == [0, "other", 1, "other", 2, "other"]
    with pytest.raises(ZeroDivisionError):
        await unpacking.read(steps(lambda: 1 / 0))


async def test_who_waits_for_memory_is_known():
    """A task that waits for bytes in flight is told from one that waits for its API."""
    bytes_ = budget.ByteBudget(30_000, 10_000)
    with bytes_.share() as one, bytes_.share() as two, bytes_.share() as three, bytes_.share() as lane:
        for each in (one, two, three, lane):
            assert bytes_.at_once(each, 10_000)

        async def grow():
            with bytes_.share() as mine:
                await bytes_.grow(mine, 9_000)

        waiting = asyncio.create_task(grow())
        await turned()
        assert bytes_.stalled(waiting)
        bytes_.give_back(one)
        await waiting
        assert not bytes_.stalled(waiting)


async def test_hung_tokens_hold_a_quarter_of_the_threads():
    """Requests of tenants that got no answer hold a quarter of the places: others get theirs while these hang."""
    places = threads.Places(4, queue_time=0.05)
    hung = threading.Event()
    try:

        async def hang():
            async with places.place(probation=True) as place:
                await place.run(0.01, hung.wait)

        with pytest.raises(errors.Transient, match="did not answer"):
            await hang()
        with pytest.raises(threads.Crowded):
            await hang()  # the thread is still in its call
        async with places.place() as place:
            assert await place.run(30.0, lambda: "token") == "token"
    finally:
        hung.set()
        places.close()


async def test_a_429_holds_up_all_streams_of_the_quota():
    """Nobody asks again before the answer allows it; other tenants and other quotas go on."""
    paces = pace.Pace({"graph": (pace.Quota(50, 60.0),)})
    await paces.wait(CONTOSO, "graph")
    paces.refused(CONTOSO, "graph", 120.0)
    with pytest.raises(errors.Throttled, match="a moment ago") as failed:
        await paces.wait(CONTOSO, "graph")
    assert failed.value.retry_after > 100
    await paces.wait(FABRIKAM, "graph")
    await paces.wait(CONTOSO, "siem")
    paces.forget(CONTOSO)
    await paces.wait(CONTOSO, "graph")


def test_the_pace_halves_and_recovers():
    """Each 429 doubles the time between two requests up to 20 s, and each answer takes a fifth off it, until nothing is left."""
    brake = pace.Brake()
    for _ in range(3):
        brake.tighten(1.0, None, now=100.0)
    assert brake.every == 4.0
    assert brake.wait(100.0) == 7.0
    for _ in range(10):
        brake.tighten(1.0, 5.0, now=100.0)
    assert brake.every == 20.0
    answers = 0
    while brake.ease():
        answers += 1
    assert 20 < answers < 40


async def test_a_sweep_does_not_wait_for_a_backfill(bench):
    """What a person asked for later is read for days: a sweep waits for other gaps, and not for these."""
    mine = await bench.take()
    poll = bench.poll(mine)
    now = bench.now
    hours = [now - timedelta(hours=n) for n in range(5)]
    poll.tally.stream = replace(
        mine.stream,
        wanted=Intervals.of((hours[4], now)),
        coverage=Intervals.of((hours[2], now)),
        backfill=Intervals.of((hours[4], hours[2])),
    )
    assert poll.open_gaps()
    assert not poll.own_gaps()
    poll.tally.stream = replace(poll.tally.stream, backfill=Intervals.of((hours[4], hours[3])))
    assert poll.own_gaps() == Intervals.of((hours[3], hours[2]))

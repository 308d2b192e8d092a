"""The clock: late calls run, failing calls are logged and go on, a step of the wall clock is noticed, a stop is quiet."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import structlog
import time_machine

from service import errors
from service.ingest import scheduler
from tests.ingest.waiting import until


async def test_calls_start_at_once_and_repeat():
    """The first call does not wait for its interval."""
    calls = []

    async def call():
        calls.append(1)

    async with clock(call, 0.05):
        await until(lambda: len(calls) >= 3)


def clock(call, seconds):
    """A scheduler with one call."""
    made = scheduler.Scheduler()
    made.every(seconds, call, name="a call")
    return made


async def test_a_call_that_raises_is_logged_and_goes_on():
    """A bug costs one call."""
    calls = []

    async def call():
        calls.append(1)
        raise KeyError("a bug")

    with structlog.testing.capture_logs() as logs:
        async with clock(call, 0.05):
            await until(lambda: len(calls) >= 3)
    assert [entry["event"] for entry in logs[:2]] == ["scheduled_call_failed"] * 2
    assert logs[0]["during"] == "a call"


async def test_an_outage_is_said_once():
    """DatabaseUnavailable is expected: one warning when it begins, one line when it is over."""
    calls = []

    async def call():
        calls.append(1)
        if len(calls) < 4:
            raise errors.DatabaseUnavailable("not there")

    with structlog.testing.capture_logs() as logs:
        async with clock(call, 0.05):
            await until(lambda: len(calls) >= 5)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("database_unavailable", "warning"),
        ("database_back", "info"),
    ]


async def test_a_slow_call_is_left_out_and_life_goes_on(caplog):
    """While one runs no second one starts, nobody complains, and the clock still counts as alive."""
    let_go, calls = asyncio.Event(), []

    async def call():
        calls.append(1)
        await let_go.wait()

    async with clock(call, 0.05) as ticking:
        await until(lambda: calls)
        seen = ticking.ticked_at
        for _ in range(3):
            await until(lambda: ticking.ticked_at > seen)  # noqa: B023 - asked at once
            seen = ticking.ticked_at
        assert len(calls) == 1
        let_go.set()
        await until(lambda: len(calls) > 1)
    assert not caplog.records


async def test_a_stop_waits_for_running_calls():
    """What is in the middle of something may end it; nothing is an error."""
    let_go, done = asyncio.Event(), []

    async def call():
        await let_go.wait()
        done.append(1)

    with structlog.testing.capture_logs() as logs:
        ticking = clock(call, 60)
        await ticking.__aenter__()
        await until(lambda: ticking._busy)
        leaving = asyncio.create_task(ticking.__aexit__(None, None, None))
        await asyncio.sleep(0)
        assert not leaving.done()
        let_go.set()
        await leaving
    assert done == [1]
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def test_a_step_of_the_wall_clock_is_followed(monkeypatch):
    """Backwards by an hour, every call would wait for that hour; forwards it comes at once."""
    monkeypatch.setattr(scheduler, "_WATCH", 0.05)
    calls = []

    async def call():
        calls.append(1)

    with structlog.testing.capture_logs() as logs:
        async with clock(call, 0.1):
            await until(lambda: len(calls) >= 2)
            with time_machine.travel(timedelta(hours=-1), tick=True):
                before = len(calls)
                await until(lambda: len(calls) >= before + 3)
            with time_machine.travel(timedelta(hours=5), tick=True):
                before = len(calls)
                await until(lambda: len(calls) >= before + 3)
    steps = [entry["seconds"] for entry in logs if entry["event"] == "wall_clock_stepped"]
    assert steps[0] < -3590

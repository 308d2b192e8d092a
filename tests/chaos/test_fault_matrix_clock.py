"""Our clock is wrong, or steps while we run: windows, tokens and schedules follow the time of those who answer."""

from __future__ import annotations

import time
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
import structlog
import time_machine

from service.simulator import server, ticks, world
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, moment
from tests.ingest.waiting import until

LATE = timedelta(minutes=10)


class TrueTime:
    """The world's clock, and that of the database: steps of this process's wall clock do not move it."""

    def __init__(self) -> None:
        self._began = ticks.now() - time.monotonic_ns() // 100

    def __call__(self) -> int:
        return self._began + time.monotonic_ns() // 100


@pytest.fixture
async def stage(database_url, database, books, tmp_path):
    """A world whose time is the true one, with fifty alerts of the last hour."""
    shown = world.World(3, TrueTime())
    shown.add_tenant(CONTOSO, "Contoso")
    now = shown.clock()
    shown.add_backlog(CONTOSO, 50, since=now - ticks.HOUR, until=now)
    async with server.Simulator(shown, directory=tmp_path / "ca") as running:
        made = stages.Stage(shown, running, database_url, books, database, tmp_path)
        await made.enrol(CONTOSO)
        yield made


def wrong(by: timedelta) -> time_machine.travel:
    """This process's wall clock, so far ahead of the true time, while the context is open."""
    return time_machine.travel(by, tick=True)


def close(one: datetime, other: datetime) -> bool:
    """Nearer than half of what the clock is wrong by."""
    return abs(one - other) < LATE / 2


@pytest.mark.parametrize("by", [LATE, -LATE], ids=["ahead", "behind"])
async def test_a_clock_that_is_wrong_from_the_start(stage, by):
    """History and new alerts are held once, nothing of the future is proven, and what is shown are true times."""
    with wrong(by):
        async with stage.collecting(live_span="2h"):
            await stage.stored()
            new = stages.file(stage.shown, CONTOSO, "new", stage.shown.clock())
            await stage.stored()
            assert new in await stage.books.alerts()
    now = moment(stage.shown.clock())
    await stage.books.same_as(stage.shown)
    row = await stage.books.stream()
    assert (await stage.books.coverage()).upper < now
    assert close(row["last_success_at"], now)
    assert close(row["next_poll_at"], now)
    assert all(close(poll["started_at"], now) for poll in (await stage.books.polls())[3:])


async def test_a_clock_that_steps(stage):
    """Forwards, then backwards beyond where it began: schedules go on at once, no lease is lost, no alert is lost or doubled."""
    with structlog.testing.capture_logs() as logs, ExitStack() as clocks:
        async with stage.collecting(live_span="2h") as running:
            await stage.stored()
            for number, by in enumerate((LATE, -2 * LATE, LATE)):
                clocks.enter_context(wrong(by))
                stages.file(stage.shown, CONTOSO, f"after step {number}", stage.shown.clock())
                await stage.stored()
                assert (await stage.books.coverage()).upper < moment(stage.shown.clock())
                await until(lambda: len(stepped(logs)) > number)  # noqa: B023 - asked at once
            assert stages.series(running.metrics)["alertwell_leases_lost_total"] == 0
    assert [round(seconds / 600) for seconds in stepped(logs)] == [1, -2, 1]
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")]
    await stage.books.same_as(stage.shown)
    held = await stage.books.alerts()
    assert {row["arrival"] for key, row in held.items() if key.startswith("after")} == {"live"}
    assert datetime.now(UTC) - moment(stage.shown.clock()) < LATE


def stepped(logs):
    """Steps that were noticed, in seconds."""
    return [entry["seconds"] for entry in logs if entry["event"] == "wall_clock_stepped"]

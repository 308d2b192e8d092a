"""The clock: APScheduler calls short coroutines at their times. Polls are tasks of the worker, never jobs of the scheduler.

APScheduler runs on the wall clock, so a step of it against the monotonic clock of over 2 s reschedules everything here; a task
of its own watches for that, since after a step backwards APScheduler itself sleeps until the old time comes again. A late call
is run, not skipped (its own default skips after one second), and calls never pile up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from service import errors

_STEP = 2.0
_WATCH = 1.0
_ENDING = 5.0
_log = structlog.get_logger(__name__)

Call = Callable[[], Awaitable[None]]


class Scheduler:
    """`every(seconds, call)` before it is entered; calls may raise DatabaseUnavailable, which is said once an outage."""

    def __init__(self) -> None:
        self._scheduler = AsyncIOScheduler(
            # one instance at a time is our own business (`_busy`): APScheduler would log each call that it leaves out
            timezone=UTC,
            job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 2},
        )
        self._failing: set[str] = set()
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._wall_minus_monotonic = time.time() - time.monotonic()
        self.ticked_at = time.monotonic()
        """Monotonic time of the last call of any kind, also of one left out: a scheduler that stands still shows here."""

    def every(self, seconds: float, call: Call, *, name: str) -> None:
        """Run `call` every so many seconds, for the first time at once. Left out while it still runs."""

        async def guarded() -> None:
            self.ticked_at = time.monotonic()
            task = asyncio.current_task()
            if name in self._busy or task is None:
                return
            self._busy[name] = task
            try:
                await call()
            except errors.DatabaseUnavailable as error:
                if name not in self._failing:
                    _log.warning("database_unavailable", during=name, error=str(error))
                self._failing.add(name)
            except Exception:
                _log.exception("scheduled_call_failed", during=name)
            else:
                if name in self._failing:
                    _log.info("database_back", during=name)
                    self._failing.discard(name)
            finally:
                del self._busy[name]

        self._scheduler.add_job(
            guarded, "interval", seconds=seconds, id=name, next_run_time=datetime.now(UTC)
        )

    async def _watch_wall_clock(self) -> None:
        while True:
            await asyncio.sleep(_WATCH)
            offset = time.time() - time.monotonic()
            step = offset - self._wall_minus_monotonic
            if abs(step) > _STEP:
                _log.warning("wall_clock_stepped", seconds=round(step, 1))
                self._wall_minus_monotonic = offset
                for job in self._scheduler.get_jobs():
                    job.modify(next_run_time=datetime.now(UTC))

    async def __aenter__(self) -> Self:
        self._scheduler.start()
        self._watch = asyncio.create_task(self._watch_wall_clock(), name="wall clock")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._watch.cancel()
        # APScheduler's own shutdown cancels what runs, in the middle of a transaction
        self._scheduler.pause()
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=_ENDING)
        self._scheduler.shutdown(wait=False)
        await asyncio.gather(self._watch, return_exceptions=True)

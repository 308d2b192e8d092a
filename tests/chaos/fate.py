"""Dying at the nth await: tasks that are driven by hand, and struck where they wait.

A task waits where it hands a future to the event loop; so many times are counted, over all tasks that the first one starts.
Whoever is struck dead stays where it is: nothing of it runs any more, no `finally` either, until `bury`, which comes once its
connections are cut and what it left behind was looked at.
"""

from __future__ import annotations

import asyncio
import contextvars
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any

_FATE: contextvars.ContextVar[Fate | None] = contextvars.ContextVar("fate", default=None)
Place = tuple[str, int, int]
"""File of the service, line, and which await of the line."""
Point = int | tuple[Place, int]
"""The nth await of all (from 1), or the nth in one place."""
Strike = Callable[[Any], Awaitable[bool]]


class Fate:
    """Counts the awaits of what `begin` starts, and strikes at one of them.

    `strike(awaited)` is called with what is waited for, a future or None; True kills. `at` says when, once: see Point.
    """

    def __init__(self, at: Point | None = None, strike: Strike | None = None) -> None:
        self.struck = False
        self.places: list[Place] = []
        """Where the service waited, await by await."""
        self.dead = asyncio.Event()
        self._at = at
        self._strike = strike
        self._over = asyncio.Event()
        self._buried = False
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start it as a task; tasks that it starts share its fate. The loop's task factory must be `factory`."""
        context = contextvars.copy_context()
        context.run(_FATE.set, self)
        return self.task(work, context=context)

    async def end(self, work: Coroutine[Any, Any, Any]) -> bool:
        """Run it, and whatever it starts, to the end or to death: whether it lived."""
        task = self.begin(work)
        died = asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                return False
            await task
            return True
        finally:
            died.cancel()
            await asyncio.gather(died, return_exceptions=True)

    def arm(self, awaits: int, strike: Strike) -> None:
        """Strike so many awaits from now."""
        self._at = len(self.places) + awaits
        self._strike = strike
        self.struck = False

    def disarm(self) -> None:
        """Strike no more."""
        self._at = None

    def others(self) -> set[asyncio.Task[Any]]:
        """Tasks under way besides the one that asks."""
        return {task for task in self._tasks if not task.done()} - {asyncio.current_task()}

    async def revive(self) -> None:
        """It was a pause: all of it goes on, to its end."""
        self.dead.clear()
        self._over.set()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def bury(self) -> None:
        """Let what is dead unwind. Its connections must be cut by now."""
        self._buried = True
        self._over.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def task(self, work: Coroutine[Any, Any, Any], **options: Any) -> asyncio.Task[Any]:
        loop = asyncio.get_running_loop()
        task: asyncio.Task[Any] = asyncio.Task(self._drive(work), loop=loop, **options)
        self._tasks.add(task)
        return task

    async def _drive(self, work: Coroutine[Any, Any, Any]) -> Any:
        step: Callable[[Any], Any] = work.send
        value: Any = None
        while True:
            if (ended := await self._grave()) is not None:
                step, value = work.throw, ended
            try:
                awaited = step(value)
            except StopIteration as returned:
                return returned.value
            self.places.append(_place(work))
            if self._strike is not None and not self.struck and self._now():
                self.struck = True
                fated = _FATE.set(None)  # what strikes is no part of it
                if await self._strike(awaited):
                    self.dead.set()
                _FATE.reset(fated)
            if (ended := await self._grave()) is not None:
                step, value = work.throw, ended
                continue
            try:
                step, value = work.send, await _hand_on(awaited)
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is for the work to see
                step, value = work.throw, error

    def _now(self) -> bool:
        if isinstance(self._at, int):
            return len(self.places) >= self._at
        return (
            self._at is not None
            and self.places[-1] == self._at[0]
            and self.places.count(self._at[0]) == self._at[1]
        )

    async def _grave(self) -> BaseException | None:
        """Where the dead wait; what they unwind with in the end."""
        if not self.dead.is_set() or self._buried:
            return None
        try:
            await self._over.wait()
        except asyncio.CancelledError as cancelled:
            return cancelled
        return asyncio.CancelledError() if self._buried else None


def _place(work: Any) -> Place:
    """Where in the service the coroutine waits: as deep as can be seen, which ends at a context manager's door."""
    found = ("", 0, 0)
    while (frame := getattr(work, "cr_frame", None)) is not None:
        if "/service/" in frame.f_code.co_filename:
            file = frame.f_code.co_filename.rpartition("/service/")[2]
            found = (file, frame.f_lineno, frame.f_lasti)
        work = work.cr_await
    return found


@types.coroutine
def _hand_on(awaited: Any) -> Generator[Any, Any, Any]:
    return (yield awaited)


def factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], **options: Any
) -> asyncio.Task[Any]:
    """A task factory: whoever is born to the fated shares their fate."""
    fate = _FATE.get()
    return asyncio.Task(work, loop=loop, **options) if fate is None else fate.task(work, **options)


async def sent(_: Any) -> bool:
    """Dead as soon as something was sent: the server may do it, or not."""
    return True


async def answered(awaited: Any) -> bool:
    """Dead when the answer has come, and nobody has read it."""
    if awaited is not None:
        await asyncio.wait([awaited], timeout=1)
    return True

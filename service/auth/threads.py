"""A few threads for what blocks, and a place for each request for a token: so many run at once, the others wait their turn.

A thread in a hung call is held until its deadline, whoever waits. So what concerns a tenant whose last request failed for lack of
an answer has a quarter of the places: where Entra hangs for some directories, the others get their tokens.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final, TypeVar

from service import errors

T = TypeVar("T")
_PROBATION: Final = 4


class Crowded(errors.Transient):
    """No place got free: it says nothing of the tenant whose request it was."""


class Places:
    """Belongs to one event loop. A place is given back only when what ran in its thread has really ended."""

    def __init__(self, count: int, queue_time: float) -> None:
        """`queue_time` is the seconds to wait for a place."""
        self.threads = ThreadPoolExecutor(count, thread_name_prefix="entra")
        self._free = asyncio.Semaphore(count)
        self._probation = asyncio.Semaphore(max(count // _PROBATION, 1))
        self._queue_time = queue_time
        self._running: set[asyncio.Future[Any]] = set()

    @asynccontextmanager
    async def place(self, *, probation: bool = False) -> AsyncIterator[Place]:
        """Wait for a place, one of a few where the tenant is on `probation`. Raises Crowded where none gets free in time."""
        wanted = [self._probation, self._free] if probation else [self._free]
        held: list[asyncio.Semaphore] = []
        try:
            async with asyncio.timeout(self._queue_time):
                for semaphore in wanted:
                    await semaphore.acquire()
                    held.append(semaphore)
        except TimeoutError:
            _release(held)
            raise Crowded("too many requests for tokens are under way; is Entra slow?") from None
        except asyncio.CancelledError:
            _release(held)
            raise
        place = Place(self.threads, self._running)
        try:
            yield place
        finally:
            # A thread outlives its caller and may outlive its deadline.
            if place.thread is None or place.thread.done():
                _release(held)
            else:
                place.thread.add_done_callback(lambda _: _release(held))

    def close(self) -> None:
        """A thread inside a hung call ends by its own deadline and is not waited for."""
        for thread in self._running:
            thread.cancel()
        self.threads.shutdown(wait=False, cancel_futures=True)


class Place:
    """Right to one thread at a time."""

    def __init__(self, threads: ThreadPoolExecutor, running: set[asyncio.Future[Any]]) -> None:
        self.thread: asyncio.Future[Any] | None = None
        self._threads = threads
        self._running = running

    async def run(self, seconds: float, call: Callable[..., T], *arguments: Any) -> T:
        """What the call brings, from a thread. Raises errors.Transient where that takes longer than so many seconds."""
        thread = asyncio.get_running_loop().run_in_executor(self._threads, call, *arguments)
        self.thread = thread
        self._running.add(thread)
        thread.add_done_callback(self._ended)
        done, _ = await asyncio.wait({thread}, timeout=seconds)
        if not done:
            raise errors.Transient(f"Entra did not answer within {seconds:g} s")
        return thread.result()

    def _ended(self, thread: asyncio.Future[Any]) -> None:
        self._running.discard(thread)
        if not thread.cancelled():
            thread.exception()  # seen, so that asyncio does not report what came too late


def _release(held: list[asyncio.Semaphore]) -> None:
    for semaphore in held:
        semaphore.release()

"""How many bytes of answers are unpacked at a time: read into records, compared with what is held, and stored.

An answer's records weigh about twice its bytes, beside these. One process reads no faster by reading several at once, so they
wait here in the order in which they came, still counted as in flight: what would come next is not asked for meanwhile. A small
one passes them all, and finds a database connection, so that a live window with a few alerts never waits for backlogs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import coroutine
from typing import Final

from service.sources import contract

SMALL: Final = 256 * 1024


@coroutine
def read(steps: contract.Steps) -> contract.Steps:
    """The page, to be awaited: an answer of 20 MB holds up nobody's request for a quarter of a second.

    A step that yields gives up a turn of the event loop, as asyncio.sleep(0) does.
    """
    return (yield from steps)


class Unpacking:
    """Belongs to one event loop."""

    def __init__(self, most: int, *, at_once: int) -> None:
        """`most` bytes at a time; a larger answer has all the room for itself. And `at_once` answers that are not small."""
        self._most = most
        self._free = most
        self._places = at_once
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def waiting(self) -> int:
        """Answers that wait for room."""
        return len(self._waiting)

    @asynccontextmanager
    async def room(self, size: int) -> AsyncIterator[None]:
        """Wait for so many bytes of room, and have it as long as the context lasts."""
        share = min(size, self._most) if size > SMALL else 0
        if share:
            await self._take(share)
        try:
            yield
        finally:
            if share:
                self._give(share)

    async def _take(self, share: int) -> None:
        if not self._waiting and self._fits(share):
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((share, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._give(share)
            else:
                self._admit()  # the next one may have waited for this one only
            raise

    def _give(self, share: int) -> None:
        self._free += share
        self._places += 1
        self._admit()

    def _admit(self) -> None:
        while self._waiting:
            share, granted = self._waiting[0]
            if not granted.cancelled():
                if not self._fits(share):
                    return
                granted.set_result(None)
            self._waiting.popleft()

    def _fits(self, share: int) -> bool:
        if not self._places or share > self._free:
            return False
        self._free -= share
        self._places -= 1
        return True

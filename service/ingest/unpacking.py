"""How many bytes of answers are unpacked at a time: read into records, compared with what is held, and stored.

An answer's records weigh about twice its bytes, beside these. One process reads no faster by reading several at once, so they
wait here in the order in which they came, still counted as in flight: what would come next is not asked for meanwhile. A small
one passes them all, so that a live window with a few alerts never waits for backlogs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

SMALL: Final = 256 * 1024


class Unpacking:
    """Belongs to one event loop."""

    def __init__(self, most: int) -> None:
        """`most` bytes at a time; a larger answer has all the room for itself."""
        self._most = most
        self._free = most
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
            self._give(share)

    async def _take(self, share: int) -> None:
        if not self._waiting and share <= self._free:
            self._free -= share
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (share, granted)
        self._waiting.append(entry)
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self._give(share)
            else:
                self._waiting.remove(entry)
                self._give(0)  # the next one may have waited for this one only
            raise

    def _give(self, share: int) -> None:
        self._free += share
        while self._waiting and self._waiting[0][0] <= self._free:
            size, granted = self._waiting.popleft()
            self._free -= size
            granted.set_result(None)

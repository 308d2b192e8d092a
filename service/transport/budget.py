"""How many bytes of answers all polls of a process hold together.

Nobody knows an answer's size before it is read, so bytes are granted while it grows. All but `largest` of the
total is a pool that answers share. An answer that finds the pool empty waits, first come first served, for
bytes to come back or for the lane: the one who has it grows up to `largest` without asking again. As the
owner of the lane never waits, everything ends, and as lane and pool together are the total, memory is bounded.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

UNCOUNTED: Final = 4096
"""Bytes that each answer may hold beside the total, so that an empty list (`[]`) never waits behind a backlog."""


@dataclass(slots=True, eq=False)
class Share:
    """What one answer holds: `held` bytes in all, `pooled` of them from the pool."""

    held: int = 0
    pooled: int = 0
    asked: int = 0
    granted: asyncio.Future[None] | None = field(default=None, repr=False)


class ByteBudget:
    """`total` bytes for all shares together, of which one share may take up to `largest`."""

    def __init__(self, total: int, largest: int) -> None:
        if not 0 < largest <= total:
            raise ValueError(f"largest must be between 1 and the total of {total}, not {largest}")
        self.largest = largest
        self._free = total - largest
        self._lane: Share | None = None
        self._waiting: deque[Share] = deque()
        self._stalled: set[asyncio.Task[Any] | None] = set()

    @property
    def free(self) -> int:
        """Bytes left in the pool."""
        return self._free

    @property
    def waiting(self) -> int:
        """Answers that wait for room."""
        return len(self._waiting)

    def stalled(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether this task waits for room."""
        return task in self._stalled

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A share for one answer, for use by one task; everything comes back at the end."""
        share = Share()
        try:
            yield share
        finally:
            self.give_back(share)

    def at_once(self, share: Share, size: int) -> bool:
        """Let the share grow where that needs no waiting; False where it does. Raises ValueError over `largest`."""
        if share.held + size > self.largest:
            raise ValueError(f"a share cannot grow over {self.largest} bytes")
        share.asked = size
        if (
            share.held + size > UNCOUNTED
            and self._lane is not share
            and (self._waiting or not self._take(share))
        ):
            return False
        share.held += size
        return True

    async def grow(self, share: Share, size: int) -> None:
        """Let the share grow, waiting for room. Raises ValueError over `largest`."""
        if self.at_once(share, size):
            return
        share.granted = asyncio.get_running_loop().create_future()
        self._waiting.append(share)
        task = asyncio.current_task()
        self._stalled.add(task)
        try:
            await share.granted
        finally:
            self._stalled.discard(task)
        share.held += size

    def give_back(self, share: Share) -> None:
        """Take back all that a share holds; it may grow anew."""
        self._free += share.pooled
        share.pooled = share.held = 0
        if self._lane is share:
            self._lane = None
        if share in self._waiting:
            self._waiting.remove(share)
        while self._waiting and self._take(self._waiting[0]):
            granted = self._waiting.popleft().granted
            if granted is not None and not granted.done():  # cancelled: its own end gives it back
                granted.set_result(None)

    def _take(self, share: Share) -> bool:
        if share.asked <= self._free:
            self._free -= share.asked
            share.pooled += share.asked
            return True
        if self._lane is None:
            self._lane = share
            return True
        return False

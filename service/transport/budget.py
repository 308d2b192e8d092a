"""How many bytes of answers all polls of a process hold together.

Nobody knows an answer's size before it is read, so bytes are granted while it grows. All but `largest` of the total is a pool
that answers share: the first bytes of each as they come, then whole blocks, so that few large answers get on and the others
wait with little in hand. Were all to grow by as much as they ask for, each would hold a part that none can use. Who finds the
pool empty waits for bytes to come back or for the lane, small answers first, then the oldest; the one who has the lane grows up
to `largest` without asking again. As the owner of the lane never waits, everything ends, and as lane and pool together are the
total, memory is bounded.
"""

from __future__ import annotations

import asyncio
import bisect
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

UNCOUNTED: Final = 4096
"""Bytes that each answer may hold beside the total, so that an empty list (`[]`) never waits behind a backlog."""

_BLOCKS: Final = 8
"""Of the pool: so many answers that are not small grow at a time."""
_SMALL: Final = 16
"""Of a block: an answer up to this part of it takes no block."""


@dataclass(slots=True, eq=False)
class Share:
    """What one answer holds: `held` bytes in all, and `pooled` bytes of the pool, which may be more."""

    begun: int
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
        self._block = self._free // _BLOCKS
        self._small = self._block // _SMALL
        self._shares = itertools.count()
        self._lane: Share | None = None
        self._waiting: list[Share] = []  # in the order of `_rank`
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
        share = Share(next(self._shares))
        try:
            yield share
        finally:
            self.give_back(share)

    def at_once(self, share: Share, size: int) -> bool:
        """Let the share grow where that needs no waiting; False where it does. Raises ValueError over `largest`."""
        if share.held + size > self.largest:
            raise ValueError(f"a share cannot grow over {self.largest} bytes")
        share.asked = size
        if self._lane is not share and self._lacking(share) > 0:
            first = not self._waiting or self._rank(share) < self._rank(self._waiting[0])
            if not first or not self._take(share):
                return False
        share.held += size
        return True

    async def grow(self, share: Share, size: int) -> None:
        """Let the share grow, waiting for room. Raises ValueError over `largest`."""
        if self.at_once(share, size):
            return
        share.granted = asyncio.get_running_loop().create_future()
        bisect.insort(self._waiting, share, key=self._rank)
        task = asyncio.current_task()
        self._stalled.add(task)
        try:
            await share.granted
        finally:
            self._stalled.discard(task)
        share.held += size

    def grown(self, share: Share) -> None:
        """The answer is whole: what is left of its last block comes back."""
        unused = share.pooled - max(share.held - UNCOUNTED, 0)
        if unused > 0:
            share.pooled -= unused
            self._free += unused
            self._admit()

    def give_back(self, share: Share) -> None:
        """Take back all that a share holds; it may grow anew."""
        self._free += share.pooled
        share.pooled = share.held = 0
        if self._lane is share:
            self._lane = None
        if share in self._waiting:
            self._waiting.remove(share)
        self._admit()

    def _admit(self) -> None:
        while self._waiting and self._take(self._waiting[0]):
            granted = self._waiting.pop(0).granted
            if granted is not None and not granted.done():  # cancelled: its own end gives it back
                granted.set_result(None)

    def _rank(self, share: Share) -> tuple[bool, int]:
        return share.held + share.asked > self._small, share.begun

    def _lacking(self, share: Share) -> int:
        return share.held + share.asked - UNCOUNTED - share.pooled

    def _take(self, share: Share) -> bool:
        wanted = self._lacking(share)
        if share.held + share.asked > self._small:
            wanted = max(wanted, self._block)
        if wanted <= self._free:
            self._free -= wanted
            share.pooled += wanted
            return True
        if self._lane is None:
            self._lane = share
            return True
        return False

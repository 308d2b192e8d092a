"""Places for polls: so many at once, and of each kind that could take all of them a part only.

What bounds a bad neighbour is here. A stream on probation, whose last poll failed after a long wait, holds one of a quarter of
the places. One that begins to hang holds another place, until somebody needs it: after `patience` seconds without an answer its
request is given up then, and the stream is on probation. So those that hang may be more than the places, and others find one.
Those on probation make room for each other likewise, but with patience that doubles at each failure: who is slow gets the time.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from service import errors, model
from service.ingest import reading

_PROBATION: Final = 4
_SWEEPS: Final = 16
"""Of so many places one is for a sweep whose time was long ago, whatever else is under way."""


@dataclass(slots=True, eq=False)
class Place:
    """One poll's place, since when it has it (monotonic), and the request that it waits for."""

    probation: bool
    patience: float
    since: float
    asked: _Asked | None = None
    waited: float = 0.0
    """Seconds that the longest of its requests took."""


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """A request under way: since when (monotonic), whose it is, and what ends it early."""

    since: float
    task: asyncio.Task[Any] | None
    limit: asyncio.Timeout


class Slots:
    """Counts, and nothing else: the event loop is the lock."""

    def __init__(
        self,
        most: int,
        *,
        patience: float = 15.0,
        stalled: Callable[[asyncio.Task[Any] | None], bool] = lambda _: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`stalled` says of a poll's task that it waits for room in memory, and not for its API."""
        self._most = most
        self._stalled = stalled
        self._given_up: _Asked | None = None
        self._most_gaps = max(most // 2, 1)
        self._most_suspects = max(most // _PROBATION, 1)
        self._most_sweeps = max(most // _SWEEPS, 1)
        self._clock = clock
        self.patience = patience
        # in the order in which they were taken
        self._places: dict[Place, None] = {}
        self._suspects = 0
        self._gaps: Counter[Hashable] = Counter()
        self._sweeps = 0
        self.closing = False

    @property
    def free(self) -> bool:
        return self.polls < self._most

    @property
    def probation_left(self) -> bool:
        """Whether those on probation have less than their part of the places."""
        return self._suspects < self._most_suspects

    @property
    def gaps_left(self) -> bool:
        """Whether anybody may read gaps now."""
        return self._gaps.total() < self._most_gaps

    def gap_free(self, tenant: Hashable) -> bool:
        """Whether a poll of this tenant may read gaps now.

        Where half of these places are taken, a tenant has one at most: one with many streams and a long past takes its turn.
        """
        scarce = self._gaps.total() * 2 >= self._most_gaps
        return self.gaps_left and not (scarce and self._gaps[tenant])

    @property
    def polls(self) -> int:
        """Polls under way."""
        return len(self._places)

    def take(self, *, probation: bool = False, failures: int = 0) -> Place:
        """A place for one poll, to be given back; for a stream on probation with its failures in a row."""
        patience = self.patience * 2 ** min(failures, 16) if probation else self.patience
        place = Place(probation, patience, self._clock())
        self._places[place] = None
        self._suspects += probation
        return place

    def give(self, place: Place) -> None:
        del self._places[place]
        self._suspects -= place.probation

    def take_gap(self, tenant: Hashable) -> bool:
        """Whether a poll of this tenant may go on with gaps; it gives the place back."""
        if not self.gap_free(tenant):
            return False
        self._gaps[tenant] += 1
        return True

    def give_gap(self, tenant: Hashable) -> None:
        self._gaps[tenant] -= 1
        if not self._gaps[tenant]:
            del self._gaps[tenant]

    def take_sweep(self, *, long_due: bool) -> bool:
        """Whether a poll may go on with its sweep; it gives the place back.

        Sweeps use what others leave: a quarter of the places while any is free. One that is long due has a few of its own, for
        where all is taken all the time it would wait for ever.
        """
        idle = self.free and self._sweeps < max(self._most_gaps // 2, 1)
        if not idle and not (long_due and self._sweeps < self._most_sweeps):
            return False
        self._sweeps += 1
        return True

    def give_sweep(self) -> None:
        self._sweeps -= 1

    def make_room(self, *, probation: bool = False) -> None:
        """Somebody needs a place: give up the request of its like that has waited for longest, where one has for too long."""
        now = self._clock()
        oldest = next(iter(self._places), None)
        if oldest is None or now - oldest.since < self.patience:
            return  # nobody can have waited for so long: said without a look at every place
        under_way = [(place, place.asked) for place in self._places if place.asked]
        if any(asked is self._given_up for _, asked in under_way):
            return  # its place will be free in a moment
        waiting = [
            asked
            for place, asked in under_way
            if place.probation is probation
            and now - asked.since >= place.patience
            and not self._stalled(asked.task)
        ]
        if waiting:
            self._given_up = min(waiting, key=lambda asked: asked.since)
            self._given_up.limit.reschedule(asyncio.get_running_loop().time())


class Patient:
    """A sender whose requests end early where their poll's place is needed."""

    def __init__(self, sender: reading.Sender, place: Place) -> None:
        self._sender = sender
        self._place = place

    @asynccontextmanager
    async def send(self, access: model.Access, request: model.Request) -> AsyncIterator[model.Answer]:
        """As `reading.Sender`. Raises errors.Transient for a request that was given up."""
        place = self._place
        fault: errors.PollFailure | None = None
        began = time.monotonic()
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(None) as limit:
                    place.asked = _Asked(began, asyncio.current_task(), limit)
                    answer = await stack.enter_async_context(self._sender.send(access, request))
            except TimeoutError:
                waited = f"{place.patience:g} s"
                fault = errors.Transient(
                    f"the API did not answer within {waited}, and another tenant needed the place"
                )
            finally:
                place.waited = max(place.waited, time.monotonic() - began)
                place.asked = None
            if fault is not None:
                raise fault
            yield answer

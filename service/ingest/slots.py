"""Places for polls: so many at once, and of each kind that could take all of them a part only.

What bounds a bad neighbour is here. A poll that is still under way after `patience` seconds makes room for another one: it waits in
the lobby, which has half as many places again. A stream on probation (its last poll failed, or its API let it wait) holds one of a
quarter of the places. So tenants that hang fill the lobby and their quarter, and others find a place.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

_LOBBY: Final = 2
_PROBATION: Final = 4
_SWEEPS: Final = 16
"""Of so many places one is for a sweep whose time was long ago, whatever else is under way."""


def most_of(slots: int) -> int:
    """Polls that may be under way at once with so many places: also those that wait in the lobby."""
    return slots + max(slots // _LOBBY, 1)


@dataclass(slots=True, eq=False)
class Place:
    """One poll's place; `since` is monotonic seconds."""

    since: float
    probation: bool
    waits: bool = False


class Slots:
    """Counts, and nothing else: the event loop is the lock."""

    def __init__(
        self, most: int, *, patience: float = 15.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = most
        self._most_gaps = max(most // 2, 1)
        self._most_suspects = max(most // _PROBATION, 1)
        self._lobby = most_of(most) - most
        self._most_sweeps = max(most // _SWEEPS, 1)
        self._clock = clock
        self.patience = patience
        # in the order in which they were taken
        self._places: dict[Place, None] = {}
        self._waiting = 0
        self._suspects = 0
        self._gaps: Counter[Hashable] = Counter()
        self._sweeps = 0
        self.closing = False

    @property
    def free(self) -> bool:
        """Whether a stream that is well may be polled now."""
        if self.polls - self._waiting < self._most:
            return True
        self._make_room()
        return self.polls - self._waiting < self._most

    @property
    def probation_free(self) -> bool:
        """Whether a stream on probation may be polled now."""
        return self._suspects < self._most_suspects and self.free

    @property
    def gap_free(self) -> bool:
        return self._gaps.total() < self._most_gaps

    @property
    def polls(self) -> int:
        """Polls under way."""
        return len(self._places)

    def take(self, *, probation: bool = False) -> Place:
        """A place for one poll, to be given back."""
        place = Place(self._clock(), probation)
        self._places[place] = None
        self._suspects += probation
        return place

    def give(self, place: Place) -> None:
        del self._places[place]
        self._waiting -= place.waits
        self._suspects -= place.probation

    def take_gap(self, tenant: Hashable) -> bool:
        """Whether a poll of this tenant may go on with gaps; it gives the place back.

        Where half of these places are taken, a tenant has one at most: one with many streams and a long past takes its turn.
        """
        if not self.gap_free or (self._gaps[tenant] and self._gaps.total() * 2 >= self._most_gaps):
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

    def _make_room(self) -> None:
        """Let polls that take long wait in the lobby, the oldest first, as far as there is room in it."""
        now = self._clock()
        for place in self._places:
            if now - place.since < self.patience or self._waiting >= self._lobby:
                return
            if not place.waits:
                place.waits = True
                self._waiting += 1

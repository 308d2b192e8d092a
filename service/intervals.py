"""Sets of time: what is wanted, what is proven read, and the gaps between.

`Intervals` is PostgreSQL's tstzmultirange with '[)' bounds, value for value: sorted, disjoint, touching ones
merged, empty ones gone. The lower end is always a point in time; an upper end without a bound is FOREVER here
and null there. All operations are merges in linear time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol

FOREVER: Final = datetime.max.replace(tzinfo=UTC)
"""The upper end of an interval that has none."""

Pair = tuple[datetime, datetime]


class Span(Protocol):
    """What has a start and an end, closed-open, such as `model.Window`."""

    @property
    def since(self) -> datetime: ...

    @property
    def until(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Intervals:
    """A set of points in time. Build it with `of`: `pairs` is sorted, disjoint, not touching, not empty."""

    pairs: tuple[Pair, ...] = ()

    @classmethod
    def of(cls, *pairs: tuple[datetime, datetime | None]) -> Intervals:
        """The union of closed-open intervals in any order; None as an end is FOREVER, empty ones add nothing.

        Raises ValueError for a datetime without a zone and for an end before its start.
        """
        checked = []
        for start, end in pairs:
            stop = FOREVER if end is None else end
            if start.tzinfo is None or stop.tzinfo is None:
                raise ValueError(f"a datetime without a zone: [{start}, {stop})")
            if stop < start:
                raise ValueError(f"an interval that ends before it starts: [{start}, {stop})")
            if start < stop:
                checked.append((start, stop))
        return cls(_merged(sorted(checked)))

    @classmethod
    def window(cls, window: Span) -> Intervals:
        """The one interval that a window asks for."""
        return cls.of((window.since, window.until))

    def __bool__(self) -> bool:
        return bool(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __iter__(self) -> Iterator[Pair]:
        """Oldest first."""
        return iter(self.pairs)

    def __reversed__(self) -> Iterator[Pair]:
        """Newest first."""
        return reversed(self.pairs)

    def __or__(self, other: Intervals) -> Intervals:
        if not (self.pairs and other.pairs):
            return self if self.pairs else other
        return Intervals(_merged(sorted(self.pairs + other.pairs)))  # two sorted runs: linear

    def __and__(self, other: Intervals) -> Intervals:
        mine, theirs = self.pairs, other.pairs
        found: list[Pair] = []
        i = j = 0
        while i < len(mine) and j < len(theirs):
            start, end = max(mine[i][0], theirs[j][0]), min(mine[i][1], theirs[j][1])
            if start < end:
                found.append((start, end))
            if mine[i][1] <= theirs[j][1]:
                i += 1
            else:
                j += 1
        return Intervals(tuple(found))

    def __sub__(self, other: Intervals) -> Intervals:
        holes = other.pairs
        if not (self.pairs and holes):
            return self
        found: list[Pair] = []
        j = 0
        for begin, end in self.pairs:
            start = begin
            while j < len(holes) and holes[j][1] <= start:
                j += 1
            k = j  # the last hole may reach into the next interval: look ahead without giving it up
            while k < len(holes) and holes[k][0] < end:
                if start < holes[k][0]:
                    found.append((start, holes[k][0]))
                start = max(start, holes[k][1])
                k += 1
            j = max(j, k - 1)
            if start < end:
                found.append((start, end))
        return Intervals(tuple(found))

    @property
    def lower(self) -> datetime | None:
        """The earliest point, None of an empty set."""
        return self.pairs[0][0] if self.pairs else None

    @property
    def upper(self) -> datetime | None:
        """The end (exclusive) of the latest interval, FOREVER where it has none, None of an empty set."""
        return self.pairs[-1][1] if self.pairs else None

    def contains(self, moment: datetime) -> bool:
        """Whether `moment` lies in the set."""
        place = bisect_right(self.pairs, moment, key=_start)
        return place > 0 and moment < self.pairs[place - 1][1]

    def covers(self, window: Span) -> bool:
        """Whether all of the window lies in the set; an empty window always does."""
        if window.since >= window.until:
            return True
        place = bisect_right(self.pairs, window.since, key=_start)
        return place > 0 and window.until <= self.pairs[place - 1][1]

    def below(self, end: datetime) -> Intervals:
        """What lies before `end`."""
        if not self.pairs or self.pairs[-1][1] <= end:
            return self
        return Intervals(tuple((start, min(stop, end)) for start, stop in self.pairs if start < end))

    def above(self, start: datetime) -> Intervals:
        """What lies at or after `start`."""
        if not self.pairs or self.pairs[0][0] >= start:
            return self
        return Intervals(tuple((max(begin, start), end) for begin, end in self.pairs if start < end))

    def total(self) -> timedelta:
        """The sum of all lengths; timedelta.max where there is no upper end."""
        if self.pairs and self.pairs[-1][1] == FOREVER:
            return timedelta.max
        return sum((end - start for start, end in self.pairs), timedelta())


def _start(pair: Pair) -> datetime:
    return pair[0]


def _merged(ordered: Iterable[Pair]) -> tuple[Pair, ...]:
    """Sorted, not empty pairs with those that overlap or touch made one."""
    merged: list[Pair] = []
    for start, end in ordered:
        if merged and start <= merged[-1][1]:
            if merged[-1][1] < end:
                merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return tuple(merged)

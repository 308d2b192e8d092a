"""Alerts and incidents of one generated run with all their versions, in arrays: what was the newest one when.

A version is known by its record (a number) and its update time; it is told (`lives`) only when it is read.
"""

from __future__ import annotations

import array
import bisect
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from service.simulator import lives, runs, stories, ticks

Kind = Literal["alerts", "incidents"]
Api = Literal["mde", "xdr", "graph"]

NEVER = 2**62
# Stories of one bucket, as long as none of these says otherwise, are one incident each.
_JOINS = 0.3
_MERGES = 0.12
_MOST = 8


class Rows(NamedTuple):
    """Versions in rising order of update time: times and record numbers side by side."""

    times: Sequence[int]
    owners: Sequence[int]


class Timeline:
    """The versions of many records. What an API shows of a record is one of them: the newest that is visible.

    versions: for each record its (update time, visible from) in rising order of update time. Built once.
    """

    def __init__(self, versions: Iterable[Sequence[tuple[int, int]]]) -> None:
        rows: list[tuple[int, int, int, int]] = []
        for owner, its in enumerate(versions):
            gone = NEVER
            for at, visible in reversed(_settled(its)):
                rows.append((at, visible, gone, owner))
                gone = visible
        rows.sort()
        self._times = array.array("q", [row[0] for row in rows])
        self._visible = array.array("q", [row[1] for row in rows])
        self._gone = array.array("q", [row[2] for row in rows])
        self._owners = array.array("L", [row[3] for row in rows])
        last = [row for row in rows if row[2] == NEVER]
        self._last_times = array.array("q", [row[0] for row in last])
        self._last_owners = array.array("L", [row[3] for row in last])
        self._settles = max(self._visible, default=0)

    def shown(self, since: int, until: int, now: int) -> Rows:
        """Of each record the version to be seen at `now`, if its time lies in since..until (inclusive)."""
        if now >= self._settles:
            low = bisect.bisect_left(self._last_times, since)
            high = bisect.bisect_right(self._last_times, until, lo=low)
            return Rows(self._last_times[low:high], self._last_owners[low:high])
        low = bisect.bisect_left(self._times, since)
        high = bisect.bisect_right(self._times, min(until, now), lo=low)
        kept = [place for place in range(low, high) if self._visible[place] <= now < self._gone[place]]
        return Rows([self._times[place] for place in kept], [self._owners[place] for place in kept])

    def newest(self, owner: int, now: int) -> int | None:
        """The update time of the record's version to be seen at `now`; None before there was one."""
        for place in self._places.get(owner, ()):
            if self._visible[place] <= now < self._gone[place]:
                return self._times[place]
        return None

    @functools.cached_property
    def _places(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for place, owner in enumerate(self._owners):
            found.setdefault(owner, []).append(place)
        return found

    def seen(self, owner: int) -> list[tuple[int, int]]:
        """(update time, visible from) of the record's versions, oldest first."""
        return [(self._times[place], self._visible[place]) for place in self._places.get(owner, ())]

    def every(self, now: int) -> Iterator[tuple[int, int]]:
        """(record, update time) of every version that could be seen at some time up to `now`."""
        for at, visible, gone, owner in zip(
            self._times, self._visible, self._gone, self._owners, strict=True
        ):
            if visible <= now and visible < gone:
                yield owner, at


class Cases(Protocol):
    """Records of both kinds, numbered from 0; `timeline` says which versions there are."""

    def timeline(self, kind: Kind, api: Api, /) -> Timeline: ...
    def created(self, kind: Kind, owner: int) -> int: ...
    def alert(self, owner: int, at: int) -> lives.Alert: ...
    def incident(self, owner: int, at: int) -> lives.Incident: ...
    def find(self, incident: int) -> int | None: ...
    def counted(self, kind: Kind, owner: int, /) -> bool: ...


class Told:
    """The alerts of a generated run and the incidents that they make up.

    Stories that follow one another join to incidents; some incidents are merged into the one before them.
    """

    def __init__(self, run: runs.Generated, quirks: runs.Quirks) -> None:
        self._longest = run.longest
        self._quirks = quirks
        parts: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for detection in run.detections():
            if not detection.place & stories.REVISED:
                known = parts.setdefault((detection.story, detection.begin), [])
                known.append((detection.place, detection.processed))
        self._stories = array.array("Q", [story for story, _ in parts])
        self._begins = array.array("q", [begin for _, begin in parts])
        self._parts = [tuple(known) for known in parts.values()]
        self._starts = array.array("L", self._group(run.per_incident))  # of each incident, the first alert
        self._groups = array.array("L", [0]) * len(self._stories)
        for group in range(len(self._starts)):
            for owner in self._own(group):
                self._groups[owner] = group
        self._ids = array.array(
            "q", [lives.incident_id(self._stories[start], self._begins[start]) for start in self._starts]
        )
        self._merged: dict[int, tuple[int, int]] = {}  # incident -> (when, the incident that survives)
        self._absorbed: dict[int, list[int]] = {}
        if run.per_incident is None and run.longest:
            self._merge()

    def timeline(self, kind: Kind, _api: Api, /) -> Timeline:
        """Every API shows the same versions."""
        return self._alerts if kind == "alerts" else self._incidents

    def created(self, kind: Kind, owner: int) -> int:
        """When the record was made."""
        first = owner if kind == "alerts" else self._starts[owner]
        return self._parts[first][0][1]

    def alert(self, owner: int, at: int) -> lives.Alert:
        """The version of that time."""
        return lives.alert(self._plot(owner), at)

    def incident(self, owner: int, at: int) -> lives.Incident:
        """The version of that time."""
        members = [*self._own(owner)]
        for other in self._absorbed.get(owner, ()):
            if self._merged[other][0] <= at:
                members += self._own(other)
        alerts = [lives.alert_then(self._plot(each), at) for each in members if self._parts[each][0][1] <= at]
        return lives.incident(self._ids[owner], at, alerts, self._tagged(owner), self._redirect(owner))

    def find(self, incident: int) -> int | None:
        """The number of the incident with that id."""
        return self._numbers.get(incident)

    def counted(self, _kind: Kind, _owner: int, /) -> bool:
        """Everything generated is part of the truth."""
        return True

    @functools.cached_property
    def _numbers(self) -> dict[int, int]:
        return {incident: owner for owner, incident in enumerate(self._ids)}

    @functools.cached_property
    def _alerts(self) -> Timeline:
        return Timeline(self._seen(owner) for owner in range(len(self._stories)))

    @functools.cached_property
    def _incidents(self) -> Timeline:
        return Timeline(map(self._incident_versions, range(len(self._starts))))

    def _seen(self, owner: int) -> list[tuple[int, int]]:
        """The alert's versions: later detections and changes may be late as the first one may."""
        story = self._stories[owner]
        late = self._quirks.lateness
        return [(at, at + late(story, 16 + n)) for n, at in enumerate(lives.moments(self._plot(owner)))]

    def _incident_versions(self, owner: int) -> list[tuple[int, int]]:
        """A version for each change of one of its alerts: an alert never changes behind its incident's back."""
        merged = self._merged.get(owner)
        latest: dict[int, int] = {}
        for member in self._own(owner):
            for at, visible in self._seen(member):
                if merged is None or at <= merged[0]:
                    latest[at] = max(visible, latest.get(at, 0))
        for other in self._absorbed.get(owner, ()):
            for member in self._own(other):
                for at, visible in self._seen(member):
                    if at >= self._merged[other][0]:
                        latest[at] = max(visible, latest.get(at, 0))
        tagged = self._tagged(owner)
        if tagged is not None and (merged is None or tagged <= merged[0]):
            latest.setdefault(tagged, tagged)
        return sorted(latest.items())

    def _plot(self, owner: int) -> lives.Plot:
        group = self._groups[owner]
        return lives.Plot(
            self._stories[owner],
            self._begins[owner],
            self._parts[owner],
            self._ids[group],
            self._longest,
            self._redirect(group),
        )

    def _own(self, group: int) -> range:
        last = group + 1 == len(self._starts)
        return range(self._starts[group], len(self._stories) if last else self._starts[group + 1])

    def _redirect(self, group: int) -> tuple[int, int] | None:
        merged = self._merged.get(group)
        return None if merged is None else (merged[0], self._ids[merged[1]])

    def _tagged(self, group: int) -> int | None:
        return lives.tagged_at(self._ids[group], self.created("incidents", group), self._longest)

    def _group(self, per_incident: int | None) -> Iterator[int]:
        size = 0
        for owner, story in enumerate(self._stories):
            joins = size < per_incident if per_incident else size < _MOST and lives.chance(story, 30) < _JOINS
            if owner and joins:
                size += 1
            else:
                size = 1
                yield owner

    def _merge(self) -> None:
        for group in range(1, len(self._starts)):
            before = group - 1
            story = self._stories[self._starts[group]]
            if before in self._merged or lives.chance(story, 31) >= _MERGES:
                continue
            last = self._parts[self._own(group)[-1]][-1][1]
            at = last + ticks.SECOND + int(lives.chance(story, 32) * 0.3 * self._longest)
            self._merged[group] = at, before
            self._absorbed.setdefault(before, []).append(group)


def _settled(versions: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """No version is visible before the one that it replaces."""
    found: list[tuple[int, int]] = []
    reached = 0
    for at, visible in versions:
        reached = max(reached, at, visible)
        found.append((at, reached))
    return found

"""What the APIs of mutable records show of one tenant, and the truth to compare with.

Every run of the tenant as cases (`cases.Told`), and those filed one by one (`filed.Filed`), as one list: of
each record its newest visible version, in the order that an API answers in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from service.simulator import cases, filed, lives, runs, ticks
from service.simulator.forms import frame, graph, mde, xdr

# creation, update: newest first by that time. update_asc: oldest update first.
Order = Literal["creation", "update", "update_asc"]

_NEAR = 64
_LATE = 2 * ticks.MINUTE  # times are rounded up to whole minutes, a little beyond the longest life


class Found(NamedTuple):
    """One version of one record, not told yet."""

    cases: cases.Cases
    owner: int
    at: int

    def alert(self) -> lives.Alert:
        """The version of the alert."""
        return self.cases.alert(self.owner, self.at)

    def incident(self) -> lives.Incident:
        """The version of the incident."""
        return self.cases.incident(self.owner, self.at)


class Selection:
    """Records in the order of an answer."""

    def __init__(
        self, parts: Sequence[tuple[cases.Cases, cases.Rows]], places: Sequence[tuple[int, int]]
    ) -> None:
        self._parts = parts
        self._places = places

    def __len__(self) -> int:
        return len(self._places)

    def cut(self, skip: int, count: int) -> Iterator[Found]:
        """So many of them after the first `skip`."""
        for part, place in self._places[skip : skip + count]:
            known, rows = self._parts[part]
            yield Found(known, rows.owners[place], rows.times[place])

    def all(self) -> Iterator[Found]:
        """Every one."""
        return self.cut(0, len(self))


class Casebook:
    """The alerts and incidents of one tenant.

    backlogs: the tenant's list, looked at anew each time. told: the cases of a bucket of `live`, by number.
    """

    def __init__(
        self,
        place: frame.Place,
        quirks: runs.Quirks,
        backlogs: Sequence[runs.Generated],
        live: runs.Live | None,
        told: Callable[[int], cases.Told | None],
    ) -> None:
        self.place = place
        self.filed = filed.Filed()
        self._quirks = quirks
        self._backlogs = backlogs
        self._live = live
        self._bucket = told
        # The buckets of the last short window: the next poll of the tenant asks for the same, but for one.
        self._near: dict[int, cases.Told | None] = {}
        self._told: list[cases.Told] = []
        self._last: tuple[object, Selection] | None = None

    def select(
        self, kind: cases.Kind, api: cases.Api, since: int, until: int, now: int, order: Order = "update"
    ) -> Selection:
        """Records whose version to be seen at `now` was made in since..until (both inclusive)."""
        parts = []
        for known in self._all(since, min(until, now)):
            rows = known.timeline(kind, api).shown(since, until, now)
            if rows.times:
                parts.append((known, rows))
        # Paging through one large answer asks the same again and again: it is put in order once.
        asked = kind, order, [(id(known), len(rows.times), rows) for known, rows in parts]
        if self._last is not None and self._last[0] == asked:
            return self._last[1]
        found = Selection(parts, _ordered(kind, parts, order))
        self._last = asked, found
        return found

    def find_incident(self, number: int, now: int) -> lives.Incident | None:
        """The incident's version to be seen at `now` in Graph; None where there is none."""
        for known in self._all(0, now):
            owner = known.find(number)
            if owner is not None:
                at = known.timeline("incidents", "graph").newest(owner, now)
                return None if at is None else known.incident(owner, at)
        return None

    def truth_alerts(self, api: cases.Api, now: int) -> dict[str, bytes]:
        """Alert id -> its newest version as this API shows it: with its evidence, with later enum members.

        Of XDR: the nested alert.
        """
        if api == "xdr":
            return {
                alert.alert_id: xdr.alert(self.place, alert)
                for found in self._counted("incidents", api, now)
                for alert in found.incident().alerts
                if self._counts(alert)
            }
        return {
            alert.alert_id: self._alert(api, alert)
            for found in self._counted("alerts", api, now)
            for alert in (found.alert(),)
        }

    def truth_incidents(self, api: cases.Api, now: int) -> dict[str, bytes]:
        """Incident id as text -> its newest version as this API shows it, with its alerts."""
        return {
            str(told.incident): self._incident(api, told)
            for found in self._counted("incidents", api, now)
            for told in (found.incident(),)
        }

    def versions(self, kind: cases.Kind, api: cases.Api, now: int) -> dict[str, list[tuple[int, bytes]]]:
        """Id -> every version that could be seen at some time up to `now`, as (update time in ticks, JSON)."""
        listed: dict[str, list[tuple[int, bytes]]] = {}
        for known in self._all(0, now):
            for owner, at in known.timeline(kind, api).every(now):
                if not known.counted(kind, owner):
                    continue
                if kind == "alerts":
                    alert = known.alert(owner, at)
                    listed.setdefault(alert.alert_id, []).append((at, self._alert(api, alert)))
                else:
                    told = known.incident(owner, at)
                    listed.setdefault(str(told.incident), []).append((at, self._incident(api, told)))
        return listed

    def _alert(self, api: cases.Api, alert: lives.Alert) -> bytes:
        match api:
            case "mde":
                return mde.render(self.place, alert, expand=True)
            case "xdr":
                return xdr.alert(self.place, alert)
            case "graph":
                return graph.alert(self.place, alert, later=True)

    def _incident(self, api: cases.Api, told: lives.Incident) -> bytes:
        if api == "xdr":
            return xdr.incident(self.place, told)
        return graph.incident(self.place, told, expand=True, later=True)

    def _counted(self, kind: cases.Kind, api: cases.Api, now: int) -> Iterator[Found]:
        for found in self.select(kind, api, 0, now, now).all():
            if found.cases.counted(kind, found.owner):
                yield found

    def _counts(self, alert: lives.Alert) -> bool:
        owner = self.filed.find_alert(alert.alert_id)
        return owner is None or self.filed.counted("alerts", owner)

    def _all(self, since: int, until: int) -> Iterator[cases.Cases]:
        self._told += [cases.Told(run, self._quirks) for run in self._backlogs[len(self._told) :]]
        yield from self._told
        yield self.filed
        if self._live is not None:
            numbers = self._live.buckets(since - self._live.longest - _LATE, until)
            buckets = {
                number: self._near[number] if number in self._near else self._bucket(number)
                for number in numbers
            }
            if len(numbers) <= _NEAR:
                self._near = buckets
            yield from filter(None, buckets.values())


def _ordered(
    kind: cases.Kind, parts: Sequence[tuple[cases.Cases, cases.Rows]], order: Order
) -> Sequence[tuple[int, int]]:
    """(part, place in it) of every row; of equal times what was filed last comes first, or last if ascending."""
    numbered = [(part, place) for part, (_, rows) in enumerate(parts) for place in range(len(rows.times))]
    if order == "creation":
        made = [known.created(kind, owner) for known, rows in parts for owner in rows.owners]
    else:
        made = [*itertools.chain.from_iterable(rows.times for _, rows in parts)]
    places = sorted(range(len(numbered)), key=made.__getitem__)
    if order != "update_asc":
        places.reverse()
    return [numbered[place] for place in places]

"""Alerts and incidents handed in one by one, with every change of them: what a test needs to say exactly.

They obey the rules of the generated ones: a change of an alert is a change of its incident, a merged incident
is redirected, and its alerts follow the survivor.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from service.simulator import cases, lives

APIS: frozenset[cases.Api] = frozenset({"mde", "xdr", "graph"})


@dataclasses.dataclass(slots=True)
class _Alert:
    """versions: in order of update time, with when they can be seen."""

    apis: frozenset[cases.Api]
    counted: bool
    versions: list[tuple[int, lives.Alert]]

    def at(self, at: int) -> lives.Alert | None:
        """The version of that time; None before there was one."""
        place = bisect.bisect_right(self.versions, at, key=lambda each: each[1].updated)
        return self.versions[place - 1][1] if place else None


@dataclasses.dataclass(slots=True)
class _Incident:
    """changes: (time, visible from, what differs from that time on from what follows from the alerts)."""

    number: int
    created: int
    apis: frozenset[cases.Api]
    counted: bool
    changes: list[tuple[int, int, Mapping[str, Any]]]
    members: list[int] = dataclasses.field(default_factory=list)  # alerts that ever belonged to it


class Filed:
    """What was handed in for one tenant."""

    def __init__(self) -> None:
        self._alerts: list[_Alert] = []
        self._incidents: list[_Incident] = []
        self._by_id: dict[str, int] = {}
        self._by_number: dict[int, int] = {}
        self._timelines: dict[tuple[cases.Kind, cases.Api], cases.Timeline] = {}

    def add_incident(
        self,
        number: int,
        at: int,
        visible: int,
        state: Mapping[str, Any],
        *,
        apis: Iterable[cases.Api] = APIS,
        counted: bool = True,
    ) -> None:
        """A new incident, without alerts yet; `state`: members of `lives.Incident`. ValueError: number taken."""
        if number in self._by_number:
            raise ValueError(f"incident {number} exists already")
        self._by_number[number] = len(self._incidents)
        self._incidents.append(_Incident(number, at, frozenset(apis), counted, [(at, visible, state)]))
        self._timelines.clear()

    def add_alert(
        self,
        alert: lives.Alert,
        visible: int,
        *,
        apis: Iterable[cases.Api] = APIS,
        counted: bool = True,
    ) -> None:
        """A new alert in an incident that is there. ValueError: id taken, or no such incident."""
        if alert.alert_id in self._by_id:
            raise ValueError(f"alert {alert.alert_id} exists already")
        self._join(alert.incident, len(self._alerts))
        self._by_id[alert.alert_id] = len(self._alerts)
        self._alerts.append(_Alert(frozenset(apis), counted, [(visible, alert)]))
        self._timelines.clear()

    @property
    def count(self) -> int:
        """How many records were handed in."""
        return len(self._alerts) + len(self._incidents)

    def newest(self, alert_id: str) -> lives.Alert:
        """The last version handed in. ValueError: no such alert."""
        return self._alert_of(alert_id).versions[-1][1]

    def change_alert(self, changed: lives.Alert, visible: int) -> None:
        """A newer version (or another one of the same time, which replaces it). ValueError: an older one."""
        record = self._alert_of(changed.alert_id)
        last = record.versions[-1][1].updated
        if changed.updated < last:
            raise ValueError("a change cannot be older than the one before it")
        if changed.updated == last:
            record.versions.pop()
        record.versions.append((visible, changed))
        self._join(changed.incident, self._by_id[changed.alert_id])
        self._timelines.clear()

    def change_incident(self, number: int, at: int, visible: int, state: Mapping[str, Any]) -> None:
        """From `at` on these members of `lives.Incident` differ. ValueError: no such incident."""
        record = self._incident_of(number)
        if at < record.changes[-1][0]:
            raise ValueError("a change cannot be older than the one before it")
        record.changes.append((at, visible, {**record.changes[-1][2], **state}))
        self._timelines.clear()

    def merge(self, number: int, into: int, at: int, visible: int) -> None:
        """Redirect an incident; its alerts follow. ValueError: no such incidents."""
        self._incident_of(into)
        for owner in self._incident_of(number).members:
            version = self._alerts[owner].versions[-1][1]
            if version.incident == number:
                self.change_alert(version._replace(updated=at, incident=into), visible)
        self.change_incident(number, at, visible, {"status": "Redirected", "redirect": into, "alerts": ()})

    def timeline(self, kind: cases.Kind, api: cases.Api, /) -> cases.Timeline:
        """The versions that this API shows."""
        if (kind, api) not in self._timelines:
            made = (
                cases.Timeline(
                    [(version.updated, visible) for visible, version in each.versions]
                    if api in each.apis
                    else ()
                    for each in self._alerts
                )
                if kind == "alerts"
                else cases.Timeline(
                    self._incident_versions(each) if api in each.apis else () for each in self._incidents
                )
            )
            self._timelines[kind, api] = made
        return self._timelines[kind, api]

    def created(self, kind: cases.Kind, owner: int) -> int:
        """When the record was made."""
        return (
            self._alerts[owner].versions[0][1].created if kind == "alerts" else self._incidents[owner].created
        )

    def alert(self, owner: int, at: int) -> lives.Alert:
        """The version of that time."""
        return self._alerts[owner].at(at) or self._alerts[owner].versions[0][1]

    def incident(self, owner: int, at: int) -> lives.Incident:
        """The version of that time, with its alerts as they were then."""
        record = self._incidents[owner]
        alerts = [self._alerts[each].at(at) for each in record.members]
        own = [each for each in alerts if each is not None and each.incident == record.number]
        place = bisect.bisect_right(record.changes, at, key=lambda each: each[0])
        state = record.changes[max(place - 1, 0)][2]
        if own:
            told = lives.incident(record.number, at, own, None, None)
        else:
            told = lives.Incident(record.number, record.created, at, "An incident", ())
        return told._replace(created=record.created, **state)

    def find_alert(self, alert_id: str) -> int | None:
        """The place of the alert with that id."""
        return self._by_id.get(alert_id)

    def find(self, incident: int) -> int | None:
        """The place of the incident with that number."""
        return self._by_number.get(incident)

    def counted(self, kind: cases.Kind, owner: int, /) -> bool:
        """Whether the record is part of the truth."""
        return self._alerts[owner].counted if kind == "alerts" else self._incidents[owner].counted

    def _incident_versions(self, record: _Incident) -> list[tuple[int, int]]:
        latest = {at: visible for at, visible, _ in record.changes}
        for owner in record.members:
            belonged = False
            for visible, version in self._alerts[owner].versions:
                belongs = version.incident == record.number
                if belongs or belonged:  # leaving is a change, too
                    latest[version.updated] = max(visible, latest.get(version.updated, 0))
                belonged = belongs
        return sorted(latest.items())

    def _join(self, number: int, owner: int) -> None:
        members = self._incident_of(number).members
        if not members or (members[-1] != owner and owner not in members):
            members.append(owner)

    def _alert_of(self, alert_id: str) -> _Alert:
        if alert_id not in self._by_id:
            raise ValueError(f"no alert {alert_id[:60]!r} was filed")
        return self._alerts[self._by_id[alert_id]]

    def _incident_of(self, number: int) -> _Incident:
        if number not in self._by_number:
            raise ValueError(f"no incident {number} was filed")
        return self._incidents[self._by_number[number]]

"""Filing alerts and incidents of one tenant one by one, and changing them: what tests of exact content say.

    desk = filing.Desk(shown, tenant_id)
    alert_id = desk.add_alert(at=noon)
    desk.update_alert(alert_id, at=noon + ticks.HOUR, status="InProgress", comment="mine")

Words are those of Defender for Endpoint ("InProgress", "High"). Times are ticks. What is filed can be seen from
its time on, or later (`visible_at`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from service.simulator import cases, dice, filed, lives, runs, stories, world


class Desk:
    """Where a tenant's records are handed in."""

    def __init__(self, shown: world.World, tenant_id: str) -> None:
        self._tenant = shown.tenants[tenant_id]
        self._filed = shown.casebook(tenant_id).filed
        self._rng = dice.Dice(f"{shown.seed}/{tenant_id}/filed/{self._filed.count}")

    def add_alert(
        self,
        *,
        at: int,
        alert_id: str | None = None,
        incident: int | None = None,
        parts: int = 1,
        apis: Iterable[cases.Api] = filed.APIS,
        counted: bool | None = None,
        visible_at: int | None = None,
        siem: bool = False,
        **state: Any,
    ) -> str:
        """An alert raised at `at`; returns its id.

        incident: one that was filed; None makes one of its own. parts: detections that it starts with. apis:
        which show it. counted: whether it is part of the truth (unless told otherwise: if it names no other
        tenant). siem: file its detections for the SIEM API, too. state: members of `lives.Alert`, such as
        status, severity, tenant, fields={"mde": {…}}, raw={"graph": b"…"}. Raises ValueError: id taken.
        """
        story = self._rng.getrandbits(64)
        apis = frozenset(apis)
        if incident is None:
            incident = self.add_incident(at=at, visible_at=visible_at, alerts=0, apis=apis, counted=counted)
        made = lives.Alert(
            alert_id or stories.alert_id(story, at),
            story,
            at,
            at,
            tuple((part, at) for part in range(parts)),
            incident,
        )._replace(**{"severity": "Medium", **state})
        true = made.tenant is None if counted is None else counted
        self._filed.add_alert(made, at if visible_at is None else visible_at, apis=apis, counted=true)
        if siem:
            self._file_detections(story, at, parts, at if visible_at is None else visible_at)
        return made.alert_id

    def add_incident(
        self,
        *,
        at: int,
        alerts: int = 1,
        incident: int | None = None,
        apis: Iterable[cases.Api] = filed.APIS,
        counted: bool | None = None,
        visible_at: int | None = None,
        **state: Any,
    ) -> int:
        """An incident made at `at` with so many alerts raised then; returns its id.

        state: members of `lives.Incident`. Raises ValueError: id taken.
        """
        number = incident or lives.incident_id(self._rng.getrandbits(64), at)
        seen = at if visible_at is None else visible_at
        self._filed.add_incident(number, at, seen, state, apis=apis, counted=counted is not False)
        for _ in range(alerts):
            self.add_alert(at=at, incident=number, apis=apis, counted=counted, visible_at=visible_at)
        return number

    def update_alert(
        self,
        alert_id: str,
        *,
        at: int,
        comment: str | None = None,
        evidence: int = 0,
        visible_at: int | None = None,
        **state: Any,
    ) -> None:
        """A newer version: a comment more, so many detections more, and what `state` says.

        Raises ValueError: no such alert was filed, or it has a newer version.
        """
        before = self._filed.newest(alert_id)
        parts = before.parts + tuple((len(before.parts) + number, at) for number in range(evidence))
        notes = before.notes + ((lives.Note(at, lives.ANALYSTS[0], comment),) if comment else ())
        resolved = at if state.get("status") == "Resolved" else before.resolved
        changed = before._replace(updated=at, parts=parts, notes=notes, resolved=resolved)._replace(**state)
        self._filed.change_alert(changed, at if visible_at is None else visible_at)

    def update_incident(self, incident: int, *, at: int, visible_at: int | None = None, **state: Any) -> None:
        """From `at` on these members of `lives.Incident` differ. Raises ValueError."""
        self._filed.change_incident(incident, at, at if visible_at is None else visible_at, state)

    def merge(self, incident: int, into: int, *, at: int, visible_at: int | None = None) -> None:
        """The incident is redirected, its alerts follow the survivor. Raises ValueError."""
        self._filed.merge(incident, into, at, at if visible_at is None else visible_at)

    def add_raw(
        self,
        raw: Mapping[cases.Api, bytes],
        *,
        at: int,
        kind: cases.Kind = "alerts",
        visible_at: int | None = None,
    ) -> None:
        """Any bytes as a record of each of these APIs, not part of the truth.

        In XDR, and in Graph as an incident, a raw alert is nested in an incident that is sound.
        """
        if kind == "alerts":
            self.add_alert(at=at, apis=raw, counted=False, visible_at=visible_at, raw=dict(raw))
        else:
            self.add_incident(at=at, apis=raw, counted=False, visible_at=visible_at, raw=dict(raw))

    def _file_detections(self, story: int, at: int, parts: int, visible: int) -> None:
        tenant = self._tenant
        tenant.given = tenant.given or runs.Given()
        for part in range(parts):
            raw = stories.render(tenant.estate, story, at, at, part)
            tenant.given.add(at, visible, raw, stories.full_id(story, at, part))

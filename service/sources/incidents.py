"""Incidents and the alerts inside of them: two kinds of record from one answer, each judged by itself.

An incident's alerts can weigh megabytes, so they are cut out of its record and read one by one: nothing holds
the whole twice, and what makes one of them unreadable costs neither its incident nor the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from service import errors, model, timestamps
from service.sources import bodies, contract, records, values

_ALERTS: Final = "alerts"
_GOES_ON: Final = "alerts@odata.nextLink"
"""OData's word for a list inside of a record that was cut: it goes on at this link."""
_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


def gather(
    pieces: bodies.Pieces,
    tenant_id: UUID,
    read_incident: Callable[[Mapping[str, Any]], model.Incident],
    read_alert: Callable[[msgspec.Raw], model.Alert],
) -> contract.Steps:
    """Read every incident with `read_incident`, from its fields, and every alert inside with `read_alert`.

    Both raise records.Unstorable where they cannot. What `read_incident` gives has no raw, hash and alert_ids
    yet. Of records with one key the newest counts, of equally old ones the last, over all incidents of the answer.
    """
    found = _Found()
    rejects: list[model.Reject] = []
    read = 0
    for place, piece in enumerate(pieces.records):
        if place + found.nested - read >= records.AT_ONCE:
            read = place + found.nested
            yield
        exact = pieces.exact.get(place) if pieces.exact else None
        try:
            record = _opened(piece, exact)
            incident = read_incident(records.fields(record.own, tenant_id))
        except records.Unstorable as failure:
            rejects.append(records.reject(failure, piece, exact))
            continue
        ids = None if record.inside is None else found.read(record.inside, incident, read_alert)
        if record.unreadable is not None:
            found.nested += 1
            found.rejects.append(record.unreadable)
        if record.cut:
            found.nested += 1
            found.rejects.append(_rest(incident, ids))
        found.keep(_whole(incident, record, ids))
    return model.Page(
        items=len(pieces.records),
        incidents=tuple(found.incidents.values()),
        alerts=tuple(found.alerts.values()),
        rejects=(*rejects, *found.rejects),
        duplicates=found.duplicates,
        nested=found.nested,
        nested_rejects=len(found.rejects),
        nested_duplicates=found.nested_duplicates,
    )


def key(value: object, name: str) -> str:
    """The incident's id as text. Raises records.Unstorable where there is none."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return records.key(values.identity(value) if number else value, name)


@dataclass(slots=True)
class _Found:
    """What an answer's records have brought so far; `rejects` are of nested alerts."""

    incidents: dict[str, model.Incident] = field(default_factory=dict)
    alerts: dict[str, model.Alert] = field(default_factory=dict)
    rejects: list[model.Reject] = field(default_factory=list)
    duplicates: int = 0
    nested: int = 0
    nested_duplicates: int = 0

    def keep(self, incident: model.Incident) -> None:
        held = self.incidents.get(incident.incident_id)
        if held is not None:
            self.duplicates += 1
        if held is None or _age(held) <= _age(incident):
            self.incidents[incident.incident_id] = incident

    def read(
        self,
        inside: bodies.Pieces,
        incident: model.Incident,
        read_alert: Callable[[msgspec.Raw], model.Alert],
    ) -> list[str]:
        """The ids of an incident's alerts, which are kept in passing."""
        ids: dict[str, None] = {}
        for place, piece in enumerate(inside.records):
            self.nested += 1
            exact = inside.exact.get(place) if inside.exact else None
            try:
                alert = _housed(records.one(piece, exact, read_alert), incident)
            except records.Unstorable as failure:
                self.rejects.append(records.reject(failure, piece, exact))
                continue
            ids[alert.alert_id or alert.full_id] = None
            held = self.alerts.get(alert.full_id)
            if held is not None:
                self.nested_duplicates += 1
            if held is None or records.age(held) <= records.age(alert):
                self.alerts[alert.full_id] = alert
        return list(ids)


def _age(incident: model.Incident) -> tuple[datetime, int]:
    return incident.last_update, timestamps.beyond(incident.source_updated_text)


@dataclass(frozen=True, slots=True)
class _Record:
    """An incident's record without its alerts, these apart, and what stood in their place where it was no array.

    `cut` where the service says that it has more of them than it shows.
    """

    own: msgspec.Raw
    own_exact: bytes | None
    inside: bodies.Pieces | None = None
    unreadable: model.Reject | None = None
    cut: bool = False


def _opened(piece: msgspec.Raw, exact: bytes | None) -> _Record:
    """The record taken apart. What is no object stays whole, for `records.fields` to say why it is rejected."""
    try:
        members = _members(piece)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _Record(piece, exact)
    inner = members.pop(_ALERTS, None)
    if inner is None:
        return _Record(piece, exact, cut=_is_cut(members))
    own = msgspec.Raw(msgspec.json.encode(members))
    own_exact = None
    text: msgspec.Raw | bytes = inner
    if exact is not None:
        own_exact, text = _opened_exactly(piece, exact)
    if bytes(memoryview(inner)[:4]) == b"null":
        return _Record(own, own_exact, cut=_is_cut(members))
    try:
        inside = bodies.split(text) if isinstance(text, bytes) else bodies.Pieces(_array(text), {})
        bodies.check_size(text, inside.records)
    except (msgspec.DecodeError, RecursionError, errors.BadBody):
        unreadable = model.Reject("alerts not an array of alerts", bytes(text))
        return _Record(own, own_exact, unreadable=unreadable)
    return _Record(own, own_exact, inside, cut=_is_cut(members))


def _is_cut(members: Mapping[str, msgspec.Raw]) -> bool:
    link = members.get(_GOES_ON)
    return link is not None and bytes(memoryview(link)[:4]) != b"null"


def _rest(incident: model.Incident, ids: list[str] | None) -> model.Reject:
    """Alerts of an incident that nobody saw. The link to them is another one each time, and would be as many rejects."""
    told = {"incident": incident.incident_id, "alerts shown": len(ids or ())}
    return model.Reject(
        "alerts of an incident cut off: they go on at a link that is not followed; graph_alerts brings them",
        msgspec.json.encode(told),
    )


def _opened_exactly(piece: msgspec.Raw, exact: bytes) -> tuple[bytes | None, bytes]:
    """The exact bytes of the record without its alerts, None where none of these were altered, and of the alerts.

    Replaced escapes have the length of what stands for them, so one place serves both.
    """
    clean = bytes(piece)
    try:
        start, end = bodies.members(clean, clean)[_ALERTS]
    except (errors.BadBody, KeyError):
        raise records.Unstorable("not JSON: its members cannot be told apart") from None
    same = exact[:start] == clean[:start] and exact[end:] == clean[end:]
    return None if same else exact[:start] + b"null" + exact[end:], exact[start:end]


def _whole(incident: model.Incident, record: _Record, ids: list[str] | None) -> model.Incident:
    digest: bytes = bytes(record.own) if record.own_exact is None else record.own_exact
    if ids is not None:
        # In one order: the service may list the same alerts in another one, which is no change.
        digest += b"\0" + "\0".join(sorted(ids)).encode()
    return msgspec.structs.replace(
        incident,
        raw=bytes(record.own),
        raw_exact=record.own_exact,
        content_hash=records.content_hash(digest),
        alert_ids=ids,
    )


def _housed(alert: model.Alert, incident: model.Incident) -> model.Alert:
    """The alert with its incident: the one that it names, else the one that it is in, or that this was merged into.

    One that names none is another alert, byte for byte, in another incident: so that it moves, its hash covers where it is.
    """
    named = alert.incident_id
    living = incident.redirect_incident_id or incident.incident_id
    if named is None:
        digest = f"{alert.content_hash}\0{incident.incident_id}".encode()
        return msgspec.structs.replace(alert, incident_id=living, content_hash=records.content_hash(digest))
    if named != incident.incident_id or named == living:
        return alert
    return msgspec.structs.replace(alert, incident_id=living)

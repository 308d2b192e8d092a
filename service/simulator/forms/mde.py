"""An alert as Defender for Endpoint's GET /api/alerts writes it."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from service.simulator import lives, playbooks, scenery, stories, ticks
from service.simulator.forms import frame


def render(place: frame.Place, alert: lives.Alert, *, expand: bool) -> bytes:
    """The alert's JSON; without `expand` its evidence is []."""
    if "mde" in alert.raw:
        return alert.raw["mde"]
    return msgspec.json.encode(values(place, alert, expand=expand))


def values(place: frame.Place, alert: lives.Alert, *, expand: bool = False) -> dict[str, Any]:
    """The alert's members in the documented casing."""
    events = frame.events(alert)
    device = frame.device(place, alert)
    user = scenery.user(place.estate, scenery.user_number(alert.story))
    family, threat = frame.family(alert)
    antivirus = all(alert.book.steps[part].source == "Antivirus" for part, _, _ in events)
    shown = {
        "id": alert.alert_id,
        "incidentId": alert.incident,
        "investigationId": None if alert.investigation == "Queued" else 1 + alert.story % 900_000,
        "assignedTo": alert.assigned,
        "severity": alert.severity,
        "status": alert.status,
        "classification": alert.classification,
        "determination": alert.determination,
        "investigationState": alert.investigation,
        "detectionSource": "WindowsDefenderAv" if antivirus else "WindowsDefenderAtp",
        "detectorId": alert.book.rule,
        "category": alert.book.category,
        "threatFamilyName": family,
        "threatName": threat,
        "title": alert.book.title,
        "description": alert.book.description,
        # This one keeps its zeros, as the documented sample does.
        "alertCreationTime": f"{ticks.text(alert.created)[:19]}.{alert.created % ticks.SECOND:07d}Z",
        "firstEventTime": ticks.text(events[0][1]),
        "lastEventTime": ticks.text(events[-1][1]),
        "lastUpdateTime": ticks.text(alert.updated),
        "resolvedTime": frame.time(alert.resolved),
        "machineId": device.device_id,
        "computerDnsName": device.dns_name,
        "rbacGroupName": device.group,
        "aadTenantId": alert.tenant or place.tenant_id,
        "mitreTechniques": frame.techniques(alert),
        "relatedUser": {"userName": user.name, "domainName": user.domain},
        "comments": [
            {"comment": note.text, "createdBy": note.author, "createdTime": ticks.text(note.at)}
            for note in alert.notes
        ],
        "evidence": _evidence(place, alert, events) if expand else [],
    }
    return frame.over(shown, alert.fields, "mde")


def _evidence(
    place: frame.Place, alert: lives.Alert, events: list[tuple[int, int, int]]
) -> list[msgspec.Raw]:
    user = scenery.user_number(alert.story)
    found = []
    for index, (part, happened, processed) in enumerate(events):
        seen, started = ticks.raw(processed), ticks.raw(happened)
        for kind, rest in _entities(place.estate, alert.story % stories.BOOKS, part, user):
            if kind == "User" and index:
                continue
            begun = b'"processCreationTime":"' + started + b'",' if kind == "Process" else b""
            head = b'{"entityType":"%b","evidenceCreationTime":"%b",' % (kind.encode(), seen)
            found.append(msgspec.Raw(head + begun + rest))
    return found


@functools.lru_cache(maxsize=8192)
def _entities(
    estate: stories.Estate, book: int, part: int, user_number: int
) -> tuple[tuple[str, bytes], ...]:
    """The entities of one step by kind: their members but for the times, and the closing brace."""
    user = scenery.user(estate, user_number)
    event = scenery.event(book, part, user_number)
    step, file = event.step, event.file
    account = {
        "accountName": user.name,
        "domainName": user.domain,
        "userSid": user.sid,
        "aadUserId": None,
        "userPrincipalName": user.principal,
    }
    found: list[tuple[str, dict[str, Any]]] = [("User", account)]
    digests = {"sha1": file.sha1, "sha256": file.sha256, "fileName": file.name, "filePath": file.path}
    if event.command:
        process = {
            "processId": event.process_id,
            "processCommandLine": event.command,
            "parentProcessId": event.parent_id,
            "parentProcessCreationTime": None,
            "parentProcessFileName": "cmd.exe",
            "parentProcessFilePath": playbooks.SYSTEM32,
        }
        found.append(("Process", digests | process | account))
    elif file.name:
        found.append(("File", digests))
    if step.ip:
        found.append(("Ip", {"ipAddress": step.ip}))
    if step.url:
        found.append(("Url", {"url": step.url}))
    if file.name == "reg.exe":
        key = {"registryHive": "HKEY_CURRENT_USER", "registryKey": "Software\\Run"}
        value = {"registryValueType": "String", "registryValue": "u.vbs"}
        found.append(("Registry", key | value))
    state = "Prevented" if step.remediated else "Detected"
    return tuple(
        (kind, frame.members(_ABSENT | values | {"detectionStatus": state}) + b"}") for kind, values in found
    )


# Members that do not fit the entity are null here.
_ABSENT: dict[str, Any] = dict.fromkeys(
    (
        "sha1", "sha256", "fileName", "filePath", "processId", "processCommandLine", "parentProcessId",
        "parentProcessCreationTime", "parentProcessFileName", "parentProcessFilePath", "ipAddress", "url",
        "registryKey", "registryHive", "registryValueType", "registryValue", "accountName", "domainName",
        "userSid", "aadUserId", "userPrincipalName",
    )
)  # fmt: skip

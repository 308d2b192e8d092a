"""An incident and its nested alerts as Defender XDR's GET /api/incidents writes them."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from service.simulator import lives, scenery, stories, ticks
from service.simulator.forms import frame


def incident(place: frame.Place, told: lives.Incident) -> bytes:
    """The incident's JSON."""
    if "xdr" in told.raw:
        return told.raw["xdr"]
    return msgspec.json.encode(values(place, told))


def values(place: frame.Place, told: lives.Incident) -> dict[str, Any]:
    """The incident's members in the documented casing."""
    shown = {
        "incidentId": told.incident,
        "redirectIncidentId": told.redirect,
        "incidentName": told.name,
        "createdTime": ticks.text(told.created),
        "lastUpdateTime": ticks.text(told.updated),
        "assignedTo": told.assigned,
        "classification": told.classification,
        "determination": told.determination,
        "status": told.status,
        "severity": told.severity,
        "tags": told.tags,
        "comments": [
            {"comment": note.text, "createdBy": note.author, "createdTime": ticks.text(note.at)}
            for note in told.notes
        ],
        "alerts": [msgspec.Raw(alert(place, each)) for each in told.alerts],
    }
    return frame.over(shown, told.fields, "xdr")


def alert(place: frame.Place, told: lives.Alert) -> bytes:
    """A nested alert's JSON; its update time is lastUpdatedTime, with a d."""
    if "xdr" in told.raw:
        return told.raw["xdr"]
    events = frame.events(told)
    device = frame.device(place, told)
    family, _ = frame.family(told)
    shown = {
        "alertId": told.alert_id,
        "incidentId": told.incident,
        "serviceSource": told.source,
        "creationTime": ticks.text(told.created),
        "lastUpdatedTime": ticks.text(told.updated),
        "resolvedTime": frame.time(told.resolved),
        "firstActivity": ticks.text(events[0][1]),
        "lastActivity": ticks.text(events[-1][1]),
        "title": told.book.title,
        "description": told.book.description,
        "category": told.book.category,
        "status": told.status,
        "severity": told.severity,
        "investigationId": None if told.investigation == "Queued" else 1 + told.story % 900_000,
        "investigationState": told.investigation,
        "classification": told.classification,
        "determination": told.determination,
        "detectionSource": "WindowsDefenderAtp",
        "assignedTo": told.assigned,
        "actorName": told.book.actor or None,
        "threatFamilyName": family,
        "mitreTechniques": frame.techniques(told),
        "devices": [msgspec.Raw(_device(place.estate, device.number))],
        "entities": _entities(place, told, events),
    }
    return msgspec.json.encode(frame.over(shown, told.fields, "xdr"))


@functools.lru_cache(maxsize=8192)
def _device(estate: stories.Estate, number: int) -> bytes:
    device = scenery.device(estate, number)
    shown = {
        "mdatpDeviceId": device.device_id,
        "aadDeviceId": None,
        "deviceDnsName": device.dns_name,
        "osPlatform": device.platform,
        "version": device.version,
        "osProcessor": "x64",
        "osBuild": device.build,
        "healthStatus": "Active",
        "riskScore": device.risk,
        "rbacGroupName": device.group,
        "rbacGroupId": device.group_id,
        "firstSeen": device.first_seen,
    }
    return msgspec.json.encode(shown)


def _entities(place: frame.Place, told: lives.Alert, events: list[tuple[int, int, int]]) -> list[msgspec.Raw]:
    user = scenery.user_number(told.story)
    device = frame.device(place, told)
    found = []
    for index, (part, happened, _) in enumerate(events):
        for kind, known in _kinds(place.estate, told.story % stories.BOOKS, part, user):
            if kind == "User" and index:
                continue
            rest = known
            if kind == "Process":
                rest += b',"processCreationTime":"' + ticks.raw(happened) + b'"'
            if kind in ("Process", "File"):
                rest += b',"deviceId":"' + device.device_id.encode() + b'"'
            found.append(msgspec.Raw(rest + b"}"))
    return found


@functools.lru_cache(maxsize=8192)
def _kinds(estate: stories.Estate, book: int, part: int, user_number: int) -> tuple[tuple[str, bytes], ...]:
    """The entities of one step, open at their end; members that do not fit an entity are left out."""
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
    digests = {"sha1": file.sha1, "sha256": file.sha256, "fileName": file.name, "filePath": file.path}
    found: list[tuple[str, dict[str, Any]]] = [("User", account)]
    if event.command:
        process = {
            "processId": event.process_id,
            "processCommandLine": event.command,
            "parentProcessId": event.parent_id,
        }
        found.append(("Process", digests | process))
    elif file.name:
        found.append(("File", digests))
    if step.ip:
        found.append(("Ip", {"ipAddress": step.ip}))
    if step.url:
        found.append(("Url", {"url": step.url}))
    if file.name == "reg.exe":
        key = {"registryHive": "HKEY_CURRENT_USER", "registryKey": "Software\\Run"}
        found.append(("Registry", key | {"registryValueType": "String", "registryValue": "u.vbs"}))
    return tuple((kind, b"{" + frame.members({"entityType": kind} | values)) for kind, values in found)

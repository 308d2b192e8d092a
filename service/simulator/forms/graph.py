"""An alert and an incident as Microsoft Graph's security API writes them: camelCase words, typed evidence."""

from __future__ import annotations

import functools
from typing import Any

import msgspec

from service.simulator import lives, scenery, stories, ticks
from service.simulator.forms import frame

_TYPE = "#microsoft.graph.security."
_DETERMINATIONS = {
    "CompromisedUser": "compromisedAccount",
    "ConfirmedUserActivity": "confirmedActivity",
    "InsufficientData": "notEnoughDataToValidate",
    "Clean": "notMalicious",
    "NotAvailable": "unknown",
}
_SOURCES = {
    "MicrosoftDefenderATP": "microsoftDefenderForEndpoint",
    "OfficeATP": "microsoftDefenderForOffice365",
    "AzureATP": "microsoftDefenderForIdentity",
    "MicrosoftCloudAppSecurity": "microsoftDefenderForCloudApps",
    "MTP": "microsoft365Defender",
}
# Members of enumerations that were defined after unknownFutureValue.
LATER = {
    "serviceSource": frozenset(
        {"microsoftDefenderForCloud", "microsoftSentinel", "microsoftThreatIntelligence"}
    ),
    "status": frozenset({"awaitingAction"}),
}


def alert(place: frame.Place, told: lives.Alert, *, later: bool) -> bytes:
    """The alert's JSON; without `later` the later members of enumerations are unknownFutureValue."""
    if "graph" in told.raw:
        return told.raw["graph"]
    return msgspec.json.encode(_masked(alert_values(place, told), later=later))


def incident(place: frame.Place, told: lives.Incident, *, expand: bool, later: bool) -> bytes:
    """The incident's JSON; `alerts` only with `expand`."""
    if "graph" in told.raw:
        return told.raw["graph"]
    shown = _masked(incident_values(place, told), later=later)
    if expand and "alerts" not in shown:
        shown["alerts"] = [msgspec.Raw(alert(place, each, later=later)) for each in told.alerts]
    return msgspec.json.encode(shown)


def alert_values(place: frame.Place, told: lives.Alert) -> dict[str, Any]:
    """The alert's members in the documented casing."""
    events = frame.events(told)
    family, threat = frame.family(told)
    tenant = told.tenant or place.tenant_id
    source = _SOURCES.get(told.source) or _lower(told.source)
    shown = {
        "id": told.alert_id,
        "providerAlertId": told.alert_id,
        "incidentId": str(told.incident),
        "status": _lower(told.status),
        "severity": "unknown" if told.severity == "UnSpecified" else _lower(told.severity),
        "classification": _lower(told.classification),
        "determination": _determination(told.determination),
        "serviceSource": source,
        "detectionSource": source,
        "productName": "Microsoft Defender for Endpoint",
        "detectorId": told.book.rule,
        "tenantId": tenant,
        "title": told.book.title,
        "description": told.book.description,
        "recommendedActions": "",
        "category": told.book.category,
        "assignedTo": told.assigned,
        "alertWebUrl": f"{frame.PORTAL}/alerts/{told.alert_id}?tid={tenant}",
        "incidentWebUrl": f"{frame.PORTAL}/incidents/{told.incident}?tid={tenant}",
        "actorDisplayName": told.book.actor or None,
        "threatDisplayName": threat,
        "threatFamilyName": family,
        "mitreTechniques": frame.techniques(told),
        "createdDateTime": ticks.text(told.created),
        "lastUpdateDateTime": ticks.text(told.updated),
        "resolvedDateTime": frame.time(told.resolved),
        "firstActivityDateTime": ticks.text(events[0][1]),
        "lastActivityDateTime": ticks.text(events[-1][1]),
        "investigationState": _lower(told.investigation),
        "alertPolicyId": None,
        "systemTags": [],
        "additionalData": None,
        "customDetails": None,
        "comments": _comments(told.notes),
        "evidence": _evidence(place, told, events),
    }
    return frame.over(shown, told.fields, "graph")


def incident_values(place: frame.Place, told: lives.Incident) -> dict[str, Any]:
    """The incident's members but for its alerts."""
    status = _lower(told.status)
    if status == "inProgress" and any(each.investigation == "PendingApproval" for each in told.alerts):
        status = "awaitingAction"
    shown = {
        "id": str(told.incident),
        "incidentWebUrl": f"{frame.PORTAL}/incidents/{told.incident}?tid={place.tenant_id}",
        "tenantId": place.tenant_id,
        "redirectIncidentId": None if told.redirect is None else str(told.redirect),
        "displayName": told.name,
        "description": told.name,
        "createdDateTime": ticks.text(told.created),
        "lastUpdateDateTime": ticks.text(told.updated),
        "assignedTo": told.assigned,
        "classification": _lower(told.classification),
        "determination": _determination(told.determination),
        "status": status,
        "severity": "unknown" if told.severity == "UnSpecified" else _lower(told.severity),
        "customTags": told.tags,
        "systemTags": [],
        "comments": _comments(told.notes),
        "lastModifiedBy": told.assigned or "Microsoft 365 Defender",
        "resolvingComment": None,
        "summary": None,
    }
    return frame.over(shown, told.fields, "graph")


def _masked(values: dict[str, Any], *, later: bool) -> dict[str, Any]:
    if later:
        return values
    hidden = {name: "unknownFutureValue" for name, words in LATER.items() if _among(values.get(name), words)}
    return values | hidden if hidden else values


def _among(word: object, words: frozenset[str]) -> bool:
    return isinstance(word, str) and word in words


def _lower(word: str | None) -> str | None:
    return None if word is None else word[:1].lower() + word[1:]


def _determination(word: str | None) -> str | None:
    return None if word is None else _DETERMINATIONS.get(word) or _lower(word)


def _comments(notes: tuple[lives.Note, ...]) -> list[dict[str, str]]:
    return [
        {"comment": note.text, "createdByDisplayName": note.author, "createdDateTime": ticks.text(note.at)}
        for note in notes
    ]


def _evidence(place: frame.Place, told: lives.Alert, events: list[tuple[int, int, int]]) -> list[msgspec.Raw]:
    user = scenery.user_number(told.story)
    device = frame.device(place, told)
    made = b'"createdDateTime":"' + ticks.raw(told.created) + b'",'
    found = [msgspec.Raw(b"{" + made + _device(place.estate, device.number, user))]
    for index, (part, happened, processed) in enumerate(events):
        head = b'{"createdDateTime":"' + ticks.raw(processed) + b'",'
        for kind, rest in _kinds(place.estate, told.story % stories.BOOKS, part, user):
            if kind == "userEvidence" and index:
                continue
            begun = b""
            if kind == "processEvidence":
                begun = b'"processCreationDateTime":"' + ticks.raw(happened) + b'",'
            if kind in ("processEvidence", "fileEvidence"):
                begun += b'"mdeDeviceId":"' + device.device_id.encode() + b'",'
            found.append(msgspec.Raw(head + begun + rest))
    return found


def _base(kind: str, verdict: str, remediation: str, tags: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "@odata.type": _TYPE + kind,
        "verdict": verdict,
        "remediationStatus": remediation,
        "remediationStatusDetails": None,
        "roles": [],
        "detailedRoles": [],
        "tags": tags,
    }


@functools.lru_cache(maxsize=8192)
def _device(estate: stories.Estate, number: int, user_number: int) -> bytes:
    device = scenery.device(estate, number)
    user = scenery.user(estate, user_number)
    own = {
        "firstSeenDateTime": device.first_seen,
        "mdeDeviceId": device.device_id,
        "azureAdDeviceId": None,
        "deviceDnsName": device.dns_name,
        "osPlatform": device.platform,
        "osBuild": device.build,
        "version": device.version,
        "healthStatus": "active",
        "riskScore": _lower(device.risk),
        "rbacGroupId": device.group_id,
        "rbacGroupName": device.group,
        "onboardingStatus": "onboarded",
        "defenderAvStatus": "unknown",
        "ipInterfaces": [f"10.{number % 250}.{number // 250}.17", "127.0.0.1"],
        "vmMetadata": None,
        "loggedOnUsers": [{"accountName": user.name, "domainName": user.domain}],
    }
    return frame.members(_base("deviceEvidence", "unknown", "none", device.tags) | own) + b"}"


@functools.lru_cache(maxsize=8192)
def _kinds(estate: stories.Estate, book: int, part: int, user_number: int) -> tuple[tuple[str, bytes], ...]:
    """The evidence of one step by kind: its members but for the times, and the closing brace."""
    user = scenery.user(estate, user_number)
    event = scenery.event(book, part, user_number)
    step, file = event.step, event.file
    account = {
        "accountName": user.name,
        "domainName": user.domain,
        "userSid": user.sid,
        "azureAdUserId": None,
        "userPrincipalName": user.principal,
        "displayName": None,
    }
    details = {
        "sha1": file.sha1,
        "sha256": file.sha256,
        "fileName": file.name,
        "filePath": file.path,
        "fileSize": file.size,
        "filePublisher": None,
        "signer": None,
        "issuer": None,
    }
    state = "prevented" if step.remediated else "detected"
    found: list[tuple[str, dict[str, Any]]] = [("userEvidence", {"userAccount": account})]
    if event.command:
        process = {
            "processId": event.process_id,
            "parentProcessId": event.parent_id,
            "processCommandLine": event.command,
            "parentProcessCreationDateTime": None,
            "detectionStatus": state,
            "imageFile": details,
            "parentProcessImageFile": None,
            "userAccount": account,
        }
        found.append(("processEvidence", process))
    elif file.name:
        found.append(("fileEvidence", {"detectionStatus": state, "fileDetails": details}))
    if step.ip:
        found.append(("ipEvidence", {"ipAddress": step.ip, "countryLetterCode": None}))
    if step.url:
        found.append(("urlEvidence", {"url": step.url}))
    if file.name == "reg.exe":
        found.append(
            ("registryKeyEvidence", {"registryHive": "HKEY_CURRENT_USER", "registryKey": "Software\\Run"})
        )
    verdict = "malicious" if step.threat else "suspicious"
    remediation = "remediated" if step.remediated else "none"
    return tuple(
        (kind, frame.members(_base(kind, verdict, remediation) | values) + b"}") for kind, values in found
    )

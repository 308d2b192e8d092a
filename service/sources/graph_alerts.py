"""Microsoft Graph: GET /v1.0/security/alerts_v2, mutable alerts of all Defender products, by `lastUpdateDateTime`.

From the pages "List alerts_v2", "alert resource type" and "alertEvidence resource type". 1,000 a page; a link to the next one,
and only its absence says that nothing follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from service import model
from service.sources import bodies, contract, odata, records, values

SERVICE: Final = "graph"
QUOTA: Final[tuple[tuple[int, float], ...]] = ((150, 60.0),)
"""Of any request on /security together: sources of this service share it."""
HEADERS: Final = (("Prefer", "include-unknown-enum-members"),)
"""Else members that are newer than the enumeration arrive as `unknownFutureValue`."""

_TYPE: Final = "#microsoft.graph.security."
_NO_REMEDIATION: Final = frozenset({"none", "unknown", "unknownFutureValue"})


def alert(record: msgspec.Raw, tenant_id: UUID) -> model.Alert:
    """A microsoft.graph.security.alert, listed or inside of an incident. Raises records.Unstorable."""
    found = records.fields(record, tenant_id)
    full_id = records.key(found.get("id"), "id")
    written = found.get("lastUpdateDateTime")
    updated = records.update_time(written, "lastUpdateDateTime")
    product = values.product(found.get("serviceSource"))
    evidence = values.objects(found.get("evidence"))
    devices = [each for each in evidence if each.get("@odata.type") == f"{_TYPE}deviceEvidence"]
    return model.Alert(
        full_id=full_id,
        last_processed_at=updated,
        source_updated_text=written or "",
        content_hash=records.content_hash(record),
        raw=bytes(record),
        alert_id=values.alert_id(full_id, product, found.get("providerAlertId")),
        incident_id=values.identity(found.get("incidentId")),
        title=records.text(found.get("title")),
        severity_rank=records.severity_rank(records.text(found.get("severity"))),
        status=values.alert_status(found.get("status")),
        category=records.text(found.get("category")) or _first(values.texts(found.get("categories"))),
        detection_source=records.text(found.get("detectionSource")),
        service_source=product,
        device_name=values.first(devices, lambda each: records.text(each.get("deviceDnsName"))),
        device_id=values.first((*devices, *evidence), lambda each: records.text(each.get("mdeDeviceId"))),
        device_group=values.first(devices, lambda each: records.text(each.get("rbacGroupName"))),
        user_name=_user(evidence),
        file_sha256=values.first(evidence, _sha256),
        threat_name=records.text(found.get("threatDisplayName"))
        or records.text(found.get("threatFamilyName")),
        mitre_techniques=values.texts(found.get("mitreTechniques")),
        assigned_to=records.text(found.get("assignedTo")),
        classification=values.word(found.get("classification")),
        determination=values.word(found.get("determination")),
        remediation_action=values.first(evidence, _remediation),
        event_time=values.time(found.get("firstActivityDateTime")),
        created_at=values.time(found.get("createdDateTime")),
        resolved_at=values.time(found.get("resolvedDateTime")),
    )


def _first(found: list[str] | None) -> str | None:
    return found[0] if found else None


def _user(evidence: list[Mapping[str, Any]]) -> str | None:
    """The account of a userEvidence, else of a process or mailbox; who was logged on is not who it is about."""
    users = [each for each in evidence if each.get("@odata.type") == f"{_TYPE}userEvidence"]
    accounts = (values.part(each.get("userAccount")) for each in (*users, *evidence))
    return values.first(
        accounts,
        lambda account: values.user(
            account.get("accountName"), account.get("domainName"), account.get("userPrincipalName")
        ),
    )


def _sha256(evidence: Mapping[str, Any]) -> str | None:
    for name in ("fileDetails", "imageFile"):
        if digest := records.sha256(records.text(values.part(evidence.get(name)).get("sha256"))):
            return digest
    return None


def _remediation(evidence: Mapping[str, Any]) -> str | None:
    status = records.text(evidence.get("remediationStatus"))
    return None if status in _NO_REMEDIATION else status


def _gather(pieces: bodies.Pieces, tenant_id: UUID) -> contract.Steps:
    return records.gather(pieces, lambda record: alert(record, tenant_id))


SOURCE: Final = odata.Api(
    name="graph_alerts",
    title="Graph security API",
    service=SERVICE,
    quota=QUOTA,
    roles=frozenset({"SecurityAlert.Read.All", "SecurityAlert.ReadWrite.All"}),
    scopes=frozenset({"SecurityAlert.Read.All", "SecurityAlert.ReadWrite.All"}),
    incidents=False,
    path="/v1.0/security/alerts_v2",
    time="lastUpdateDateTime",
    most=1_000,
    headers=HEADERS,
    gather=_gather,
    linked=True,
)

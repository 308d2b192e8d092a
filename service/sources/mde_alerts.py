"""The Defender for Endpoint API: GET /api/alerts, mutable alerts with their evidence, by `lastUpdateTime`.

From the pages "List alerts API", "Alert resource type" and "OData queries". 10,000 a page, no link to the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from service import model
from service.sources import bodies, contract, odata, records, values


def _alert(record: msgspec.Raw, tenant_id: UUID) -> model.Alert:
    found = records.fields(record, tenant_id)
    full_id = records.key(found.get("id"), "id")
    written = found.get("lastUpdateTime")
    updated = records.update_time(written, "lastUpdateTime")
    evidence = values.objects(found.get("evidence"))
    return model.Alert(
        full_id=full_id,
        last_processed_at=updated,
        source_updated_text=written or "",
        content_hash=records.content_hash(record),
        raw=bytes(record),
        alert_id=full_id,
        incident_id=values.identity(found.get("incidentId")),
        title=records.text(found.get("title")),
        severity_rank=records.severity_rank(records.text(found.get("severity"))),
        status=values.alert_status(found.get("status")),
        category=records.text(found.get("category")),
        detection_source=records.text(found.get("detectionSource")),
        service_source=values.ENDPOINT,
        device_name=records.text(found.get("computerDnsName")),
        device_id=records.text(found.get("machineId")),
        device_group=records.text(found.get("rbacGroupName")),
        user_name=_user(found, evidence),
        file_sha256=values.first(evidence, lambda each: records.sha256(records.text(each.get("sha256")))),
        threat_name=records.text(found.get("threatName")) or records.text(found.get("threatFamilyName")),
        mitre_techniques=values.texts(found.get("mitreTechniques")),
        assigned_to=records.text(found.get("assignedTo")),
        classification=values.word(found.get("classification")),
        determination=values.word(found.get("determination")),
        event_time=values.time(found.get("firstEventTime")),
        created_at=values.time(found.get("alertCreationTime")),
        resolved_at=values.time(found.get("resolvedTime")),
    )


def _user(found: Mapping[str, Any], evidence: list[Mapping[str, Any]]) -> str | None:
    related = values.part(found.get("relatedUser"))
    return values.user(related.get("userName"), related.get("domainName")) or values.entity_user(evidence)


def _gather(pieces: bodies.Pieces, tenant_id: UUID) -> contract.Steps:
    return records.gather(pieces, lambda record: _alert(record, tenant_id))


SOURCE: Final = odata.Api(
    name="mde_alerts",
    title="Defender for Endpoint API",
    service="mde",
    quota=((100, 60.0), (1_500, 3_600.0)),
    roles=frozenset({"Alert.Read.All", "Alert.ReadWrite.All"}),
    scopes=frozenset({"Alert.Read", "Alert.ReadWrite"}),
    incidents=False,
    path="/api/alerts",
    time="lastUpdateTime",
    most=10_000,
    expand="evidence",
    gather=_gather,
    linked=False,
)

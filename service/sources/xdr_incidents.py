"""The Defender XDR API: GET /api/incidents, mutable incidents with their alerts inside, by `lastUpdateTime`.

From the pages "List incidents API" and "Incidents API". 100 a page, newest first. When incidents are merged, the one that
ends points to the one that stays. A naming trap: an incident has `lastUpdateTime`, an alert `lastUpdatedTime`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from uuid import UUID

import msgspec

from service import model
from service.sources import bodies, contract, incidents, odata, records, values


def _incident(found: Mapping[str, Any]) -> model.Incident:
    incident_id = incidents.key(found.get("incidentId"), "incidentId")
    written = found.get("lastUpdateTime")
    redirected = values.identity(found.get("redirectIncidentId"))
    return model.Incident(
        incident_id=incident_id,
        last_update=records.update_time(written, "lastUpdateTime"),
        source_updated_text=written or "",
        content_hash=0,
        raw=b"",
        title=records.text(found.get("incidentName")),
        severity_rank=records.severity_rank(records.text(found.get("severity"))),
        status=values.incident_status(found.get("status")),
        classification=values.word(found.get("classification")),
        determination=values.word(found.get("determination")),
        assigned_to=records.text(found.get("assignedTo")),
        redirect_incident_id=redirected if redirected != incident_id else None,
        tags=values.texts(found.get("tags")),
        created_at=values.time(found.get("createdTime")),
        incident_url=values.web_address(found.get("incidentUri")),  # in newer answers
    )


def _alert(record: msgspec.Raw, tenant_id: UUID) -> model.Alert:
    found = records.fields(record, tenant_id)
    full_id = records.key(found.get("alertId"), "alertId")
    written = found.get("lastUpdatedTime")
    updated = records.update_time(written, "lastUpdatedTime")
    product = values.product(found.get("serviceSource"))
    devices = values.objects(found.get("devices"))
    entities = values.objects(found.get("entities"))
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
        category=records.text(found.get("category")),
        detection_source=records.text(found.get("detectionSource")),
        service_source=product,
        device_name=values.first(devices, lambda each: records.text(each.get("deviceDnsName"))),
        device_id=values.first(devices, lambda each: records.text(each.get("mdatpDeviceId"))),
        device_group=values.first(devices, lambda each: records.text(each.get("rbacGroupName"))),
        user_name=values.entity_user(entities),
        file_sha256=values.first(entities, lambda each: records.sha256(records.text(each.get("sha256")))),
        threat_name=records.text(found.get("threatFamilyName")),
        mitre_techniques=values.texts(found.get("mitreTechniques")),
        assigned_to=records.text(found.get("assignedTo")),
        classification=values.word(found.get("classification")),
        determination=values.word(found.get("determination")),
        event_time=values.time(found.get("firstActivity")),
        created_at=values.time(found.get("creationTime")),
        resolved_at=values.time(found.get("resolvedTime")),
    )


def _gather(pieces: bodies.Pieces, tenant_id: UUID) -> contract.Steps:
    return incidents.gather(pieces, tenant_id, _incident, lambda record: _alert(record, tenant_id))


SOURCE: Final = odata.Api(
    name="xdr_incidents",
    title="Defender XDR API",
    service="xdr",
    quota=((50, 60.0), (1_500, 3_600.0)),
    roles=frozenset({"Incident.Read.All", "Incident.ReadWrite.All"}),
    scopes=frozenset({"Incident.Read", "Incident.ReadWrite"}),
    incidents=True,
    path="/api/incidents",
    time="lastUpdateTime",
    most=100,
    gather=_gather,
    linked=False,
)

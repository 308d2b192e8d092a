"""Microsoft Graph: GET /v1.0/security/incidents, mutable incidents with their alerts, by `lastUpdateDateTime`.

From the pages "List incidents" and "incident resource type". 50 a page at most. `$expand=alerts` together with `$filter` is known
to bring a lasting 500 in large tenants: without it (`expand=false`) the incidents come alone, and their alerts by graph_alerts.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

from service import model
from service.sources import bodies, contract, graph_alerts, incidents, odata, records, values


def _incident(found: Mapping[str, Any]) -> model.Incident:
    incident_id = incidents.key(found.get("id"), "id")
    written = found.get("lastUpdateDateTime")
    redirected = values.identity(found.get("redirectIncidentId"))
    tags = [*(values.texts(found.get("customTags")) or ()), *(values.texts(found.get("systemTags")) or ())]
    return model.Incident(
        incident_id=incident_id,
        last_update=records.update_time(written, "lastUpdateDateTime"),
        source_updated_text=written or "",
        content_hash=0,
        raw=b"",
        title=records.text(found.get("displayName")),
        severity_rank=records.severity_rank(records.text(found.get("severity"))),
        status=values.incident_status(found.get("status")),
        classification=values.word(found.get("classification")),
        determination=values.word(found.get("determination")),
        assigned_to=records.text(found.get("assignedTo")),
        redirect_incident_id=redirected if redirected != incident_id else None,
        tags=values.texts(tags),
        created_at=values.time(found.get("createdDateTime")),
        incident_url=values.web_address(found.get("incidentWebUrl")),
    )


def _gather(pieces: bodies.Pieces, tenant_id: UUID) -> contract.Steps:
    return incidents.gather(
        pieces, tenant_id, _incident, lambda record: graph_alerts.alert(record, tenant_id)
    )


SOURCE: Final = odata.Api(
    name="graph_incidents",
    title="Graph security API",
    service=graph_alerts.SERVICE,
    quota=graph_alerts.QUOTA,
    roles=frozenset({"SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All"}),
    scopes=frozenset({"SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All"}),
    incidents=True,
    path="/v1.0/security/incidents",
    time="lastUpdateDateTime",
    most=50,
    expand="alerts",
    headers=graph_alerts.HEADERS,
    switches=MappingProxyType({"expand": True, **odata.ORDERED}),
    relief=MappingProxyType({"expand": False}),
    gather=_gather,
    linked=True,
)

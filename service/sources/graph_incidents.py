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
from service.sources import bodies, graph_alerts, incidents, odata, records, values

TOP: Final = 50
_SWITCHES: Final = {"expand": True, "ordered": False}


class GraphIncidents:
    """See sources.contract.Source."""

    name: Final = "graph_incidents"
    service: Final = graph_alerts.SERVICE
    quota: Final = graph_alerts.QUOTA
    reach: Final = None  # no page says
    roles: Final = frozenset({"SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All"})
    mutable: Final = True
    incidents: Final = True
    most: Final = TOP
    relief: Final[Mapping[str, Any]] = MappingProxyType({"expand": False})

    def check_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """`expand` (default true) asks for the alerts too; `ordered` (default false) for `$orderby`, which no page
        documents; see sources.contract.Source.
        """
        return odata.check_switches("Graph security API", parameters, _SWITCHES)

    def request(self, window: model.Window, parameters: Mapping[str, Any]) -> model.Request:
        """GET /v1.0/security/incidents for the window and a millisecond around it."""
        return odata.request(
            self.service,
            "/v1.0/security/incidents",
            window,
            parameters,
            time="lastUpdateDateTime",
            top=TOP,
            expand="alerts" if parameters.get("expand", True) else None,
            headers=graph_alerts.HEADERS,
        )

    def read(
        self,
        body: bytes,
        window: model.Window,
        tenant_id: UUID,
        *,
        asked: model.Request | None = None,
        base_url: str = "",
    ) -> model.Page:
        """Incidents, and their alerts where they were asked for; see sources.contract.Source."""
        del window
        answer = bodies.envelope(body)
        page = incidents.gather(
            answer.pieces, tenant_id, _incident, lambda record: graph_alerts.alert(record, tenant_id)
        )
        return odata.by_link(page, answer.next_link, TOP, asked, base_url)


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
        raw="",
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

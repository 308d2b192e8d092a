"""Defender for Endpoint: GET /mde/api/alerts (and /mde/api/v1.0/alerts).

As documented: token for https://api.securitycenter.microsoft.com with Alert.Read.All; `$filter`, `$top` up to
10,000 (also the page without it), `$skip`, `$expand=evidence`; no nextLink where `$top` is sent; 100 calls a
minute and 1,500 an hour for an app and tenant; errors as {"error": {code, message, target}}. Choices besides
those of `defender`: without `$top` a nextLink with `$skip` where more than a page is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.simulator import casebook, chaos, defender, pages, queries
from service.simulator.forms import mde

DOCUMENTED = defender.Choices(largest=10_000, page=10_000, per_minute=100, per_hour=1500)
ALERTS = queries.Collection(
    documented=frozenset({"$filter", "$top", "$skip", "$expand"}),
    properties={
        "alertCreationTime": "time",
        "lastUpdateTime": "time",
        "lastEventTime": "time",
        "incidentId": "number",
        "investigationId": "number",
        "id": "text",
        "assignedTo": "text",
        "detectionSource": "text",
        "status": "text",
        "severity": "text",
        "category": "text",
    },
    watched="lastUpdateTime",
    created="alertCreationTime",
    expandable="evidence",
    context="https://api.securitycenter.microsoft.com/api/$metadata#Alerts",
)


class Mde(defender.Surface):
    """The API of a world."""

    surface = "mde"

    def place(self, path: str) -> bool:
        """Whether the request is for this API."""
        return path.rstrip("/").lower() in ("/mde/api/alerts", "/mde/api/v1.0/alerts")

    def roles(self, _path: str, /) -> tuple[str, ...]:
        """As the 403 text lists them."""
        return "Alert.Read.All", "Alert.ReadWrite.All"

    def scopes(self, _path: str, /) -> tuple[str, ...]:
        """As the documents list them."""
        return "Alert.Read", "Alert.ReadWrite"

    def page(
        self, request: web.BaseRequest, book: casebook.Casebook, now: int, fault: chaos.Fault | None, /
    ) -> pages.Page:
        """A page of alerts."""
        options = self.options(request, ALERTS, self.choices)
        if options.expand and fault is not None and fault.kind == "expand":
            raise defender.Refused(500, "An error has occurred.")

        def values(found: casebook.Found) -> Mapping[str, Any]:
            alert = found.alert()
            raw = alert.raw.get("mde")
            return mde.values(book.place, alert) if raw is None else pages.decoded(raw)

        found = self.listed(book, "alerts", options, now, values)
        top = self.choices.page if options.top is None else options.top
        picked, size = pages.cut(found, options.skip, top)
        return pages.Page(
            (mde.render(book.place, each.alert(), expand=options.expand) for each in picked),
            size,
            len(found),
            pages.skip_link(request, options, size, len(found)),
            ALERTS.context,
            counted=False,
            watched=ALERTS.watched,
        )

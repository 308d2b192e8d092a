"""Defender XDR: GET /xdr/api/incidents, incidents with their alerts.

As documented: token for https://api.security.microsoft.com with Incident.Read.All; `$filter` on lastUpdateTime,
createdTime, status, assignedTo; `$top` up to 100 (also the page without it), `$skip`, newest first; 50 calls a
minute and 1,500 an hour, and the body of the 429 says when the quota opens again. Choices besides those of
`defender`: Retry-After comes, too; without `$top` a nextLink with `$skip` where more than a page is left.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.simulator import casebook, chaos, defender, pages, queries, ticks
from service.simulator.forms import xdr

DOCUMENTED = defender.Choices(largest=100, page=100, per_minute=50, per_hour=1500)
INCIDENTS = queries.Collection(
    documented=frozenset({"$filter", "$top", "$skip"}),
    properties={"lastUpdateTime": "time", "createdTime": "time", "status": "text", "assignedTo": "text"},
    watched="lastUpdateTime",
    created="createdTime",
    expandable=None,
    context="https://api.security.microsoft.com/api/$metadata#Incidents",
)


class Xdr(defender.Surface):
    """The API of a world."""

    surface = "xdr"

    def place(self, path: str) -> bool:
        """Whether the request is for this API."""
        return path.rstrip("/").lower() == "/xdr/api/incidents"

    def roles(self, _path: str, /) -> tuple[str, ...]:
        """As the 403 text lists them."""
        return "Incident.Read.All", "Incident.ReadWrite.All"

    def scopes(self, _path: str, /) -> tuple[str, ...]:
        """As the documents list them."""
        return "Incident.Read", "Incident.ReadWrite"

    def throttle_text(self, _seconds: int, opens: int, /) -> str:
        """The body names the time from which on calls are let through."""
        at = ticks.text(opens + -opens % ticks.SECOND)
        return f"Too many requests. The quota is used up; requests can be made again from {at} on."

    def page(
        self, request: web.BaseRequest, book: casebook.Casebook, now: int, _fault: chaos.Fault | None, /
    ) -> pages.Page:
        """A page of incidents."""
        options = self.options(request, INCIDENTS, self.choices)

        def values(found: casebook.Found) -> Mapping[str, Any]:
            told = found.incident()
            raw = told.raw.get("xdr")
            return xdr.values(book.place, told) if raw is None else pages.decoded(raw)

        found = self.listed(book, "incidents", options, now, values)
        top = self.choices.page if options.top is None else options.top
        picked, size = pages.cut(found, options.skip, top)
        return pages.Page(
            (xdr.incident(book.place, each.incident()) for each in picked),
            size,
            len(found),
            pages.skip_link(request, options, size, len(found)),
            INCIDENTS.context,
            counted=False,
            watched=INCIDENTS.watched,
        )

"""Microsoft Graph security: GET /graph/v1.0/security/alerts_v2, …/incidents and …/incidents/{id}/alerts.

As documented: token for https://graph.microsoft.com; SecurityAlert.* for alerts (SecurityIncident.* is accepted
there, too, as the service's own text says), SecurityIncident.* for incidents; `$count`, `$filter` on listed
properties, `$skip` (alerts: 500 at most), `$top`, `$expand=alerts` for incidents (50 at most, else 400);
@odata.nextLink with an opaque $skiptoken until nothing is left; members of enumerations that came after
unknownFutureValue only with `Prefer: include-unknown-enum-members`; 150 calls a minute for an app and tenant
on all of /security together, refused ones count. Choices besides those of `defender`:
- `$top` of alerts is clamped to 1,000; without it a page has 100 alerts or 50 incidents.
- `$orderby=lastUpdateDateTime asc` (or desc, or createdDateTime desc) works for alerts; others there: 400.
- …/incidents/{id}/alerts takes what alerts_v2 takes; an unknown incident is 404, a redirected one has no alerts.
- A `$skiptoken` that is not ours: 400.
- * With `expand_breaks_at`: `$filter` and `$expand=alerts` together are 500 where an incident of the page has
  more alerts.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiohttp import web

from service.simulator import (
    answers,
    casebook,
    chaos,
    defender,
    lives,
    odata,
    pages,
    queries,
    ticks,
    tokens,
    world,
)
from service.simulator.forms import graph

ALERTS_DOCUMENTED = defender.Choices(
    largest=1000, page=100, per_minute=150, over="clamped", skip_most=500, orderby="honoured"
)
INCIDENTS_DOCUMENTED = defender.Choices(largest=50, page=50, per_minute=150)

_SHARED: Mapping[str, odata.Kind] = {
    "assignedTo": "text",
    "classification": "text",
    "createdDateTime": "time",
    "determination": "text",
    "lastUpdateDateTime": "time",
    "severity": "text",
    "status": "text",
}
ALERTS = queries.Collection(
    documented=frozenset({"$count", "$filter", "$skip", "$top", "$skiptoken"}),
    properties={**_SHARED, "serviceSource": "text"},
    watched="lastUpdateDateTime",
    created="createdDateTime",
    expandable=None,
    context="https://graph.microsoft.com/v1.0/$metadata#security/alerts_v2",
)
INCIDENTS = queries.Collection(
    documented=frozenset({"$count", "$filter", "$skip", "$top", "$skiptoken", "$expand"}),
    properties=_SHARED,
    watched="lastUpdateDateTime",
    created="createdDateTime",
    expandable="alerts",
    context="https://graph.microsoft.com/v1.0/$metadata#security/incidents",
)
_PATH = re.compile(r"/graph/v1\.0/security/(?:(alerts_v2)|(incidents)(?:/([^/]+)/alerts)?)/?", re.IGNORECASE)
_INCIDENT_ROLES = ("SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All")
_ALERT_ROLES = ("SecurityAlert.Read.All", "SecurityAlert.ReadWrite.All", *_INCIDENT_ROLES)


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """Both collections; the quota is that of `alerts`. expand_breaks_at: see the module's text."""

    alerts: defender.Choices = ALERTS_DOCUMENTED
    incidents: defender.Choices = INCIDENTS_DOCUMENTED
    expand_breaks_at: int | None = None


class Graph(defender.Surface):
    """The API of a world."""

    surface = "graph"

    def __init__(self, shown: world.World, signer: tokens.Signer, choices: Choices) -> None:
        super().__init__(shown, signer, choices.alerts, refused_count=True)
        self.both = choices

    def place(self, path: str) -> bool:
        """Whether the request is for this API."""
        return _PATH.fullmatch(path) is not None

    def roles(self, path: str, /) -> tuple[str, ...]:
        """As the 403 text lists them."""
        return _ALERT_ROLES if path.rstrip("/").lower().endswith("alerts_v2") else _INCIDENT_ROLES

    def scopes(self, path: str, /) -> tuple[str, ...]:
        """Of the same names as the roles."""
        return self.roles(path)

    def error(self, refused: defender.Refused, request: web.BaseRequest, /) -> answers.Answer:
        """{"error": {code, message, innerError}}."""
        code = "InvalidAuthenticationToken" if refused.status == 401 else refused.code
        asked = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        now = self.world.clock()
        inner = {
            "date": ticks.text(now - now % ticks.SECOND).removesuffix("Z"),
            "request-id": asked,
            "client-request-id": request.headers.get("client-request-id", asked)[:100],
        }
        details: dict[str, Any] = {"details": []} if refused.status == 400 else {}
        body = {"error": {"code": code, "message": refused.message, **details, "innerError": inner}}
        answer = answers.json(body, refused.status)
        headers = answer.headers | {"request-id": asked} | refused.headers
        return answers.Answer(refused.status, headers, answer.chunks)

    def throttle_text(self, _seconds: int, _opens: int, /) -> str:
        """The documented text."""
        return "Too many requests."

    def too_many(self, top: int, largest: int) -> defender.Refused:
        """The documented body: its code is empty."""
        return defender.Refused(
            400,
            f"The query specified in the URI is not valid. The limit of '{largest}' for Top query has been "
            f"exceeded. The value from the incoming request is '{top}'.",
            "",
        )

    def page(
        self, request: web.BaseRequest, book: casebook.Casebook, now: int, fault: chaos.Fault | None, /
    ) -> pages.Page:
        """A page of alerts, of incidents, or of one incident's alerts."""
        found = _PATH.fullmatch(request.path)
        later = "include-unknown-enum-members" in request.headers.get("Prefer", "").lower()
        if found is None or found[1]:
            return self._alerts(request, book, now, later=later)
        if found[3]:
            return self._nested(request, book, now, found[3], later=later)
        return self._incidents(request, book, now, fault, later=later)

    def _alerts(
        self, request: web.BaseRequest, book: casebook.Casebook, now: int, *, later: bool
    ) -> pages.Page:
        options = self.options(request, ALERTS, self.both.alerts)
        found = self.listed(book, "alerts", options, now, lambda each: _alert_values(book, each.alert()))
        picked, size, link = _paged(request, options, found, self.both.alerts.page)
        records = (graph.alert(book.place, each.alert(), later=later) for each in picked)
        return _page(records, size, len(found), link, ALERTS, options)

    def _incidents(
        self,
        request: web.BaseRequest,
        book: casebook.Casebook,
        now: int,
        fault: chaos.Fault | None,
        *,
        later: bool,
    ) -> pages.Page:
        options = self.options(request, INCIDENTS, self.both.incidents)
        if options.expand and fault is not None and fault.kind == "expand":
            raise defender.Refused(500, "An error has occurred.", "InternalServerError")

        def values(found: casebook.Found) -> Mapping[str, Any]:
            told = found.incident()
            raw = told.raw.get("graph")
            return graph.incident_values(book.place, told) if raw is None else pages.decoded(raw)

        found = self.listed(book, "incidents", options, now, values)
        picked, size, link = _paged(request, options, found, self.both.incidents.page)
        breaks = self.both.expand_breaks_at
        if breaks is not None and options.expand and options.filter.node is not None:
            picked = [*picked]
            if any(len(each.incident().alerts) > breaks for each in picked):
                raise defender.Refused(500, "An error has occurred.", "InternalServerError")
        records = (
            graph.incident(book.place, each.incident(), expand=options.expand, later=later) for each in picked
        )
        return _page(records, size, len(found), link, INCIDENTS, options)

    def _nested(
        self, request: web.BaseRequest, book: casebook.Casebook, now: int, name: str, *, later: bool
    ) -> pages.Page:
        options = self.options(request, ALERTS, self.both.alerts)
        number = int(name) if name.isascii() and name.isdigit() and len(name) < 19 else None
        told = None if number is None else book.find_incident(number, now)
        if told is None:
            raise defender.Refused(404, f"Incident '{name[:60]}' was not found.")
        found = [each for each in told.alerts if options.filter.fits(_alert_values(book, each))]
        found.sort(key=_NESTED_KEYS[options.order], reverse=options.order != "update_asc")
        picked, size, link = _paged(request, options, found, self.both.alerts.page)
        records = (graph.alert(book.place, each, later=later) for each in picked)
        context = f"https://graph.microsoft.com/v1.0/$metadata#security/incidents('{name}')/alerts"
        return _page(records, size, len(found), link, dataclasses.replace(ALERTS, context=context), options)


def _alert_values(book: casebook.Casebook, alert: lives.Alert) -> Mapping[str, Any]:
    raw = alert.raw.get("graph")
    return graph.alert_values(book.place, alert) if raw is None else pages.decoded(raw)


_NESTED_KEYS = {
    "creation": lambda each: each.created,
    "update": lambda each: each.updated,
    "update_asc": lambda each: each.updated,
}


def _paged(
    request: web.BaseRequest, options: queries.Options, found: Any, page: int
) -> tuple[Iterable[Any], int, str | None]:
    """The page, its size, and the link to the next one."""
    token = request.query.get("$skiptoken")
    skip = options.skip if token is None else _skip(token)
    picked, size = pages.cut(found, skip, page if options.top is None else options.top)
    if not size or skip + size >= len(found):
        return picked, size, None
    written = base64.urlsafe_b64encode(msgspec.json.encode({"s": skip + size, "v": 1})).rstrip(b"=")
    return (
        picked,
        size,
        pages.link(request, ("$skip", "$skiptoken"), ("$skiptoken", written.decode())),
    )


def _skip(token: str) -> int:
    try:
        value = msgspec.json.decode(
            base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)), type=dict[str, int]
        )
        return max(value["s"], 0)
    except (binascii.Error, ValueError, KeyError):
        raise defender.Refused(400, "The skip token is not valid.") from None


def _page(
    records: Iterable[bytes],
    size: int,
    total: int,
    link: str | None,
    collection: queries.Collection,
    options: queries.Options,
) -> pages.Page:
    return pages.Page(
        records, size, total, link, collection.context, counted=options.counted, watched=collection.watched
    )

"""Where Entra sends the administrator's browser back to: the only page that may face the internet, on a port of its own.

    GET {path of PUBLIC_URL}/consent?admin_consent=True&tenant=…&state=…      all else is 404

Everything in the query is hostile. Its form is looked at first, then `error`, then `state`, then `tenant`; nothing of it is
repeated in an answer or a log line. Only a genuine state reaches the database, and of those only so many a minute: who floods
this page hammers neither PostgreSQL nor Entra, which is asked by whoever proves the consent.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl
from uuid import UUID

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler
from aiolimiter import AsyncLimiter

from service import errors, metrics
from service.auth import aadsts, consent, sealing
from service.store import consents, pool
from service.web import pages

LONGEST_QUERY: Final = 6000
"""Characters: an error_description with its trace ids has about 500."""
_MOST_FIELDS: Final = 20
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_A_MINUTE: Final = 60.0
log = structlog.get_logger(__name__)


class Gate:
    """How much of what is asked may cost something: a token bucket for all, and one for each of the last links seen."""

    def __init__(self, *, a_minute: float = 120, a_link: float = 10, links: int = 1000) -> None:
        self._all = AsyncLimiter(a_minute, _A_MINUTE)
        self._said = AsyncLimiter(a_minute, _A_MINUTE)
        self._links: OrderedDict[UUID, AsyncLimiter] = OrderedDict()
        self._a_link = a_link
        self._most = links

    async def admits(self, invitation_id: UUID) -> bool:
        """Whether an answer to this link may go to the database now."""
        link = self._links.setdefault(invitation_id, AsyncLimiter(self._a_link, _A_MINUTE))
        self._links.move_to_end(invitation_id)
        if len(self._links) > self._most:
            self._links.popitem(last=False)
        if not link.has_capacity():
            return False
        await link.acquire()  # at once: there is room
        if not self._all.has_capacity():
            return False
        await self._all.acquire()
        return True

    async def may_say(self) -> bool:
        """Whether a refusal may have a log line: the counter has them all."""
        if not self._said.has_capacity():
            return False
        await self._said.acquire()
        return True


class Callback:
    """Turns the query of a request into an outcome: a key of `pages.PAGES`, and of the metric."""

    def __init__(
        self,
        database: pool.Database,
        sealer: sealing.Sealer,
        measured: metrics.Metrics,
        gate: Gate | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._metrics = measured
        self._gate = gate or Gate()

    async def take(self, query: str) -> str:
        """What became of this answer; it is counted, logged, and audited where its state is genuine."""
        invitation_id: UUID | None = None
        try:
            outcome, invitation_id = await self._decide(query)
        except errors.DatabaseUnavailable as error:
            outcome = "unavailable"
            log.warning("consent_unavailable", error=str(error))
        self._metrics.consent_callbacks.labels(outcome).inc()
        if outcome == "given":
            log.info("consent_given", invitation=str(invitation_id))
        elif await self._gate.may_say():
            named = str(invitation_id) if invitation_id else None
            log.warning("consent_refused", why=outcome, invitation=named)
        return outcome

    async def _decide(self, query: str) -> tuple[str, UUID | None]:
        values = fields(query)
        if values is None:
            return "unreadable", None
        refusal = "error" in values
        if "state" not in values:
            return "stateless", None
        state = consent.genuine(values["state"], self._sealer)
        if state is None:
            return "forged", None
        if state.expires_at <= datetime.now(UTC):
            return "expired", state.invitation_id
        if not await self._gate.admits(state.invitation_id):
            return "throttled", state.invitation_id
        if refusal:
            return await self._refuse(state.invitation_id, values), state.invitation_id
        said = values.get("tenant", "")
        if not _GUID.fullmatch(said) or values.get("admin_consent", "").lower() != "true":
            return "unreadable", state.invitation_id
        return await consents.give(self._database, state.invitation_id, UUID(said)), state.invitation_id

    async def _refuse(self, invitation_id: UUID, values: Mapping[str, str]) -> str:
        found = aadsts.refusal(values)
        label = found.label if found else "no reason"
        contradictory = "admin_consent" in values and values["admin_consent"].lower() == "true"
        outcome = await consents.refuse(
            self._database,
            invitation_id,
            f"nobody consented: declined, or by somebody who may not ({label}); the link still works",
            contradictory=contradictory,
        )
        return "contradictory" if contradictory and outcome == "refused" else outcome


def fields(query: str) -> dict[str, str] | None:
    """The parameters of a query, None where it is none that Entra would send: too long, too many, one twice, no UTF-8."""
    if len(query) > LONGEST_QUERY:
        return None
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        return None
    values = dict(pairs)
    return values if len(values) == len(pairs) else None


def application(callback: Callback, path: str) -> web.Application:
    """The one route, without a socket; `path` is where Entra sends the browser, such as /consent."""

    async def answer(request: web.Request) -> web.Response:
        return _page(await callback.take(request.rel_url.raw_query_string))

    app = web.Application(middlewares=[_plain_errors], client_max_size=1024)
    # no HEAD: whoever looks whether a link is alive would use it up
    app.router.add_get(path, answer, allow_head=False)
    app.on_response_prepare.append(_headers)
    return app


def _page(outcome: str) -> web.Response:
    page = pages.PAGES[outcome]
    headers = {"Retry-After": "60"} if page.status in (429, 503) else None
    return web.Response(text=page.html, status=page.status, content_type="text/html", headers=headers)


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as pages that repeat nothing of the request and show nothing of the inside."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _page("method" if error.status == 405 else "nothing")
    except Exception:
        # without the request: its query holds a state
        log.exception("callback_failed")
        return _page("broken")


async def _headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    response.headers.update(pages.HEADERS)

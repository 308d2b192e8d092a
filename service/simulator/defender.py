"""What the APIs of mutable records have in common: token, roles, quota, options, envelope and faults.

A module an API (`mde`, `xdr`, `graph`) says what differs. Choices where the documents are silent (`Choices`
changes those marked *):
- * Newest first means by creation: an old record with a fresh update then stands far behind.
- * `$orderby` and other options that are not documented are ignored (Graph alerts: `$orderby` works).
- * An over-great `$top` is 400; below 0, or no number: 400. A filter that cannot be read: 400.
- Limits of a `$filter` are compared in ticks of 100 ns, so `ge` and `gt` differ by one of them.
- `$skip` and a nextLink's token count places in the list as it is when asked: what changes between two pages
  moves, and can be missed.
- An incident's update time moves with every change of one of its alerts, an alert's when its incident is
  merged.
- The token is looked at first, then a planned fault, the quota, the tenant, its roles, the method, the options.
- The audience may end with a slash. A deleted tenant's answer is 403. Paths in any casing.
- Quotas are sliding windows; what was refused counts for Graph (documented), not for the others.
"""

from __future__ import annotations

import abc
import dataclasses
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

from aiohttp import web

from service.simulator import (
    answers,
    casebook,
    cases,
    chaos,
    dice,
    directory,
    pages,
    queries,
    quotas,
    ticks,
    tokens,
    world,
)

_CODES = {
    400: "BadRequest",
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    405: "BadRequest",
    410: "Gone",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
    504: "GatewayTimeout",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """An API's limits, and its behaviour where Microsoft does not document it.

    per_minute, per_hour: calls of one app for one tenant; None: no limit. largest: of `$top`. over: what becomes
    of a greater one. page: records without `$top`. skip_most: of `$skip`, 400 beyond. retry_after: whether 429
    says it in the header.
    """

    largest: int
    page: int
    per_minute: int | None
    per_hour: int | None = None
    over: Literal["refused", "clamped"] = "refused"
    skip_most: int | None = None
    newest_by: casebook.Order = "creation"
    orderby: Literal["honoured", "ignored", "refused"] = "ignored"
    undocumented: Literal["ignored", "refused"] = "ignored"
    retry_after: bool = True


class Refused(Exception):
    """The request is answered with an error."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = _CODES[status] if code is None else code
        self.message = message
        self.headers: dict[str, str] = {}


class Surface(abc.ABC):
    """One API of a world."""

    surface: ClassVar[chaos.Surface]

    def __init__(
        self, shown: world.World, signer: tokens.Signer, choices: Choices, *, refused_count: bool = False
    ) -> None:
        self.world = shown
        self.choices = choices
        self._signer = signer
        limits = (choices.per_minute, ticks.MINUTE), (choices.per_hour, ticks.HOUR)
        self._quota = quotas.Quota(limits, refused_count=refused_count)
        self._rng = dice.Dice(f"{shown.seed}/{self.surface}")

    @abc.abstractmethod
    def place(self, path: str) -> bool:
        """Whether the request is for this API."""

    @abc.abstractmethod
    def roles(self, path: str, /) -> tuple[str, ...]:
        """Any one of these app roles is needed."""

    @abc.abstractmethod
    def scopes(self, path: str, /) -> tuple[str, ...]:
        """Any one of these permissions is needed of who acts for a user."""

    @abc.abstractmethod
    def page(
        self, request: web.BaseRequest, book: casebook.Casebook, now: int, fault: chaos.Fault | None, /
    ) -> pages.Page:
        """The page that is asked for. Raises Refused."""

    def error(self, refused: Refused, _request: web.BaseRequest, /) -> answers.Answer:
        """{"error": {code, message, target}}; target: an id for the support."""
        target = str(uuid.UUID(int=self._rng.getrandbits(128), version=4))
        body = {"error": {"code": refused.code, "message": refused.message, "target": target}}
        answer = answers.json(body, refused.status)
        return answers.Answer(refused.status, answer.headers | refused.headers, answer.chunks)

    def throttled(self, wait: int, now: int) -> Refused:
        """The refusal of a call beyond the quota, `wait` ticks before the next one is let through."""
        seconds = -(-wait // ticks.SECOND)
        refused = Refused(429, self.throttle_text(seconds, now + wait))
        if self.choices.retry_after:
            refused.headers["Retry-After"] = str(seconds)
        return refused

    def throttle_text(self, seconds: int, _opens: int, /) -> str:
        """The message of a 429: seconds to wait, and the time in ticks when it is over."""
        return f"Too many requests. Retry after {seconds} seconds."

    def claims(self, request: web.BaseRequest) -> tokens.Claims:
        """The claims of the token that came with the request. Raises Refused (401)."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Refused(401, "Access token is empty.")
        try:
            claims = self._signer.verify(token.strip())
        except tokens.Invalid:
            raise Refused(401, "Access token validation failure.") from None
        now = self.world.clock()
        # Each cloud's API goes by a name of its own, and the tenant says at which cloud's we are.
        tenant = self.world.tenants.get(claims.tenant_id)
        meant = directory.APIS[tenant.cloud if tenant else "public"].get(self.surface)
        if claims.audience.removesuffix("/") != meant:
            raise Refused(401, "Access token validation failure. Invalid audience.")
        if not claims.not_before <= now < claims.expires_at:
            raise Refused(401, "Lifetime validation failed, the token is expired.")
        return claims

    def instead(self, fault: chaos.Fault, now: int, request: web.BaseRequest) -> answers.Answer | None:
        """What the fault puts in the place of the right answer; errors have the documented body."""
        answer = answers.instead(fault, now)
        if answer is None or fault.kind != "status" or fault.status not in _CODES:
            return answer
        refused = Refused(fault.status, "The service could not answer.")
        if fault.status == 429:
            refused = self.throttled(round(fault.seconds * ticks.SECOND), now)
        refused.headers = answer.headers
        return self.error(refused, request)

    def answer(
        self, request: web.BaseRequest, claims: tokens.Claims, fault: chaos.Fault | None
    ) -> tuple[answers.Answer, int]:
        """The answer and the number of records in it. Raises Refused."""
        now = self.world.clock()
        wait = self._quota.take(claims.app_id, claims.tenant_id, now)
        if wait:
            raise self.throttled(wait, now)
        tenant = self.world.tenants.get(claims.tenant_id)
        if tenant is None or tenant.deleted:
            raise Refused(403, "Account is not provisioned.")
        self._permitted(claims, request.path)
        if request.method != "GET":
            raise Refused(405, "The requested resource does not support this method.")
        page = self.page(request, self.world.casebook(tenant.tenant_id), self.world.shown_at(now), fault)
        return pages.wrap(page, fault, self._rng)

    def _permitted(self, claims: tokens.Claims, path: str) -> None:
        """Whether the token's permissions are enough. Raises Refused (403)."""
        if not claims.user:
            needed = self.roles(path)
            if not claims.roles.intersection(needed):
                held = ",".join(sorted(claims.roles))
                raise Refused(
                    403,
                    f"Missing application roles. API required roles: {','.join(needed)}, application roles: "
                    f"{held}.",
                )
            return
        needed = self.scopes(path)
        if not claims.scopes.intersection(needed):
            held = ",".join(sorted(claims.scopes))
            raise Refused(
                403,
                f"Missing user scopes. API required scopes: {','.join(needed)}, user scopes: {held}.",
            )
        user = self.world.users.get(claims.user)
        if user is not None and not user.reads:
            raise Refused(403, "The user is not authorized to view the data of this organization.")

    def options(
        self, request: web.BaseRequest, collection: queries.Collection, choices: Choices
    ) -> queries.Options:
        """Read the query. Raises Refused (400)."""
        try:
            return self._options(request, collection, choices)
        except queries.Bad as bad:
            raise Refused(400, str(bad)) from None

    def _options(
        self, request: web.BaseRequest, collection: queries.Collection, choices: Choices
    ) -> queries.Options:
        given = {name.lower(): value for name, value in reversed([*request.query.items()])}
        unknown = [
            name
            for name in given
            if name.startswith("$") and name not in collection.documented | {"$orderby"}
        ]
        if unknown and choices.undocumented == "refused":
            raise Refused(400, f"The query parameter '{unknown[0][:60]}' is not supported.")
        expand = queries.expand(given, collection)
        filtered = queries.filtered(given, collection)
        top = queries.whole(given, "$top")
        if top is not None and top > choices.largest:
            if choices.over == "refused":
                raise self.too_many(top, choices.largest)
            top = choices.largest
        skip = queries.whole(given, "$skip") or 0
        if choices.skip_most is not None and skip > choices.skip_most:
            raise Refused(
                400, f"The limit of '{choices.skip_most}' for Skip query has been exceeded: '{skip}'."
            )
        order = choices.newest_by
        if "$orderby" in given and choices.orderby == "refused":
            raise Refused(400, "The query parameter '$orderby' is not supported.")
        if "$orderby" in given and choices.orderby == "honoured":
            order = queries.order(given["$orderby"], collection)
        return queries.Options(
            filtered, top, skip, expand,
            "$count" in collection.documented and given.get("$count", "").lower() == "true", order,
        )  # fmt: skip

    def listed(
        self,
        book: casebook.Casebook,
        kind: cases.Kind,
        options: queries.Options,
        now: int,
        values: Callable[[casebook.Found], Mapping[str, Any]],
    ) -> casebook.Selection | Sequence[casebook.Found]:
        """All records that the filter means, in order; `values` are read only where it asks for more than times."""
        api: cases.Api = "mde" if self.surface == "mde" else "xdr" if self.surface == "xdr" else "graph"
        query = options.filter
        found = book.select(kind, api, query.since, query.until, now, options.order)
        return found if query.exact else [each for each in found.all() if query.fits(values(each))]

    def too_many(self, top: int, largest: int) -> Refused:
        """The refusal of an over-great `$top`."""
        return Refused(400, f"The limit of '{largest}' for Top query has been exceeded: '{top}'.")

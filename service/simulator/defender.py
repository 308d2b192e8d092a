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
import collections
import dataclasses
import itertools
import urllib.parse
import uuid
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import msgspec
from aiohttp import web

from service.simulator import answers, casebook, cases, chaos, dice, odata, ticks, tokens, world

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


class Options(NamedTuple):
    """The query as read; `top` None where it was not given."""

    filter: odata.Filter
    top: int | None
    skip: int
    expand: bool
    counted: bool
    order: casebook.Order


@dataclasses.dataclass(frozen=True, slots=True)
class Collection:
    """One list of records and what may be asked of it."""

    documented: frozenset[str]
    properties: Mapping[str, odata.Kind]
    watched: str
    created: str
    expandable: str | None
    context: str


class Page(NamedTuple):
    """The records of one answer; total: of the whole list."""

    records: Iterable[bytes]
    size: int
    total: int
    link: str | None
    context: str
    counted: bool
    watched: str


class Quota:
    """Calls of one app for one tenant in a sliding window."""

    def __init__(self, limits: Iterable[tuple[int | None, int]], *, refused_count: bool) -> None:
        self._limits = [(calls, width) for calls, width in limits if calls is not None]
        self._refused_count = refused_count
        self._calls: dict[tuple[str, str], list[collections.deque[int]]] = {}

    def take(self, app_id: str, tenant_id: str, now: int) -> int:
        """Count a call; ticks until one is let through again, 0 if this one is."""
        logs = self._calls.get((app_id, tenant_id))
        if logs is None:
            logs = [collections.deque(maxlen=calls) for calls, _ in self._limits]
            self._calls[app_id, tenant_id] = logs
        over = any(self._wait(log, limit, now) for log, limit in zip(logs, self._limits, strict=True))
        if not over or self._refused_count:
            for log in logs:
                log.append(now)
        if not over:
            return 0
        return max(self._wait(log, limit, now) for log, limit in zip(logs, self._limits, strict=True))

    def _wait(self, log: collections.deque[int], limit: tuple[int, int], now: int) -> int:
        calls, width = limit
        return max(0, log[0] + width - now) if len(log) == calls else 0


class Surface(abc.ABC):
    """One API of a world."""

    surface: ClassVar[chaos.Surface]
    resource: ClassVar[str]

    def __init__(
        self, shown: world.World, signer: tokens.Signer, choices: Choices, *, refused_count: bool = False
    ) -> None:
        self.world = shown
        self.choices = choices
        self._signer = signer
        limits = (choices.per_minute, ticks.MINUTE), (choices.per_hour, ticks.HOUR)
        self._quota = Quota(limits, refused_count=refused_count)
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
    ) -> Page:
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
        if claims.audience.removesuffix("/") != self.resource:
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
        page = self.page(request, self.world.casebook(tenant.tenant_id), now, fault)
        return self._wrap(page, fault)

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

    def options(self, request: web.BaseRequest, collection: Collection, choices: Choices) -> Options:
        """Read the query. Raises Refused (400)."""
        given = {name.lower(): value for name, value in reversed([*request.query.items()])}
        unknown = [
            name
            for name in given
            if name.startswith("$") and name not in collection.documented | {"$orderby"}
        ]
        if unknown and choices.undocumented == "refused":
            raise Refused(400, f"The query parameter '{unknown[0][:60]}' is not supported.")
        expand = given.get("$expand")
        if expand is not None and "$expand" in collection.documented and expand != collection.expandable:
            raise Refused(400, f"Could not find a property named '{expand[:60]}' to expand.")
        filtered = odata.EVERYTHING
        if "$filter" in given:
            try:
                filtered = odata.read(given["$filter"], collection.properties, collection.watched)
            except odata.Bad as bad:
                raise Refused(400, f"Invalid filter clause. {bad}") from None
        top = _whole(given, "$top")
        if top is not None and top > choices.largest:
            if choices.over == "refused":
                raise self.too_many(top, choices.largest)
            top = choices.largest
        skip = _whole(given, "$skip") or 0
        if choices.skip_most is not None and skip > choices.skip_most:
            raise Refused(
                400, f"The limit of '{choices.skip_most}' for Skip query has been exceeded: '{skip}'."
            )
        order = choices.newest_by
        if "$orderby" in given and choices.orderby == "refused":
            raise Refused(400, "The query parameter '$orderby' is not supported.")
        if "$orderby" in given and choices.orderby == "honoured":
            order = _order(given["$orderby"], collection)
        return Options(
            filtered, top, skip, expand == collection.expandable and expand is not None,
            "$count" in collection.documented and given.get("$count", "").lower() == "true", order,
        )  # fmt: skip

    def listed(
        self,
        book: casebook.Casebook,
        kind: cases.Kind,
        options: Options,
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

    def _wrap(self, page: Page, fault: chaos.Fault | None) -> tuple[answers.Answer, int]:
        kind = fault.kind if fault is not None else None
        records, link, size = page.records, page.link, page.size
        headers = {"Content-Type": "application/json; odata.metadata=minimal; charset=utf-8"}
        status = 200
        match kind:
            case "empty":
                records, link, size = (), None, 0
            case "twice":
                records = itertools.chain.from_iterable(
                    (each, each) if self._rng.random() < 0.5 else (each,) for each in records
                )
            case "older":
                records = _with_older(records, page.watched)
            case "strange":
                records = itertools.chain.from_iterable(zip(records, itertools.cycle(_STRANGE), strict=False))
            case "partial":
                status, records = 206, itertools.islice(records, 0, None, 2)
                headers["Warning"] = '199 - "Microsoft/WDATP/504/10000"'
                size = -(-size // 2)
            case "wrong_type":
                headers["Content-Type"] = "text/plain"
            case "foreign_link" if fault is not None:
                link = fault.location
        head: dict[str, Any] = {"@odata.context": page.context}
        if page.counted:
            head["@odata.count"] = page.total
        opened = msgspec.json.encode(head)[:-1] + b',"value":'
        closed = b"}" if link is None else b',"@odata.nextLink":' + msgspec.json.encode(link) + b"}"
        if kind == "no_list":
            return answers.Answer(status, headers, (opened, b'{"0":"not a list"}', closed)), 0
        return answers.Answer(status, headers, itertools.chain((opened,), array(records), (closed,))), size


def cut(
    found: Sequence[casebook.Found] | casebook.Selection, skip: int, size: int
) -> tuple[Iterable[casebook.Found], int]:
    """The page of a list, and how many there are in it."""
    count = max(0, min(size, len(found) - skip))
    if isinstance(found, casebook.Selection):
        return found.cut(skip, count), count
    return found[skip : skip + count], count


def skip_link(request: web.BaseRequest, options: Options, size: int, total: int) -> str | None:
    """The next page by `$skip`; none where `$top` was sent or nothing is left."""
    reached = options.skip + size
    if options.top is not None or reached >= total:
        return None
    return link(request, {"$skip"}, ("$skip", str(reached)))


def link(request: web.BaseRequest, without: Container[str], put: tuple[str, str]) -> str:
    """The request's own address with one option in the place of some."""
    query = [(name, value) for name, value in request.query.items() if name.lower() not in without]
    asked = urllib.parse.urlencode([*query, put], safe="$:'", quote_via=urllib.parse.quote)
    return f"https://{request.host}{request.path}?{asked}"


def array(records: Iterable[bytes]) -> Iterator[bytes]:
    """A JSON array around records that are written as they are, in chunks."""
    rest = iter(records)
    before = b"["
    while chunk := [*itertools.islice(rest, 64)]:
        yield before + b",".join(chunk)
        before = b","
    yield b"[]" if before == b"[" else b"]"


def decoded(raw: bytes) -> Mapping[str, Any]:
    """The members of bytes that were filed as they are; none where they are no JSON object."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return value if isinstance(value, dict) else {}


def _whole(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Refused(400, f"The value '{text[:60]}' of the query parameter '{name}' is invalid.")
    return int(text)


def _order(text: str, collection: Collection) -> casebook.Order:
    match text.split():
        case [collection.watched] | [collection.watched, "asc"]:
            return "update_asc"
        case [collection.watched, "desc"]:
            return "update"
        case [collection.created, "desc"]:
            return "creation"
    raise Refused(400, f"The order '{text[:60]}' is not supported.")


_STRANGE = (
    b"null",
    b'"an alert"',
    b"[1,2,3]",
    b"{}",
    b'{"id":"","lastUpdateTime":"2026-10-01T08:00:00Z","lastUpdateDateTime":"2026-10-01T08:00:00Z"}',
    b'{"id":"da1_1","incidentId":1}',
    b'{"id":"da1_2","incidentId":2,"lastUpdateTime":"yesterday","lastUpdateDateTime":"yesterday"}',
    b'{"id":17,"incidentId":{},"lastUpdateTime":17,"lastUpdateDateTime":17}',
)


def _with_older(records: Iterable[bytes], watched: str) -> Iterator[bytes]:
    """After the records, versions of the first hundred from a second before, with nobody assigned."""
    older: list[bytes] = []
    for record in records:
        yield record
        fields = decoded(record)
        try:
            before = ticks.parse(fields[watched]) - ticks.SECOND
        except (KeyError, TypeError, ValueError):
            continue
        if len(older) < 100:
            older.append(msgspec.json.encode({**fields, watched: ticks.text(before), "assignedTo": None}))
    yield from older

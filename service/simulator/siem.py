"""The SIEM REST API ("pull detections"): GET /api/alerts, a bare JSON array of what Defender for Endpoint
detected.

As documented: bearer token for https://graph.windows.net; sinceTimeUtc, untilTimeUtc, ago, limit (newest
N), machinegroups (repeatable), DeviceCreatedMachineTags, CloudCreatedMachineTags; the last 2 hours
without parameters; 401, 403 and 500 with an empty body; times without a zone are UTC.

Choices, where the documents are silent (`Choices` changes those marked *):
- * Both limits are inclusive: since <= LastProcessedTimeUtc <= until.
- * Newest first; where times are equal, what was filed last comes first.
- * No cap on an answer, no limit to how far back one may ask, no quota.
- * A value that cannot be read (time, duration, limit below 1) is 401: "malformed request" is documented
  there.
- sinceTimeUtc after untilTimeUtc: []. untilTimeUtc alone: the lower limit stays at 2 hours before now.
- ago with sinceTimeUtc: 400. ago with untilTimeUtc: from now - ago up to untilTimeUtc.
- The path (/api/alerts) and the names of parameters in any casing, a trailing slash is fine; unknown
  parameters are ignored; one given twice counts once, the first, machinegroups aside.
- Group and tag are compared exactly; a record's tags are separated by commas, and one must be the one
  asked for.
- Any app's token will do and roles are not looked at; the audience may end with a slash. 401 for a token
  that is not ours, not yet valid or expired; the tenant is the token's `tid`: 403 where it is unknown or
  deleted.
- An alert can be read from its `visible_at` on, which may be later than its LastProcessedTimeUtc.
- gzip where the client takes it and the body is over 16 KiB. Methods other than GET: 405.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
from aiohttp import web

from service.simulator import answers, chaos, dice, directory, ticks, tokens, world

DEFAULT_SPAN = 2 * ticks.HOUR
AUDIENCES = frozenset({directory.SIEM_RESOURCE, f"{directory.SIEM_RESOURCE}/"})


@dataclasses.dataclass(frozen=True, slots=True)
class Choices:
    """Behaviour that Microsoft does not document, so that a client can be shown that it assumes none of it.

    cap: an answer holds only the newest so many. reach: seconds back that are still held. malformed: status
    for a value that cannot be read.
    """

    since_inclusive: bool = True
    until_inclusive: bool = True
    newest_first: bool = True
    cap: int | None = None
    reach: float | None = None
    malformed: int = 401


class Refused(Exception):
    """The request is answered with a bare status."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


@dataclasses.dataclass(frozen=True, slots=True)
class Query:
    """The parameters as read; times in ticks, both limits inclusive."""

    since: int
    until: int
    limit: int | None
    groups: frozenset[str]
    device_tag: str | None
    cloud_tag: str | None

    @property
    def filtered(self) -> bool:
        """Whether the records' own content has to be looked at."""
        return bool(self.groups) or self.device_tag is not None or self.cloud_tag is not None


class _Tags(msgspec.Struct, frozen=True):
    """What the group and tag filters compare."""

    group: str | None = msgspec.field(name="MachineGroup", default=None)
    device: str | None = msgspec.field(name="DeviceCreatedMachineTags", default=None)
    cloud: str | None = msgspec.field(name="CloudCreatedMachineTags", default=None)


_tags = msgspec.json.Decoder(_Tags)


class Siem:
    """The API of a world."""

    def __init__(self, shown: world.World, signer: tokens.Signer, choices: Choices) -> None:
        self._world = shown
        self._signer = signer
        self.choices = choices
        self._rng = dice.Dice(f"{shown.seed}/siem")

    def place(self, path: str) -> bool:
        """Whether the request is for this API; /siem/… stays this API's when others share /api/alerts."""
        return path.rstrip("/").lower() in ("/api/alerts", "/siem/api/alerts")

    def tenant(self, request: web.BaseRequest) -> str:
        """The tenant whose token came with the request. Raises Refused (401)."""
        kind, _, token = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer":
            raise Refused(401)
        try:
            claims = self._signer.verify(token.strip())
        except tokens.Invalid:
            raise Refused(401) from None
        now = self._world.clock()
        if claims.audience not in AUDIENCES or not claims.not_before <= now < claims.expires_at:
            raise Refused(401)
        return claims.tenant_id

    def answer(
        self, request: web.BaseRequest, tenant_id: str, fault: chaos.Fault | None
    ) -> tuple[answers.Answer, int]:
        """The answer and the number of alerts in it. Raises Refused."""
        if request.method != "GET":
            raise Refused(405)
        now = self._world.clock()
        query = read(request.query, now, self.choices)
        tenant = self._world.tenants.get(tenant_id)
        if tenant is None or tenant.deleted:
            raise Refused(403)
        found = self._world.select(tenant_id, query.since, query.until, now)
        records: Iterable[bytes]
        if query.filtered:
            kept = [record for record in found.records() if _fits(record, query)]
            kept = kept[: query.limit]
            records, count = kept, len(kept)
        else:
            found = found if query.limit is None else found.newest(query.limit)
            records, count = found.records(), len(found)
        if not self.choices.newest_first:
            records = reversed([*records])
        if fault is not None:
            records = self._distort(fault, records, query)
        headers = {"Content-Type": "application/json; charset=utf-8"}
        if fault is not None and fault.kind == "wrong_type":
            headers["Content-Type"] = "text/plain"
        if fault is not None and fault.kind == "partial":
            return answers.Answer(
                206, {**headers, "Warning": '199 - "some records could not be read"'}, _array(records)
            ), count
        return answers.Answer(200, headers, _array(records)), count

    def _distort(self, fault: chaos.Fault, records: Iterable[bytes], query: Query) -> Iterable[bytes]:
        """The records as a fault of content leaves them; every other fault leaves them alone."""
        match fault.kind:
            case "empty":
                return ()
            case "twice":
                return itertools.chain.from_iterable(
                    (each, each) if self._rng.random() < 0.5 else (each,) for each in records
                )
            case "older":
                return self._with_older(records, query.since)
            case "strange":
                return itertools.chain.from_iterable((each, strange) for each, strange in _strew(records))
        return records

    def _with_older(self, records: Iterable[bytes], since: int) -> Iterator[bytes]:
        """After the records, versions of some of them that were there before (never at the same time, never
        outside).
        """
        older: list[bytes] = []
        for record in records:
            yield record
            if len(older) < 100 and self._rng.random() < 0.5:
                version = _older(record, since)
                if version is not None:
                    older.append(version)
        yield from older


def read(parameters: Mapping[str, str], now: int, choices: Choices) -> Query:
    """The query of a request's parameters (a multi-mapping). Raises Refused."""
    given: dict[str, list[str]] = {}
    for name, value in parameters.items():
        given.setdefault(name.lower(), []).append(value)
    first = {name: values[0] for name, values in given.items()}
    if "ago" in first and "sincetimeutc" in first:
        raise Refused(400)
    try:
        since = now - DEFAULT_SPAN
        if "ago" in first:
            since = now - ticks.duration(first["ago"])
        elif "sincetimeutc" in first:
            since = ticks.parse(first["sincetimeutc"])
        until = ticks.parse(first["untiltimeutc"]) if "untiltimeutc" in first else now
        limit = int(first["limit"]) if "limit" in first else None
        if limit is not None and limit < 1:
            raise ValueError("limit below 1")
    except (ValueError, OverflowError):
        raise Refused(choices.malformed) from None
    if choices.reach is not None:
        since = max(since, now - round(choices.reach * ticks.SECOND))
    if choices.cap is not None:
        limit = min(limit or choices.cap, choices.cap)
    return Query(
        max(since, 0) if choices.since_inclusive else max(since, 0) + 1,
        until if choices.until_inclusive else until - 1,
        limit,
        frozenset(given.get("machinegroups", ())),
        first.get("devicecreatedmachinetags"),
        first.get("cloudcreatedmachinetags"),
    )


def _fits(record: bytes, query: Query) -> bool:
    try:
        tags = _tags.decode(record)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return (
        (not query.groups or tags.group in query.groups)
        and (query.device_tag is None or query.device_tag in _split(tags.device))
        and (query.cloud_tag is None or query.cloud_tag in _split(tags.cloud))
    )


def _split(tags: str | None) -> Sequence[str]:
    return [tag.strip() for tag in (tags or "").split(",")]


def _array(records: Iterable[bytes]) -> Iterator[bytes]:
    """A JSON array around records that are written as they are, in chunks of a hundred or so."""
    rest = iter(records)
    before = b"["
    while chunk := [*itertools.islice(rest, 128)]:
        yield before + b",".join(chunk)
        before = b","
    yield b"[]" if before == b"[" else b"]"


_STRANGE = (
    b"null",
    b'"an alert"',
    b"[1,2,3]",
    b"{}",
    b'{"AlertTitle":"no key at all","LastProcessedTimeUtc":"2026-10-01T08:00:00Z"}',
    b'{"FullId":"","LastProcessedTimeUtc":"2026-10-01T08:00:00Z"}',
    b'{"FullId":"da1_1:without-time"}',
    b'{"FullId":"da1_2:bad-time","LastProcessedTimeUtc":"yesterday"}',
    b'{"FullId":17,"LastProcessedTimeUtc":"2026-10-01T08:00:00Z"}',
)


def _strew(records: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
    for number, record in enumerate(records):
        yield record, _STRANGE[number % len(_STRANGE)]


def _older(record: bytes, since: int) -> bytes | None:
    """A version of the record from a second before, with another description; None where it would lie
    outside the window.
    """
    try:
        fields = msgspec.json.decode(record)
        processed = ticks.parse(fields["LastProcessedTimeUtc"])
    except (msgspec.DecodeError, UnicodeDecodeError, TypeError, KeyError, ValueError):
        return None
    before = max(since, processed - ticks.SECOND)
    if before >= processed:
        return None
    return msgspec.json.encode(
        {**fields, "LastProcessedTimeUtc": ticks.text(before), "Description": "An earlier version."}
    )

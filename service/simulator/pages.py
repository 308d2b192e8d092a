"""Pages of records: which of a list, the link to the next one, the envelope around them, and what faults make of it."""

from __future__ import annotations

import itertools
import urllib.parse
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from service.simulator import answers, casebook, chaos, dice, queries, ticks


class Page(NamedTuple):
    """The records of one answer; total: of the whole list."""

    records: Iterable[bytes]
    size: int
    total: int
    link: str | None
    context: str
    counted: bool
    watched: str


def wrap(page: Page, fault: chaos.Fault | None, rng: dice.Dice) -> tuple[answers.Answer, int]:
    """The envelope around a page, and the number of records in it; with what a fault does to both."""
    kind = fault.kind if fault is not None else None
    records, link, size = page.records, page.link, page.size
    headers = {"Content-Type": "application/json; odata.metadata=minimal; charset=utf-8"}
    status = 200
    match kind:
        case "empty":
            records, link, size = (), None, 0
        case "twice":
            records = itertools.chain.from_iterable(
                (each, each) if rng.random() < 0.5 else (each,) for each in records
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


def skip_link(request: web.BaseRequest, options: queries.Options, size: int, total: int) -> str | None:
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

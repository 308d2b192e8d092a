"""What the OData APIs share: asking for a window by `$filter`, switches as parameters, and going on from a full answer.

A window is split in time before anything is paged: `$skip` over records that change can miss those that move between two
pages, and a link is the service's to choose. Both are only the way out of a window that cannot be narrowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import SplitResult, urlsplit
from uuid import UUID

from service import errors, model, timestamps
from service.sources import bodies, contract

MARGIN: Final = timedelta(milliseconds=1)
"""Nobody says how exactly a service compares its seven digits, so both ends go so far beyond the window."""

ORDERED: Final[Mapping[str, bool]] = MappingProxyType({"ordered": False})
"""`$orderby` by the update time, which no page documents."""

_SWITCHES: Final[Mapping[object, bool]] = {
    "true": True,
    "yes": True,
    "on": True,
    "false": False,
    "no": False,
    "off": False,
}
_LONGEST_LINK: Final = 8_000
_LINK: Final = re.compile(r"[!-~]+")
_HOST: Final = re.compile(r"[a-z0-9.\-]{1,100}")
_UPWARDS: Final = re.compile(r"(?:/|%2f|%5c)(?:\.|%2e){1,2}(?=/|%2f|%5c|;|$)", re.IGNORECASE)
_REFUSED: Final = "next link refused: "


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Api:
    """A sources.contract.Source: an OData collection of records that change, asked for by their update time.

    `title` is what people call the API, `path` follows the service's address, `time` is the field of the update time, `most` is
    also sent as `$top`. `switches` are its parameters with their defaults: `ordered` sends `$orderby`, `expand` false leaves out
    `$expand`. `gather` reads the records, under the tenant whose token fetched them. `linked` says that the service has a link
    to what follows; else it takes `$skip`.
    """

    name: str
    title: str
    service: str
    quota: tuple[tuple[int, float], ...]
    roles: frozenset[str]
    scopes: frozenset[str]
    incidents: bool
    path: str
    time: str
    most: int
    gather: Callable[[bodies.Pieces, UUID], contract.Steps]
    linked: bool
    expand: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    switches: Mapping[str, bool] = field(default_factory=lambda: ORDERED)
    relief: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    reach: timedelta | None = None
    mutable: bool = True
    narrowing: frozenset[str] = frozenset()

    def check_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """The switches that differ from their defaults. Raises errors.BadInput for any other name, and for any other value."""
        return _check_switches(self.title, parameters, self.switches)

    def request(self, window: model.Window, parameters: Mapping[str, Any]) -> model.Request:
        """The GET for the window and a millisecond around it."""
        since, until = (
            timestamps.iso_ms(moment) + "Z" for moment in (window.since - MARGIN, window.until + MARGIN)
        )
        query = [
            ("$filter", f"{self.time} ge {since} and {self.time} lt {until}"),
            ("$top", str(self.most)),
        ]
        if self.expand and parameters.get("expand", True):
            query.append(("$expand", self.expand))
        if parameters.get("ordered"):
            query.append(("$orderby", f"{self.time} asc"))
        return model.Request(self.service, self.path, tuple(query), self.headers, quota_group=self.service)

    def read(
        self,
        body: bytes,
        window: model.Window,
        tenant_id: UUID,
        *,
        asked: model.Request | None = None,
        base_url: str = "",
    ) -> contract.Steps:
        """Records as they are now; see sources.contract.Source."""
        del window
        answer = bodies.envelope(body)
        page = yield from self.gather(answer.pieces, tenant_id)
        if self.linked:
            return by_link(page, answer.next_link, self.most, asked, base_url)
        return by_skip(page, answer.next_link, self.most, asked)


def by_skip(page: model.Page, link: str | None, top: int, asked: model.Request | None) -> model.Page:
    """The page, full where it has `top` records or a link, and how to go on by `$skip`."""
    full = page.items >= top or link is not None
    if not full or asked is None or not page.items:
        return replace(page, full=full)
    skipped = page.items
    query = []
    for name, value in asked.query:
        if name == "$skip":
            skipped += int(value)
        else:
            query.append((name, value))
    return replace(page, full=True, next=replace(asked, query=(*query, ("$skip", str(skipped)))))


def by_link(
    page: model.Page, link: str | None, top: int, asked: model.Request | None, base_url: str
) -> model.Page:
    """The page, full where it has `top` records or a link, and how to go on by the service's own link.

    A page that a link led to is the last one where it has no link itself, however many records it holds.
    """
    if link is None:
        return replace(page, full=page.items >= top and not _is_followed(asked))
    if asked is None or not base_url:
        return replace(page, full=True)
    path, refusal = _within(link, base_url)
    further = replace(asked, path=path, query=())
    if not refusal and further == asked:
        refusal = "it leads back to the same page"
    if refusal:
        return replace(page, full=True, warnings=(*page.warnings, _REFUSED + refusal))
    return replace(page, full=True, next=further)


def _check_switches(api: str, parameters: Mapping[str, Any], defaults: Mapping[str, bool]) -> dict[str, Any]:
    checked: dict[str, Any] = {}
    for name, value in parameters.items():
        shown = repr(value)[:80]
        if name not in defaults:
            raise errors.BadInput(
                f"parameter {name[:40]!r} {shown}: the {api} has {' and '.join(defaults)} (true or false)"
            )
        state = (
            value
            if isinstance(value, bool)
            else _SWITCHES.get(value.lower())
            if isinstance(value, str)
            else None
        )
        if state is None:
            raise errors.BadInput(f"{name} {shown}: must be true or false")
        if state != defaults[name]:
            checked[name] = state
    return checked


def _is_followed(asked: model.Request | None) -> bool:
    return asked is not None and not asked.query and "?" in asked.path


def _within(link: str, base_url: str) -> tuple[str, str]:
    """The link's path and query below the base address, word for word, or why there is none.

    It carries the tenant's token, so it has to stay on https, the same host and port, and below the same path.
    """
    if len(link) > _LONGEST_LINK:
        return "", f"it has {len(link)} characters"
    if not _LINK.fullmatch(link) or "#" in link or "\\" in link:
        return "", "it is not a plain address"
    try:
        there, here = urlsplit(link), urlsplit(base_url)
        target, home = _origin(there), _origin(here)
    except ValueError:
        return "", "it is not a plain address"
    if there.scheme != "https" or "@" in there.netloc:
        return "", "it is not a plain https address"
    if target != home:
        host = target[0] if _HOST.fullmatch(target[0]) else "an odd host"
        return "", f"it leads to {host}" if target[0] != home[
            0
        ] else f"it leads to port {target[1]} of {host}"
    below = here.path.rstrip("/")
    # "/graph/../other" begins below the address and ends beside it, spelled out or as %2e
    if not there.path.startswith(f"{below}/") or _UPWARDS.search(there.path):
        return "", "it leads to another path"
    return there.path[len(below) :] + (f"?{there.query}" if there.query else ""), ""


def _origin(parts: SplitResult) -> tuple[str, int]:
    return (parts.hostname or "").lower(), 443 if parts.port is None else parts.port

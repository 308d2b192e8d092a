"""An interval of update time as commands take it, and the stream that it is of."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from service import errors, timestamps
from service.cli import output
from service.intervals import Intervals

if TYPE_CHECKING:
    from service.sources import contract
    from service.store import backfills, pool

Who = Annotated[
    str, typer.Argument(metavar="TENANT", help="The tenant's id, or its name where only one has it.")
]
Source = Annotated[str, typer.Option("--source", metavar="S", help="Which of its sources, such as siem.")]
Since = Annotated[
    str, typer.Option("--since", metavar="T", help="Update time: a date, or ISO 8601; UTC unless it says.")
]
Until = Annotated[
    str | None, typer.Option("--until", metavar="T", help="Its end; now where it is not given.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


@dataclass(frozen=True, slots=True)
class Asked:
    """A tenant (id, name, state), one of its sources, the stream as it is, and [since, until) on whole milliseconds."""

    tenant: dict[str, Any]
    source: contract.Source
    seen: backfills.Seen
    since: datetime
    until: datetime

    @property
    def spans(self) -> Intervals:
        """[since, until)."""
        return Intervals.of((self.since, self.until))

    @property
    def stream(self) -> str:
        """As messages name it."""
        return f"{output.printable(self.tenant['name'])} ({self.source.name})"


def moment(option: str, text: str) -> datetime:
    """A point in time of the command line: a date, or ISO 8601, UTC unless it says. Raises errors.BadInput."""
    whole = f"{text}T00:00:00" if len(text) == len("2026-01-31") else text
    try:
        return timestamps.parse(whole, zoneless_is_utc=True)
    except ValueError:
        raise errors.BadInput(
            f"{option} {text[:40]!r}: must be a time such as 2026-01-31 or 2026-01-31T12:00:00Z"
        ) from None


async def ask(
    opened: pool.Database, who: str, source: str, since: str, until: str | None, *, ttl: float
) -> Asked:
    """What the options name. Raises errors.BadInput: no such tenant or stream, times in the future or the wrong way round."""
    from service.cli import enrolling, tenants
    from service.sources import registry
    from service.store import backfills

    start = moment("--since", since)
    end = None if until is None else moment("--until", until)
    tenant = await tenants.one(opened, who)
    named = f"{output.printable(tenant['name'])} ({tenant['tenant_id']})"
    if tenant["state"] == "removed":
        raise errors.BadInput(f"{named}: it was removed; enrol it again: alertwell tenants add")
    seen = None
    if source in registry.SOURCES:
        seen = await backfills.look(opened, tenant["tenant_id"], source, ttl=ttl)
    if seen is None:
        there = " or ".join(await backfills.sources(opened, tenant["tenant_id"])) or "none: it has no stream"
        raise errors.BadInput(f"--source {enrolling.shown(source)}: {named} has {there}")
    if not seen.enabled:
        raise errors.BadInput(f"--source {source}: {named} has this stream disabled, nothing of it is read")
    for option, at in (("--since", start), ("--until", end)):
        if at is not None and at > seen.now:
            raise errors.BadInput(
                f"{option} {output.moment(at)} is in the future: it is {output.when(seen.now)} now"
            )
    until_ms = timestamps.floor_ms(seen.now) if end is None else timestamps.ceil_ms(end)
    asked = Asked(tenant, registry.SOURCES[source], seen, timestamps.floor_ms(start), until_ms)
    if asked.since >= asked.until:
        raise errors.BadInput(
            f"--since {output.moment(start)} must be before --until {output.moment(end or seen.now)}"
        )
    return asked


def pairs(spans: Intervals) -> list[list[datetime]]:
    """For JSON."""
    return [list(pair) for pair in spans]


def shown(spans: Intervals) -> str:
    """For people: `2026-01-01T00:00:00Z to 2026-01-02T00:00:00Z (1 d 0 h)`, and so on."""
    return ", ".join(
        f"{output.when(start)} to {output.when(end)} ({timestamps.human(end - start)})"
        for start, end in spans
    )

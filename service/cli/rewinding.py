"""`alertwell rewind`: reading again what is proven already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Final

import typer

from service import errors
from service.cli import actors, database, epilog, output, spans
from service.intervals import Intervals

if TYPE_CHECKING:
    from service.store import pool

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell rewind contoso --source siem --since 2026-01-30 --until 2026-01-31 --reason "late alerts"
      alertwell rewind contoso --source siem --since 2026-01-30 --reason "checked against the portal" --dry-run

    Nothing is deleted. The interval is a gap until it is read again. Alerts that were missing arrive as they would
    have then: as `catch_up`, or as `initial` or `backfill` where the time is one of these.
    """
)
_LONGEST: Final = 500


def rewind(
    tenant: spans.Who,
    source: spans.Source,
    since: spans.Since,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why; shown with the gap and in the audit.")],
    until: spans.Until = None,
    dry_run: spans.DryRun = False,
    as_json: spans.AsJson = False,
) -> None:
    """Take back what is proven of an interval. It is read again."""
    from service import settings

    why = reason.strip()
    if not why or len(why) > _LONGEST or output.printable(why) != why:
        raise errors.BadInput(
            f"--reason: must be 1 to {_LONGEST} characters in one line, without control characters"
        )
    loaded = settings.load()
    ttl = loaded.lease_ttl.total_seconds()

    async def act(opened: pool.Database) -> tuple[spans.Asked, Intervals, int, int]:
        from service.ingest import plan
        from service.store import backfills

        asked = await spans.ask(opened, tenant, source, since, until, ttl=ttl)
        _check(asked)
        key = (asked.tenant["tenant_id"], asked.source.name)
        if dry_run:
            taken = asked.spans & asked.seen.coverage
        else:
            taken = await backfills.rewind(opened, *key, asked.spans, reason=why, actor=actors.person())
        held = await backfills.held(opened, *key, taken)
        return asked, taken, held, plan.windows(taken, held, asked.source.most)

    asked, taken, held, windows = database.work(loaded, act)
    if as_json:
        output.document(
            {
                "tenant_id": asked.tenant["tenant_id"],
                "source": asked.source.name,
                "since": asked.since,
                "until": asked.until,
                "taken_back": spans.pairs(taken),
                "alerts": held,
                "windows": windows,
                "dry_run": dry_run,
            }
        )
    elif taken:
        output.say(
            f"{'would be read again' if dry_run else 'is read again'}: {asked.stream} {spans.shown(taken)}, "
            f"about {output.many(windows, 'window')} with {output.many(held, 'alert')}"
        )
    else:
        output.say(
            f"nothing to do: {asked.stream} has nothing proven of that time, what is wanted is read anyway"
        )


def _check(asked: spans.Asked) -> None:
    if not asked.spans & asked.seen.wanted:
        start = asked.seen.wanted.lower
        wanted = f"what is wanted begins at {output.when(start)}" if start else "nothing is wanted"
        raise errors.BadInput(
            f"{asked.stream} does not want any of that time ({wanted}); see: alertwell backfill --help"
        )
    reach = None if asked.source.reach is None else asked.seen.now - asked.source.reach
    if reach is not None and asked.since < reach:
        raise errors.BadInput(
            f"--since {output.moment(asked.since)}: {asked.source.name} cannot be asked for anything before "
            f"{output.when(reach)}, and what is taken back there could not be proven again"
        )

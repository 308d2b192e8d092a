"""`alertwell backfill`: reading what was never wanted before."""

from __future__ import annotations

import re
from datetime import UTC, timedelta
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service import errors
from service.cli import actors, database, epilog, output, spans
from service.intervals import Intervals

if TYPE_CHECKING:
    from service.settings import Settings
    from service.store import backfills, pool

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell backfill contoso --source siem --since 2026-01-01
      alertwell backfill contoso --source siem --since 2026-01-01 --until 2026-02-01 --budget 5%
      alertwell backfill contoso --source mde_alerts --since 2026-01-01 --dry-run

    Its alerts arrive as `backfill`. The daemon reads it, newest first, after live windows and all other gaps.
    To run the command twice, or to press Ctrl-C, does no harm.
    """
)


def backfill(
    tenant: spans.Who,
    source: spans.Source,
    since: spans.Since,
    until: spans.Until = None,
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="SHARE",
            help="Of the source's quota and of a poll slot, at most; 20% unless an earlier backfill said otherwise.",
        ),
    ] = None,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="Show progress to the end; as it is on a terminal."),
    ] = None,
    dry_run: spans.DryRun = False,
    as_json: spans.AsJson = False,
) -> None:
    """Read a time that was not collected. Before the enrolment, or cut out."""
    from service import settings

    share = None if budget is None else share_of(budget)
    loaded = settings.load()
    asked, added, beyond = database.work(
        loaded, lambda opened: _act(opened, loaded, (tenant, source, since, until), share, dry_run=dry_run)
    )
    if not as_json:
        _say(asked, added, beyond, share, dry_run=dry_run)
    waiting = wait if wait is not None else output.on_terminal() and not as_json
    if waiting and not dry_run and (ours := asked.spans & (asked.seen.backfill | added) - beyond):
        _wait(loaded, asked, ours, quiet=as_json)
    if as_json:
        output.document(
            {
                "tenant_id": asked.tenant["tenant_id"],
                "source": asked.source.name,
                "since": asked.since,
                "until": asked.until,
                "added": spans.pairs(added),
                "beyond_reach": spans.pairs(beyond),
                "share": share if share is not None else asked.seen.gap_share,
                "dry_run": dry_run,
            }
        )


def share_of(text: str) -> float:
    """`20%` as 0.2. Raises errors.BadInput."""
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,2})?)\s*%", text.strip(), re.ASCII)
    if not found or not 1 <= float(found[1]) <= 100:
        raise errors.BadInput(f"--budget {text[:40]!r}: must be 1% to 100%, such as 20%")
    return float(found[1]) / 100


async def _act(
    opened: pool.Database,
    loaded: Settings,
    named: tuple[str, str, str, str | None],
    share: float | None,
    *,
    dry_run: bool,
) -> tuple[spans.Asked, Intervals, Intervals]:
    from service.store import backfills

    asked = await spans.ask(opened, *named, ttl=loaded.lease_ttl.total_seconds())
    beyond = unreachable(asked, loaded.retention)
    if dry_run:
        return asked, asked.spans - asked.seen.wanted, beyond
    added = await backfills.widen(
        opened,
        asked.tenant["tenant_id"],
        asked.source.name,
        asked.spans,
        beyond=beyond,
        share=share,
        actor=actors.person(),
    )
    return asked, added, beyond


def unreachable(asked: spans.Asked, retention: timedelta) -> Intervals:
    """What the source cannot be asked for. Raises errors.BadInput where that is all, or where it would be deleted at once."""
    horizon = (asked.seen.now - retention).astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    if asked.since < horizon:
        raise errors.BadInput(
            f"--since {output.moment(asked.since)} is before ALERTWELL_RETENTION ends, so it would be deleted at once: "
            f"{output.when(horizon)} is the earliest"
        )
    if asked.source.reach is None:
        return Intervals()
    reach = asked.seen.now - asked.source.reach
    if asked.until <= reach:
        raise errors.BadInput(
            f"{asked.source.name} cannot be asked for anything before {output.when(reach)}, "
            f"and --until is {output.moment(asked.until)}"
        )
    return asked.spans.below(reach)


def _say(
    asked: spans.Asked, added: Intervals, beyond: Intervals, share: float | None, *, dry_run: bool
) -> None:
    seen = asked.seen
    if added:
        output.say(f"{'would be asked for' if dry_run else 'asked for'}: {asked.stream} {spans.shown(added)}")
    else:
        missing = asked.spans - seen.coverage
        read = f"of it is not read yet: {spans.shown(missing)}" if missing else "and it is read"
        output.say(f"nothing to do: {asked.stream} wants all of it already, {read}")
        if share is not None and share != seen.gap_share and not dry_run:
            output.say(f"its backfill may take {share:.0%} from now on")
    if beyond:
        output.say(
            f"beyond the reach of {asked.source.name}, stays a gap (beyond_reach): {spans.shown(beyond)}"
        )
    if seen.tenant_state != "active":
        output.say(f"the tenant is {seen.tenant_state}: nothing is read before it is active")
    elif not seen.polled and not dry_run:
        output.say("no live replica polls this tenant: it is read as soon as one does")


def _wait(loaded: Settings, asked: spans.Asked, ours: Intervals, *, quiet: bool) -> None:
    try:
        database.work(loaded, lambda opened: _follow(opened, loaded, asked, ours, quiet=quiet))
    except KeyboardInterrupt:
        output.warn(
            "the daemon goes on reading; see how far it is with: alertwell tenants show "
            f"{asked.tenant['tenant_id']}"
        )
        raise typer.Exit(130) from None


async def _follow(
    opened: pool.Database, loaded: Settings, asked: spans.Asked, ours: Intervals, *, quiet: bool
) -> None:
    from service.cli import watching
    from service.store import backfills

    async def look() -> watching.Reached:
        seen = await backfills.look(
            opened, asked.tenant["tenant_id"], asked.source.name, ttl=loaded.lease_ttl.total_seconds()
        )
        if seen is None:
            raise errors.BadInput(f"{asked.stream} was purged meanwhile")
        held = await backfills.held(opened, asked.tenant["tenant_id"], asked.source.name, ours)
        return watching.Reached(ours - seen.coverage, held, _trouble(seen))

    await watching.until_read(ours, look, asked.stream, quiet=quiet)


def _trouble(seen: backfills.Seen) -> str | None:
    if seen.tenant_state != "active":
        return f"the tenant is {seen.tenant_state}"
    if not seen.polled:
        return "no live replica polls this tenant"
    if seen.state in ("ok", "catching_up", "new"):
        return None
    return seen.state if seen.state_reason is None else f"{seen.state}: {seen.state_reason}"

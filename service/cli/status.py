"""`alertwell status`: how all of it fares, for people and for Nagios."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

import typer

from service import errors, timestamps
from service.cli import database, epilog, output, showing

if TYPE_CHECKING:
    from service.settings import Settings
    from service.store import pool, reports

Grade = Literal["OK", "WARNING", "CRITICAL"]
CODES: Final[dict[Grade, int]] = {"OK": 0, "WARNING": 1, "CRITICAL": 2}
MOST_LISTED: Final = 20
MOST_NAMED: Final = 3

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell status
      alertwell status --max-age 5m
      alertwell status --json | jq .oldest.data_age_seconds
      alertwell status --json | jq -r '.replicas[] | .host as $host | .polls[] | [$host, .name] | @tsv'

    With --max-age, for Nagios and its kin (the first line says what it is, with performance data):
      0  OK        all data are younger, nothing is missing
      1  WARNING   there are gaps, silent streams, or streams that need a person's attention
      2  CRITICAL  data of an enabled stream are older, no replica lives, or the database or its schema cannot be used

      ALERTWELL OK - 1200 streams, oldest data 12 s | age=12s;300;300;0 gaps=0s;0;;0 attention=0;0;;0 replicas=2;;1:;0

    A tenant that is paused is not counted. A stream that was never read is as old as its enrolment.
    """
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The grade, and the sentences that make it; the exit code follows from it."""

    grade: Grade
    reasons: tuple[str, ...]


def status(
    max_age: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Judge: exit 0, 1 or 2; such as 90s, 5m or PT5M.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """How everything fares, for people and for Nagios.

    Tenants, streams, the oldest data, gaps, the change feed, replicas, what is in trouble and why, and what needs a person.
    """
    from service import settings
    from service.store import reports

    limit = None if max_age is None else duration("--max-age", max_age)
    loaded = settings.load()
    ttl = loaded.lease_ttl.total_seconds()

    async def look(opened: pool.Database) -> tuple[reports.Overview, list[str]]:
        return await reports.overview(opened, ttl=ttl), await _ending(loaded, opened)

    try:
        seen, ending = database.work(loaded, look)
    except (errors.DatabaseUnavailable, errors.SchemaMismatch) as error:
        if limit is None:
            raise
        # Nagios reads stdout alone.
        if as_json:
            output.document({"grade": "CRITICAL", "reasons": [str(error)]})
        else:
            output.say(f"ALERTWELL CRITICAL - {_nagios_text(str(error))}")
        raise typer.Exit(CODES["CRITICAL"]) from None
    verdict = None if limit is None else judge(seen, limit)
    if as_json:
        judged = {} if verdict is None else {"grade": verdict.grade, "reasons": verdict.reasons}
        output.document({**judged, **asdict(seen), "ending": ending})
    else:
        if verdict is not None and limit is not None:
            output.say(nagios(seen, verdict, limit))
        _print(seen)
        for line in ending:
            output.say(f"ending    {_nagios_text(line)}")
    if verdict is not None:
        raise typer.Exit(CODES[verdict.grade])


def duration(option: str, text: str) -> timedelta:
    """A duration of the command line. Raises errors.BadInput that names the option."""
    try:
        found = timestamps.duration(text)
    except ValueError as error:
        raise errors.BadInput(f"{option}: {error}") from None
    if not found:
        raise errors.BadInput(f"{option} {text[:40]!r}: must be longer than nothing")
    return found


def judge(seen: reports.Overview, limit: timedelta) -> Verdict:
    """What `--max-age` says of an overview."""
    critical, warning = [], []
    if not _alive(seen):
        critical.append("no live replica")
    if _age(seen) > limit.total_seconds() and seen.oldest is not None:
        critical.append(
            f"data of {seen.oldest['tenant_name']} ({seen.oldest['source']}) are {output.age(_age(seen))} old, over "
            f"{timestamps.human(limit)}"
        )
    if seen.attention:
        warning.append(f"{output.many(len(seen.attention), 'stream')} in need of attention")
    if seen.silent:
        warning.append(f"{output.many(len(seen.silent), 'silent stream')}")
    if seen.gaps["count"]:
        warning.append(
            f"{output.many(seen.gaps['count'], 'gap')} in {output.many(seen.gaps['streams'], 'stream')}"
        )
    grade: Grade = "CRITICAL" if critical else "WARNING" if warning else "OK"
    return Verdict(grade, (*critical, *warning))


def nagios(seen: reports.Overview, verdict: Verdict, limit: timedelta) -> str:
    """The first line: grade, reasons or a summary, performance data (value;warning;critical;least)."""
    summary = output.many(sum(seen.streams.values()), "stream")
    if seen.oldest is not None:
        summary += f", oldest data {output.age(_age(seen))}"
    most = f"{limit.total_seconds():g}"
    figures = (
        f"age={_age(seen):.0f}s;{most};{most};0 gaps={seen.gaps['seconds']:.0f}s;0;;0 "
        f"attention={len(seen.attention)};0;;0 replicas={len(_alive(seen))};;1:;0"
    )
    return f"ALERTWELL {verdict.grade} - {_nagios_text('; '.join(verdict.reasons) or summary)} | {figures}"


def _print(seen: reports.Overview) -> None:
    alive = _alive(seen)
    feed = seen.feed
    behind = ""
    if feed["unnumbered"]:
        behind = f", {feed['unnumbered']} not numbered yet (oldest {output.age(feed['oldest_unnumbered_seconds'])})"
    gaps = "none"
    if seen.gaps["count"]:
        length = timestamps.human(timedelta(seconds=seen.gaps["seconds"]))
        gaps = f"{seen.gaps['count']} in {output.many(seen.gaps['streams'], 'stream')}, together {length}"
    oldest = "-"
    if seen.oldest is not None:
        oldest = (
            f"{output.age(_age(seen))} ({_nagios_text(seen.oldest['tenant_name'])}, {seen.oldest['source']})"
        )
    output.say(f"tenants   {output.counted(seen.tenants)}")
    output.say(f"streams   {output.counted(seen.streams)}")
    output.say(f"oldest    {oldest}")
    output.say(f"gaps      {gaps}")
    output.say(f"items     {showing.accounting(seen.items)}")
    output.say(f"feed      head {feed['head_seq']}{behind}")
    polled = f", {output.many(seen.unowned, 'active tenant')} polled by nobody" if seen.unowned else ""
    output.say(f"replicas  {len(alive)} alive{polled}")
    if seen.replicas:
        output.table(
            ("host", "replica", "version", "started", "last heartbeat", "", "tenants"),
            [
                (
                    r["host"],
                    str(r["replica_id"])[:8],
                    r["version"],
                    output.when(r["started_at"]),
                    output.when(r["heartbeat_at"]),
                    "" if r["alive"] else "dead",
                    _polled(r),
                )
                for r in seen.replicas
            ],
            indent=2,
        )
    showing.backfills(seen.backfills, most=MOST_LISTED)
    if seen.troubled:
        output.say("\nin trouble, and tried again by themselves")
        output.table(
            ("streams", "state", "reason"),
            [
                (t["streams"], t["state"], _nagios_text(t["state_reason"] or ""))
                for t in seen.troubled[:MOST_LISTED]
            ],
            indent=2,
        )
    silent = [(s, s["cause"], s["since"]) for s in seen.silent]
    _listed("silent: the API answers, and does not bring what it used to", silent)
    _listed("need attention", [(s, s["cause"] or s["state"], s["state_since"]) for s in seen.attention])


def _listed(title: str, streams: Sequence[tuple[Mapping[str, Any], str, datetime]]) -> None:
    """Streams, each with its cause and since when; nothing where there are none."""
    if not streams:
        return
    output.say(f"\n{title}")
    output.table(
        ("tenant", "source", "cause", "since", "reason"),
        [
            (
                _nagios_text(s["tenant_name"]),
                s["source"],
                cause,
                output.when(since),
                _nagios_text(s["state_reason"] or ""),
            )
            for s, cause, since in streams[:MOST_LISTED]
        ],
        indent=2,
    )
    if len(streams) > MOST_LISTED:
        output.say(f"  … and {len(streams) - MOST_LISTED} more: alertwell status --json")


async def _ending(loaded: Settings, opened: pool.Database) -> list[str]:
    """What ends within 60 days, or has ended: as sentences."""
    from service import parts
    from service.auth import credentials as shared
    from service.store import credentials

    endings = await credentials.endings(opened)
    if loaded.client_id is not None:
        try:
            app = parts.shared_app(loaded)
        except errors.BadSetting:
            app = None  # its files may be where the service runs, and nowhere else
        endings = [*(shared.Shared(app).horizons() if app else ()), *endings]
    now = datetime.now(UTC)
    return [each.said(now) for each in endings if each.step(now) is not None]


def _polled(replica: dict[str, Any]) -> str:
    """How many tenants a replica polls, and the first of them by name."""
    named = [_nagios_text(each["name"]) for each in replica["polls"][:MOST_NAMED]]
    more = ["…"] if len(replica["polls"]) > MOST_NAMED else []
    return f"{replica['tenants']}" + (f": {', '.join(named + more)}" if named else "")


def _alive(seen: reports.Overview) -> list[dict[str, Any]]:
    return [replica for replica in seen.replicas if replica["alive"]]


def _age(seen: reports.Overview) -> float:
    return max(seen.oldest["data_age_seconds"], 0.0) if seen.oldest is not None else 0.0


def _nagios_text(text: str) -> str:
    # A bar would begin performance data, on every line.
    return output.printable(text).replace("|", "/")

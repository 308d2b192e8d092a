"""`alertwell trace`: what became of one alert or incident, and what is proven of its time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service import errors
from service.cli import database, epilog, output, spans, tenants

if TYPE_CHECKING:
    from service.store import pool

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell trace da637291085411733957_-1043898914
      alertwell trace da637291085411733957_-1043898914 --tenant contoso --at 2026-01-31T12:00:00Z
      alertwell trace da637291085411733957_-1043898914 --json | jq '.alerts[].changes[].seq'
    """
)
_LONGEST: Final = 3000
_SHOWN: Final = 50


def trace(
    asked: Annotated[
        str, typer.Argument(metavar="ALERT_ID|FULL_ID|INCIDENT_ID", help="As the source writes it.")
    ],
    tenant: Annotated[
        str | None, typer.Option(metavar="T", help="Look at this tenant alone: its id, or its name.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Its update time, if you know it: ISO 8601, UTC unless it says."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """What became of an alert or incident. Why it is there, or why not.

    Where it is held and how it came; else whether it is a reject, and what is proven of the time it belongs to.
    """
    from service import settings

    if not asked.strip() or len(asked) > _LONGEST:
        raise errors.BadInput(f"ALERT_ID|FULL_ID|INCIDENT_ID: must be 1 to {_LONGEST} characters")
    moment = None if at is None else spans.moment("--at", at)
    found = database.work(settings.load(), lambda opened: _look(opened, asked.strip(), tenant, moment))
    if as_json:
        output.document(found)
    else:
        _show(found)


async def _look(opened: pool.Database, asked: str, who: str | None, at: datetime | None) -> dict[str, Any]:
    from service.sources import registry
    from service.store import tracing

    if who is None:
        tenant_ids = await tracing.everyone(opened)
    else:
        tenant_ids = [(await tenants.one(opened, who))["tenant_id"]]
    alerts = await tracing.alerts(opened, asked, tenant_ids, list(registry.SOURCES))
    incidents = await tracing.incidents(opened, asked, tenant_ids, list(registry.SOURCES))
    times = [row["window_time"] for row in alerts] + [row["source_updated_at"] for row in incidents]
    for row, updated in zip([*alerts, *incidents], times, strict=True):
        streams = await tracing.streams(opened, [row["tenant_id"]], updated)
        row["window"] = next(
            (_judged(each, updated) for each in streams if each["source"] == row["source"]), None
        )
    rejects = await tracing.rejects(opened, asked, tenant_ids)
    holders = list(dict.fromkeys(row["tenant_id"] for row in [*alerts, *incidents, *rejects])) or tenant_ids
    # another source's part of it may be missing, so the time of what is held is asked of all streams
    updates = [row["last_processed_at"] for row in alerts] + [row["source_updated_at"] for row in incidents]
    when = at or next(iter(updates), None)
    streams = [_judged(each, when) for each in await tracing.streams(opened, holders, when)]
    return {
        "asked": asked,
        "at": when,
        "alerts": alerts,
        "incidents": incidents,
        "rejects": rejects,
        "streams": streams,
    }


def _judged(stream: dict[str, Any], at: datetime | None) -> dict[str, Any]:
    """With `beyond reach` in place of `gap` where the source cannot be asked for it any more, and with `of_incidents`: whether
    what is proven is of update times of incidents, and says of an alert only that it is held as these showed it.
    """
    from service.sources import registry

    source = registry.SOURCES.get(stream["source"])
    stream = {**stream, "of_incidents": source is not None and source.incidents}
    reach = source.reach if source else None
    if stream["verdict"] == "gap" and reach is not None and at is not None and at < datetime.now(UTC) - reach:
        return {**stream, "verdict": "beyond reach"}
    return stream


def _show(found: Mapping[str, Any]) -> None:
    asked = output.printable(found["asked"])
    alerts, incidents, rejects, streams = (
        found[each] for each in ("alerts", "incidents", "rejects", "streams")
    )
    if alerts:
        output.say(f"{asked} is held {output.many(len(alerts), 'time')}")
        for alert in alerts[:_SHOWN]:
            _alert(alert)
    if incidents:
        output.say(f"{asked} is an incident that is held {output.many(len(incidents), 'time')}")
        for incident in incidents[:_SHOWN]:
            _incident(incident)
    if not alerts and not incidents:
        output.say(f"{asked} is not held{' as an alert, but as a reject' if rejects else ''}")
    if rejects:
        output.say('\nrejects that hold it (whole: alertwell sql "SELECT raw FROM soc.rejects WHERE id = …")')
        output.table(
            ("id", "tenant", "source", "received", "seen", "reason"),
            [
                (
                    r["id"],
                    r["tenant_name"],
                    r["source"],
                    output.when(r["received_at"]),
                    r["seen_count"],
                    r["reason"],
                )
                for r in rejects
            ],
            indent=2,
        )
    if found["at"] is None:
        output.say("\nstreams that could bring it (with --at TIME: what is proven of its update time)")
    else:
        output.say(f"\nwhat is proven of {output.moment(found['at'])}")
    if not streams:
        output.say("  no streams: nothing is collected here")
        return
    output.table(
        ("tenant", "source", "answer", "state"), [_row(stream) for stream in streams[:_SHOWN]], indent=2
    )
    if len(streams) > _SHOWN:
        output.say(f"  and {len(streams) - _SHOWN} more; give --tenant, or --json for all")


def _alert(alert: Mapping[str, Any]) -> None:
    _facts(
        alert,
        {
            "full id": alert["full_id"],
            "alert id": alert["alert_id"],
            "incident": alert["incident_id"],
            "title": alert["title"],
        },
        f"{output.when(alert['first_seen_at'])} as {alert['arrival']}",
    )


def _incident(incident: Mapping[str, Any]) -> None:
    _facts(
        incident,
        {
            "incident": incident["incident_id"],
            "merged into": incident["redirect_incident_id"],
            "title": incident["title"],
            "status": incident["status"],
            "alerts": incident["alerts"],
        },
        output.when(incident["first_seen_at"]),
    )


def _facts(row: Mapping[str, Any], own: Mapping[str, Any], first_seen: str | None) -> None:
    poll, window = row["poll"], row["window"]
    seqs = [
        f"{change['seq'] if change['seq'] is not None else 'not numbered yet'} ({change['kind']})"
        for change in row["changes"]
    ]
    facts = {
        "tenant": f"{row['tenant_name'] or 'purged'} ({row['tenant_id']})",
        **own,
        "update time": row["source_updated_text"],
        "first seen": first_seen,
        "revision": f"{row['revision']}, {output.when(row['updated_at'])}",
        "poll": f"{poll['poll_id']} of {output.when(poll['started_at'])}" if poll else "not kept any more",
        "window": _answer(window, held=True) if window else "the stream is gone",
        "in the feed": ", ".join(seqs) or "past the feed's retention",
    }
    output.say(f"\n{row['source']}")
    for fact, value in facts.items():
        if value is not None:
            output.say(f"  {fact:<13} {output.printable(output.cell(value))}")


def _row(stream: Mapping[str, Any]) -> Sequence[Any]:
    state = (
        stream["state"] if stream["state_reason"] is None else f"{stream['state']}: {stream['state_reason']}"
    )
    return (
        stream["tenant_name"],
        stream["source"],
        _answer(stream),
        state if stream["enabled"] else f"{state} (not polled)",
    )


def _answer(stream: Mapping[str, Any], *, held: bool = False) -> str:
    wanted, proven = output.when(stream["wanted_from"]), output.when(stream["proven_to"])
    match stream["verdict"]:
        case "proven" if stream["of_incidents"]:
            return "proven: all incidents updated then are held, with the alerts that they were shown with"
        case "proven":
            return "proven: all that the source showed of that time is held"
        case "not wanted":
            what = "incidents updated" if stream["of_incidents"] else "collected"
            return f"not wanted: {what} from {wanted} on"
        case "live tail":
            tail = f"live tail: newer than what is proven ({proven or 'nothing yet'})"
            return tail if held else f"{tail}; it may still come"
        case "gap" | "beyond reach" as verdict:
            span = f"{output.when(stream['gap_from'])} to {output.when(stream['gap_to'])}"
            ahead = "it will be read" if verdict == "gap" else "the source cannot be asked that far back"
            return f"{verdict}: {span} is not proven ({stream['reason']}); {ahead}"
    return f"collected from {wanted} on, proven to {proven or 'nothing yet'}"

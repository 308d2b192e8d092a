"""One tenant as people read it: `alertwell tenants show`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from service import timestamps
from service.cli import output

LAST = 5


def tenant(found: Mapping[str, Any]) -> None:
    """Print what `reports.tenant` brought: facts, streams, and the newest gaps, polls and rejects."""
    labels = " ".join(f"{key}={value}" for key, value in found["labels"].items())
    state = found["state"] if found["state_reason"] is None else f"{found['state']} ({found['state_reason']})"
    facts = {
        "tenant id": found["tenant_id"],
        "state": state,
        "place": found["cloud"] if found["region"] is None else f"{found['cloud']}/{found['region']}",
        "external ref": found["external_ref"],
        "labels": labels,
        "consented": output.when(found["consented_at"]),
        "polled by": found["polled_by"],
        "alerts held": found["alerts"],
    }
    output.say(output.printable(found["name"]))
    for fact, value in facts.items():
        if value not in (None, ""):
            output.say(f"  {fact:<13} {output.printable(output.cell(value))}")
    for own in found["credentials"]:
        output.say(f"  {'own app':<13} {output.printable(_own(own))}")
    for stream in found["streams"]:
        _stream(stream)
    backfills(found["backfills"])
    _section(
        "gaps, newest first (wanted, not proven read yet)",
        ("source", "from", "to", "length", "reason"),
        [
            (g["source"], output.when(g["gap_from"]), output.when(g["gap_to"]), _length(g), g["reason"])
            for g in found["gaps"]
        ],
    )
    _section(
        "polls that brought or failed something, newest first",
        ("source", "started", "outcome", "items", "new", "updated", "rejected", "error"),
        [
            (
                p["source"],
                output.when(p["started_at"]),
                p["outcome"],
                p["items"],
                p["inserted"],
                p["updated"],
                p["rejected"],
                p["error"],
            )
            for p in found["polls"][:LAST]
        ],
    )
    _section(
        'rejects, newest first (whole: alertwell sql "SELECT raw FROM soc.rejects WHERE id = …")',
        ("id", "source", "received", "seen", "reason"),
        [
            (r["id"], r["source"], output.when(r["received_at"]), r["seen_count"], r["reason"])
            for r in found["rejects"][:LAST]
        ],
    )


def _own(credential: Mapping[str, Any]) -> str:
    end = f", ends {credential['expires_at']:%Y-%m-%d}" if credential["expires_at"] else ""
    whose = credential["source"] or "all sources"
    return f"{whose}: {credential['kind']} of app {credential['app_id']}{end}"


def _stream(stream: Mapping[str, Any]) -> None:
    state = (
        stream["state"] if stream["state_reason"] is None else f"{stream['state']}: {stream['state_reason']}"
    )
    output.say(
        f"\n{stream['source']}  {output.printable(state)}{'' if stream['enabled'] else '  (not polled)'}"
    )
    facts = {
        "cause": stream["cause"],
        "parameters": stream["parameters"] or None,
        "data age": None if stream["data_age_seconds"] is None else output.age(stream["data_age_seconds"]),
        "watermark": output.when(stream["watermark"]),
        "proven until": output.when(stream["proven_until"]),
        "wanted since": output.when(stream["wanted"][0][0]) if stream["wanted"] else None,
        "last success": output.when(stream["last_success_at"]),
        "late arrivals": stream["late_arrivals"] or None,
        "last verified": output.when(stream["last_verified_at"]),
        "usual": None
        if stream["expected"] is None
        else f"records in {stream['expected']:.0f} hours of a week",
        "silent since": output.when(stream["silent_since"]) if stream["silent_since"] else None,
        "items": accounting(stream) if stream["items"] else None,
    }
    for fact, value in facts.items():
        if value is not None:
            output.say(f"  {fact:<13} {output.printable(output.cell(value))}")


def accounting(counts: Mapping[str, Any]) -> str:
    """Items, and what became of them; what did not happen is left out."""
    outcomes = ("inserted", "updated", "unchanged", "stale", "duplicate", "rejected")
    parts = ", ".join(f"{counts[name]} {name}" for name in outcomes if counts[name])
    return f"{counts['items']}: {parts}" if parts else str(counts["items"])


def backfills(rows: Sequence[Mapping[str, Any]], *, most: int = LAST) -> None:
    """Print backfills that are not read to the end yet: what `store.backfills.unfinished` brought."""
    _section(
        "backfills under way",
        ("tenant", "source", "from", "to", "read", "left"),
        [
            (
                row["tenant_name"],
                row["source"],
                output.when(row["since"]),
                output.when(row["until"]),
                f"{100 * (1 - row['left_seconds'] / row['asked_seconds']):.0f} %",
                output.age(row["left_seconds"]),
            )
            for row in rows[:most]
        ],
    )
    if len(rows) > most:
        output.say(f"  … and {len(rows) - most} more: alertwell status --json")


def _section(title: str, columns: tuple[str, ...], rows: list[tuple[Any, ...]]) -> None:
    if rows:
        output.say(f"\n{title}")
        output.table(columns, rows, indent=2)


def _length(gap: Mapping[str, Any]) -> str:
    start, end = gap["gap_from"], gap["gap_to"]
    return timestamps.human(end - start) if isinstance(end, datetime) else timestamps.human(timedelta.max)

"""What is held against what is true, and what a reader saw against the feed. Pure: values in, violations out."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from service.intervals import Intervals
from service.simulator import sightings
from tests.chaos.follower import Seen

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def moment(ticks: int) -> datetime:
    """The simulator's ticks, floored to microseconds as the database has them."""
    return _EPOCH + timedelta(microseconds=ticks // 10)


class Held(NamedTuple):
    """A record of the database. `raw` is None where only its presence was asked for."""

    name: str
    updated: datetime
    raw: str | None = None


class Stream(NamedTuple):
    """What became of one stream's records: ids."""

    truth: int
    lost: list[str]
    doubled: list[str]
    phantom: list[str]
    different: list[str]


def compare(truth: Mapping[str, bytes], wanted: AbstractSet[str], held: Iterable[Held]) -> Stream:
    """Record by record: all of `wanted` must be held once, in the newest version; nothing may be held that is not true."""
    rows = [*held]
    counts = Counter(row.name for row in rows)
    different = [
        row.name
        for row in rows
        if row.name in truth
        and row.raw is not None
        and _bare(json.loads(row.raw)) != _bare(json.loads(truth[row.name]))
    ]
    return Stream(
        len(wanted),
        sorted(wanted - counts.keys()),
        sorted(name for name, count in counts.items() if count > 1),
        sorted(counts.keys() - truth.keys()),
        sorted(different),
    )


def _bare(record: dict[str, Any]) -> dict[str, Any]:
    # an incident is held without its alerts, which are rows of their own
    return {name: value for name, value in record.items() if name != "alerts"}


def claims(
    shown: Iterable[sightings.Sighting],
    coverage: Intervals,
    held: Mapping[str, datetime],
    overlap: timedelta,
) -> tuple[int, list[str]]:
    """What coverage says, held against what was to be seen: how many records it claims, and the ids of those that are not held.

    A time is proven at least `overlap` after it, so it claims every record that was shown by then; what was shown later is a late
    arrival, and no claim is made of it. A record counts as held in this version or a newer one.
    """
    claimed, broken = 0, []
    for each in shown:
        updated = moment(each.updated)
        if moment(each.visible) <= updated + overlap and coverage.contains(updated):
            claimed += 1
            if each.id not in held or held[each.id] < updated:
                broken.append(each.id)
    return claimed, broken


def feed(name: str, seen: Sequence[Seen], numbers: AbstractSet[int], tenants: AbstractSet[str]) -> list[str]:
    """What is wrong with what a reader saw; `numbers` are all of its tenants, as the feed has them at the end."""
    said = []
    order = [row.seq for row in seen]
    if any(later <= earlier for earlier, later in itertools.pairwise(order)):
        said.append(f"{name}: numbers did not ascend, or came twice")
    if doubled := [number for number, count in Counter(row.change_id for row in seen).items() if count > 1]:
        said.append(f"{name}: {len(doubled)} changes under two numbers, such as {doubled[0]}")
    if missed := numbers - set(order):
        said.append(f"{name}: {len(missed)} numbers missed, such as {min(missed)}")
    if more := set(order) - numbers:
        said.append(f"{name}: {len(more)} numbers seen that are not in the feed, such as {min(more)}")
    if others := {row.tenant_id for row in seen} - tenants:
        said.append(f"{name}: saw {len(others)} tenants that are not its own")
    revisions: dict[tuple[str, str | None, str, str | None], list[Seen]] = {}
    for row in seen:
        revisions.setdefault((row.tenant_id, row.source, row.record, row.name), []).append(row)
    for key, rows in revisions.items():
        if [row.revision for row in rows] != list(range(1, len(rows) + 1)):
            said.append(
                f"{name}: revisions of {' '.join(map(str, key))} came as {[row.revision for row in rows]}"
            )
        if [row.kind for row in rows].count("created") != 1 or rows[0].kind != "created":
            said.append(f"{name}: {' '.join(map(str, key))} came as {[row.kind for row in rows]}")
    return said[:20]


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that so large a share of them does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None

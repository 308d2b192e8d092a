"""What is to be seen of a tenant, and since when: what a proof of completeness is held against. Nothing is rendered."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import msgspec

if TYPE_CHECKING:
    from service.simulator import cases, world

_FAR = 2**62


class Sighting(msgspec.Struct, frozen=True):
    """A record by its id: its newest version's update time, since when that one is shown, and since when any is; ticks."""

    id: str
    updated: int
    visible: int
    first: int


class _Version(NamedTuple):
    updated: int
    visible: int


def of(
    shown: world.World, tenant_id: str, api: cases.Api | None, kind: cases.Kind, now: int | None = None
) -> Iterator[Sighting]:
    """Every record that is shown at `now` (ticks): detections of the SIEM API where `api` is None, else alerts or incidents."""
    at = shown.shown_at(now)
    if api is None:
        yield from _detections(shown, tenant_id, at)
        return
    for found in shown.casebook(tenant_id).select(kind, api, 0, at, at).all():
        if not found.cases.counted(kind, found.owner):
            continue
        versions = found.cases.timeline(kind, api).seen(found.owner)
        name = str(found.incident().incident) if kind == "incidents" else found.alert().alert_id
        visible = next(visible for updated, visible in versions if updated == found.at)
        yield Sighting(name, found.at, visible, min(each for _, each in versions))


def _detections(shown: world.World, tenant_id: str, at: int) -> Iterator[Sighting]:
    versions: dict[str, list[_Version]] = {}  # newest first, as a selection is
    for run, indices in shown.select(tenant_id, 0, _FAR, at).parts:
        for index in indices:
            full_id = run.full_id(index)
            if full_id is not None:
                versions.setdefault(full_id, []).append(_Version(run.times[index], run.visible_at(index)))
    for full_id, its in versions.items():
        yield Sighting(full_id, its[0].updated, its[0].visible, min(each.visible for each in its))

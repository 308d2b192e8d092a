"""Where the alerts of merged incidents belong.

When Microsoft merges incidents, the one that ends names the one that stays (`redirect_incident_id`). Alerts always stand at the
end of that chain: those that are held move whenever it changes, those that come later when they are stored. What the newest
record of an incident says counts, of whatever source, also that it is merged into none; a record that is dated into the
future has no say where there is another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from service.store import changes, pool

# The newest word about an incident; of two of one time the one that says more.
_WORD: Final = f"""
    SELECT i.redirect_incident_id AS leads_to
    FROM alertwell.incident i
    WHERE i.tenant_id = $1 AND i.incident_id = n.incident_id
    ORDER BY {changes.misdated("i.last_update")}, i.last_update DESC, i.redirect_incident_id DESC NULLS LAST
    LIMIT 1
"""  # noqa: S608 - made of constants

_ONWARDS: Final = f"""
WITH RECURSIVE edge AS (
    SELECT n.incident_id, w.leads_to
    FROM unnest($2::text[]) n (incident_id) CROSS JOIN LATERAL ({_WORD}) w WHERE w.leads_to IS NOT NULL
    UNION
    SELECT n.incident_id, w.leads_to
    FROM (SELECT e.leads_to AS incident_id FROM edge e) n CROSS JOIN LATERAL ({_WORD}) w WHERE w.leads_to IS NOT NULL
)
SELECT incident_id, leads_to FROM edge
"""  # noqa: S608 - made of constants

_AROUND: Final = f"""
WITH RECURSIVE n AS (
    SELECT k.incident_id FROM unnest($2::text[]) k (incident_id)
    UNION
    SELECT e.incident_id
    FROM n CROSS JOIN LATERAL (
        SELECT i.incident_id FROM alertwell.incident i
        WHERE i.tenant_id = $1 AND i.redirect_incident_id = n.incident_id
        UNION ALL
        SELECT i.redirect_incident_id FROM alertwell.incident i
        WHERE i.tenant_id = $1 AND i.incident_id = n.incident_id AND i.redirect_incident_id IS NOT NULL
    ) e
)
SELECT n.incident_id, w.leads_to FROM n CROSS JOIN LATERAL ({_WORD}) w WHERE w.leads_to IS NOT NULL
"""  # noqa: S608 - made of constants

# All that stand there, or of an incident those that it was last seen with.
_PLACES: Final = "SELECT m.was, m.now, NULL::text AS alert_id FROM moving m"
_NAMED: Final = """
    SELECT m.was, m.now, a.alert_id
    FROM moving m
    CROSS JOIN LATERAL (
        SELECT i.alert_ids FROM alertwell.incident i
        WHERE i.tenant_id = $1 AND i.incident_id = m.incident_id AND i.alert_ids IS NOT NULL
        ORDER BY i.last_update DESC LIMIT 1
    ) i
    CROSS JOIN LATERAL unnest(i.alert_ids) a (alert_id)
"""


def _move(which: str) -> str:
    return f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), moving AS MATERIALIZED (
    SELECT * FROM unnest($2::text[], $3::text[], $4::text[]) AS m (incident_id, was, now)
), e AS MATERIALIZED (
    {which}
), moved AS (
    UPDATE alertwell.alert a SET incident_id = e.now, revision = a.revision + 1, updated_at = now()
    FROM e WHERE a.tenant_id = $1 AND a.incident_id = e.was AND (e.alert_id IS NULL OR e.alert_id = a.alert_id)
    RETURNING a.source, a.full_id, a.revision, a.arrival, e.was, e.now
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, changed)
    SELECT $1, batch.number, row_number() OVER (ORDER BY m.source, m.full_id), m.revision, 'merged', m.arrival, m.source,
           m.full_id, jsonb_build_object('incident_id', jsonb_build_array(m.was, m.now))
    FROM batch, moved m
    RETURNING 1
), noted AS (
    INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
    SELECT $1, batch.number, counted.changes FROM batch, (SELECT count(*) AS changes FROM changes) counted
    WHERE counted.changes > 0
)
SELECT count(*) FROM changes
"""  # noqa: S608 - made of constants


_MOVE_PLACES: Final = _move(_PLACES)
_MOVE_NAMED: Final = _move(_NAMED)


async def survivors(
    connection: pool.Connection, tenant_id: UUID, incident_ids: Sequence[str]
) -> dict[str, str]:
    """Where the alerts of these incidents belong, for those that were merged into others."""
    wanted = _texts(incident_ids)
    edges = await _edges(connection, _ONWARDS, tenant_id, wanted)
    return {each: end for each in wanted if (end := survivor(edges, each)) != each}


async def around(connection: pool.Connection, tenant_id: UUID, incident_ids: Sequence[str]) -> dict[str, str]:
    """The redirects that lead from these incidents or to them, over others too."""
    return await _edges(connection, _AROUND, tenant_id, _texts(incident_ids))


async def _edges(
    connection: pool.Connection, statement: str, tenant_id: UUID, incident_ids: Sequence[str]
) -> dict[str, str]:
    if not incident_ids:
        return {}
    return {row[0]: row[1] for row in await connection.fetch(statement, tenant_id, incident_ids)}


def _texts(incident_ids: Sequence[str]) -> list[str]:
    return [each for each in dict.fromkeys(incident_ids) if pool.is_text(each)]


def survivor(edges: Mapping[str, str], incident_id: str) -> str:
    """The end of a chain of redirects; an incident that is redirected in a circle stays where it is."""
    seen = {incident_id}
    at = incident_id
    while (following := edges.get(at)) is not None:
        if following in seen:
            return incident_id
        seen.add(following)
        at = following
    return at


async def follow(
    connection: pool.Connection, tenant_id: UUID, stored: Sequence[str], before: Mapping[str, str]
) -> int:
    """Move held alerts, whatever source they came from, to where redirects lead since these incidents were stored.

    `before` is what was `around` them until then. Each alert that moves leaves a `merged` change. Where an incident is merged
    into another one no more, the alerts that it was last seen with come back from there; the others stay.
    """
    after = await around(connection, tenant_id, stored)
    if not before and not after:
        return 0
    touched = dict.fromkeys(_texts(stored))
    named: list[tuple[str, str, str]] = []
    places: list[tuple[str, str, str]] = []
    for each in {**touched, **before, **after}:
        was, end = survivor(before, each), survivor(after, each)
        if was not in (each, end):
            named.append((each, was, end))
        if end != each and (end != was or each in touched):
            places.append((each, each, end))
    count = 0
    # first those that are named: where they were may be on the move itself
    for statement, moving in ((_MOVE_NAMED, named), (_MOVE_PLACES, places)):
        if moving:
            count += await connection.fetchval(statement, tenant_id, *map(list, zip(*moving, strict=True)))
    return count

"""Incidents: what is held already, what is new, what is newer. Where the alerts of a merged one belong is in `redirects`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from service import model
from service.store import changes, pool, slices, sorting

_FIELDS: Final = tuple(model.Incident.__struct_fields__)
_CONTENT: Final = tuple(name for name in _FIELDS if name != "incident_id")
_COLUMNS: Final = ", ".join(_FIELDS)
_VALUES: Final = ", ".join("i.raw::jsonb" if name == "raw" else f"i.{name}" for name in _FIELDS)
_INCOMING: Final = (
    f"unnest($3::alertwell.incoming_incident[], $4::text[]) WITH ORDINALITY AS i ({_COLUMNS}, arrival, n)"
)

_INSERT: Final = f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), stored AS (
    INSERT INTO alertwell.incident (tenant_id, source, {_COLUMNS})
    SELECT $1, $2, {_VALUES} FROM {_INCOMING}
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, record)
    SELECT $1, batch.number, i.n, 1, 'created', i.arrival, $2, i.incident_id, 'incident'
    FROM batch, {_INCOMING}
)
INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
SELECT $1, batch.number, cardinality($3) FROM batch
"""  # noqa: S608 - made of constants

_KNOWN: Final = sorting.statement("incident", "incident_id", "last_update")

# Read without its alerts an incident keeps those it had, and the same ones in another order are the same. Its hash may be
# another one all the same, with its alerts and without: then the hash alone is replaced, so that the next `sort` knows it.
_UPDATE: Final = f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), i AS MATERIALIZED (
    SELECT {_VALUES}, i.arrival, i.n FROM {_INCOMING}
), before AS MATERIALIZED (  -- locked, so that what retention deletes meanwhile is missing here
    SELECT h.incident_id, h AS was
    FROM alertwell.incident h
    WHERE h.tenant_id = $1 AND h.source = $2 AND h.incident_id = ANY (ARRAY(SELECT i.incident_id FROM i))
    FOR NO KEY UPDATE OF h
), told AS MATERIALIZED (
    SELECT {", ".join("i." + name for name in _FIELDS if name != "alert_ids")}, a.alert_ids, i.arrival, i.n, b.was,
           ((b.was).raw, (b.was).raw_exact, (b.was).alert_ids) IS DISTINCT FROM (i.raw, i.raw_exact, a.alert_ids) AS differs
    FROM i JOIN before b ON b.incident_id = i.incident_id
    CROSS JOIN LATERAL (
        SELECT CASE WHEN i.alert_ids IS NULL
                         OR ARRAY(SELECT x FROM unnest(i.alert_ids) x ORDER BY x COLLATE "C")
                            = ARRAY(SELECT x FROM unnest((b.was).alert_ids) x ORDER BY x COLLATE "C")
                            AND (b.was).alert_ids IS NOT NULL
                    THEN (b.was).alert_ids ELSE i.alert_ids END AS alert_ids
    ) a
    WHERE i.last_update >= (b.was).last_update OR {changes.misdated("(b.was).last_update")}
), stored AS (
    UPDATE alertwell.incident h
    SET ({_COLUMNS}) = ({", ".join("t." + name for name in _FIELDS)}),
        revision = h.revision + 1, updated_at = now()
    FROM told t
    WHERE h.tenant_id = $1 AND h.source = $2 AND h.incident_id = t.incident_id AND t.differs
      AND h.incident_id = ANY (ARRAY(SELECT t.incident_id FROM told t))  -- for the index, as in alerts
    RETURNING h AS is, t.was, t.n, t.arrival
), known AS (
    UPDATE alertwell.incident h SET content_hash = t.content_hash
    FROM told t
    WHERE h.tenant_id = $1 AND h.source = $2 AND h.incident_id = t.incident_id AND NOT t.differs
      AND h.incident_id = ANY (ARRAY(SELECT t.incident_id FROM told t))
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, changed, record)
    SELECT $1, batch.number, s.n, (s.is).revision,
           CASE WHEN (s.is).redirect_incident_id <> coalesce((s.was).redirect_incident_id, '') THEN 'merged'
                ELSE 'updated' END,
           s.arrival, $2, (s.is).incident_id,
           {changes.between("(s.was)", "(s.is)", _CONTENT, source_updated_at="last_update")}, 'incident'
    FROM batch, stored s
    RETURNING full_id
), noted AS (
    INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
    SELECT $1, batch.number, counted.changes FROM batch, (SELECT count(*) AS changes FROM changes) counted
    WHERE counted.changes > 0
)
SELECT ARRAY(SELECT c.full_id FROM changes c) AS changed,
       ARRAY(SELECT i.n::int FROM i
             WHERE NOT EXISTS (SELECT FROM before b WHERE b.incident_id = i.incident_id)) AS missing
"""  # noqa: S608 - made of constants


async def sort(
    database: pool.Database,
    tenant_id: UUID,
    source: str,
    incidents: Sequence[model.Incident],
    *,
    of: str | None = None,
) -> sorting.Sorted[model.Incident]:
    """Compare keys, times and hashes, as `alerts.sort` does. A key that PostgreSQL cannot hold is new."""
    return await sorting.compare(
        database,
        _KNOWN,
        tenant_id,
        source,
        incidents,
        [one.incident_id for one in incidents],
        (one.last_update for one in incidents),
        of=of,
    )


async def insert(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    incidents: Sequence[model.Incident],
    arrivals: Sequence[str],
) -> int:
    """Insert incidents that are not held yet, each with its `created` change; their number comes back."""
    await connection.execute(_INSERT, tenant_id, source, slices.rows(incidents), arrivals)
    return len(incidents)


async def update(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    incidents: Sequence[model.Incident],
    arrivals: Sequence[str],
) -> list[str]:
    """Replace incidents by newer content, each with its `updated` or `merged` change; the ids of those that really differed come
    back.

    One that retention has deleted since `sort` saw it is inserted anew and counts too.
    """
    row = await connection.fetchrow(_UPDATE, tenant_id, source, slices.rows(incidents), arrivals)
    assert row is not None  # noqa: S101 - one row whatever was stored
    missing = [place - 1 for place in row["missing"]]
    if missing:
        await insert(
            connection, tenant_id, source, [incidents[n] for n in missing], [arrivals[n] for n in missing]
        )
    return [*row["changed"], *(incidents[n].incident_id for n in missing)]

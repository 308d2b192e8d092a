"""Alerts and their changes: what is held already, what is new, what is newer.

The caller holds the tenant's lease, so nobody else writes this (tenant, source): what `known` reads stays true until the
caller's own transaction, whose first statement is the fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from service import model
from service.store import changes, pool, slices, sorting

# A record travels as a value of alertwell.incoming_alert: the fields of model.Alert in their order, then its arrival.
_FIELDS: Final = tuple(model.Alert.__struct_fields__)
_COLUMNS: Final = ", ".join(_FIELDS)
_NAMED: Final = ", ".join("i.raw::jsonb AS raw" if name == "raw" else f"i.{name}" for name in _FIELDS)
_INCOMING: Final = f"unnest($3::alertwell.incoming_alert[]) WITH ORDINALITY AS i ({_COLUMNS}, arrival, n)"

LEAST_COPIED: Final = 50
"""From so many records on COPY is quicker; below, its two more round trips cost the client 250 µs that nothing makes up for."""

_INSERT: Final = f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), stored AS (
    INSERT INTO alertwell.alert (tenant_id, source, {_COLUMNS}, arrival)
    SELECT $1, $2, {_NAMED}, i.arrival FROM {_INCOMING}
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id)
    SELECT $1, batch.number, i.n, 1, 'created', i.arrival, $2, i.full_id
    FROM batch, {_INCOMING}
)
INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
SELECT $1, batch.number, cardinality($3) FROM batch
"""  # noqa: S608 - made of constants
_COPIED: Final = ("tenant_id", "source", *_FIELDS, "arrival")
_CREATED: Final = """
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id)
    SELECT $1, batch.number, i.n, 1, 'created', i.arrival, $2, i.full_id
    FROM batch, ROWS FROM (jsonb_array_elements_text($3), jsonb_array_elements_text($4)) WITH ORDINALITY
         AS i (full_id, arrival, n)
)
INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
SELECT $1, batch.number, jsonb_array_length($3) FROM batch
"""

_KNOWN: Final = sorting.statement("alert", "full_id", "last_processed_at")

_UPDATE: Final = f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), i AS MATERIALIZED (
    SELECT {_NAMED}, i.arrival, i.n FROM {_INCOMING}
), told AS MATERIALIZED (  -- one by one, by the key: no statistics can make a join of it that grows with the square
    SELECT i.*, b.place, d.differs,
           CASE WHEN d.differs THEN {changes.between("b", "i", [each for each in _FIELDS if each != "full_id"])} END AS changed
    FROM i
    LEFT JOIN LATERAL (  -- locked, so that what retention deletes meanwhile is missing here
        SELECT a.ctid AS place, a.* FROM alertwell.alert a
        WHERE a.tenant_id = $1 AND a.source = $2  -- as a range: see sorting.statement
          AND a.full_id BETWEEN i.full_id AND i.full_id ORDER BY a.full_id LIMIT 1
        FOR NO KEY UPDATE OF a
    ) b ON true
    CROSS JOIN LATERAL (
        SELECT (i.last_processed_at >= b.last_processed_at OR {changes.misdated("b.last_processed_at")})
               -- one that does not name its incident can be in another one with the same bytes
               AND (b.raw, b.raw_exact, b.incident_id) IS DISTINCT FROM (i.raw, i.raw_exact, i.incident_id) AS differs
        OFFSET 0
    ) d
), stored AS (  -- by its place, which stays: all who update alerts of a tenant hold lock_merging
    UPDATE alertwell.alert a
    SET ({_COLUMNS}) = ({", ".join("t." + name for name in _FIELDS)}),
        revision = a.revision + 1, updated_at = now()
    FROM told t
    WHERE a.ctid = t.place AND t.differs
      -- said once more, and without the tenant: a plan that was made while the table was small would read all of it, or of him
      AND a.ctid = ANY (ARRAY(SELECT t.place FROM told t WHERE t.differs))
    RETURNING a.full_id, a.revision, t.n, t.arrival AS now_arrival, t.changed
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, changed)
    SELECT $1, batch.number, s.n, s.revision, 'updated', s.now_arrival, $2, s.full_id, s.changed
    FROM batch, stored s
    RETURNING full_id
), noted AS (
    INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
    SELECT $1, batch.number, counted.changes FROM batch, (SELECT count(*) AS changes FROM changes) counted
    WHERE counted.changes > 0
)
SELECT ARRAY(SELECT c.full_id FROM changes c) AS changed,
       ARRAY(SELECT t.n::int FROM told t WHERE t.place IS NULL) AS missing
"""  # noqa: S608 - made of constants


async def sort(
    database: pool.Database,
    tenant_id: UUID,
    source: str,
    alerts: Sequence[model.Alert],
    *,
    of: str | None = None,
) -> sorting.Sorted[model.Alert]:
    """Compare keys, times and hashes: nothing that is held already is uploaded, and no row is locked for it.

    A key that PostgreSQL cannot hold is new: storing it makes it a reject. `of` is the life of the server (`servers`) that
    the lease was taken on: what another one holds proves nothing.
    """
    return await sorting.compare(
        database,
        _KNOWN,
        tenant_id,
        source,
        alerts,
        [one.full_id for one in alerts],
        (one.last_processed_at for one in alerts),
        of=of,
    )


async def insert(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    alerts: Sequence[model.Alert],
    arrivals: Sequence[str],
) -> int:
    """Insert alerts that are not held yet, each with its `created` change; their number comes back.

    Many by COPY, which takes a fifth less of the server than an INSERT of the same rows.
    """
    if len(alerts) < LEAST_COPIED:
        await connection.execute(_INSERT, tenant_id, source, _records(alerts, arrivals))
        return len(alerts)
    rows = (
        (tenant_id, source, *msgspec.structs.astuple(alert), arrival)
        for alert, arrival in zip(alerts, arrivals, strict=True)
    )
    try:
        await connection.copy_records_to_table(
            "alert", schema_name="alertwell", columns=_COPIED, records=rows
        )
    except (UnicodeError, OverflowError) as error:  # of the driver, which names it so in other statements
        raise asyncpg.DataError(f"{error}") from error
    keys = pool.texts([alert.full_id for alert in alerts])
    await connection.execute(_CREATED, tenant_id, source, keys, pool.texts(arrivals))
    return len(alerts)


async def update(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    alerts: Sequence[model.Alert],
    arrivals: Sequence[str],
) -> list[str]:
    """Replace alerts by newer content, each with its `updated` change; the keys of those that really differed come back.

    One that retention has deleted since `sort` saw it is inserted anew and counts too.
    """
    await connection.execute("SET LOCAL enable_seqscan = off")  # see _UPDATE: its plan is kept
    row = await connection.fetchrow(_UPDATE, tenant_id, source, _records(alerts, arrivals))
    assert row is not None  # noqa: S101 - one row whatever was stored
    missing = [place - 1 for place in row["missing"]]
    if missing:
        await insert(
            connection, tenant_id, source, [alerts[n] for n in missing], [arrivals[n] for n in missing]
        )
    return [*row["changed"], *(alerts[n].full_id for n in missing)]


def _records(alerts: Sequence[model.Alert], arrivals: Sequence[str]) -> list[tuple[Any, ...]]:
    return [(*row, arrival) for row, arrival in zip(slices.rows(alerts), arrivals, strict=True)]

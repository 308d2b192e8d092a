"""Alerts and their changes: what is held already, what is new, what is newer.

The caller holds the tenant's lease, so nobody else writes this (tenant, source): what `known` reads stays true until the
caller's own transaction, whose first statement is the fence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg
import msgspec

from service import model
from service.store import pool

SLICE_RECORDS: Final = 500
SLICE_BYTES: Final = 4 * 1024 * 1024

# A record travels as a value of alertwell.incoming_alert: the fields of model.Alert in their order, then its arrival.
_FIELDS: Final = tuple(model.Alert.__struct_fields__)
_COLUMNS: Final = ", ".join(_FIELDS)
_VALUES: Final = ", ".join("i.raw::jsonb" if name == "raw" else f"i.{name}" for name in _FIELDS)
_INCOMING: Final = f"unnest($3::alertwell.incoming_alert[]) WITH ORDINALITY AS i ({_COLUMNS}, arrival, n)"

_INSERT: Final = f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), stored AS (
    INSERT INTO alertwell.alert (tenant_id, source, {_COLUMNS}, arrival)
    SELECT $1, $2, {_VALUES}, i.arrival FROM {_INCOMING}
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id)
    SELECT $1, batch.number, i.n, 1, 'created', i.arrival, $2, i.full_id
    FROM batch, {_INCOMING}
)
INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
SELECT $1, batch.number, cardinality($3) FROM batch
"""  # noqa: S608 - made of constants

# What of a row counts as content: a change says {field: [old, new]} over these columns (the rank as soc shows it) and over
# the record's own fields as `raw.…`.
_BOOKKEEPING: Final = (
    "'{tenant_id,source,full_id,first_seen_at,updated_at,content_hash,revision,arrival,source_updated_text,"
    "severity_rank,raw,raw_exact}'::text[]"
)
_SEVERITIES: Final = "'{" + ",".join(model.SEVERITIES) + "}'::text[]"
_FIELDS_OF: Final = """(
    SELECT key, value FROM jsonb_each(to_jsonb({row}) - {bookkeeping})
    UNION ALL SELECT 'severity', to_jsonb(({severities})[{row}.severity_rank + 1])
    UNION ALL SELECT 'raw.' || key, value FROM jsonb_each({row}.raw) WHERE jsonb_typeof({row}.raw) = 'object'
)"""
# A large nested value is not repeated in the feed: its field is named, with null in its place.
_SHOWN: Final = """CASE WHEN jsonb_typeof({value}) IN ('object', 'array') AND octet_length({value}::text) > 1000
                     THEN 'null' ELSE {value} END"""


def _fields_of(row: str) -> str:
    return _FIELDS_OF.format(row=row, bookkeeping=_BOOKKEEPING, severities=_SEVERITIES)


_UPDATE: Final = f"""
WITH batch AS MATERIALIZED (
    SELECT nextval('alertwell.change_batch') AS number
), i AS MATERIALIZED (
    SELECT {_VALUES}, i.arrival, i.n FROM {_INCOMING}
), before AS MATERIALIZED (  -- locked, so that what retention deletes meanwhile is missing here
    SELECT a.full_id, a AS was
    FROM alertwell.alert a
    WHERE a.tenant_id = $1 AND a.source = $2 AND a.full_id = ANY (ARRAY(SELECT i.full_id FROM i))
    FOR NO KEY UPDATE OF a
), stored AS (
    UPDATE alertwell.alert a
    SET ({_COLUMNS}) = ({", ".join("i." + name for name in _FIELDS)}),
        revision = a.revision + 1, updated_at = now()
    FROM i JOIN before b ON b.full_id = i.full_id
    WHERE a.tenant_id = $1 AND a.source = $2 AND a.full_id = i.full_id
      -- said once more, for the index: without statistics a join alone reads all that the stream holds for each record
      AND a.full_id = ANY (ARRAY(SELECT b.full_id FROM before b))
      AND i.last_processed_at >= a.last_processed_at
      AND (a.raw, a.raw_exact) IS DISTINCT FROM (i.raw, i.raw_exact)
    RETURNING a AS is, b.was, i.n, i.arrival AS now_arrival
), changes AS (
    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, changed)
    SELECT $1, batch.number, s.n, (s.is).revision, 'updated', s.now_arrival, $2, (s.is).full_id,
           (SELECT coalesce(jsonb_object_agg(coalesce(o.key, w.key),
                                             jsonb_build_array({_SHOWN.format(value="o.value")},
                                                               {_SHOWN.format(value="w.value")})), '{{}}')
            FROM {_fields_of("(s.was)")} AS o
            FULL JOIN {_fields_of("(s.is)")} AS w ON w.key = o.key
            WHERE o.value IS DISTINCT FROM w.value)
    FROM batch, stored s
    RETURNING full_id
), noted AS (
    INSERT INTO alertwell.unnumbered (tenant_id, batch, changes)
    SELECT $1, batch.number, counted.changes FROM batch, (SELECT count(*) AS changes FROM changes) counted
    WHERE counted.changes > 0
)
SELECT (SELECT count(*) FROM changes) AS changed,
       ARRAY(SELECT i.n::int FROM i WHERE NOT EXISTS (SELECT FROM before b WHERE b.full_id = i.full_id)) AS missing
"""  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class Sorted:
    """The alerts of an answer against what is held: to insert, to update, and how many need nothing."""

    new: tuple[model.Alert, ...]
    newer: tuple[model.Alert, ...]
    unchanged: int
    stale: int


async def sort(
    database: pool.Database, tenant_id: UUID, source: str, alerts: Sequence[model.Alert]
) -> Sorted:
    """Compare keys, times and hashes: nothing that is held already is uploaded, and no row is locked for it.

    A key that PostgreSQL cannot hold is new: storing it makes it a reject.
    """
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT k.n::int AS n, a.last_processed_at, a.content_hash
            FROM unnest($3::text[]) WITH ORDINALITY AS k (full_id, n)
            JOIN alertwell.alert a ON a.tenant_id = $1 AND a.source = $2 AND a.full_id = k.full_id
            """,
            tenant_id,
            source,
            [alert.full_id if _is_text(alert.full_id) else None for alert in alerts],
        )
    held: dict[int, tuple[datetime, int]] = {row[0] - 1: (row[1], row[2]) for row in rows}
    new: list[model.Alert] = []
    newer: list[model.Alert] = []
    unchanged = stale = 0
    for n, alert in enumerate(alerts):
        if (known := held.get(n)) is None:
            new.append(alert)
        elif alert.content_hash == known[1]:
            unchanged += 1
        elif alert.last_processed_at < known[0]:
            stale += 1
        else:
            newer.append(alert)
    return Sorted(tuple(new), tuple(newer), unchanged, stale)


def slices(alerts: Sequence[model.Alert]) -> list[Sequence[model.Alert]]:
    """Cut into statements of at most SLICE_RECORDS records and about SLICE_BYTES of raw text."""
    cut: list[Sequence[model.Alert]] = []
    start = size = 0
    for n, alert in enumerate(alerts):
        size += len(alert.raw)
        if n > start and (n - start >= SLICE_RECORDS or size > SLICE_BYTES):
            cut.append(alerts[start:n])
            start, size = n, len(alert.raw)
    if start < len(alerts):
        cut.append(alerts[start:])
    return cut


async def insert(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    alerts: Sequence[model.Alert],
    arrivals: Sequence[str],
) -> int:
    """Insert alerts that are not held yet, each with its `created` change; their number comes back."""
    await connection.execute(_INSERT, tenant_id, source, _records(alerts, arrivals))
    return len(alerts)


async def update(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    alerts: Sequence[model.Alert],
    arrivals: Sequence[str],
) -> int:
    """Replace alerts by newer content, each with its `updated` change; how many really differed comes back.

    One that retention has deleted since `sort` saw it is inserted anew and counts too.
    """
    row = await connection.fetchrow(_UPDATE, tenant_id, source, _records(alerts, arrivals))
    assert row is not None  # noqa: S101 - one row whatever was stored
    missing = [place - 1 for place in row["missing"]]
    if missing:
        await insert(
            connection, tenant_id, source, [alerts[n] for n in missing], [arrivals[n] for n in missing]
        )
    return int(row["changed"]) + len(missing)


def unstorable(error: asyncpg.PostgresError) -> bool:
    """Whether PostgreSQL, or the driver in its name, refuses a value itself: SQLSTATE class 22 or 54."""
    return (error.sqlstate or "").startswith(("22", "54"))


def _is_text(key: str) -> bool:
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key


def _records(alerts: Sequence[model.Alert], arrivals: Sequence[str]) -> list[tuple[Any, ...]]:
    return [
        (*msgspec.structs.astuple(alert), arrival) for alert, arrival in zip(alerts, arrivals, strict=True)
    ]

"""What is usual of a stream, as its row says it, and what of an interval its API has not returned again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from service import model
from service.store import pool, ranges

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_HOUR: Final = timedelta(hours=1)


def decode(row: Any) -> model.Volume:
    """The volume of a row with the columns of stream_volume; nothing learned where there is no such row."""
    if row["began_at"] is None:
        return model.Volume()
    span = row["missing_span"]
    return model.Volume(
        began_at=row["began_at"],
        last=(row["last_hour"] - _EPOCH) // _HOUR if row["last_hour"] is not None else 0,
        hours=int.from_bytes(row["hours"], "little"),
        weekly=row["weekly"],
        silent_since=row["silent_since"],
        missing=row["missing"],
        held=row["held"],
        missing_since=row["missing_since"],
        missing_span=(span.lower, span.upper) if span is not None else None,
    )


async def keep(connection: pool.Connection, volumes: Sequence[tuple[UUID, str, model.Volume]]) -> None:
    """Write what has changed of these streams (tenant, source), in a transaction that holds their leases."""
    await connection.executemany(
        """
        INSERT INTO alertwell.stream_volume AS v (tenant_id, source, began_at, last_hour, hours, weekly, silent_since,
                                                  missing, held, missing_since, missing_span)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (tenant_id, source) DO UPDATE
        SET (began_at, last_hour, hours, weekly, silent_since, missing, held, missing_since, missing_span)
            = (excluded.began_at, excluded.last_hour, excluded.hours, excluded.weekly, excluded.silent_since,
               excluded.missing, excluded.held, excluded.missing_since, excluded.missing_span)
        """,
        [
            (
                tenant_id,
                source,
                one.began_at,
                _EPOCH + one.last * _HOUR if one.hours else None,
                one.hours.to_bytes((one.hours.bit_length() + 7) // 8, "little"),
                one.weekly,
                one.silent_since,
                one.missing,
                one.held,
                one.missing_since,
                ranges.encode_pair(*one.missing_span) if one.missing_span else None,
            )
            for tenant_id, source, one in volumes
        ],
    )


async def missing(
    database: pool.Database,
    tenant_id: UUID,
    source: str,
    span: tuple[datetime, datetime],
    returned: Collection[str],
    *,
    since: datetime,
    incidents: bool,
    of: str,
) -> tuple[int, int]:
    """(held, missing): records with their update time in `span` that were first seen after `since`, and how many of them are not
    among the keys returned; `of` is the life of the server (`servers`) whose rows count.
    """
    relation, key, moment = (
        ("incident", "incident_id", "last_update") if incidents else ("alert", "full_id", "last_processed_at")
    )
    async with database.connection(of=of) as connection:
        row = await connection.fetchrow(
            f"""
            SELECT count(*) AS held, count(*) FILTER (WHERE k.key IS NULL) AS missing
            FROM alertwell.{relation} a
            LEFT JOIN (SELECT DISTINCT key FROM unnest($5::text[]) AS i (key)) k ON k.key = a.{key}
            WHERE a.tenant_id = $1 AND a.source = $2 AND a.{moment} >= $3 AND a.{moment} < $4 AND a.first_seen_at >= $6
            """,  # noqa: S608 - made of constants
            tenant_id,
            source,
            *span,
            [each for each in returned if pool.is_text(each)],
            since,
        )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return row["held"], row["missing"]

"""The records of an answer against what is held of them: one rule for alerts and for incidents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

from service import model
from service.store import changes, pool

_Record = TypeVar("_Record", model.Alert, model.Incident)

_NEW: Final = "+"
_SAME: Final = "="
_OTHER: Final = "?"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)
_HASH_BITS: Final = 64


@dataclass(frozen=True, slots=True)
class Sorted(Generic[_Record]):
    """What is to be inserted, what is to be updated, and how many need nothing."""

    new: tuple[_Record, ...]
    newer: tuple[_Record, ...]
    unchanged: int
    stale: int

    @property
    def total(self) -> int:
        return len(self.new) + len(self.newer) + self.unchanged + self.stale


NONE: Final[Sorted[Any]] = Sorted((), (), 0, 0)


def statement(table: str, key: str, time: str) -> str:
    """The comparison for a table of alertwell: $1 tenant, $2 source, $3 and $4 as `compare` sends them.

    The server says of each record in one letter where it stands: `+` not held, `=` held with this hash, `?` held with another
    one, `!` the same under a time that cannot be right. So what is unchanged, which is nearly all that overlaps bring, travels as
    a letter and is looked at no more. Behind the letters come the times of those with `?`, in microseconds, in one text: of an
    array asyncpg would ask each new connection what it is, for 20 ms of the server.
    """
    return f"""
        WITH k AS (
            SELECT * FROM ROWS FROM (jsonb_array_elements_text($3), unnest($4::text::bigint[])) WITH ORDINALITY
                AS k (key, content_hash, n)
        ), c AS (
            SELECT k.n, h.updated,
                   CASE WHEN h.updated IS NULL THEN '+' WHEN h.content_hash = k.content_hash THEN '='
                        WHEN {changes.misdated("h.updated")} OR NOT isfinite(h.updated) THEN '!' ELSE '?' END AS mark
            FROM k LEFT JOIN LATERAL (
                SELECT h.{time} AS updated, h.content_hash FROM alertwell.{table} h
                WHERE h.tenant_id = $1 AND h.source = $2
                  -- as a range in order: a plan that was made while the table was small is right for ever. By equality it may
                  -- take any index that begins with the tenant, and read all that it has for each key
                  AND h.{key} BETWEEN k.key AND k.key ORDER BY h.{key} LIMIT 1
            ) h ON true
        )
        SELECT string_agg(c.mark, '' ORDER BY c.n),
               string_agg((extract(epoch FROM c.updated) * 1000000)::bigint::text, ',' ORDER BY c.n) FILTER (WHERE c.mark = '?')
        FROM c
    """  # noqa: S608 - made of constants


async def compare(
    database: pool.Database,
    question: str,
    tenant_id: UUID,
    source: str,
    records: Sequence[_Record],
    keys: Sequence[str],
    times: Iterable[datetime],
    *,
    of: str | None,
) -> Sorted[_Record]:
    """Sort records by a `statement`, each with its key and update time. A key that PostgreSQL cannot hold is new.

    `of` is the life of the server (`servers`) whose rows count.
    """
    if not records:
        return NONE
    hashes = [one.content_hash if one.content_hash.bit_length() < _HASH_BITS else 0 for one in records]
    async with database.connection(of=of) as connection:
        row = await connection.fetchrow(
            question, tenant_id, source, pool.texts(keys), "{" + ",".join(map(str, hashes)) + "}"
        )
    assert row is not None  # noqa: S101 - an aggregate always brings a row
    marks = row[0]
    if marks == _SAME * len(records):
        return Sorted((), (), len(records), 0)
    held = iter((row[1] or "").split(","))
    new: list[_Record] = []
    newer: list[_Record] = []
    unchanged = stale = 0
    for record, time, mark in zip(records, times, marks, strict=True):
        if mark == _NEW:
            new.append(record)
        elif mark == _SAME:
            unchanged += 1
        elif mark == _OTHER and (time - _EPOCH) // _MICROSECOND < int(next(held)):
            stale += 1
        else:
            newer.append(record)
    return Sorted(tuple(new), tuple(newer), unchanged, stale)

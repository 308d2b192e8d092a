"""Slices: records on their way into the database, so many a statement, and those among them that PostgreSQL refuses.

A value that it refuses fails its whole statement. So the slice is halved under savepoints until the one record is found;
that one becomes a reject and the rest is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, TypeVar

import asyncpg
import msgspec

from service import model
from service.store import pool

_Record = TypeVar("_Record", model.Alert, model.Incident)

MOST_RECORDS: Final = 500
MOST_BYTES: Final = 4 * 1024 * 1024


def cut(records: Sequence[_Record]) -> list[Sequence[_Record]]:
    """Cut alerts or incidents into statements of at most MOST_RECORDS records and about MOST_BYTES of raw text."""
    made: list[Sequence[_Record]] = []
    start = size = 0
    for n, record in enumerate(records):
        size += len(record.raw)
        if n > start and (n - start >= MOST_RECORDS or size > MOST_BYTES):
            made.append(records[start:n])
            start, size = n, len(record.raw)
    if start < len(records):
        made.append(records[start:])
    return made


def rows(records: Sequence[_Record]) -> list[tuple[Any, ...]]:
    """The records' fields in their order as values of a composite type, in which `raw` is a text."""
    made: list[tuple[Any, ...]] = []
    for record in records:
        fields: tuple[Any, ...] = msgspec.structs.astuple(record)
        place: int = record.__struct_fields__.index("raw")
        made.append((*fields[:place], record.raw.decode(), *fields[place + 1 :]))
    return made


def unstorable(error: asyncpg.PostgresError) -> bool:
    """Whether PostgreSQL, or the driver in its name, refuses a value itself: SQLSTATE class 22 or 54."""
    return (error.sqlstate or "").startswith(("22", "54"))


async def write(
    connection: pool.Connection,
    statement: Callable[[Sequence[_Record]], Awaitable[int]],
    records: Sequence[_Record],
    refused: list[model.Reject],
    *,
    careful: bool,
) -> int:
    """Run the statement over all slices; the sum of what it returned comes back.

    Careful, what PostgreSQL refuses is added to `refused`; else the first such value is raised.
    """
    count = 0
    for part in cut(records):
        count += await (_halving(connection, statement, part, refused) if careful else statement(part))
    return count


async def _halving(
    connection: pool.Connection,
    statement: Callable[[Sequence[_Record]], Awaitable[int]],
    part: Sequence[_Record],
    refused: list[model.Reject],
) -> int:
    try:
        async with connection.transaction():  # a savepoint
            return await statement(part)
    except asyncpg.PostgresError as error:
        if not unstorable(error):
            raise
        if len(part) == 1:
            reason = f"PostgreSQL cannot hold it: {str(error).splitlines()[0]}"
            record = part[0]
            refused.append(model.Reject(reason, record.raw_exact or record.raw))
            return 0
    half = len(part) // 2
    count = 0
    for side in (part[:half], part[half:]):
        count += await _halving(connection, statement, side, refused)
    return count

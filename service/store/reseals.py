"""Sealing what is stored anew, in batches, beside replicas that go on working.

The credential stays the same one: neither its version nor its owner's lease changes, and nobody reads anew. What somebody has
replaced in between (`sealed` is another by now) is left as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from service.store import audit, pool


@dataclass(frozen=True, slots=True)
class Sealed:
    """What is stored of a credential."""

    tenant_id: UUID
    tenant_name: str
    source: str
    sealed: bytes = field(repr=False)

    @property
    def place(self) -> tuple[UUID, str]:
        """Where it is in the order of batches."""
        return self.tenant_id, self.source


async def batch(database: pool.Database, after: tuple[UUID, str] | None, *, limit: int) -> list[Sealed]:
    """The next so many credentials that hold something sealed, by tenant and source, from the beginning where `after` is None."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT c.tenant_id, t.name, c.source, c.sealed
            FROM alertwell.credential c JOIN alertwell.tenant t ON t.tenant_id = c.tenant_id
            WHERE c.sealed <> '' AND ($1::uuid IS NULL OR (c.tenant_id, c.source) > ($1, $2))
            ORDER BY c.tenant_id, c.source
            LIMIT $3
            """,
            after[0] if after else None,
            after[1] if after else None,
            limit,
        )
    return [Sealed(row["tenant_id"], row["name"], row["source"], row["sealed"]) for row in rows]


async def replace(database: pool.Database, found: Sequence[tuple[Sealed, bytes]], *, actor: str) -> int:
    """Put what was sealed anew in the place of what was found there; how many were still as found comes back."""
    async with database.transaction() as connection:
        count: int = await connection.fetchval(
            """
            WITH held AS MATERIALIZED (
                SELECT c.tenant_id, c.source, i.anew
                FROM alertwell.credential c
                JOIN unnest($1::uuid[], $2::text[], $3::bytea[], $4::bytea[]) AS i (tenant_id, source, sealed, anew)
                  ON c.tenant_id = i.tenant_id AND c.source = i.source AND c.sealed = i.sealed
                ORDER BY c.tenant_id, c.source
                FOR NO KEY UPDATE OF c
            ), done AS (
                UPDATE alertwell.credential c SET sealed = held.anew
                FROM held WHERE c.tenant_id = held.tenant_id AND c.source = held.source
                RETURNING 1
            )
            SELECT count(*) FROM done
            """,
            [old.tenant_id for old, _ in found],
            [old.source for old, _ in found],
            [old.sealed for old, _ in found],
            [anew for _, anew in found],
        )
        if count:
            await audit.record(connection, actor=actor, action="credential.resealed", detail={"count": count})
    return count

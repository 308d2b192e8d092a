"""Refresh tokens that took the place of those a sign-in began with: written by the tenant's owner alone, fenced by its lease.

The one before stays good at Entra, so a write that is lost, late or refused costs nothing but the age of what is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

from service import model
from service.store import leases, pool

LASTS: Final = timedelta(days=90)
"""For how long Entra takes a refresh token (its page "Refresh tokens in the Microsoft identity platform")."""


@dataclass(frozen=True, slots=True)
class Rotation:
    """The newest refresh token of one sign-in, sealed. `version` says of which: a sign-in since then has another."""

    lease: model.Lease
    source: str
    version: int
    sealed: bytes = field(repr=False)


async def rotate(database: pool.Database, rotations: Sequence[Rotation]) -> set[UUID]:
    """Store them where the lease still stands and the credential is still the same; the tenants still owned come back.

    The version stays and nobody is told: whoever reads the tenant goes on.
    """
    async with database.transaction() as connection:
        fenced = {each.lease.tenant_id: each.lease for each in rotations}
        ours = await leases.fence_all(connection, list(fenced.values()))
        kept = [each for each in rotations if each.lease.tenant_id in ours]
        kept.sort(key=lambda each: (each.lease.tenant_id, each.source))  # one order for two writers at once
        await connection.execute(
            """
            WITH held AS MATERIALIZED (
                SELECT c.tenant_id, c.source, i.sealed
                FROM alertwell.credential c
                JOIN unnest($1::uuid[], $2::text[], $3::integer[], $4::bytea[]) AS i (tenant_id, source, version, sealed)
                  ON c.tenant_id = i.tenant_id AND c.source = i.source AND c.version = i.version
                WHERE c.kind = 'delegated'
                ORDER BY c.tenant_id, c.source
                FOR NO KEY UPDATE OF c
            )
            UPDATE alertwell.credential c SET sealed = held.sealed, expires_at = now() + $5::interval, updated_at = now()
            FROM held WHERE c.tenant_id = held.tenant_id AND c.source = held.source
            """,
            [each.lease.tenant_id for each in kept],
            [each.source for each in kept],
            [each.version for each in kept],
            [each.sealed for each in kept],
            LASTS,
        )
    return ours

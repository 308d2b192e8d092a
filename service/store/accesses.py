"""As whom a tenant is read, source by source, whether or not it has streams of them yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from service import model
from service.store import pool, streams


@dataclass(frozen=True, slots=True)
class Reading:
    """One source of one tenant: as whom to ask, and with which parameters."""

    access: model.Access
    parameters: dict[str, Any]


async def of_tenant(
    database: pool.Database, tenant: model.Tenant, sources: Sequence[str]
) -> dict[str, Reading]:
    """How these sources are read of a tenant that may have no row yet; its own credentials count where it has some."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT i.source, c.app_id, c.kind, c.sealed, c.version, c.source AS credential_source, s.parameters
            FROM unnest($2::text[]) AS i (source)
            LEFT JOIN alertwell.stream s ON s.tenant_id = $1 AND s.source = i.source
            LEFT JOIN LATERAL (
                SELECT * FROM alertwell.credential c
                WHERE c.tenant_id = $1 AND c.source IN (i.source, '')
                ORDER BY c.source DESC LIMIT 1
            ) c ON true
            """,
            tenant.tenant_id,
            list(sources),
        )
    found = {}
    for row in rows:
        credential = None
        if row["app_id"] is not None:
            credential = model.Credential(
                row["app_id"], row["kind"], row["sealed"], row["version"], row["credential_source"]
            )
        found[row["source"]] = Reading(model.Access(tenant, credential), row["parameters"] or {})
    return found


async def enrolled(database: pool.Database, tenant_ids: Sequence[UUID]) -> dict[UUID, dict[str, Reading]]:
    """How the streams of these tenants are read, by tenant and source."""
    found: dict[UUID, dict[str, Reading]] = {tenant_id: {} for tenant_id in tenant_ids}
    for item in await streams.load(database, tenant_ids):
        reading = Reading(item.access, dict(item.stream.parameters))
        found[item.stream.tenant_id][item.stream.source] = reading
    return found

"""What the demo shows of a running collector, and what it needs to compare it with the truth."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.store import pool


@dataclass(frozen=True, slots=True)
class Line:
    """One tenant, all its streams together."""

    tenant_id: UUID
    tenant: str
    state: str
    state_reason: str | None
    watermark: datetime | None
    lag_seconds: float | None
    gap_seconds: float
    proven_from: datetime | None
    proven_until: datetime | None
    stored: int
    updated: int
    rejected: int


async def lines(database: pool.Database) -> list[Line]:
    """Every tenant of the demo, by name."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT c.tenant_id, c.tenant_name AS tenant, c.state, c.state_reason, c.watermark,
                   c.data_age_seconds AS lag_seconds,
                   (SELECT coalesce(sum(extract(epoch FROM upper(g) - lower(g))), 0)::float8 FROM unnest(c.gaps) g)
                       AS gap_seconds,
                   lower(c.wanted) AS proven_from, c.proven_until,
                   coalesce(p.stored, 0)::int8 AS stored, coalesce(p.updated, 0)::int8 AS updated,
                   (SELECT count(*) FROM soc.rejects r WHERE r.tenant_id = c.tenant_id AND r.source = c.source) AS rejected
            FROM soc.coverage c
            LEFT JOIN (SELECT tenant_id, source, sum(inserted) AS stored, sum(updated) AS updated
                       FROM alertwell.poll GROUP BY tenant_id, source) p
                   ON p.tenant_id = c.tenant_id AND p.source = c.source
            ORDER BY c.tenant_name, c.source
            """
        )
    return [Line(**dict(row)) for row in rows]


async def held(database: pool.Database, tenant_id: UUID, before: datetime) -> dict[str, int]:
    """FullId -> rows, of the alerts held with an update time before a point in time."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT full_id, count(*) AS n FROM soc.alerts
            WHERE tenant_id = $1 AND last_processed_at < $2 GROUP BY full_id
            """,
            tenant_id,
            before,
        )
    return {row["full_id"]: row["n"] for row in rows}


async def changes(database: pool.Database) -> int:
    """Numbered changes in the feed."""
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT count(*) FROM soc.change_feed"))

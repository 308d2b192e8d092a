"""What `doctor` asks the database about itself, and about who waits for what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from service.store import pool


@dataclass(frozen=True, slots=True)
class Vitals:
    """`version` as `server_version_num` (150004); `unowned` are active tenants that no living replica has a lease of."""

    version: int
    clock: datetime
    unnumbered: int
    oldest_unnumbered_seconds: float
    replicas: int
    active: int
    unowned: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Tenants that wait on one cause, and since when."""

    tenants: int
    since: datetime | None


async def clock(database: pool.Database) -> tuple[int, datetime]:
    """The server's version number and its time; needs no schema of ours."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            "SELECT current_setting('server_version_num')::int AS version, clock_timestamp() AS now"
        )
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    return row["version"], row["now"]


async def vitals(database: pool.Database, *, ttl: float) -> Vitals:
    """One look; `ttl` (seconds) says which replicas still live."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            """
            WITH alive AS (
                SELECT replica_id FROM alertwell.replica WHERE heartbeat_at > now() - make_interval(secs => $1)
            )
            SELECT current_setting('server_version_num')::int AS version, clock_timestamp() AS clock,
                   f.unnumbered, coalesce(f.oldest_unnumbered_seconds, 0)::float8 AS oldest,
                   (SELECT count(*) FROM alive) AS replicas,
                   (SELECT count(*) FROM alertwell.tenant WHERE state = 'active') AS active,
                   (SELECT count(*) FROM alertwell.tenant t WHERE t.state = 'active' AND NOT EXISTS (
                       SELECT FROM alertwell.lease l JOIN alive a ON a.replica_id = l.owner
                       WHERE l.tenant_id = t.tenant_id)) AS unowned
            FROM soc.feed f
            """,
            ttl,
        )
    assert row is not None  # noqa: S101 - soc.feed always has one row
    return Vitals(
        row["version"],
        row["clock"],
        row["unnumbered"],
        row["oldest"],
        row["replicas"],
        row["active"],
        row["unowned"],
    )


async def active(database: pool.Database) -> list[UUID]:
    """The tenants that are polled, by name."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT tenant_id FROM alertwell.tenant WHERE state = 'active' ORDER BY lower(name), tenant_id"
        )
    return [row["tenant_id"] for row in rows]


async def waiting(database: pool.Database, causes: Sequence[str]) -> Waiting:
    """Tenants of the shared app with a stream that waits on one of these causes."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            """
            SELECT count(DISTINCT c.tenant_id) AS tenants, min(c.state_since) AS since
            FROM soc.coverage c
            WHERE c.enabled AND c.cause = ANY ($1::text[])
              AND NOT EXISTS (SELECT FROM alertwell.credential k
                              WHERE k.tenant_id = c.tenant_id AND k.source IN ('', c.source))
            """,
            causes,
        )
    assert row is not None  # noqa: S101 - an aggregate has one row
    return Waiting(row["tenants"], row["since"])

"""Taking proof back: what was read at another place, by another app or with other parameters is not proven now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from service.store import pool


async def scopes(connection: pool.Connection, tenant_ids: Sequence[UUID]) -> dict[UUID, tuple[Any, ...]]:
    """What decides which alerts a tenant's token and host show: cloud, region, and the app that asks."""
    rows = await connection.fetch(
        """
        SELECT t.tenant_id, t.cloud, t.region, c.app_id
        FROM alertwell.tenant t
        LEFT JOIN alertwell.credential c ON c.tenant_id = t.tenant_id AND c.source = ''
        WHERE t.tenant_id = ANY ($1::uuid[])
        """,
        tenant_ids,
    )
    return {row["tenant_id"]: tuple(row)[1:] for row in rows}


async def take_back_moved(connection: pool.Connection, reached: Mapping[UUID, tuple[Any, ...]]) -> None:
    """Tenants that are read at another place, or by another app, than before: nothing is proven there yet."""
    now = await scopes(connection, list(reached))
    moved = [tenant_id for tenant_id, scope in now.items() if scope != reached[tenant_id]]
    rows = await connection.fetch(
        "SELECT tenant_id, source FROM alertwell.stream WHERE tenant_id = ANY ($1::uuid[])", moved
    )
    await take_back(connection, [(row["tenant_id"], row["source"]) for row in rows])


async def take_back(connection: pool.Connection, streams: Sequence[tuple[UUID, str]]) -> None:
    """What was proven of these streams was proven otherwise: read anew."""
    await connection.execute(
        """
        WITH reset AS (
            UPDATE alertwell.stream s
            SET coverage = '{}', verified = '{}', last_verified_at = NULL, failures = 0, state = 'new', state_reason = NULL,
                cause = NULL, state_since = now()
            FROM unnest($1::uuid[], $2::text[]) AS i (tenant_id, source)
            WHERE s.tenant_id = i.tenant_id AND s.source = i.source
            RETURNING s.tenant_id, s.source
        ), reasons AS (
            DELETE FROM alertwell.gap_reason r USING reset
            WHERE r.tenant_id = reset.tenant_id AND r.source = reset.source
        )
        UPDATE alertwell.stream_progress p SET proven = NULL, read_to = NULL, sweep_left = NULL
        FROM reset WHERE p.tenant_id = reset.tenant_id AND p.source = reset.source
        """,
        [tenant_id for tenant_id, _ in streams],
        [source for _, source in streams],
    )

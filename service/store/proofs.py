"""Taking proof back: what was read at another place, by another app or with other parameters is not proven now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from service.store import pool


async def scopes(
    connection: pool.Connection, tenant_ids: Sequence[UUID]
) -> dict[tuple[UUID, str], tuple[Any, ...]]:
    """By stream, what decides which alerts its token and host show: cloud, region, the app that asks, and whether as itself
    or on a user's behalf.
    """
    rows = await connection.fetch(
        """
        SELECT s.tenant_id, s.source, t.cloud, t.region, c.app_id, c.kind = 'delegated' AS delegated
        FROM alertwell.stream s
        JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
        LEFT JOIN LATERAL (
            SELECT c.app_id, c.kind FROM alertwell.credential c
            WHERE c.tenant_id = s.tenant_id AND c.source IN (s.source, '')
            ORDER BY c.source DESC LIMIT 1
        ) c ON true
        WHERE s.tenant_id = ANY ($1::uuid[])
        """,
        tenant_ids,
    )
    return {(row["tenant_id"], row["source"]): tuple(row)[2:] for row in rows}


async def take_back_moved(
    connection: pool.Connection, reached: Mapping[tuple[UUID, str], tuple[Any, ...]]
) -> None:
    """Streams that are read at another place, or as somebody else, than before: nothing is proven there yet."""
    now = await scopes(connection, list({tenant_id for tenant_id, _ in reached}))
    await take_back(connection, [stream for stream in reached if now.get(stream) != reached[stream]])


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
        ), volumes AS (
            DELETE FROM alertwell.stream_volume v USING reset
            WHERE v.tenant_id = reset.tenant_id AND v.source = reset.source
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

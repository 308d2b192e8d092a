"""Why an alert or incident is there, or is not: where it is held, what became of it, and what is proven of its time."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from service.store import pool, reports

_CHANGES = 100
_REJECTS = 20


async def alerts(
    database: pool.Database, asked: str, tenant_ids: Sequence[UUID], sources: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows with this full_id or alert_id in these tenants, oldest first, each with the poll that stored it and its
    changes (seq null: not numbered yet). `window_time` is the update time by which a window asks for it: its incident's, where
    the source shows it inside of one.

    A poll is found by its time: it ran when the alert was first seen, and inserted something; null where it is past retention.
    """
    if not pool.is_text(asked):
        return []
    rows = await reports.fetch(
        database,
        """
        SELECT a.tenant_id, t.name AS tenant_name, a.source, a.full_id, a.alert_id, a.incident_id, a.title, a.arrival,
               a.revision, a.last_processed_at, a.source_updated_text, a.first_seen_at, a.updated_at,
               coalesce((SELECT i.last_update FROM alertwell.incident i
                         WHERE i.tenant_id = a.tenant_id AND i.source = a.source AND i.incident_id = a.incident_id),
                        a.last_processed_at) AS window_time
        FROM (
            SELECT DISTINCT a.*
            FROM unnest($2::uuid[]) AS asked (tenant_id)
            CROSS JOIN LATERAL (
                SELECT b.tenant_id, b.source, b.full_id FROM alertwell.alert b
                WHERE b.tenant_id = asked.tenant_id AND b.alert_id = $1
                UNION
                SELECT b.tenant_id, b.source, b.full_id FROM alertwell.alert b
                WHERE b.tenant_id = asked.tenant_id AND b.source = ANY ($3::text[]) AND b.full_id = $1
            ) a
        ) k
        JOIN alertwell.alert a USING (tenant_id, source, full_id)
        LEFT JOIN alertwell.tenant t USING (tenant_id)
        ORDER BY a.first_seen_at, a.source, a.full_id
        """,
        asked,
        tenant_ids,
        sources,
    )
    for row in rows:
        row["poll"] = await _poll(database, row)
        row["changes"] = await _changes(database, row, "alert", row["full_id"])
    return rows


async def incidents(
    database: pool.Database, asked: str, tenant_ids: Sequence[UUID], sources: Sequence[str]
) -> list[dict[str, Any]]:
    """The rows of soc.incidents with this id in these tenants, as `alerts` brings those of alerts."""
    if not pool.is_text(asked):
        return []
    rows = await reports.fetch(
        database,
        """
        SELECT i.tenant_id, t.name AS tenant_name, i.source, i.incident_id, i.redirect_incident_id, i.title, i.status,
               cardinality(i.alert_ids) AS alerts, i.revision, i.last_update AS source_updated_at, i.source_updated_text,
               i.first_seen_at, i.updated_at
        FROM alertwell.incident i LEFT JOIN alertwell.tenant t USING (tenant_id)
        WHERE i.tenant_id = ANY ($2::uuid[]) AND i.source = ANY ($3::text[]) AND i.incident_id = $1
        ORDER BY i.first_seen_at, i.source, i.tenant_id
        """,
        asked,
        tenant_ids,
        sources,
    )
    for row in rows:
        row["poll"] = await _poll(database, row)
        row["changes"] = await _changes(database, row, "incident", row["incident_id"])
    return rows


async def _poll(database: pool.Database, row: dict[str, Any]) -> dict[str, Any] | None:
    found = await reports.fetch(
        database,
        """
        SELECT p.poll_id, p.started_at, p.ended_at, p.items, p.inserted, p.updated, r.host
        FROM alertwell.poll p LEFT JOIN alertwell.replica r USING (replica_id)
        WHERE p.tenant_id = $1 AND p.source = $2
          AND p.started_at BETWEEN $3::timestamptz - interval '1 day' AND $3::timestamptz + interval '5 seconds'
          AND p.ended_at >= $3
        ORDER BY p.ended_at, p.started_at LIMIT 1
        """,
        row["tenant_id"],
        row["source"],
        row["first_seen_at"],
    )
    return found[0] if found else None


async def _changes(
    database: pool.Database, row: dict[str, Any], record: str, key: str
) -> list[dict[str, Any]]:
    return await reports.fetch(
        database,
        """
        SELECT f.seq, c.change_id, c.kind, c.revision, c.arrival, c.at, c.changed
        FROM alertwell.alert_change c
        LEFT JOIN alertwell.feed f ON f.tenant_id = c.tenant_id AND f.batch = c.batch AND f.n = c.n
        WHERE c.tenant_id = $1 AND c.source = $2 AND c.record = $3 AND c.full_id = $4 AND c.at >= $5
        ORDER BY c.at, c.batch, c.n LIMIT $6
        """,
        row["tenant_id"],
        row["source"],
        record,
        key,
        row["first_seen_at"],
        _CHANGES,
    )


async def rejects(database: pool.Database, asked: str, tenant_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Rejects of these tenants whose bytes hold the text, newest first."""
    return await reports.fetch(
        database,
        """
        SELECT j.id, j.tenant_id, t.name AS tenant_name, j.source, j.reason, j.received_at, j.last_seen_at, j.seen_count
        FROM alertwell.reject j LEFT JOIN alertwell.tenant t USING (tenant_id)
        WHERE j.tenant_id = ANY ($2::uuid[]) AND position($1::bytea IN j.raw) > 0
        ORDER BY j.id DESC LIMIT $3
        """,
        asked.encode("utf-8", "surrogatepass"),
        tenant_ids,
        _REJECTS,
    )


async def streams(
    database: pool.Database, tenant_ids: Sequence[UUID], at: datetime | None
) -> list[dict[str, Any]]:
    """What the streams of these tenants prove of an update time.

    `verdict` is null without a time, else `proven`, `gap` (with its ends and reason), `live tail` (newer than what is proven)
    or `not wanted` (before what is to be held, or past retention).
    """
    return await reports.fetch(
        database,
        """
        SELECT c.tenant_id, c.tenant_name, c.source, c.enabled, c.state, c.state_reason, lower(c.wanted) AS wanted_from,
               upper(c.coverage) AS proven_to, c.proven_until, c.data_age_seconds,
               CASE WHEN $2::timestamptz IS NULL THEN NULL
                    WHEN c.coverage @> $2 THEN 'proven'
                    WHEN NOT c.wanted @> $2 THEN 'not wanted'
                    WHEN isempty(c.coverage) OR $2 >= upper(c.coverage) THEN 'live tail'
                    ELSE 'gap' END AS verdict,
               g.gap_from, g.gap_to, g.reason, g.lost_after
        FROM soc.coverage c
        LEFT JOIN LATERAL (
            SELECT * FROM soc.gaps g
            WHERE g.tenant_id = c.tenant_id::text AND g.source = c.source AND $2 >= g.gap_from AND $2 < g.gap_to LIMIT 1
        ) g ON true
        WHERE c.tenant_id = ANY ($1::uuid[])
        ORDER BY lower(c.tenant_name), c.tenant_id, c.source
        """,
        tenant_ids,
        at,
    )


async def everyone(database: pool.Database) -> list[UUID]:
    """All tenants, removed ones too: their alerts are kept."""
    rows = await reports.fetch(database, "SELECT tenant_id FROM soc.tenants ORDER BY lower(name), tenant_id")
    return [row["tenant_id"] for row in rows]

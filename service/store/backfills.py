"""What people ask to be read later, or again: `wanted` widened, or coverage taken back, and the rest is what gaps are.

Both are one short transaction that grows the epoch: the owner hears of it within a second, and what it has read of the stream
before writes nothing any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from service import errors
from service.intervals import Intervals
from service.store import audit, leases, pool, ranges

ASKED: Final = "asked for by a backfill"
BEYOND: Final = "beyond_reach: the source cannot be asked that far back"


@dataclass(frozen=True, slots=True)
class Seen:
    """One stream by the database's clock `now`. `coverage` holds all that is proven; `polled` says whether a live replica
    has the tenant.
    """

    now: datetime
    enabled: bool
    tenant_state: str
    state: str
    state_reason: str | None
    wanted: Intervals
    backfill: Intervals
    coverage: Intervals
    gap_share: float | None
    polled: bool


async def look(database: pool.Database, tenant_id: UUID, source: str, *, ttl: float) -> Seen | None:
    """The stream, None where the tenant has none of this source; `ttl` (seconds) says which replicas still live."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            """
            SELECT now() AS now, s.enabled, t.state AS tenant_state, s.state, s.state_reason, s.wanted, s.backfill,
                   s.coverage + coalesce(tstzmultirange(p.proven), '{}') AS coverage, s.gap_share,
                   EXISTS (SELECT FROM alertwell.lease l JOIN alertwell.replica r ON r.replica_id = l.owner
                           WHERE l.tenant_id = s.tenant_id
                             AND r.heartbeat_at > now() - make_interval(secs => $3)) AS polled
            FROM alertwell.stream s
            JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
            LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
            WHERE s.tenant_id = $1 AND s.source = $2
            """,
            tenant_id,
            source,
            ttl,
        )
    if row is None:
        return None
    spans = {name: ranges.decode(row[name]) for name in ("wanted", "backfill", "coverage")}
    return Seen(**{**dict(row), **spans})


async def sources(database: pool.Database, tenant_id: UUID) -> list[str]:
    """The sources that the tenant has streams of."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT source FROM alertwell.stream WHERE tenant_id = $1 ORDER BY source", tenant_id
        )
    return [row["source"] for row in rows]


async def held(database: pool.Database, tenant_id: UUID, source: str, spans: Intervals) -> int:
    """How many alerts of the stream are held whose update time lies in these spans."""
    async with database.connection() as connection:
        count: int = await connection.fetchval(
            """
            SELECT count(*) FROM unnest($3::tstzrange[]) AS span
            JOIN alertwell.alert a ON a.tenant_id = $1 AND a.source = $2
                AND a.last_processed_at >= lower(span) AND a.last_processed_at < coalesce(upper(span), 'infinity')
            """,
            tenant_id,
            source,
            ranges.encode(spans),
        )
    return count


async def widen(
    database: pool.Database,
    tenant_id: UUID,
    source: str,
    asked: Intervals,
    *,
    beyond: Intervals,
    share: float | None,
    actor: str,
) -> Intervals:
    """Want what is asked for too; what was not wanted before comes back, and arrives as `backfill`.

    `beyond` is the part that the source cannot be asked for. `share` None leaves what was said before. Nothing is written, and
    nobody disturbed, where nothing changes.
    """
    async with database.transaction() as connection:
        row = await _locked(connection, tenant_id, source)
        added = asked - ranges.decode(row["wanted"])
        if not added and share in (None, row["gap_share"]):
            return added
        await connection.execute(
            """
            UPDATE alertwell.stream
            SET wanted = wanted + $3::tstzmultirange, backfill = backfill + $3::tstzmultirange,
                gap_share = coalesce($4, gap_share)
            WHERE tenant_id = $1 AND source = $2
            """,
            tenant_id,
            source,
            ranges.encode(added),
            share,
        )
        await _explain(connection, tenant_id, source, added - beyond, ASKED)
        await _explain(connection, tenant_id, source, added & beyond, BEYOND)
        detail = {"source": source, "added": _said(added), "share": share}
        await audit.record(
            connection, actor=actor, action="stream.backfilled", tenant_id=tenant_id, detail=detail
        )
        await leases.changed(connection, [tenant_id])
    return added


async def rewind(
    database: pool.Database, tenant_id: UUID, source: str, asked: Intervals, *, reason: str, actor: str
) -> Intervals:
    """Take back what is proven of this; what was proven comes back. Nothing is written where nothing was."""
    async with database.transaction() as connection:
        row = await _locked(connection, tenant_id, source)
        taken = asked & ranges.decode(row["coverage"])
        if not taken:
            return taken
        await connection.execute(
            """
            WITH folded AS (
                UPDATE alertwell.stream_progress SET proven = NULL WHERE tenant_id = $1 AND source = $2
            )
            UPDATE alertwell.stream SET coverage = $3::tstzmultirange WHERE tenant_id = $1 AND source = $2
            """,
            tenant_id,
            source,
            ranges.encode(ranges.decode(row["coverage"]) - taken),
        )
        await _explain(connection, tenant_id, source, taken, f"rewound: {reason}")
        detail = {"source": source, "taken_back": _said(taken), "reason": reason}
        await audit.record(
            connection, actor=actor, action="stream.rewound", tenant_id=tenant_id, detail=detail
        )
        await leases.changed(connection, [tenant_id])
    return taken


async def unfinished(database: pool.Database, tenant_id: UUID | None = None) -> list[dict[str, Any]]:
    """Backfills that are not read to the end (of one tenant, where it is named): which spans are left, and their seconds."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT s.tenant_id, t.name AS tenant_name, s.source, s.gap_share, lower(s.backfill) AS since,
                   upper(s.backfill) AS until, length.asked_seconds, length.left_seconds
            FROM alertwell.stream s
            JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id AND t.state <> 'removed'
            LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
            CROSS JOIN LATERAL (SELECT s.backfill - s.coverage - coalesce(tstzmultirange(p.proven), '{}') AS spans) missing
            CROSS JOIN LATERAL (
                SELECT (SELECT sum(extract(epoch FROM upper(r) - lower(r)))::double precision
                        FROM unnest(s.backfill) r) AS asked_seconds,
                       (SELECT sum(extract(epoch FROM upper(r) - lower(r)))::double precision
                        FROM unnest(missing.spans) r) AS left_seconds
            ) length
            WHERE s.enabled AND NOT isempty(s.backfill) AND NOT isempty(missing.spans)
              AND ($1::uuid IS NULL OR s.tenant_id = $1)
            ORDER BY lower(t.name), s.tenant_id, s.source
            """,
            tenant_id,
        )
    return [dict(row) for row in rows]


async def _locked(connection: pool.Connection, tenant_id: UUID, source: str) -> asyncpg.Record:
    await leases.lock(connection, [tenant_id])
    row = await connection.fetchrow(
        """
        SELECT s.wanted, s.gap_share, s.coverage + coalesce(tstzmultirange(p.proven), '{}') AS coverage
        FROM alertwell.stream s
        LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
        WHERE s.tenant_id = $1 AND s.source = $2 FOR NO KEY UPDATE OF s
        """,
        tenant_id,
        source,
    )
    if row is None:
        raise errors.BadInput(f"tenant {tenant_id} has no stream of {source}")
    return row


async def _explain(
    connection: pool.Connection, tenant_id: UUID, source: str, spans: Intervals, reason: str
) -> None:
    await connection.execute(
        """
        INSERT INTO alertwell.gap_reason (tenant_id, source, span, reason)
        SELECT $1, $2, span, $4 FROM unnest($3::tstzrange[]) AS span
        ON CONFLICT (tenant_id, source, span) DO UPDATE SET reason = excluded.reason, opened_at = now()
        """,
        tenant_id,
        source,
        ranges.encode(spans),
        reason,
    )


def _said(spans: Intervals) -> list[list[str]]:
    return [[start.isoformat(), end.isoformat()] for start, end in spans]

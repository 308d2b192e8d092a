"""The storing transaction: the one place where alerts, changes, rejects, watermark and coverage move, together.

Its first statement is the fence. It commits whole or not at all, so a crash anywhere means "polled again": never lost,
never doubled. A value that PostgreSQL refuses costs a second, careful pass that halves the batch under savepoints until
the one record is found; that record becomes a reject and the rest is stored.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg

from service import model
from service.intervals import Intervals
from service.store import alerts as alert_rows
from service.store import leases, pool, ranges, rejects

_Write = Callable[
    [pool.Connection, UUID, str, Sequence[model.Alert], Sequence[str]],
    Awaitable[int],
]


@dataclass(frozen=True, slots=True)
class Poll:
    """Which poll stores: one row of alertwell.poll gathers what all its windows brought."""

    poll_id: UUID
    replica_id: UUID
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Harvest:
    """What one window brought, sorted against what is held (`store.alerts.sort`).

    `folded` is all coverage that joins the stream's row now: the window's own proof and what idle polls proved before.
    `dropped` leaves it (too many ranges). `read_to` is the end of a live window that is stored, else None.
    """

    sorted: alert_rows.Sorted
    arrival: Callable[[model.Alert], model.Arrival]
    rejects: Sequence[model.Reject]
    duplicates: int
    items: int
    watermark: datetime | None
    folded: Intervals
    dropped: Intervals
    read_to: datetime | None


async def store(
    database: pool.Database, lease: model.Lease, source: str, poll: Poll, harvest: Harvest
) -> model.Counts:
    """Store a harvest; what became of each item comes back. Raises LeaseLost (nothing written), DatabaseUnavailable."""
    try:
        return await _store(database, lease, source, poll, harvest, careful=False)
    except asyncpg.PostgresError as error:
        if not alert_rows.unstorable(error):
            raise
    return await _store(database, lease, source, poll, harvest, careful=True)


async def _store(
    database: pool.Database, lease: model.Lease, source: str, poll: Poll, harvest: Harvest, *, careful: bool
) -> model.Counts:
    refused: list[model.Reject] = []
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        written = []
        for write, batch in (
            (alert_rows.insert, harvest.sorted.new),
            (alert_rows.update, harvest.sorted.newer),
        ):
            count = 0
            for part in alert_rows.slices(batch):
                if careful:
                    count += await _write_halving(
                        connection, write, lease.tenant_id, source, part, harvest, refused
                    )
                else:
                    arrivals = [harvest.arrival(alert) for alert in part]
                    count += await write(connection, lease.tenant_id, source, part, arrivals)
            written.append(count)
        counts = model.Counts(
            items=harvest.items,
            inserted=written[0],
            updated=written[1],
            # what differed in bytes and not in content was left alone by the update
            unchanged=harvest.sorted.unchanged
            + len(harvest.sorted.new)
            + len(harvest.sorted.newer)
            - sum(written)
            - len(refused),
            stale=harvest.sorted.stale,
            duplicate=harvest.duplicates,
            rejected=len(harvest.rejects) + len(refused),
        )
        if harvest.rejects or refused:
            await rejects.keep(connection, lease.tenant_id, source, [*harvest.rejects, *refused])
        await _move(connection, lease, source, harvest)
        await record_poll(connection, lease.tenant_id, source, poll, counts, outcome="complete")
    return counts


async def _write_halving(
    connection: pool.Connection,
    write: _Write,
    tenant_id: UUID,
    source: str,
    part: Sequence[model.Alert],
    harvest: Harvest,
    refused: list[model.Reject],
) -> int:
    try:
        async with connection.transaction():  # a savepoint
            return await write(
                connection, tenant_id, source, part, [harvest.arrival(alert) for alert in part]
            )
    except asyncpg.PostgresError as error:
        if not alert_rows.unstorable(error):
            raise
        if len(part) == 1:
            reason = f"PostgreSQL cannot hold it: {str(error).splitlines()[0]}"
            alert = part[0]
            refused.append(
                model.Reject(reason, alert.raw_exact or alert.raw.encode("utf-8", "surrogatepass"))
            )
            return 0
    half = len(part) // 2
    count = 0
    for side in (part[:half], part[half:]):
        count += await _write_halving(connection, write, tenant_id, source, side, harvest, refused)
    return count


async def _move(connection: pool.Connection, lease: model.Lease, source: str, harvest: Harvest) -> None:
    await connection.execute(
        """
        WITH moved AS (
            UPDATE alertwell.stream s
            SET coverage = s.coverage + coalesce(tstzmultirange(p.proven), '{}') + $3::tstzmultirange - $4::tstzmultirange,
                watermark = greatest(s.watermark, $5)
            FROM alertwell.stream_progress p
            WHERE s.tenant_id = $1 AND s.source = $2 AND p.tenant_id = s.tenant_id AND p.source = s.source
            RETURNING s.tenant_id, s.source, s.coverage
        ), healed AS (
            DELETE FROM alertwell.gap_reason r USING moved
            WHERE r.tenant_id = moved.tenant_id AND r.source = moved.source AND r.span <@ moved.coverage
        )
        UPDATE alertwell.stream_progress p
        SET last_success_at = now(), read_to = greatest(p.read_to, $6), proven = NULL
        FROM moved WHERE p.tenant_id = moved.tenant_id AND p.source = moved.source
        """,
        lease.tenant_id,
        source,
        ranges.encode(harvest.folded),
        ranges.encode(harvest.dropped),
        harvest.watermark,
        harvest.read_to,
    )


async def record_poll(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    poll: Poll,
    counts: model.Counts,
    *,
    outcome: str,
    error: str | None = None,
) -> None:
    """Add one window's counts to the poll's row; the table's CHECK holds the item accounting.

    A poll of which a part failed stays `failed`, with that part's error, whatever else it brings.
    """
    await connection.execute(
        """
        INSERT INTO alertwell.poll AS p (tenant_id, poll_id, source, replica_id, started_at, outcome, error, windows,
                                         items, inserted, updated, unchanged, stale, duplicate, rejected)
        VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9, $10, $11, $12, $13, $14)
        ON CONFLICT (tenant_id, poll_id) DO UPDATE
        SET ended_at = clock_timestamp(), windows = p.windows + 1, error = coalesce(excluded.error, p.error),
            outcome = CASE WHEN p.outcome = 'failed' THEN p.outcome ELSE excluded.outcome END,
            items = p.items + excluded.items, inserted = p.inserted + excluded.inserted,
            updated = p.updated + excluded.updated, unchanged = p.unchanged + excluded.unchanged,
            stale = p.stale + excluded.stale, duplicate = p.duplicate + excluded.duplicate,
            rejected = p.rejected + excluded.rejected
        """,
        tenant_id,
        poll.poll_id,
        source,
        poll.replica_id,
        poll.started_at,
        outcome,
        rejects.holdable(error),
        counts.items,
        counts.inserted,
        counts.updated,
        counts.unchanged,
        counts.stale,
        counts.duplicate,
        counts.rejected,
    )

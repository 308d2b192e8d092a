"""What sweeps leave in a stream's row and progress, and what lateness does to it: counts, a grown overlap, proof taken back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from service import model
from service.intervals import Intervals
from service.store import leases, pool, ranges


def decode(row: Any) -> model.Sweep | None:
    """The sweep of a row with the columns sweep_* of stream_progress; None where there is no such row."""
    if row["sweep_started_at"] is None:
        return None
    span = row["sweep_span"]
    return model.Sweep(
        started_at=row["sweep_started_at"],
        span=(span.lower, span.upper) if span is not None else None,
        left=ranges.decode([row["sweep_left"]] if row["sweep_left"] is not None else []),
        late=row["sweep_late"],
        greatest=row["sweep_lateness"],
        held=row["sweep_held"],
        missing=row["sweep_missing"],
    )


def encode(sweep: model.Sweep | None) -> tuple[Any, ...]:
    """The values of sweep_started_at, sweep_span, sweep_left, sweep_late, sweep_lateness, sweep_held, sweep_missing.

    What is left is one range in the row, around all that is: whoever goes on after a restart reads a little of it once more.
    """
    if sweep is None:
        return (None, None, None, 0, timedelta(), 0, 0)
    left = None
    if sweep.left.lower is not None and sweep.left.upper is not None:
        left = ranges.encode_pair(sweep.left.lower, sweep.left.upper)
    span = ranges.encode_pair(*sweep.span) if sweep.span else None
    return (sweep.started_at, span, left, sweep.late, sweep.greatest, sweep.held, sweep.missing)


async def learn(connection: pool.Connection, lease: model.Lease, source: str, learned: model.Learned) -> None:
    """Keep what a harvest taught, in the transaction that stores it."""
    await connection.execute(
        """
        WITH kept AS (
            UPDATE alertwell.stream
            SET late_arrivals = late_arrivals + $3, lateness = $4, observed_lateness = $5
            WHERE tenant_id = $1 AND source = $2
        )
        UPDATE alertwell.stream_progress
        SET sweep_started_at = coalesce($6, sweep_started_at), sweep_span = $7, sweep_left = $8, sweep_late = $9,
            sweep_lateness = $10, sweep_held = $11, sweep_missing = $12
        WHERE tenant_id = $1 AND source = $2
        """,
        lease.tenant_id,
        source,
        learned.late,
        {str(end): count for end, count in learned.lateness.items()},
        learned.observed,
        *encode(learned.sweep),
    )


async def verify(
    database: pool.Database, lease: model.Lease, source: str, sweep: model.Sweep, verified: Intervals
) -> None:
    """A sweep has ended whole: `verified` was read again, all of it after the sweep began. Raises LeaseLost."""
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        await connection.execute(
            """
            WITH ended AS (
                UPDATE alertwell.stream SET last_verified_at = $3, verified = $4 WHERE tenant_id = $1 AND source = $2
                RETURNING tenant_id, source
            )
            UPDATE alertwell.stream_progress p  -- joined, so that the stream is locked first
            SET sweep_started_at = $3, sweep_span = $5, sweep_left = NULL, sweep_late = 0, sweep_lateness = '0',
                sweep_held = 0, sweep_missing = 0
            FROM ended WHERE p.tenant_id = ended.tenant_id AND p.source = ended.source
            """,
            lease.tenant_id,
            source,
            sweep.started_at,
            ranges.encode(verified),
            ranges.encode_pair(*sweep.span) if sweep.span else None,
        )


async def widen_overlap(
    database: pool.Database,
    lease: model.Lease,
    stream: model.Stream,
    overlap: timedelta,
    too_early: Intervals,
) -> None:
    """Let a stream's overlap grow, and take back what was proven too early for it. Raises LeaseLost.

    The epoch grows with it, so that a flush under way does not bring back what is taken: the tenant has to be taken anew.
    """
    async with database.transaction() as connection:
        await leases.advance(connection, lease)
        await connection.execute(
            """
            WITH widened AS (
                UPDATE alertwell.stream s
                SET overlap = $3,
                    coverage = s.coverage + coalesce(tstzmultirange(p.proven), '{}') + $4::tstzmultirange - $5::tstzmultirange
                FROM alertwell.stream_progress p
                WHERE s.tenant_id = $1 AND s.source = $2 AND p.tenant_id = s.tenant_id AND p.source = s.source
            )
            UPDATE alertwell.stream_progress p  -- what was counted goes along: whoever takes the tenant anew counts on from it
            SET proven = NULL,
                idle_items = greatest(p.idle_items, $6), idle_unchanged = greatest(p.idle_unchanged, $7),
                idle_stale = greatest(p.idle_stale, $8), idle_duplicate = greatest(p.idle_duplicate, $9)
            WHERE p.tenant_id = $1 AND p.source = $2
            """,
            lease.tenant_id,
            stream.source,
            overlap,
            ranges.encode(stream.unfolded),
            ranges.encode(too_early),
            stream.idle.items,
            stream.idle.unchanged,
            stream.idle.stale,
            stream.idle.duplicate,
        )

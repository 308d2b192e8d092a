"""The storing transaction: the one place where alerts, incidents, changes, rejects, watermark and coverage move, together.

Its first statement is the fence. It commits whole or not at all, so a crash anywhere means "polled again": never lost,
never doubled. A value that PostgreSQL refuses costs a second, careful pass that halves the batch under savepoints until
the one record is found; that record becomes a reject and the rest is stored.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from service import model
from service.intervals import Intervals
from service.store import alerts as alert_rows
from service.store import incidents as incident_rows
from service.store import leases, pool, ranges, redirects, rejects, slices, sorting, sweeps


@dataclass(frozen=True, slots=True)
class Poll:
    """Which poll stores: one row of alertwell.poll gathers what all its windows brought."""

    poll_id: UUID
    replica_id: UUID
    started_at: datetime


@dataclass(frozen=True, slots=True)
class Harvest:
    """What one window brought, sorted against what is held (`store.alerts.sort`, `store.incidents.sort`).

    `items` are top-level records. Of a source of incidents these are the incidents, and `nested` the alerts inside of them, of
    which `nested_rejects` are among the rejects: see model.Page, whose numbers these are.

    `arrival` says how a record with this update time came. `folded` is all coverage that joins the stream's row now: the
    window's own proof and what idle polls proved before. `dropped` leaves it (too many ranges). `read_to` is the end of a live
    window that is stored, else None. `learn` tells from the keys of the items that were inserted or really updated what
    there is to learn of lateness, None where none came late. `idle` is the stream's as of before this answer.
    """

    sorted: sorting.Sorted[model.Alert]
    arrival: Callable[[datetime], model.Arrival]
    rejects: Sequence[model.Reject]
    duplicates: int
    items: int
    watermark: datetime | None
    folded: Intervals
    dropped: Intervals
    read_to: datetime | None
    incidents: sorting.Sorted[model.Incident] = sorting.NONE
    nested: int = 0
    nested_rejects: int = 0
    learn: Callable[[Collection[str]], model.Learned | None] = lambda _: None
    idle: model.Counts = field(default_factory=model.Counts)

    @property
    def inside(self) -> bool:
        """Whether the alerts came inside of incidents: then these are the items."""
        return self.nested > 0 or self.incidents.total > 0


@dataclass(frozen=True, slots=True)
class Stored:
    """What became of each item of a harvest, how many rejects were kept of it, nested ones included, and what was learned from
    those that came late.
    """

    counts: model.Counts
    rejects: int
    learned: model.Learned | None


async def store(
    database: pool.Database, lease: model.Lease, source: str, poll: Poll, harvest: Harvest
) -> Stored:
    """Store a harvest; what became of it comes back. Raises LeaseLost (nothing written), DatabaseUnavailable."""
    try:
        return await _store(database, lease, source, poll, harvest, careful=False)
    except asyncpg.PostgresError as error:
        if not slices.unstorable(error):
            raise
    return await _store(database, lease, source, poll, harvest, careful=True)


async def _store(
    database: pool.Database, lease: model.Lease, source: str, poll: Poll, harvest: Harvest, *, careful: bool
) -> Stored:
    refused = _Refused([], [])
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        found, held = harvest.sorted, harvest.incidents
        incidents = alerts = _Written(0, 0, frozenset())
        if found.new or found.newer or held.new or held.newer:
            # before any row: two streams of a tenant would wait for each other's rows else
            await connection.execute("SELECT alertwell.lock_merging($1)", lease.tenant_id)
        if held.new or held.newer:
            incidents = await _store_incidents(connection, lease.tenant_id, source, harvest, refused, careful)
        if found.new or found.newer:
            alerts = await _store_alerts(connection, lease.tenant_id, source, harvest, refused, careful)
        counts = _counts(harvest, incidents, alerts, refused)
        await _move(connection, lease, source, harvest, counts)
        # what a day has room for stands in stream_progress, which comes after the stream
        if harvest.rejects or refused.all:
            await rejects.keep(connection, lease.tenant_id, source, [*harvest.rejects, *refused.all])
        learned = harvest.learn(incidents.keys if harvest.inside else alerts.keys)
        if learned:
            await sweeps.learn(connection, lease, source, learned)
        await record_poll(connection, lease.tenant_id, source, poll, counts, outcome="complete")
    return Stored(counts, len(harvest.rejects) + len(refused.all), learned)


@dataclass(frozen=True, slots=True)
class _Written:
    inserted: int
    updated: int
    keys: Collection[str]


@dataclass(frozen=True, slots=True)
class _Refused:
    """What PostgreSQL itself would not hold."""

    incidents: list[model.Reject]
    alerts: list[model.Reject]

    @property
    def all(self) -> list[model.Reject]:
        return [*self.incidents, *self.alerts]


def _counts(harvest: Harvest, incidents: _Written, alerts: _Written, refused: _Refused) -> model.Counts:
    top: sorting.Sorted[model.Alert] | sorting.Sorted[model.Incident]
    if harvest.inside:
        top, written, refusals = harvest.incidents, incidents, len(refused.incidents)
        rejected = len(harvest.rejects) - harvest.nested_rejects
    else:
        top, written, refusals = harvest.sorted, alerts, len(refused.alerts)
        rejected = len(harvest.rejects)
    # what differed in bytes and not in content was left alone by the update
    same = len(top.new) + len(top.newer) - written.inserted - written.updated - refusals
    return model.Counts(
        items=harvest.items,
        inserted=written.inserted,
        updated=written.updated,
        unchanged=top.unchanged + same,
        stale=top.stale,
        duplicate=harvest.duplicates,
        rejected=rejected + refusals,
        nested=harvest.nested,
    )


async def _store_incidents(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    harvest: Harvest,
    refused: _Refused,
    careful: bool,
) -> _Written:
    held = harvest.incidents
    touched = [one.incident_id for one in (*held.new, *held.newer)]
    before = await redirects.around(connection, tenant_id, touched)
    keys: set[str] = set()

    async def insert(part: Sequence[model.Incident]) -> int:
        arrivals = [harvest.arrival(one.last_update) for one in part]
        count = await incident_rows.insert(connection, tenant_id, source, part, arrivals)
        keys.update(one.incident_id for one in part)
        return count

    async def update(part: Sequence[model.Incident]) -> int:
        arrivals = [harvest.arrival(one.last_update) for one in part]
        changed = await incident_rows.update(connection, tenant_id, source, part, arrivals)
        keys.update(changed)
        return len(changed)

    written = _Written(
        await slices.write(connection, insert, held.new, refused.incidents, careful=careful),
        await slices.write(connection, update, held.newer, refused.incidents, careful=careful),
        keys,
    )
    await redirects.follow(connection, tenant_id, touched, before)
    return written


async def _store_alerts(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    harvest: Harvest,
    refused: _Refused,
    careful: bool,
) -> _Written:
    found = harvest.sorted
    named = [one.incident_id for one in (*found.new, *found.newer) if one.incident_id is not None]
    ends = await redirects.survivors(connection, tenant_id, named) if named else {}

    def moved(alert: model.Alert) -> model.Alert:
        end = ends.get(alert.incident_id or "")
        return alert if end is None else msgspec.structs.replace(alert, incident_id=end)

    keys: set[str] = set()

    async def insert(part: Sequence[model.Alert]) -> int:
        arrivals = [harvest.arrival(alert.last_processed_at) for alert in part]
        count = await alert_rows.insert(connection, tenant_id, source, part, arrivals)
        keys.update(alert.full_id for alert in part)
        return count

    async def update(part: Sequence[model.Alert]) -> int:
        arrivals = [harvest.arrival(alert.last_processed_at) for alert in part]
        changed = await alert_rows.update(connection, tenant_id, source, part, arrivals)
        keys.update(changed)
        return len(changed)

    new, newer = found.new, found.newer
    if ends:
        new, newer = tuple(map(moved, new)), tuple(map(moved, newer))
    return _Written(
        await slices.write(connection, insert, new, refused.alerts, careful=careful),
        await slices.write(connection, update, newer, refused.alerts, careful=careful),
        keys,
    )


async def _move(
    connection: pool.Connection, lease: model.Lease, source: str, harvest: Harvest, counts: model.Counts
) -> None:
    await connection.execute(
        """
        WITH moved AS (
            UPDATE alertwell.stream s
            SET coverage = s.coverage + coalesce(tstzmultirange(p.proven), '{}') + $3::text::tstzmultirange
                           - $4::text::tstzmultirange,
                watermark = greatest(s.watermark, $5)
            FROM alertwell.stream_progress p
            WHERE s.tenant_id = $1 AND s.source = $2 AND p.tenant_id = s.tenant_id AND p.source = s.source
            RETURNING s.tenant_id, s.source, s.coverage
        ), healed AS (
            DELETE FROM alertwell.gap_reason r USING moved
            WHERE r.tenant_id = moved.tenant_id AND r.source = moved.source AND r.span <@ moved.coverage
        )
        UPDATE alertwell.stream_progress p
        SET last_success_at = now(), read_to = greatest(p.read_to, $6), proven = NULL,
            items = p.items + $7, inserted = p.inserted + $8, updated = p.updated + $9, unchanged = p.unchanged + $10,
            stale = p.stale + $11, duplicate = p.duplicate + $12, rejected = p.rejected + $13,
            idle_items = greatest(p.idle_items, $14), idle_unchanged = greatest(p.idle_unchanged, $15),
            idle_stale = greatest(p.idle_stale, $16), idle_duplicate = greatest(p.idle_duplicate, $17)
        FROM moved WHERE p.tenant_id = moved.tenant_id AND p.source = moved.source
        """,
        lease.tenant_id,
        source,
        ranges.text(harvest.folded),
        ranges.text(harvest.dropped),
        harvest.watermark,
        harvest.read_to,
        counts.items,
        counts.inserted,
        counts.updated,
        counts.unchanged,
        counts.stale,
        counts.duplicate,
        counts.rejected,
        harvest.idle.items,
        harvest.idle.unchanged,
        harvest.idle.stale,
        harvest.idle.duplicate,
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
                                         items, inserted, updated, unchanged, stale, duplicate, rejected, nested)
        VALUES ($1, $2, $3, $4, $5, $6, $7, 1, $8, $9, $10, $11, $12, $13, $14, $15)
        ON CONFLICT (tenant_id, poll_id) DO UPDATE
        SET ended_at = clock_timestamp(), windows = p.windows + 1, error = coalesce(excluded.error, p.error),
            outcome = CASE WHEN p.outcome = 'failed' THEN p.outcome ELSE excluded.outcome END,
            items = p.items + excluded.items, inserted = p.inserted + excluded.inserted,
            updated = p.updated + excluded.updated, unchanged = p.unchanged + excluded.unchanged,
            stale = p.stale + excluded.stale, duplicate = p.duplicate + excluded.duplicate,
            rejected = p.rejected + excluded.rejected, nested = p.nested + excluded.nested
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
        counts.nested,
    )

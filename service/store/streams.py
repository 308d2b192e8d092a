"""Streams: what an owner loads, the state it shows, and the progress of idle polls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from service import model
from service.intervals import Intervals
from service.store import leases, pool, ranges, rejects, storing, sweeps, volumes


@dataclass(frozen=True, slots=True)
class Owned:
    """A stream as its owner needs it: the row, and as whom to read."""

    stream: model.Stream
    access: model.Access
    read_to: datetime | None


@dataclass(frozen=True, slots=True)
class Progress:
    """What polls that stored nothing have moved since the last flush. `folded` joins the stream's row, `proven` replaces
    the one range that stream_progress keeps (null: leave it). `idle` are totals, so that a flush that is tried again adds nothing
    twice; `volume` is None where nothing of it has changed.
    """

    lease: model.Lease
    source: str
    last_success_at: datetime | None
    read_to: datetime | None
    proven: tuple[datetime, datetime] | None
    folded: Intervals
    next_poll_at: datetime
    sweep: model.Sweep | None = None
    idle: model.Counts = field(default_factory=model.Counts)
    volume: model.Volume | None = None


async def load(database: pool.Database, tenant_ids: Sequence[UUID], *, of: str | None = None) -> list[Owned]:
    """The enabled streams of these tenants, each with the credential that counts for it (its own, its tenant's, or none).

    `of` is the life of the server (`servers`) that their leases were taken on.
    """
    async with database.connection(of=of) as connection:
        rows = await connection.fetch(
            """
            SELECT s.tenant_id, s.source, s.parameters, s.enrolled_at, s.wanted, s.backfill, s.coverage, s.watermark,
                   s.overlap, s.failures, s.state, s.state_reason, s.cause, s.gone_since, s.history, s.gap_share,
                   s.lateness, p.proven, p.read_to,
                   p.sweep_started_at, p.sweep_span, p.sweep_left, p.sweep_late, p.sweep_lateness, p.sweep_held, p.sweep_missing,
                   p.idle_items, p.idle_unchanged, p.idle_stale, p.idle_duplicate,
                   v.began_at, v.last_hour, v.hours, v.weekly, v.silent_since, v.missing, v.held, v.missing_since, v.missing_span,
                   t.name, t.cloud, t.region, t.state AS tenant_state, t.labels, t.external_ref,
                   c.app_id, c.kind, c.sealed, c.version, c.source AS credential_source
            FROM alertwell.stream s
            JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id
            LEFT JOIN alertwell.stream_progress p ON p.tenant_id = s.tenant_id AND p.source = s.source
            LEFT JOIN alertwell.stream_volume v ON v.tenant_id = s.tenant_id AND v.source = s.source
            LEFT JOIN LATERAL (
                SELECT * FROM alertwell.credential c
                WHERE c.tenant_id = s.tenant_id AND c.source IN (s.source, '')
                ORDER BY c.source DESC LIMIT 1
            ) c ON true
            WHERE s.tenant_id = ANY ($1::uuid[]) AND s.enabled
            """,
            tenant_ids,
        )
    loaded = []
    for row in rows:
        unfolded = ranges.decode([row["proven"]] if row["proven"] is not None else [])
        stream = model.Stream(
            tenant_id=row["tenant_id"],
            source=row["source"],
            parameters=row["parameters"],
            enrolled_at=row["enrolled_at"],
            wanted=ranges.decode(row["wanted"]),
            backfill=ranges.decode(row["backfill"]),
            coverage=ranges.decode(row["coverage"]) | unfolded,
            unfolded=unfolded,
            watermark=row["watermark"],
            overlap=row["overlap"],
            failures=row["failures"],
            state=row["state"],
            state_reason=row["state_reason"],
            cause=row["cause"],
            gone_since=row["gone_since"],
            history=row["history"],
            gap_share=row["gap_share"],
            lateness={int(end): count for end, count in row["lateness"].items()},
            sweep=sweeps.decode(row),
            volume=volumes.decode(row),
            idle=model.Counts(
                items=row["idle_items"] or 0,
                unchanged=row["idle_unchanged"] or 0,
                stale=row["idle_stale"] or 0,
                duplicate=row["idle_duplicate"] or 0,
            ),
        )
        tenant = model.Tenant(
            tenant_id=row["tenant_id"],
            name=row["name"],
            cloud=row["cloud"],
            region=row["region"],
            state=row["tenant_state"],
            labels=row["labels"],
            external_ref=row["external_ref"],
        )
        credential = None
        if row["app_id"] is not None:
            credential = model.Credential(
                row["app_id"], row["kind"], row["sealed"], row["version"], row["credential_source"]
            )
        loaded.append(Owned(stream, model.Access(tenant, credential), row["read_to"]))
    return loaded


async def show_state(
    database: pool.Database,
    lease: model.Lease,
    source: str,
    *,
    state: model.StreamState,
    reason: str | None,
    failures: int,
    cause: str | None = None,
) -> None:
    """Write a stream's state where it changed; its source is there. `cause` as in `record_failure`. Raises LeaseLost."""
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        await _set_state(connection, lease, source, state, reason, cause, failures, gone=False)


async def record_failure(
    database: pool.Database,
    lease: model.Lease,
    source: str,
    poll: storing.Poll,
    *,
    state: model.StreamState,
    reason: str,
    failures: int,
    sample: bytes,
    cause: str | None = None,
    gone: bool | None = False,
) -> datetime | None:
    """A poll whose live window failed: its row, the stream's state, a sample of a body that could not be read.

    `cause` is the word of `causes` for what a person must mend, None where nobody must.
    `gone` says whether the source is missing, None that nobody can tell; since when it is comes back.
    """
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        since = await _set_state(connection, lease, source, state, reason, cause, failures, gone=gone)
        await _failed_poll(connection, lease, source, poll, reason, sample)
    return since


async def keep_sample(
    database: pool.Database, lease: model.Lease, source: str, reason: str, sample: bytes
) -> None:
    """A sample of a body that could not be used, where the poll goes on without it. Raises LeaseLost."""
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        await rejects.keep_sample(connection, lease.tenant_id, source, reason, sample)


async def note_gap(
    database: pool.Database,
    lease: model.Lease,
    source: str,
    poll: storing.Poll,
    *,
    span: tuple[datetime, datetime],
    reason: str,
    sample: bytes,
) -> None:
    """A part of a poll that failed while the rest went on: why this interval stays a gap."""
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        await _failed_poll(connection, lease, source, poll, reason, sample)
        await connection.execute(
            """
            INSERT INTO alertwell.gap_reason (tenant_id, source, span, reason) VALUES ($1, $2, $3, $4)
            ON CONFLICT (tenant_id, source, span) DO UPDATE SET reason = excluded.reason
            """,
            lease.tenant_id,
            source,
            ranges.encode_pair(*span),
            rejects.holdable(reason),
        )


async def _failed_poll(
    connection: pool.Connection,
    lease: model.Lease,
    source: str,
    poll: storing.Poll,
    reason: str,
    sample: bytes,
) -> None:
    await storing.record_poll(
        connection, lease.tenant_id, source, poll, model.Counts(), outcome="failed", error=reason
    )
    if sample:
        await rejects.keep_sample(connection, lease.tenant_id, source, reason, sample)


async def _set_state(
    connection: pool.Connection,
    lease: model.Lease,
    source: str,
    state: model.StreamState,
    reason: str | None,
    cause: str | None,
    failures: int,
    *,
    gone: bool | None,
) -> datetime | None:
    since: datetime | None = await connection.fetchval(
        """
        UPDATE alertwell.stream
        SET state_since = CASE WHEN state = $3 THEN state_since ELSE now() END,
            state = $3, state_reason = $4, failures = $5, cause = $7,
            gone_since = CASE WHEN $6 THEN coalesce(gone_since, now()) WHEN $6 IS NULL THEN gone_since END
        WHERE tenant_id = $1 AND source = $2
        RETURNING gone_since
        """,
        lease.tenant_id,
        source,
        state,
        rejects.holdable(reason),
        failures,
        gone,
        cause,
    )
    return since


async def flush(database: pool.Database, moved: Sequence[Progress]) -> set[UUID]:
    """Write the progress of many streams in one transaction; the tenants whose lease still stood come back."""
    async with database.transaction() as connection:
        fenced = {p.lease.tenant_id: p.lease for p in moved}
        ours = await leases.fence_all(connection, list(fenced.values()))
        kept = [p for p in moved if p.lease.tenant_id in ours and p.lease == fenced[p.lease.tenant_id]]
        kept.sort(key=lambda p: (p.lease.tenant_id, p.source))  # one order for two flushes at once
        swept = [sweeps.encode(p.sweep) for p in kept]
        for p in kept:
            if p.folded:
                await connection.execute(
                    """
                    UPDATE alertwell.stream SET coverage = coverage + $3::tstzmultirange
                    WHERE tenant_id = $1 AND source = $2
                    """,
                    p.lease.tenant_id,
                    p.source,
                    ranges.encode(p.folded),
                )
        await connection.execute(
            """
            UPDATE alertwell.stream_progress p
            SET last_success_at = coalesce(i.last_success_at, p.last_success_at),
                read_to = greatest(p.read_to, i.read_to),
                proven = coalesce(i.proven, p.proven),
                next_poll_at = i.next_poll_at, sweep_started_at = coalesce(i.sweep_started_at, p.sweep_started_at),
                sweep_span = i.sweep_span, sweep_left = i.sweep_left, sweep_late = i.sweep_late,
                sweep_lateness = i.sweep_lateness, sweep_held = i.sweep_held, sweep_missing = i.sweep_missing,
                idle_items = greatest(p.idle_items, i.idle_items), idle_unchanged = greatest(p.idle_unchanged, i.idle_unchanged),
                idle_stale = greatest(p.idle_stale, i.idle_stale), idle_duplicate = greatest(p.idle_duplicate, i.idle_duplicate)
            FROM unnest($1::uuid[], $2::text[], $3::timestamptz[], $4::timestamptz[], $5::tstzrange[], $6::timestamptz[],
                        $7::timestamptz[], $8::tstzrange[], $9::tstzrange[], $10::int[], $11::interval[], $12::int[], $13::int[],
                        $14::bigint[], $15::bigint[], $16::bigint[], $17::bigint[])
                 AS i (tenant_id, source, last_success_at, read_to, proven, next_poll_at,
                       sweep_started_at, sweep_span, sweep_left, sweep_late, sweep_lateness, sweep_held, sweep_missing,
                       idle_items, idle_unchanged, idle_stale, idle_duplicate)
            WHERE p.tenant_id = i.tenant_id AND p.source = i.source
            """,
            [p.lease.tenant_id for p in kept],
            [p.source for p in kept],
            [p.last_success_at for p in kept],
            [p.read_to for p in kept],
            [ranges.encode_pair(*p.proven) if p.proven else None for p in kept],
            [p.next_poll_at for p in kept],
            *([values[n] for values in swept] for n in range(7)),
            [p.idle.items for p in kept],
            [p.idle.unchanged for p in kept],
            [p.idle.stale for p in kept],
            [p.idle.duplicate for p in kept],
        )
        learned = [(p.lease.tenant_id, p.source, p.volume) for p in kept if p.volume is not None]
        if learned:
            await volumes.keep(connection, learned)
    return ours

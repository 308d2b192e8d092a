"""What takes the place of a stream whose source is gone: another source of the same tenant, enrolled by its owner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from service import model
from service.intervals import Intervals
from service.store import audit, leases, pool, ranges, streams


@dataclass(frozen=True, slots=True)
class Standing:
    """The stream that stands in: `owned` for its owner to poll, None where a person has ended it; `unwanted` is what it does
    not want of what it should.
    """

    owned: streams.Owned | None
    unwanted: Intervals


async def enrol(
    database: pool.Database,
    lease: model.Lease,
    source: str,
    *,
    parameters: Mapping[str, Any],
    since: datetime,
    news_from: datetime,
) -> Standing:
    """Give the tenant a stream of this source that wants everything from `since` on, unless it has one, which stays as it is.

    Alerts from before `news_from` arrive as `fallback`: the stream counts as enrolled then, since nobody has read since what
    happened, and whoever opens tickets has to hear of it. The lease keeps its epoch, so that no other poll of the tenant is
    disturbed: the stream is the owner's to poll, also where it was enrolled before and its owner has not heard of it (the
    database went away in between). Raises LeaseLost, DatabaseUnavailable.
    """
    async with database.transaction() as connection:
        await leases.fence(connection, lease)
        added = await connection.fetchval(
            """
            WITH stream AS (
                INSERT INTO alertwell.stream (tenant_id, source, parameters, wanted, enrolled_at, history)
                VALUES ($1, $2, $3::jsonb, $4::tstzmultirange, $5, 'fallback')
                ON CONFLICT (tenant_id, source) DO NOTHING
                RETURNING tenant_id, source
            )
            INSERT INTO alertwell.stream_progress (tenant_id, source) SELECT tenant_id, source FROM stream
            RETURNING true
            """,
            lease.tenant_id,
            source,
            dict(parameters),
            ranges.encode(Intervals.of((since, None))),
            news_from,
        )
        if added:
            detail = {"source": source, "since": since.isoformat()}
            await audit.record(
                connection,
                actor=audit.DAEMON,
                action="stream.fallback",
                tenant_id=lease.tenant_id,
                detail=detail,
            )
    owned = await polled(database, lease, source)
    everything = Intervals.of((since, None))
    return Standing(owned, everything - owned.stream.wanted if owned else everything)


async def polled(database: pool.Database, lease: model.Lease, source: str) -> streams.Owned | None:
    """The tenant's stream of this source, None where it has none or that is not polled. Raises DatabaseUnavailable."""
    loaded = await streams.load(database, [lease.tenant_id], of=lease.server)
    return next((item for item in loaded if item.stream.source == source), None)

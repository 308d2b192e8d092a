"""What the database holds, as the verdict asks for it; and what is done to it from outside."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from service.intervals import Intervals
from service.store import ranges
from tests.chaos import verdict

Key = tuple[str, str]
"""(tenant, source)."""


class Sample(NamedTuple):
    """Some streams at one time, all in one snapshot."""

    at: datetime
    coverage: dict[Key, Intervals]
    alerts: dict[Key, dict[str, datetime]]
    incidents: dict[Key, dict[str, datetime]]


class Stream(NamedTuple):
    """soc.coverage of a stream."""

    wanted: Intervals
    gaps: Intervals
    coverage: Intervals
    state: str
    reason: str | None


async def connect(dsn: str) -> asyncpg.Connection:
    """A connection that gives up within seconds; to be closed by whoever asked."""
    return await asyncpg.connect(dsn, timeout=10, command_timeout=60)


async def sample(connection: asyncpg.Connection, tenants: Sequence[str]) -> Sample:
    """What is proven and held of some tenants, in one snapshot."""
    ids = [UUID(each) for each in tenants]
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        at = await connection.fetchval("SELECT statement_timestamp()")
        spans = await connection.fetch(
            "SELECT tenant_id::text, source, coverage FROM soc.coverage WHERE tenant_id = ANY($1)", ids
        )
        alerts = await connection.fetch(
            "SELECT tenant_id::text, source, full_id, last_processed_at FROM alertwell.alert WHERE tenant_id = ANY($1)",
            ids,
        )
        incidents = await connection.fetch(
            "SELECT tenant_id::text, source, incident_id, last_update FROM alertwell.incident WHERE tenant_id = ANY($1)",
            ids,
        )
    return Sample(
        at,
        {(row[0], row[1]): ranges.decode(row[2]) for row in spans},
        _by_stream(alerts),
        _by_stream(incidents),
    )


def _by_stream(rows: Sequence[asyncpg.Record]) -> dict[Key, dict[str, datetime]]:
    found: dict[Key, dict[str, datetime]] = {}
    for tenant_id, source, name, updated in rows:
        found.setdefault((tenant_id, source), {})[name] = updated
    return found


async def streams(connection: asyncpg.Connection) -> dict[Key, Stream]:
    """Every stream."""
    rows = await connection.fetch(
        "SELECT tenant_id::text, source, wanted, gaps, coverage, state, state_reason FROM soc.coverage"
    )
    return {
        (row[0], row[1]): Stream(
            ranges.decode(row[2]), ranges.decode(row[3]), ranges.decode(row[4]), row[5], row[6]
        )
        for row in rows
    }


async def held(
    connection: asyncpg.Connection, tenant_id: str, source: str, *, incidents: bool
) -> list[verdict.Held]:
    """The rows of a stream as readers see them, whole."""
    if incidents:
        asked = "SELECT incident_id, source_updated_at, raw::text FROM soc.incidents"
    else:
        asked = "SELECT full_id, last_processed_at, raw::text FROM soc.alerts"
    rows = await connection.fetch(f"{asked} WHERE tenant_id = $1 AND source = $2", UUID(tenant_id), source)
    return [verdict.Held(*row) for row in rows]


async def numbers(connection: asyncpg.Connection, tenants: Sequence[str]) -> set[int]:
    """All numbers of the feed that are of these tenants."""
    rows = await connection.fetch("SELECT seq FROM soc.change_feed WHERE tenant_id = ANY($1)", list(tenants))
    return {row[0] for row in rows}


async def head(connection: asyncpg.Connection) -> tuple[int, int]:
    """The newest number, and how many changes have none yet."""
    row = await connection.fetchrow("SELECT head_seq, unnumbered FROM soc.feed")
    return row["head_seq"], row["unnumbered"]


async def sums(connection: asyncpg.Connection) -> dict[str, int]:
    """Items of all polls that left a row, by what became of them, and how many polls they were."""
    row = await connection.fetchrow(
        "SELECT count(*) AS polls, sum(items)::bigint AS items, sum(inserted)::bigint AS inserted,"
        " sum(updated)::bigint AS updated, sum(unchanged)::bigint AS unchanged, sum(stale)::bigint AS stale,"
        " sum(duplicate)::bigint AS duplicate, sum(rejected)::bigint AS rejected FROM alertwell.poll"
    )
    return {name: value or 0 for name, value in row.items()}


async def weight(connection: asyncpg.Connection) -> dict[str, Any]:
    """What the database itself holds: bytes, connections, dead rows, late arrivals."""
    row = await connection.fetchrow(
        "SELECT pg_database_size(current_database()) AS bytes,"
        " (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()) AS connections,"
        " (SELECT sum(n_dead_tup)::bigint FROM pg_stat_user_tables) AS dead_rows,"
        " (SELECT sum(n_live_tup)::bigint FROM pg_stat_user_tables) AS live_rows,"
        " (SELECT sum(late_arrivals)::bigint FROM soc.coverage) AS late_arrivals,"
        " (SELECT count(*) FROM soc.rejects) AS rejects"
    )
    return dict(row)


async def end_backends(connection: asyncpg.Connection, share: int) -> int:
    """End every `share`th connection of the service; how many."""
    return await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid, row_number() OVER (ORDER BY pid) AS n"
        " FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        " AND application_name LIKE 'alertwell%') a WHERE n % $1 = 0",
        share,
    )


async def make_reader(
    connection: asyncpg.Connection, role: str, password: str, tenants: Sequence[str] | None
) -> None:
    """A role as docs/downstream.md makes it; of all tenants where none are named. Needs a superuser."""
    await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")
    await connection.execute(f"GRANT USAGE ON SCHEMA soc TO {role}")
    await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA soc TO {role}")
    await connection.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA soc TO {role}")
    for tenant_id in [None] if tenants is None else tenants:
        await connection.execute(
            "INSERT INTO alertwell.reader (role, tenant_id) VALUES ($1, $2)",
            role,
            tenant_id and UUID(tenant_id),
        )

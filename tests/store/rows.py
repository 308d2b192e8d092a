"""What the tests of the store build: tenants, leases, alerts and harvests, and looks at what became of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg

from service import model
from service.intervals import Intervals
from service.store import alerts, enrolments, incidents, leases, pool, storing
from tests import postgres

TTL = 60.0
LOOKBACK = timedelta(days=7)
REPLICA = UUID("aaaaaaaa-aaaa-aaaa-aaaa-aaaaaaaaaaaa")
NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


def tenant_id(n: int = 1) -> UUID:
    """The n-th example tenant."""
    return UUID(f"11111111-1111-1111-1111-{n:012d}")


def enrolment(n: int = 1, **changes: Any) -> enrolments.Enrolment:
    """The n-th example tenant with a siem stream; `sources`, `own` or fields of the tenant may differ."""
    own = {name: changes.pop(name) for name in ("sources", "own") if name in changes}
    tenant = model.Tenant(**{"tenant_id": tenant_id(n), "name": f"Contoso {n}", **changes})
    return enrolments.Enrolment(tenant, **{"sources": {"siem": {}}, **own})


async def enrol(
    database: pool.Database, *numbers: int, lookback: timedelta = LOOKBACK
) -> enrolments.Enrolled:
    """Enrol example tenants."""
    return await enrolments.enrol(database, [enrolment(n) for n in numbers], lookback=lookback)


async def beat(database: pool.Database, replica: UUID = REPLICA, ttl: float = TTL) -> leases.Fleet:
    """A heartbeat of a replica."""
    return await leases.heartbeat(database, replica, host="host", version="1", ttl=ttl)


async def claim(database: pool.Database, replica: UUID = REPLICA, limit: int = 10_000) -> list[model.Lease]:
    """Heartbeat, then take what is free; by tenant."""
    await beat(database, replica)
    taken = await leases.claim(database, replica, limit=limit, ttl=TTL)
    return sorted(taken, key=lambda lease: lease.tenant_id)


async def age(connection: asyncpg.Connection, replica: UUID, seconds: float) -> None:
    """Make a replica's last heartbeat older: it has died."""
    await connection.execute(
        "UPDATE alertwell.replica SET heartbeat_at = heartbeat_at - make_interval(secs => $2) WHERE replica_id = $1",
        replica,
        seconds,
    )


def alert(key: str, at: datetime = NOON, **fields: Any) -> model.Alert:
    """An alert whose record holds its key, time and whatever `record` adds; other names are fields of the alert."""
    record = {"FullId": key, "LastProcessedTimeUtc": at.isoformat(), **fields.pop("record", {})}
    raw = fields.pop("raw", None) or json.dumps(record)
    return model.Alert(
        **{
            "full_id": key,
            "last_processed_at": at,
            "source_updated_text": at.isoformat(),
            "content_hash": hash(raw) & 2**62 - 1,
            "raw": raw.encode(),
            "alert_id": key.partition(":")[0],
            "title": "Suspicious process",
            "severity_rank": 3,
            **fields,
        }
    )


def incident(key: str, at: datetime = NOON, **fields: Any) -> model.Incident:
    """An incident whose record holds its key, time and whatever `record` adds; other names are fields of the incident."""
    record = {"incidentId": key, "lastUpdateTime": at.isoformat(), **fields.pop("record", {})}
    record["redirectIncidentId"] = fields.get("redirect_incident_id")
    raw = fields.pop("raw", None) or json.dumps(record)
    return model.Incident(
        **{
            "incident_id": key,
            "last_update": at,
            "source_updated_text": at.isoformat(),
            "content_hash": hash((raw, tuple(fields.get("alert_ids") or ()))) & 2**62 - 1,
            "raw": raw.encode(),
            "title": "Multi-stage incident",
            "severity_rank": 4,
            "status": "active",
            **fields,
        }
    )


def interval(start: float, end: float) -> Intervals:
    """Hours around NOON."""
    return Intervals.of((hour(start), hour(end)))


def hour(n: float) -> datetime:
    """NOON and n hours."""
    return NOON + timedelta(hours=n)


@dataclass
class Owner:
    """A tenant's lease, and one poll of one of its streams that stores under it."""

    database: pool.Database
    lease: model.Lease
    source: str = "siem"
    poll: storing.Poll = field(default_factory=lambda: storing.Poll(uuid4(), REPLICA, datetime.now(UTC)))

    async def harvest(self, *found: model.Alert, **rest: Any) -> storing.Harvest:
        """What a window brought, sorted against what is held now."""
        sorted_alerts = await alerts.sort(self.database, self.lease.tenant_id, self.source, found)
        arrival = rest.pop("arrival", "live")
        filled: dict[str, Any] = {
            "rejects": (),
            "duplicates": 0,
            "watermark": None,
            "folded": Intervals(),
            "dropped": Intervals(),
            "read_to": None,
            **rest,
        }
        told = filled.pop("incidents", ())
        filled["incidents"] = await incidents.sort(self.database, self.lease.tenant_id, self.source, told)
        filled.setdefault("nested", len(found) if told else 0)
        items = len(told or found) + len(filled["rejects"]) + filled["duplicates"]
        return storing.Harvest(sorted=sorted_alerts, arrival=lambda _: arrival, **{"items": items, **filled})

    async def store(self, *found: model.Alert, **rest: Any) -> model.Counts:
        """Sort and store."""
        harvest = await self.harvest(*found, **rest)
        return (await storing.store(self.database, self.lease, self.source, self.poll, harvest)).counts


async def owners(database: pool.Database, count: int) -> list[Owner]:
    """So many enrolled tenants, all ours."""
    await enrol(database, *range(1, count + 1))
    return [Owner(database, lease) for lease in await claim(database)]


async def two_sources(
    database: pool.Database, one: str = "siem", other: str = "xdr_incidents"
) -> tuple[Owner, Owner]:
    """Two streams of tenant 1, under one lease."""
    await enrolments.enrol(database, [enrolment(1, sources={one: {}, other: {}})], lookback=LOOKBACK)
    [lease] = await claim(database)
    return Owner(database, lease, one), Owner(database, lease, other)


TENANT_TABLES = ("alert", "alert_change", "feed", "poll", "reject", "unnumbered")


async def counts(connection: asyncpg.Connection, tables: Sequence[str] = TENANT_TABLES) -> dict[str, int]:
    """Rows of private tables."""
    return {table: await connection.fetchval(f"SELECT count(*) FROM alertwell.{table}") for table in tables}


async def blocked(connection: asyncpg.Connection, count: int = 1) -> None:
    """Wait until so many of this database's backends wait for a lock."""
    statement = """
        SELECT count(*) >= $1 FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'
    """
    for _ in range(2000):
        if await connection.fetchval(statement, count):
            return
        await asyncio.sleep(0.01)
    raise AssertionError("nobody waits for a lock")


@asynccontextmanager
async def role(admin_url: str, *grants: str, name: str | None = None) -> AsyncIterator[str]:
    """An ordinary role with these grants (such as `USAGE ON SCHEMA soc`): the address of the same database as that role."""
    name = name or f"role_{uuid4().hex[:12]}"
    admin = await asyncpg.connect(admin_url)
    try:
        await admin.execute(f"CREATE ROLE {name} LOGIN PASSWORD 'example'")
        try:
            for grant in grants:
                await admin.execute(f"GRANT {grant} TO {name}")
            parts = urlsplit(admin_url)
            yield parts._replace(netloc=f"{name}:example@{parts.netloc.rpartition('@')[2]}").geturl()
        finally:
            await admin.execute(f"DROP OWNED BY {name} CASCADE")
            await admin.execute(f"DROP ROLE {name}")
    finally:
        await admin.close()


@asynccontextmanager
async def reader(
    admin_url: str, *seen: UUID | None, name: str | None = None
) -> AsyncIterator[asyncpg.Connection]:
    """A connection as a role that has what docs/downstream.md grants, and sees these tenants (None: all)."""
    grants = "USAGE ON SCHEMA soc", "SELECT ON ALL TABLES IN SCHEMA soc"
    async with role(admin_url, *grants, name=name) as dsn:
        admin = await asyncpg.connect(admin_url)
        named = urlsplit(dsn).username
        await admin.executemany(
            "INSERT INTO alertwell.reader VALUES ($1, $2)", [(named, one) for one in seen]
        )
        await admin.close()
        connection = await asyncpg.connect(dsn)
        try:
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def beside(server: postgres.Server, template: str) -> AsyncIterator[str]:
    """A copy of a database that nobody is connected to, as a restore makes it: its address as the service's role."""
    async with server.database(template) as name:
        yield server.dsn(name)


async def together(*work: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Run all at once; what each returned or raised."""
    return await asyncio.gather(*(one() for one in work), return_exceptions=True)

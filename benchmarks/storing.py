"""What storing costs beside the floor: COPY of the same rows into the same table with its indexes, over one connection.

    .venv/bin/python benchmarks/storing.py                 # 50,000 alerts of the SIEM API, 2,000 an answer
    .venv/bin/python benchmarks/storing.py --batch 20      # small answers

One run, one durable PostgreSQL, one connection: the floor (binary COPY of ready values into a copy of alertwell.alert with all
its indexes and its compression, without triggers, feed or merged row), then the same alerts through the storing path: new,
unchanged, and updated. Every figure stands beside the CPU of the client and of the server's process, so that a busy machine
does not decide; the ratios are to the floor of the same run. Before each part the server writes a checkpoint.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import msgspec

from service import model, process
from service.intervals import Intervals
from service.simulator import ticks, world
from service.sources import contract, registry
from service.store import alerts, enrolments, leases, pool, schema, storing
from service.store.embedded import Cluster

TENANTS = 10
WINDOW = model.Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
Batches = list[tuple[UUID, tuple[model.Alert, ...]]]


@dataclass(frozen=True)
class Cost:
    """Seconds of one part over its alerts: by the clock, of this process's CPU, of the server's process for the connection."""

    wall: float
    client: float
    server: float
    wal: int
    alerts: int

    def per_alert(self) -> str:
        """Alerts a second and microseconds of CPU an alert."""
        each = 1e6 / self.alerts
        return (
            f"{self.alerts / self.wall:,.0f} | {self.client * each:.1f} | {self.server * each:.1f} "
            f"| {self.wal / self.alerts:,.0f}"
        )


def bodies(count: int, batch: int) -> list[tuple[UUID, bytes]]:
    """Answers of the SIEM API with so many alerts each, `count` in all."""
    shown = world.World(seed=7)
    now = ticks.now()
    made: list[tuple[UUID, bytes]] = []
    for tenant in shown.populate(TENANTS, rate=0.0):
        each = count // TENANTS
        shown.add_backlog(
            tenant.tenant_id, each, since=now - 86_400 * ticks.SECOND, until=now - 1800 * ticks.SECOND
        )
        records = [*shown.select(tenant.tenant_id, 0, now, now).records()]
        parts = (records[start : start + batch] for start in range(0, len(records), batch))
        made += [(UUID(tenant.tenant_id), b"[" + b",".join(part) + b"]") for part in parts]
    return made


def decoded(answers: list[tuple[UUID, bytes]]) -> Batches:
    """The answers as the source reads them."""
    siem = registry.SOURCES["siem"]
    return [(tenant, contract.whole(siem.read(body, WINDOW, tenant)).alerts) for tenant, body in answers]


def touched(batches: Batches) -> Batches:
    """The same alerts in a newer version."""
    second = timedelta(seconds=1)
    return [
        (
            tenant,
            tuple(
                msgspec.structs.replace(
                    each,
                    last_processed_at=each.last_processed_at + second,
                    content_hash=each.content_hash ^ 1,
                    title="Another title",
                    raw=each.raw[:-1] + b',"Revision":2}',
                )
                for each in batch
            ),
        )
        for tenant, batch in batches
    ]


async def timed(
    admin: asyncpg.Connection, backend: int, count: int, work: Callable[[], Awaitable[Any]]
) -> Cost:
    """What the work costs."""
    await admin.execute("CHECKPOINT")
    wal = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
    server, client, wall = running(backend), time.process_time(), time.perf_counter()
    await work()
    wall, client, server = time.perf_counter() - wall, time.process_time() - client, running(backend) - server
    written = await admin.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
    return Cost(wall, client, server, int(written), count)


def running(pid: int) -> float:
    """CPU seconds of a process."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def floor(connection: pool.Connection, batches: Batches) -> None:
    """COPY as PostgreSQL and asyncpg have it, one transaction a batch."""
    columns = ("tenant_id", "source", *model.Alert.__struct_fields__, "arrival")
    for tenant, batch in batches:
        rows = [(tenant, "siem", *msgspec.structs.astuple(each), "initial") for each in batch]
        await connection.copy_records_to_table(
            "floor", schema_name="alertwell", columns=columns, records=rows
        )


async def store(
    database: pool.Database, owned: dict[UUID, model.Lease], batches: Batches, wanted: str, poll: storing.Poll
) -> None:
    """The batches as a poll stores them."""
    for tenant, batch in batches:
        found = await alerts.sort(database, tenant, "siem", batch)
        if found.unchanged == len(batch) and wanted == "unchanged":
            continue
        harvest = storing.Harvest(
            found, lambda _: "initial", (), 0, len(batch), None, Intervals(), Intervals(), None
        )
        counts = (await storing.store(database, owned[tenant], "siem", poll, harvest)).counts
        if getattr(counts, wanted) != len(batch):
            raise SystemExit(f"{counts} where {len(batch)} {wanted} were wanted")


async def measure(count: int, batch: int) -> dict[str, Cost]:
    answers = bodies(count, batch)
    started = time.process_time()
    batches = decoded(answers)
    reading = time.process_time() - started
    total = sum(len(each) for _, each in batches)
    ids = {(tenant, each.alert_id) for tenant, batch in batches for each in batch}
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(Path(folder) / "postgres") as cluster:
            await schema.migrate(cluster.dsn)
            async with pool.open_database(cluster.dsn, size=1) as database:
                admin = await asyncpg.connect(cluster.admin_dsn)
                try:
                    told(
                        f"| {total:,} alerts ({len(ids):,} alert ids), {batch} an answer | {os.cpu_count()} cores, Python "
                        f"{platform.python_version()}, PostgreSQL {await admin.fetchval('SHOW server_version')}, fsync "
                        f"{await admin.fetchval('SHOW fsync')} |"
                    )
                    told(f"| reading answers | {reading / total * 1e6:.1f} µs of CPU an alert |\n")
                    told(
                        "| part | alerts/s | client CPU µs | server CPU µs | WAL bytes | of the floor: by the clock | by CPU |"
                    )
                    told("|---|---|---|---|---|---|---|")
                    return await run(database, admin, batches, total)
                finally:
                    await admin.close()


async def run(
    database: pool.Database, admin: asyncpg.Connection, batches: Batches, total: int
) -> dict[str, Cost]:
    tenants = sorted({tenant for tenant, _ in batches})
    wanted = [enrolments.Enrolment(model.Tenant(each, f"Contoso {each}"), {"siem": {}}) for each in tenants]
    await enrolments.enrol(database, wanted, lookback=timedelta(days=7))
    replica = uuid4()
    await leases.heartbeat(database, replica, host="benchmark", version="0", ttl=3600)
    owned = {one.tenant_id: one for one in await leases.claim(database, replica, limit=TENANTS, ttl=3600)}
    poll = storing.Poll(uuid4(), replica, datetime.now(UTC))
    await admin.execute(
        "CREATE TABLE alertwell.floor (LIKE alertwell.alert INCLUDING ALL); ALTER TABLE alertwell.floor OWNER TO alertwell"
    )
    await admin.execute("ALTER SYSTEM SET max_wal_size = '8GB'")
    await admin.execute("SELECT pg_reload_conf()")
    async with database.connection() as connection:
        backend = await connection.fetchval("SELECT pg_backend_pid()")

        await floor(connection, batches[:1])
        await connection.execute("TRUNCATE alertwell.floor")
        least = await timed(admin, backend, total, lambda: floor(connection, batches))
    say("floor: COPY", least, least)
    costs = {"floor": least}
    for name, part, expected in (
        ("new", batches, "inserted"),
        ("unchanged", batches, "unchanged"),
        ("updated", touched(batches), "updated"),
    ):
        if name == "unchanged":
            # what was just written is looked at for the first time: its hint bits are not ours to count
            await admin.execute("VACUUM alertwell.alert")
        costs[name] = await timed(
            admin,
            backend,
            total,
            lambda part=part, expected=expected: store(database, owned, part, expected, poll),
        )
        say(f"storing path: {name}", costs[name], least)
    return costs


def say(name: str, cost: Cost, least: Cost) -> None:
    told(f"| {name} | {cost.per_alert()} | {least.wall / cost.wall:.2f} | {least.server / cost.server:.2f} |")


def told(line: str) -> None:
    """The table is for people: what other programs read is alone on stdout."""
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alerts", type=int, default=50_000)
    parser.add_argument("--batch", type=int, default=2_000, help="alerts an answer")
    parser.add_argument("--json", action="store_true", help="print the figures as one object")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        costs = runner.run(measure(options.alerts, options.batch))
    if options.json:
        print(json.dumps({name: asdict(cost) for name, cost in costs.items()}))


if __name__ == "__main__":
    main()

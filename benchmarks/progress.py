"""What the progress of idle polls costs the database: an hour of it for 10,000 and 50,000 streams, without waiting for it.

    .venv/bin/python benchmarks/progress.py                        # both, and both with a snapshot held open for 30 minutes
    .venv/bin/python benchmarks/progress.py --streams 1000 --minutes 5

Each minute every stream's progress is written once, 1,000 streams a transaction, by `streams.flush` as the worker calls it, fence
included. What PostgreSQL does by the clock is done here by the minute: VACUUM once a minute where autovacuum's limit is passed, a
checkpoint every fifth. Held open means: one transaction of somebody else keeps its snapshot, so that nothing can be cleaned
up; afterwards the same load goes on for as many minutes as it takes until the table's dead rows are gone, ten at most.
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
from collections.abc import Awaitable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar
from uuid import UUID, uuid4

import asyncpg

from service import log, model, process
from service.intervals import Intervals
from service.store import enrolments, leases, pool, schema, streams
from service.store.embedded import Cluster

T = TypeVar("T")
BATCH = 1000
CHECKPOINTS = 5  # minutes
TABLES = ("stream_progress", "lease", "stream")


@dataclass(frozen=True)
class Cost:
    """What so many minutes took: `wal` and sizes in bytes, CPU in seconds, `worst` the longest minute's seconds."""

    name: str
    minutes: int
    written: int
    wal: int
    server: float
    client: float
    worst: float
    versions: int
    hot: int
    before: int
    after: int
    dead: int


class Load:
    """So many streams, and their progress minute by minute."""

    def __init__(self, database: pool.Database, admin: asyncpg.Connection, held: list[model.Lease]) -> None:
        self.database, self.admin, self.held = database, admin, held
        self.now = datetime.now(UTC)
        self.minute = 0
        self.backend = 0

    async def pass_by(self) -> float:
        """A minute: the seconds that its writes took."""
        self.now += timedelta(minutes=1)
        self.minute += 1
        proven = (self.now - timedelta(days=7), self.now - timedelta(minutes=10))
        swept = model.Sweep(self.now - timedelta(hours=3), None, Intervals(), 0, timedelta())
        moved = [
            streams.Progress(
                lease, "siem", self.now, self.now, proven, Intervals(), self.now + timedelta(minutes=1), swept
            )
            for lease in self.held
        ]
        started = time.perf_counter()
        for start in range(0, len(moved), BATCH):
            ours = await streams.flush(self.database, moved[start : start + BATCH])
            if len(ours) != len(moved[start : start + BATCH]):
                raise SystemExit("a lease is gone")
        took = time.perf_counter() - started
        if self.minute % CHECKPOINTS == 0:
            await self.admin.execute("CHECKPOINT")
        await self.clean()
        return took

    async def clean(self) -> None:
        """What autovacuum does once a minute."""
        await self.admin.execute("SELECT pg_stat_clear_snapshot()")
        async with self.database.connection() as connection:
            await connection.execute("SELECT pg_stat_force_next_flush()")
        for row in await self.admin.fetch(
            """
            SELECT s.relname::text AS name, s.n_dead_tup AS dead, c.reltuples AS rows,
                   coalesce((SELECT option_value::float8 FROM pg_options_to_table(c.reloptions)
                             WHERE option_name = 'autovacuum_vacuum_scale_factor'), 0.2) AS share,
                   coalesce((SELECT option_value::int FROM pg_options_to_table(c.reloptions)
                             WHERE option_name = 'autovacuum_vacuum_threshold'), 50) AS least
            FROM pg_stat_user_tables s JOIN pg_class c ON c.oid = s.relid WHERE s.relname = ANY ($1)
            """,
            list(TABLES),
        ):
            if row["dead"] > row["least"] + row["share"] * row["rows"]:
                await self.admin.execute(f"VACUUM alertwell.{row['name']}")

    async def dead(self) -> int:
        """Row versions in the files that nobody sees any more, counted by VACUUM's own reading where it ran, else as told."""
        await self.admin.execute("SELECT pg_stat_clear_snapshot()")
        return int(
            await self.admin.fetchval(
                "SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname = ANY ($1)", list(TABLES)
            )
        )

    async def size(self) -> int:
        return int(
            await self.admin.fetchval(
                "SELECT sum(pg_total_relation_size(('alertwell.' || t)::regclass)) FROM unnest($1::text[]) t",
                list(TABLES),
            )
        )

    async def go_on(self, name: str, minutes: int, *, until_clean: bool = False) -> Cost:
        """The load for so many minutes, or until hardly a dead row is left."""
        async with self.database.connection() as connection:
            self.backend = await connection.fetchval("SELECT pg_backend_pid()")
        before, (versions, hot) = await self.size(), await self.updates()
        wal = await self.admin.fetchval("SELECT pg_current_wal_insert_lsn()")
        server, client = running(self.backend), time.process_time()
        worst, passed = 0.0, 0
        while passed < minutes:
            passed += 1
            worst = max(worst, await self.pass_by())
            if until_clean and await self.dead() <= len(self.held) * 2:
                break
        now_versions, now_hot = await self.updates()
        cost = Cost(
            name,
            passed,
            passed * len(self.held),
            int(await self.admin.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)),
            running(self.backend) - server,
            time.process_time() - client,
            worst,
            now_versions - versions,
            now_hot - hot,
            before,
            await self.size(),
            await self.dead(),
        )
        print(f"{time.strftime('%H:%M:%S')} {cost}", file=sys.stderr, flush=True)
        return cost

    async def updates(self) -> tuple[int, int]:
        await self.admin.execute("SELECT pg_stat_clear_snapshot()")
        row = await self.admin.fetchrow(
            "SELECT sum(n_tup_upd)::bigint, sum(n_tup_hot_upd)::bigint FROM pg_stat_user_tables WHERE relname = ANY ($1)",
            list(TABLES),
        )
        return int(row[0]), int(row[1])


def running(pid: int) -> float:
    """CPU seconds of a process."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def measure(count: int, minutes: int) -> list[Cost]:
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(Path(folder) / "postgres") as cluster:
            await schema.migrate(cluster.dsn)
            async with pool.open_database(cluster.dsn, size=1) as database:
                tenants = [
                    model.Tenant(UUID(int=0x11111111111111111111 << 48 | n), f"Contoso {n}")
                    for n in range(count)
                ]
                for start in range(0, count, 5000):
                    part = [
                        enrolments.Enrolment(each, {"siem": {}}) for each in tenants[start : start + 5000]
                    ]
                    await enrolments.enrol(database, part, lookback=timedelta(days=7))
                replica = uuid4()
                held = await own(database, replica, count)
                admin = await asyncpg.connect(cluster.admin_dsn)
                other = await asyncpg.connect(cluster.admin_dsn)
                try:
                    for setting in ("autovacuum = off", "checkpoint_timeout = '1h'", "max_wal_size = '4GB'"):
                        await admin.execute(f"ALTER SYSTEM SET {setting}")
                    await admin.execute("SELECT pg_reload_conf()")
                    await admin.execute("VACUUM ANALYZE")
                    load = Load(database, admin, held)
                    await load.go_on("warm", 2)
                    costs = [await load.go_on("an hour", minutes)]
                    snapshot = other.transaction(isolation="repeatable_read")
                    await snapshot.start()
                    await other.fetchval("SELECT count(*) FROM alertwell.stream")
                    costs.append(await load.go_on("snapshot held open", minutes // 2))
                    await snapshot.rollback()
                    costs.append(await load.go_on("after it", 10, until_clean=True))
                    costs.append(await load.go_on("and on", 10))
                    return costs
                finally:
                    await other.close()
                    await admin.close()


async def own(database: pool.Database, replica: UUID, count: int) -> list[model.Lease]:
    """Take all tenants, and say what each question of an owner costs with so many of them."""
    took: dict[str, float] = {}

    async def timed(name: str, work: Awaitable[T]) -> T:
        started = time.perf_counter()
        found = await work
        took[name] = time.perf_counter() - started
        return found

    beat = partial(leases.heartbeat, database, replica, host="benchmark", version="0", ttl=86_400)
    await beat()
    held = await timed("claim all", leases.claim(database, replica, limit=count, ttl=86_400))
    async with database.connection() as connection:
        await connection.execute("ANALYZE alertwell.lease, alertwell.tenant, alertwell.stream")
    await timed("heartbeat", beat())
    await timed("claim none", leases.claim(database, replica, limit=0, ttl=86_400))
    await timed("what is held", leases.held(database, replica))
    loaded = await timed("load 2,000", streams.load(database, [each.tenant_id for each in held[:2000]]))
    async with database.connection() as connection:
        await timed(
            "soc.coverage whole",
            connection.fetch("SELECT tenant_id, data_age_seconds, gaps FROM soc.coverage"),
        )
    if (len(held), len(loaded)) != (count, min(count, 2000)):
        raise SystemExit(f"{len(held)} of {count} tenants")
    told = ", ".join(f"{name} {seconds * 1e3:,.0f}" for name, seconds in took.items())
    print(f"| {count:,} | an owner's questions, ms: {told} |" + " |" * 10, flush=True)
    return held


def show(count: int, costs: list[Cost]) -> None:
    for each in costs:
        size = f"{each.before / 2**20:.1f} → {each.after / 2**20:.1f}"
        per = 1e6 / max(each.written, 1)
        print(
            f"| {count:,} | {each.name} | {each.minutes} | {each.wal / 1e6:,.0f} | {each.wal / max(each.written, 1):,.0f} | "
            f"{each.versions:,} | {each.hot / max(each.versions, 1):.1%} | {each.dead:,} | {size} | {each.server * per:.1f} | "
            f"{each.client * per:.1f} | {each.worst:.2f} |",
            flush=True,
        )


async def main(counts: list[int], minutes: int, path: Path | None) -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}, Python {platform.python_version()}\n")
    print(
        "| streams | what | minutes | WAL MB | WAL bytes a write | row versions | of them HOT | dead at the end | tables MiB "
        "| server CPU µs a write | client CPU µs | longest minute's writes, s |\n" + "|---" * 12 + "|",
        flush=True,
    )
    found = {}
    for count in counts:
        costs = await measure(count, minutes)
        show(count, costs)
        found[str(count)] = [asdict(each) for each in costs]
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, nargs="+", default=[10_000, 50_000])
    parser.add_argument(
        "--minutes", type=int, default=60, help="that count as the hour; half of them with a snapshot"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    log.configure("error", "console")
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(main(given.streams, given.minutes, given.json))

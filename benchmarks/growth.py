"""What millions of stored alerts do to ingest, re-reading, the questions of an analyst, and retention.

    .venv/bin/python benchmarks/growth.py                          # 0, 1 and 10 million; 25 GB of disk, about 20 minutes
    .venv/bin/python benchmarks/growth.py --millions 0.1 1         # smaller
    .venv/bin/python benchmarks/growth.py --json growth.json --explain

One run on one durable PostgreSQL (shared_buffers 1 GB). At each size: 30,000 new alerts of 50 tenants through the storing path
over one connection, in answers of 200; the same again, unchanged; stored alerts of any age, unchanged; the questions through
schema soc, as the owner and as a reader of three tenants, planned anew in each of 20 warm runs and fetched; then retention takes
one day of 400, while alerts are stored and the newest are read. Medians; in brackets the ratio to the smallest size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import filling
import forgetting

from service import log, model, process
from service.simulator import ticks, world
from service.sources import contract, registry
from service.store import alerts, enrolments, feed, leases, pool, schema, storing
from service.store.embedded import Cluster

TENANTS = 50
EACH = 1000  # alerts of a tenant that come while it is measured
PART = 200  # an answer
RUNS = 20
WINDOW = model.Window(datetime(2020, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC))
QUESTIONS = (
    (
        "newest 100 of a tenant",
        "alerts WHERE tenant_id = '{tenant}' {newest}",
    ),
    (
        "newest 100 of a tenant and severity",
        "alerts WHERE tenant_id = '{tenant}' AND severity = 'high' {newest}",
    ),
    (
        "high severity since an hour ago, all tenants seen",
        "alerts WHERE severity = 'high' AND last_processed_at > now() - interval '1 hour' {newest}",
    ),
    ("newest 100 of all tenants seen", "alerts ORDER BY last_processed_at DESC LIMIT 100"),
    ("by tenant and alert id", "alerts WHERE tenant_id = '{tenant}' AND alert_id = '{alert}'"),
    ("by alert id alone", "alerts WHERE alert_id = '{alert}'"),
    (
        "newest 100 of a tenant's device",
        "alerts WHERE tenant_id = '{tenant}' AND device_name = '{device}' {newest}",
    ),
    (
        "merged: newest 100 of a tenant",
        "alerts_merged WHERE tenant_id = '{tenant}' {newest}",
    ),
    ("merged: newest 100 of all tenants seen", "alerts_merged ORDER BY last_processed_at DESC LIMIT 100"),
    (
        "merged: newest 100 of a tenant's device",
        "alerts_merged WHERE tenant_id = '{tenant}' AND device_name = '{device}' {newest}",
    ),
    ("1,000 changes since a position", "changes({position}, 1000)"),
    ("10 changes since a position", "changes({head} - 10, 1000)"),
)


def tell(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)


def answers() -> dict[UUID, list[model.Alert]]:
    """What the SIEM API shows of each tenant, as its source reads it: alerts of the last hours."""
    shown, now = world.World(seed=7), ticks.now()
    found = {}
    for tenant in shown.populate(TENANTS, rate=0.0):
        shown.add_backlog(
            tenant.tenant_id, EACH, since=now - 7200 * ticks.SECOND, until=now - 600 * ticks.SECOND
        )
        body = b"[" + b",".join(shown.select(tenant.tenant_id, 0, now, now).records()) + b"]"
        page = contract.whole(registry.SOURCES["siem"].read(body, WINDOW, UUID(tenant.tenant_id)))
        found[UUID(tenant.tenant_id)] = sorted(page.alerts, key=lambda each: each.last_processed_at)
    return found


class Growth:
    """One database, filled again and again."""

    def __init__(self, cluster: Cluster, *, explain: bool) -> None:
        self.cluster, self.explain = cluster, explain
        self.coming = answers()
        self.figures: dict[str, dict[str, float]] = defaultdict(dict)
        self.size = ""
        self.taken: dict[UUID, int] = {}

    def say(self, name: str, value: float) -> None:
        self.figures[name][self.size] = value
        tell(f"{self.size}: {name}: {value:,.2f}")

    def next(self, each: int, part: int = PART) -> forgetting.Batches:
        """So many alerts of each tenant that no one has seen yet, in answers."""
        made: forgetting.Batches = []
        for tenant, found in self.coming.items():
            start = self.taken.get(tenant, 0)
            self.taken[tenant] = start + each
            mine = found[start : start + each]
            made += [(tenant, tuple(mine[n : n + part])) for n in range(0, len(mine), part)]
        return made

    async def measure(self, rows: int) -> None:
        self.size, self.taken = f"{rows:,}", {}
        async with AsyncExitStack() as stack:
            admin = await self.connect(stack)
            await filling.tune(self.cluster, admin, wal_level="minimal", max_wal_senders="0")
        async with AsyncExitStack() as stack:
            admin = await self.connect(stack)
            seconds = await filling.fill(admin, [str(each) for each in self.coming], rows)
            self.say("filled (s)", seconds)
            await self.weigh(admin, rows)
            await filling.tune(self.cluster, admin, wal_level="replica", max_wal_senders="10")
        async with AsyncExitStack() as stack:
            admin = await self.connect(stack)
            database = await stack.enter_async_context(pool.open_database(self.cluster.dsn, size=1))
            replica = uuid4()
            await leases.heartbeat(database, replica, host="benchmark", version="0", ttl=3600)
            owned = {
                each.tenant_id: each
                for each in await leases.claim(database, replica, limit=TENANTS, ttl=3600)
            }
            poll = storing.Poll(uuid4(), replica, datetime.now(UTC))
            await self.ingest(admin, database, owned, poll)
            await self.read_again(admin, database, rows)
            await self.number(database)
            await admin.execute("ANALYZE")
            await self.ask(admin)
            if rows:
                other = await stack.enter_async_context(pool.open_database(self.cluster.dsn, size=2))
                todo = self.next(EACH - 4 * PART, part=20)
                connect = partial(self.connect, stack)
                await forgetting.day(connect, self.say, admin, (database, other), owned, poll, todo)
            await leases.release(database, list(owned.values()))

    async def connect(self, stack: AsyncExitStack) -> asyncpg.Connection:
        connection = await asyncpg.connect(self.cluster.admin_dsn, statement_cache_size=0)
        stack.push_async_callback(connection.close)
        return connection

    async def number(self, database: pool.Database) -> None:
        while await feed.number(database):
            pass

    async def weigh(self, admin: asyncpg.Connection, rows: int) -> None:
        if not rows:
            return
        tables = {
            "alert": ("alert",),
            "alert_merged": ("alert_merged",),
            "changes and feed": ("alert_change", "feed"),
            "poll": ("poll",),
        }
        for name, kept in tables.items():
            size = sum(
                [
                    await admin.fetchval(
                        "SELECT pg_total_relation_size($1::text::regclass)", f"alertwell.{t}"
                    )
                    for t in kept
                ]
            )
            self.say(f"bytes on disk an alert: {name}", size / rows)
        for row in await admin.fetch(
            "SELECT c.relname::text AS name, pg_relation_size(c.oid) AS size"
            " FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid"
            " WHERE i.indrelid IN ('alertwell.alert'::regclass, 'alertwell.alert_merged'::regclass) ORDER BY 1"
        ):
            self.say(f"index bytes an alert: {row['name']}", row["size"] / rows)

    async def ingest(self, admin, database, owned, poll) -> None:
        """Three runs, as many alerts of each tenant in each."""
        async with database.connection() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
        await forgetting.store(
            database, owned, poll, self.next(PART)
        )  # warm: plans, catalogue, the right ends of the indexes
        walls, cpus, wals = [], [], []
        for _ in range(3):
            batches = self.next(PART)
            count = sum(len(each) for _, each in batches)
            await admin.execute("CHECKPOINT")
            wal = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
            cpu, wall = forgetting.running(backend), time.perf_counter()
            await forgetting.store(database, owned, poll, batches)
            walls.append(count / (time.perf_counter() - wall))
            cpus.append((forgetting.running(backend) - cpu) / count * 1e6)
            wals.append(await admin.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal) / count)
        self.say("ingest: alerts/s", statistics.median(walls))
        self.say("ingest: server CPU, µs an alert", statistics.median(cpus))
        self.say("ingest: WAL bytes an alert", float(statistics.median(wals)))

    async def read_again(self, admin, database, rows: int) -> None:
        newest = [(t, tuple(found[: self.taken[t]])) for t, found in self.coming.items()]
        await self.sorted_again("re-read, newest: alerts/s", database, newest)
        if not rows:
            return
        old: dict[UUID, list[model.Alert]] = defaultdict(list)
        raw: Any = next(iter(self.coming.values()))[0].raw[:0]
        for row in await admin.fetch(
            "SELECT tenant_id, full_id, last_processed_at, content_hash FROM alertwell.alert TABLESAMPLE SYSTEM ($1)",
            min(100.0, 100 * 40_000 / rows),
        ):
            tenant, key, at, content = row
            if tenant in self.coming:
                old[tenant].append(
                    model.Alert(
                        full_id=key,
                        last_processed_at=at,
                        source_updated_text="",
                        content_hash=content,
                        raw=raw,
                    )
                )
        await self.sorted_again(
            "re-read, of any age: alerts/s", database, [(t, tuple(found)) for t, found in old.items()]
        )

    async def sorted_again(self, name: str, database: pool.Database, batches: forgetting.Batches) -> None:
        rates = []
        for _ in range(3):
            started = time.perf_counter()
            for tenant, batch in batches:
                found = await alerts.sort(database, tenant, "siem", batch)
                if found.unchanged != len(batch):
                    raise SystemExit(f"{found.unchanged} unchanged of {len(batch)}")
            rates.append(sum(len(each) for _, each in batches) / (time.perf_counter() - started))
        self.say(name, statistics.median(rates))

    async def ask(self, admin: asyncpg.Connection) -> None:
        three = list(self.coming)[5:8]
        await admin.execute("DELETE FROM alertwell.reader")
        await admin.executemany(
            "INSERT INTO alertwell.reader (role, tenant_id) VALUES ('bench_three', $1)", [(t,) for t in three]
        )
        alert, device = await admin.fetchrow(
            "SELECT alert_id, device_name FROM alertwell.alert WHERE tenant_id = $1 ORDER BY last_processed_at LIMIT 1",
            three[1],
        )
        head = await admin.fetchval("SELECT last_seq FROM alertwell.feed_head")
        first = await admin.fetchval("SELECT pruned_to FROM alertwell.feed_head")
        given = {
            "newest": "ORDER BY last_processed_at DESC LIMIT 100",
            "tenant": three[1],
            "alert": alert,
            "device": device,
            "head": head,
            "position": first + (head - first) // 2,
        }
        for role in ("NONE", "bench_three"):
            await admin.execute(f"SET ROLE {role}")
            for name, question in QUESTIONS:
                text = "SELECT * FROM soc." + question.format(**given)
                times: list[float] = []
                while len(times) < RUNS + 3 and sum(times) < 10:
                    started = time.perf_counter()
                    await admin.fetch(text)
                    times.append(time.perf_counter() - started)
                times = times[3:] or times[-1:]  # warm
                whose = "owner" if role == "NONE" else "reader"
                self.say(f"{name}, {whose}: ms", statistics.median(times) * 1e3)
                if self.explain:
                    for (line,) in await admin.fetch("EXPLAIN (ANALYZE, BUFFERS) " + text):
                        print("    " + line, file=sys.stderr)
        await admin.execute("SET ROLE NONE")


async def main(sizes: list[int], path: Path | None, *, explain: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(Path(folder) / "postgres") as cluster:
            await schema.migrate(cluster.dsn)
            growth = Growth(cluster, explain=explain)
            async with pool.open_database(cluster.dsn, size=1) as database:
                wanted = [
                    enrolments.Enrolment(model.Tenant(each, f"Contoso {n}"), {"siem": {}})
                    for n, each in enumerate(growth.coming)
                ]
                await enrolments.enrol(database, wanted, lookback=timedelta(days=7))
            admin = await asyncpg.connect(cluster.admin_dsn)
            version = await admin.fetchval("SHOW server_version")
            await admin.execute("CREATE ROLE bench_three; GRANT USAGE ON SCHEMA soc TO bench_three")
            await admin.execute("GRANT SELECT ON ALL TABLES IN SCHEMA soc TO bench_three")
            await filling.tune(
                cluster,
                admin,
                shared_buffers="1GB",
                max_wal_size="8GB",
                checkpoint_timeout="1h",
                autovacuum="off",
            )
            for size in sizes:
                await growth.measure(size)
    told = f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}, Python {platform.python_version()}, PostgreSQL {version}"
    show(growth, told)
    if path:
        path.write_text(json.dumps({"machine": told, "figures": growth.figures}, indent=1) + "\n")


def show(growth: Growth, told: str) -> None:
    sizes = list(dict.fromkeys(size for row in growth.figures.values() for size in row))
    print(f"{told}\n\n| stored alerts | {' | '.join(sizes)} |\n|---|{'---|' * len(sizes)}")
    for name, row in growth.figures.items():
        least = next(iter(row.values()))
        cells = [
            ""
            if size not in row
            else f"{row[size]:,.{1 if row[size] < 100 else 0}f}"
            + (f" ({row[size] / least:.2f})" if least and row[size] is not least else "")
            for size in sizes
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--millions", type=float, nargs="+", default=[1, 10], help="stored alerts, beside none"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--explain", action="store_true", help="show the plans of the questions")
    given = parser.parse_args()
    log.configure("error", "console")
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        runner.run(
            main([0, *(int(1e6 * each) for each in given.millions)], given.json, explain=given.explain)
        )

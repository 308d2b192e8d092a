"""What soc.alerts_merged costs at a million alerts of 50 tenants: the newest, by id, through the wall, and kept current.

    PYTHONPATH=. .venv/bin/python benchmarks/merged.py                  # one table; about five minutes
    PYTHONPATH=. .venv/bin/python benchmarks/merged.py --explain        # and the top of each plan
    PYTHONPATH=. .venv/bin/python benchmarks/merged.py --scale 0.1      # a tenth of the alerts

The alerts are written by SQL in batches of one source of one tenant, with the triggers that keep the merged row; every tenth has
a record of a second source. Each query is timed in the client, planned anew and its rows fetched: median and least of 20 warm
runs. Changed records go the way of a poll: compared with what is held, then the storing transaction; once as it is, and once
without the merged row's trigger.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg

from service import log, model
from service.intervals import Intervals
from service.store import alerts, enrolments, leases, pool, schema, storing
from service.store.embedded import Cluster

TENANTS = 50
SECOND = 10  # of so many alerts one has a record of a second source
RUNS = 20
CHANGED = 10_000
DEEPEST = 6  # of the nodes that are printed
FILL = """
INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, source_updated_text, content_hash, severity_rank,
                             arrival, alert_id, incident_id, title, status, category, detection_source, service_source,
                             device_name, user_name, mitre_techniques, event_time, created_at, raw)
SELECT $1, $2, 'da' || n, at, at::text, n, n % 5, 'initial', 'da' || n, (n / 5)::text, 'Suspicious process ' || n % 100,
       'new', 'Execution', 'WindowsDefenderAtp', 'microsoftDefenderForEndpoint', 'host-' || n % 500, 'user' || n % 900,
       ARRAY['T1059.001', 'T1027'], at, at,
       jsonb_build_object('id', 'da' || n, 'lastUpdateDateTime', at, 'status', 'new', 'description', repeat('what was seen ', 40),
                          'alertWebUrl', 'https://security.microsoft.com/alerts/da' || n)
FROM generate_series(0, $3::int - 1) n, LATERAL (SELECT now() - n * interval '25 seconds' - $5 * interval '1 second' AS at) t
WHERE n % $4 = 0
"""
QUERIES = (
    ("newest 100 of all tenants", None, "ORDER BY last_processed_at DESC LIMIT 100"),
    (
        "newest 100 of one tenant",
        None,
        "WHERE tenant_id = '{one}' ORDER BY last_processed_at DESC LIMIT 100",
    ),
    ("newest 100, reader of 3 tenants", "bench_some", "ORDER BY last_processed_at DESC LIMIT 100"),
    ("newest 100, reader of 20 tenants", "bench_many", "ORDER BY last_processed_at DESC LIMIT 100"),
    ("newest 100, reader of all tenants", "bench_all", "ORDER BY last_processed_at DESC LIMIT 100"),
    ("by tenant and alert_id", None, "WHERE tenant_id = '{one}' AND alert_id = 'da4711'"),
    ("by alert_id, all tenants", None, "WHERE alert_id = 'da4711'"),
    ("by alert_id, reader of 3 tenants", "bench_some", "WHERE alert_id = 'da4711'"),
)


def tenant_id(number: int) -> UUID:
    """One of the tenants, from 1."""
    return UUID(f"11111111-1111-1111-1111-{number:012d}")


def row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


async def fill(admin: asyncpg.Connection, rows: int) -> None:
    """So many rows of alertwell.alert, as many for each tenant, and the roles that read them."""
    each = rows * SECOND // (SECOND + 1) // TENANTS
    started = time.monotonic()
    for number in range(1, TENANTS + 1):
        await admin.execute(FILL, tenant_id(number), "mde_alerts", each, 1, number)
        await admin.execute(FILL, tenant_id(number), "graph_alerts", each, SECOND, number - 1)
    readers = {"bench_all": [None], "bench_some": [tenant_id(n) for n in (7, 23, 41)]}
    readers["bench_many"] = [tenant_id(n) for n in range(1, 21)]
    for role, seen in readers.items():
        await admin.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA soc TO {role}")
        await admin.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA soc TO {role}")
        await admin.executemany("INSERT INTO alertwell.reader VALUES ($1, $2)", [(role, one) for one in seen])
    seconds = time.monotonic() - started
    await admin.execute("VACUUM ANALYZE")
    held, merged = await admin.fetchrow(
        "SELECT (SELECT count(*) FROM alertwell.alert), (SELECT count(*) FROM alertwell.alert_merged)"
    )
    row("alerts, merged rows", f"{held:,}, {merged:,}")
    row("filled by SQL, with the triggers", f"{seconds:.0f} s, {held / seconds:,.0f} alerts/s")


async def ask(admin: asyncpg.Connection, *, explain: bool) -> None:
    """One row a query."""
    plans = []
    for name, role, condition in QUERIES:
        text = f"SELECT * FROM soc.alerts_merged {condition.format(one=tenant_id(23))}"
        await admin.execute(f"SET ROLE {role or 'NONE'}")
        for _ in range(3):
            found = await admin.fetch(text)
        times = []
        for _ in range(RUNS):
            started = time.perf_counter()
            await admin.fetch(text)
            times.append(time.perf_counter() - started)
        row(
            name, f"{statistics.median(times) * 1e3:.1f} ms (least {min(times) * 1e3:.1f}), {len(found)} rows"
        )
        if explain:
            [(plan,)] = await admin.fetch("EXPLAIN (ANALYZE, FORMAT JSON) " + text)
            plans.append((name, json.loads(plan)[0]))
    await admin.execute("SET ROLE NONE")
    for name, plan in plans:
        print(f"\n{name}: planning {plan['Planning Time']:.2f} ms, execution {plan['Execution Time']:.2f} ms")
        print("\n".join(nodes(plan["Plan"])))


def nodes(plan: dict, depth: int = 0) -> Iterator[str]:
    """The top of a plan, one line a node that ran."""
    if not plan["Actual Loops"]:
        return
    where = plan.get("Index Name") or plan.get("Relation Name") or plan.get("Subplan Name") or ""
    took = f"{plan['Actual Total Time']:.2f} ms, {plan['Actual Rows']:g} rows, {plan['Actual Loops']} loops"
    yield f"  {'  ' * depth}{plan['Node Type']} {where}: {took}"
    if depth < DEEPEST:
        for below in plan.get("Plans", ()):
            yield from nodes(below, depth + 1)


async def change(database: pool.Database, each: int, version: int) -> float:
    """Seconds for CHANGED records, as many of each tenant, that come in a newer version through the storing transaction."""
    replica = uuid4()
    await leases.heartbeat(database, replica, host="benchmark", version="0", ttl=3600)
    owned = await leases.claim(database, replica, limit=TENANTS, ttl=3600)
    now, dice, seconds = datetime.now(UTC), random.Random(version), 0.0
    for lease in owned:
        batch = [newer(n, now, version) for n in dice.sample(range(each), min(CHANGED // TENANTS, each))]
        started = time.perf_counter()
        found = await alerts.sort(database, lease.tenant_id, "mde_alerts", batch)
        harvest = storing.Harvest(
            found, lambda _: "live", (), 0, len(batch), now, Intervals(), Intervals(), None
        )
        poll = storing.Poll(uuid4(), replica, now)
        counts = (await storing.store(database, lease, "mde_alerts", poll, harvest)).counts
        seconds += time.perf_counter() - started
        if counts.updated != len(batch):
            raise SystemExit(f"{counts.updated} updated of {len(batch)}")
    await leases.release(database, owned)
    return seconds


def newer(number: int, now: datetime, version: int) -> model.Alert:
    record = {"id": f"da{number}", "status": "resolved", "version": version, "lastUpdateDateTime": str(now)}
    return model.Alert(
        full_id=f"da{number}",
        alert_id=f"da{number}",
        last_processed_at=now,
        source_updated_text=str(now),
        content_hash=-1 - number - version,
        raw=json.dumps({**record, "description": "what was seen " * 40}).encode(),
        incident_id=str(number // 5),
        title=f"Suspicious process {number % 100}",
        status="resolved",
        severity_rank=number % 5,
    )


async def main(rows: int, *, explain: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(Path(folder) / "postgres") as cluster:
            await schema.migrate(cluster.dsn)
            async with pool.open_database(cluster.dsn, size=2) as database:
                enrolled = [model.Tenant(tenant_id(n), f"Contoso {n}") for n in range(1, TENANTS + 1)]
                wanted = [enrolments.Enrolment(each, {"mde_alerts": {}}) for each in enrolled]
                await enrolments.enrol(database, wanted, lookback=timedelta(days=7))
                admin = await asyncpg.connect(cluster.admin_dsn, statement_cache_size=0)
                try:
                    version = await admin.fetchval("SHOW server_version")
                    cores = f"{os.cpu_count()} cores, Python {platform.python_version()}"
                    print(f"| soc.alerts_merged | {cores}, PostgreSQL {version} |\n|---|---|", flush=True)
                    await fill(admin, rows)
                    await ask(admin, explain=explain)
                    each = rows * SECOND // (SECOND + 1) // TENANTS
                    for number, what in ((1, "with the merged row kept"), (2, "without the merged row")):
                        if number == 2:
                            await admin.execute("ALTER TABLE alertwell.alert DISABLE TRIGGER merge_updated")
                        seconds = await change(database, each, number)
                        row(f"changed records stored, {what}", f"{CHANGED / seconds:,.0f}/s")
                finally:
                    await admin.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="part of the million, 1 = all")
    parser.add_argument("--explain", action="store_true", help="print the top nodes of each plan")
    given = parser.parse_args()
    log.configure("error", "console")
    asyncio.run(main(int(1_000_000 * given.scale), explain=given.explain))

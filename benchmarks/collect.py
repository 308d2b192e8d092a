"""What collecting costs: the real replica over TLS against the simulator in a process of its own, into a durable PostgreSQL.

    .venv/bin/python benchmarks/collect.py ingest    # 100,000 alerts of 50 tenants
    .venv/bin/python benchmarks/collect.py backlog   # 200,000 alerts of one tenant beside 50 live ones

Each prints one table row a figure; with --json one object, for `bench.py`. They are no tests: they fail only where the result is
wrong. Run them on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from service import app, log, model, process, settings
from service.simulator import server, ticks, world
from service.store import enrolments, pool, schema
from service.store.embedded import Cluster

MINUTE = 60 * ticks.SECOND


def build(scenario: str, scale: float) -> world.World:
    """The same world in both processes: it follows from its seed."""
    shown = world.World(seed=7)
    now = ticks.now()
    if scenario == "ingest":
        each = int(100_000 * scale) // 50
        for tenant in shown.populate(50, rate=0.0):
            shown.add_backlog(
                tenant.tenant_id, each, since=now - 1440 * MINUTE, until=now - 30 * MINUTE, encoded=True
            )
    elif scenario == "idle":
        shown.populate(int(5_000 * scale), rate=0.0)
    elif scenario == "fresh":  # of fresh.py: about 50 alerts a second
        shown.populate(int(5_000 * scale), rate=0.6, history=600.0)
    else:
        big, *_ = shown.populate(51, rate=6.0, history=600.0)
        shown.add_backlog(
            big.tenant_id,
            int(200_000 * scale),
            since=now - 5 * 1440 * MINUTE,
            until=now - 180 * MINUTE,
            encoded=True,
        )
    return shown


async def serve(scenario: str, scale: float, folder: Path) -> None:
    """The simulator's process: says where it is on stdout, ends when stdin closes."""
    shown = build(scenario, scale)
    async with server.Simulator(shown, directory=folder, control=True) as sim:
        counts = (
            {t: shown.count(t).records for t in list(shown.tenants)[:60]}
            if scenario in ("ingest", "backlog")
            else {}
        )
        said = {
            "authority": sim.authority_url,
            "siem": sim.siem_url,
            "ca": str(sim.ca_file),
            "app": shown.app.app_id,
            "secret": shown.app.secret,
            "tenants": [[t.tenant_id, t.name, t.region] for t in shown.tenants.values()],
            "counts": counts,
        }
        print(json.dumps(said), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def used() -> tuple[float, float]:
    """CPU seconds of this process, and its peak RSS in MiB: of its own, where getrusage counts its parent's before exec."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    return usage.ru_utime + usage.ru_stime, int(status.partition("VmHWM:")[2].split()[0]) / 1024


@contextmanager
def simulated(scenario: str, scale: float, folder: Path) -> Iterator[dict]:
    """A simulator in a process of its own, for as long as the context lasts: where it is, and what it shows."""
    command = [sys.executable, __file__, scenario, "--scale", str(scale), "--serve", str(folder)]
    simulator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert simulator.stdin is not None
    assert simulator.stdout is not None
    try:
        yield json.loads(simulator.stdout.readline())
    finally:
        simulator.stdin.close()
        simulator.wait()


async def measure(scenario: str, scale: float, against: Path | None) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if against is not None:
            said = json.loads(against.read_text())
            return await run(scenario, said, said["dsn"], folder)
        with simulated(scenario, scale, folder) as said:
            async with Cluster(folder / "pg") as cluster:
                return await run(scenario, said, cluster.dsn, folder)


def reaching(said: dict) -> dict:
    """The settings that lead to the simulator."""
    return {
        "client_id": said["app"],
        "client_secret": said["secret"],
        "authority_url": said["authority"],
        "siem_url": said["siem"],
        "ca_file": said["ca"],
        "http_port": 0,
    }


async def run(scenario: str, said: dict, dsn: str, folder: Path) -> dict[str, float]:
    log.configure("warning", "json", (folder / "log").open("w"))
    await schema.migrate(dsn)
    config = settings.load({}, initial_lookback="7d", **reaching(said))
    customers = [
        enrolments.Enrolment(model.Tenant(UUID(t), name, region=region), {"siem": {}})
        for t, name, region in said["tenants"]
    ]
    async with pool.open_database(dsn, size=2) as database:
        await enrolments.enrol(database, customers, lookback=config.initial_lookback)
        started, (cpu, _) = time.monotonic(), used()
        async with app.collector(config, dsn) as running:
            process.settle()
            return await drain(scenario, running, database, said, started, cpu)


async def drain(scenario, running, database, said, started, cpu) -> dict[str, float]:
    wanted = sum(said["counts"].values())
    while True:
        async with database.connection() as connection:
            if await connection.fetchval("SELECT last_seq FROM alertwell.feed_head") >= wanted:
                break
        await asyncio.sleep(0.05)
    wall, (spent, peak) = time.monotonic() - started, used()
    spent -= cpu
    async with database.connection() as connection:
        stored = await connection.fetchval("SELECT count(*) FROM alertwell.alert")
        doubled = stored - await connection.fetchval(
            "SELECT count(*) FROM (SELECT DISTINCT tenant_id, full_id FROM alertwell.alert) d"
        )
        size = await connection.fetchval("SELECT pg_total_relation_size('alertwell.alert')")
        answers = await connection.fetchval("SELECT sum(octet_length(raw::text)) FROM alertwell.alert")
    row("alerts stored and numbered in the feed", f"{stored:,} (wanted {wanted:,}, doubled {doubled})")
    row("wall", f"{wall:.2f} s, {stored / wall:,.0f} alerts/s")
    row("process CPU", f"{spent:.2f} s, {spent / stored * 1e6:.1f} µs an alert")
    row("peak RSS", f"{peak:.0f} MiB, {peak * 2**20 / answers:.2f} bytes for a byte of answers")
    row("alert table with indexes", f"{size / stored:,.0f} bytes an alert")
    if scenario == "backlog":
        lags(running)
    return {
        "alerts": stored,
        "missing": wanted - stored + doubled,
        "doubled": doubled,
        "seconds": wall,
        "cpu": spent,
        "peak_mib": peak,
        "bytes": size / stored,
        "memory": peak * 2**20 / answers,
    }


def lags(running) -> None:
    counts = {
        sample.labels["le"]: sample.value
        for metric in running.metrics.poll_lag_seconds.collect()
        for sample in metric.samples
        if sample.name.endswith("_bucket")
    }
    shares = ", ".join(f"{counts[le] / counts['+Inf']:.1%} within {le} s" for le in ("1.0", "2.0", "5.0"))
    row("polls start after their due time", f"{shares} of {counts['+Inf']:.0f}")


def row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenario", choices=["ingest", "backlog", "idle", "fresh"])
    parser.add_argument("--scale", type=float, default=1.0, help="of the tenants or alerts")
    parser.add_argument("--json", action="store_true", help="print the figures as one object")
    parser.add_argument("--against", type=Path, help="a file that says where simulator and database are")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.scenario, options.scale, options.serve))
        return
    row(
        f"{options.scenario} (scale {options.scale:g})",
        f"{os.cpu_count()} cores, Python {platform.python_version()}",
    )
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        found = runner.run(measure(options.scenario, options.scale, options.against))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

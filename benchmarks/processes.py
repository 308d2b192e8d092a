"""Ingest with 1, 2 and 4 processes of `alertwell run` on one database, against the simulator in a process of its own.

    .venv/bin/python benchmarks/processes.py                          # 96,000 alerts of 48 tenants, each time
    .venv/bin/python benchmarks/processes.py --processes 1 2 --scale 0.25

The replicas run before there is a tenant; then all tenants are enrolled at once, each replica takes its share, and the clock
runs until every alert is stored and numbered in the feed. CPU is that of all replicas, of all processes of PostgreSQL, and of the
simulator: where these share two cores, more processes cannot be faster, and the CPU of one alert says what more would bring.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from service import log, model, process
from service.simulator import server, ticks, world
from service.store import enrolments, pool, schema
from service.store.embedded import Cluster

ROOT = Path(__file__).parents[1]
TENANTS = 48
EACH = 2000
MINUTE = 60 * ticks.SECOND
TICKS = os.sysconf("SC_CLK_TCK")


def build(scale: float) -> world.World:
    """The same alerts each time."""
    shown, now = world.World(seed=7), ticks.now()
    for tenant in shown.populate(TENANTS, rate=0.0):
        shown.add_backlog(
            tenant.tenant_id,
            int(EACH * scale),
            since=now - 1440 * MINUTE,
            until=now - 30 * MINUTE,
            encoded=True,
        )
    return shown


async def serve(scale: float, folder: Path) -> None:
    """The simulator's process: says where it is on stdout, ends when stdin closes."""
    shown = build(scale)
    async with server.Simulator(shown, directory=folder) as sim:
        said = {
            "environment": {
                "ALERTWELL_AUTHORITY_URL": sim.authority_url,
                "ALERTWELL_SIEM_URL": sim.siem_url,
                "ALERTWELL_CA_FILE": str(sim.ca_file),
                "ALERTWELL_CLIENT_ID": shown.app.app_id,
                "ALERTWELL_CLIENT_SECRET": shown.app.secret,
            },
            "tenants": [[t.tenant_id, t.name, t.region] for t in shown.tenants.values()],
            "alerts": sum(shown.count(t).records for t in shown.tenants),
        }
        print(json.dumps(said), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def spent(pid: int) -> float:
    """CPU seconds of a process, of its threads and of children that it has waited for."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(int(each) for each in fields[11:15]) / TICKS


def below(pid: int) -> float:
    """The same of a process and everything that it has started, as PostgreSQL its sessions."""
    total = spent(pid)
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            try:
                total += below(int(child))
            except FileNotFoundError:
                continue  # has just ended
    return total


async def measure(count: int, scale: float) -> str:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulator = subprocess.Popen(
            [sys.executable, __file__, "--scale", str(scale), "--serve", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        replicas: list[subprocess.Popen[bytes]] = []
        try:
            assert simulator.stdout is not None
            said = json.loads(simulator.stdout.readline())
            async with Cluster(folder / "pg") as cluster:
                await schema.migrate(cluster.dsn)
                environment = {
                    **os.environ,
                    **said["environment"],
                    "ALERTWELL_DATABASE_URL": cluster.dsn,
                    "ALERTWELL_HTTP_PORT": "0",
                    "ALERTWELL_INITIAL_LOOKBACK": "7d",
                    "ALERTWELL_LEASE_TTL": "20s",
                    "ALERTWELL_LOG_LEVEL": "warning",
                }
                for number in range(count):
                    with (folder / f"replica{number}.log").open("wb") as output:
                        command = [sys.executable, "-m", "service", "run"]
                        replicas.append(
                            subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
                        )
                async with pool.open_database(cluster.dsn, size=1) as database:
                    return await drain(count, said, database, cluster, replicas, simulator.pid)
        finally:
            for replica in replicas:
                replica.terminate()
            for replica in replicas:
                replica.wait()
            assert simulator.stdin is not None
            simulator.stdin.close()
            simulator.wait()


async def drain(
    count: int,
    said: dict,
    database: pool.Database,
    cluster: Cluster,
    replicas: list[subprocess.Popen[bytes]],
    simulator: int,
) -> str:
    """One row of the table."""
    while (alive := await ask(database, "SELECT count(*) FROM alertwell.replica")) < count:
        if any(each.poll() is not None for each in replicas):
            raise SystemExit("a replica ended: see its log")
        await asyncio.sleep(0.1)
    customers = [
        enrolments.Enrolment(model.Tenant(UUID(t), name, region=region), {"siem": {}})
        for t, name, region in said["tenants"]
    ]
    assert cluster.server_pid is not None
    pids = {
        "replicas": [each.pid for each in replicas],
        "server": [cluster.server_pid],
        "simulator": [simulator],
    }
    before = {who: sum(map(below, mine)) for who, mine in pids.items()}
    started = time.monotonic()
    await enrolments.enrol(database, customers, lookback=timedelta(days=7))
    first = last = started
    while (numbered := await ask(database, "SELECT last_seq FROM alertwell.feed_head")) < said["alerts"]:
        if numbered == 0:
            first = time.monotonic()
        await asyncio.sleep(0.05)
    last = time.monotonic()
    cpu = {who: (sum(map(below, mine)) - before[who]) / said["alerts"] * 1e6 for who, mine in pids.items()}
    stored = await ask(database, "SELECT count(*) FROM alertwell.alert")
    owners = await ask(database, "SELECT count(DISTINCT owner) FROM alertwell.lease")
    if (stored, owners, alive) != (said["alerts"], min(count, TENANTS), count):
        raise SystemExit(f"{stored} stored of {said['alerts']}, {owners} owners of {alive} replicas")
    return (
        f"| {count} | {stored:,} | {last - started:.1f} | {stored / (last - first):,.0f} | {cpu['replicas']:.0f} | "
        f"{cpu['server']:.0f} | {cpu['simulator']:.0f} |"
    )


async def ask(database: pool.Database, question: str) -> int:
    async with database.connection() as connection:
        return int(await connection.fetchval(question))


async def main(counts: list[int], scale: float) -> None:
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[2]:.1f}, Python {platform.python_version()}\n")
    print(
        "| processes | alerts | wall s | alerts/s once it flows | replicas: CPU µs an alert | PostgreSQL | simulator |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    for count in counts:
        print(await measure(count, scale), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--scale", type=float, default=1.0, help="of the alerts")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.scale, given.serve))
    else:
        log.configure("error", "console")
        with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
            runner.run(main(given.processes, given.scale))

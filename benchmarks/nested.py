"""What one incident with 2,000 alerts inside costs in memory: `alertwell run` as a process of its own, over TLS, into PostgreSQL.

    PYTHONPATH=. .venv/bin/python benchmarks/nested.py                    # xdr_incidents, then graph_incidents
    PYTHONPATH=. .venv/bin/python benchmarks/nested.py --alerts 4000

The simulator and PostgreSQL are other processes, so only the collector is counted. It polls in vain for a while, as an
idle process does. Then the incident is there: read and stored, read again as it is in the overlap, and once more after all its
alerts have changed. Peaks are the kernel's (VmHWM). It fails where an alert or a change is missing, and stops by itself.
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
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from service import model
from service.simulator import filing, server, standalone, ticks, world
from service.store import enrolments, pool, reports, schema
from service.store.embedded import Cluster

TENANT = "11111111-1111-1111-1111-111111111111"
SOURCES = {"xdr_incidents": "xdr", "graph_incidents": "graph"}
PATIENCE = 90.0
IDLE = 20.0
INTERVAL = 3
FILLING = 2_600  # characters that bring an alert to about 4 KB


async def serve(folder: Path, alerts: int) -> None:
    """The simulator's process. A line on stdin: the incident is filed, each further one: all its alerts change."""
    shown = world.World(7)
    shown.add_tenant(TENANT, "Contoso")
    desk = filing.Desk(shown, TENANT)
    async with server.Simulator(shown, directory=folder) as simulator:
        print(json.dumps(standalone.describe(simulator, folder)), flush=True)
        filed: list[str] = []
        while await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline):
            now = ticks.now()
            if filed:
                for one in filed:
                    desk.update_alert(one, at=now, status="InProgress", comment="looked at")
            else:
                incident = desk.add_incident(at=now, alerts=0)
                fields = {
                    api: {"description": "what was seen " * (FILLING // 14)} for api in SOURCES.values()
                }
                filed = [desk.add_alert(at=now, incident=incident, fields=fields) for _ in range(alerts)]
            sizes = {
                api: sum(map(len, shown.truth_incidents(TENANT, api).values())) for api in SOURCES.values()
            }
            print(json.dumps(sizes), flush=True)


class Process:
    """A child that answers lines on stdin with lines of JSON on stdout."""

    def __init__(self, stack: ExitStack, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        stack.callback(self._process.wait)
        stack.callback(self._process.stdin.close)

    def said(self) -> dict:
        return json.loads(self._process.stdout.readline())

    def go_on(self) -> dict:
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self.said()


def memory(pid: int) -> tuple[float, float]:
    """Resident MiB of a process, and the most since `forget`."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return tuple(int(status[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))


def forget(pid: int) -> None:
    Path(f"/proc/{pid}/clear_refs").write_text("5")


async def measure(source: str, alerts: int) -> None:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulator = Process(stack, __file__, "--serve", str(folder), "--alerts", str(alerts))
        told = simulator.said()
        async with Cluster(folder / "postgres") as cluster:
            await schema.migrate(cluster.dsn)
            async with pool.open_database(cluster.dsn, size=1) as database:
                enrolment = enrolments.Enrolment(model.Tenant(UUID(TENANT), "Contoso"), {source: {}})
                await enrolments.enrol(database, [enrolment], lookback=timedelta(days=1))
                own = {"DATABASE_URL": cluster.dsn, "HTTP_PORT": "0", "POLL_INTERVAL": str(INTERVAL)}
                settings = {**told, **{f"ALERTWELL_{name}": value for name, value in own.items()}}
                with (folder / "log").open("w") as log:
                    collector = subprocess.Popen(
                        [sys.executable, "-m", "service", "run"],
                        env={**os.environ, **settings},
                        stdout=log,
                        stderr=log,
                    )
                try:
                    await watch(collector.pid, source, simulator, database, alerts)
                finally:
                    collector.terminate()
                    collector.wait()


async def watch(pid: int, source: str, simulator: Process, database: pool.Database, alerts: int) -> None:
    await until(database, "SELECT count(*) FROM soc.coverage WHERE state = 'ok'", 1)
    await asyncio.sleep(IDLE)
    idle, _ = memory(pid)
    forget(pid)
    size = simulator.go_on()[SOURCES[source]]
    print(f"| {source} | {size / 2**20:.1f} MiB, {size / alerts / 1024:.1f} KiB an alert |")
    print(f"| idle RSS | {idle:.1f} MiB |", flush=True)
    steps = (
        ("read and stored", "SELECT count(*) FROM soc.alerts", alerts),
        ("read again as it is", None, 0),
        ("all its alerts changed", "SELECT count(*) FROM soc.alerts WHERE revision > 1", alerts),
    )
    for name, statement, wanted in steps:
        if name == steps[-1][0]:
            simulator.go_on()
        if statement is None:
            await asyncio.sleep(3 * INTERVAL)  # polls that store nothing leave no row
        else:
            await until(database, statement, wanted)
        _, peak = memory(pid)
        print(f"| peak RSS, {name} | {peak:.1f} MiB, {peak - idle:.1f} above idle |", flush=True)


async def until(database: pool.Database, statement: str, wanted: int) -> None:
    """Return once the count is there. Raises SystemExit where it does not come."""
    ends = time.monotonic() + PATIENCE
    while True:
        [found] = await reports.fetch(database, statement)
        if next(iter(found.values())) == wanted:
            return
        if time.monotonic() > ends:
            raise SystemExit(f"{dict(found)} instead of {wanted} after {PATIENCE:.0f} s: {statement}")
        await asyncio.sleep(0.2)


async def main(sources: list[str], alerts: int) -> None:
    print(
        f"| {alerts:,} nested alerts | {os.cpu_count()} cores, Python {platform.python_version()} |\n|---|---|"
    )
    for source in sources:
        await measure(source, alerts)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sources", nargs="*", default=list(SOURCES), help="only these")
    parser.add_argument("--alerts", type=int, default=2_000)
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve, given.alerts))
    else:
        asyncio.run(main(given.sources, given.alerts))

"""What a great backlog costs in memory: `alertwell run` in a memory cgroup, until every alert is held.

    .venv/bin/python benchmarks/bounded.py                                 # 1,000,000 alerts in 256 MiB
    .venv/bin/python benchmarks/bounded.py --tenants 50 --alerts 500000    # of many tenants at once
    .venv/bin/python benchmarks/bounded.py --tenants 30 --alerts 450000 --days 0.01    # answers of 30 MB

Simulator and PostgreSQL are processes of their own, outside of the cgroup. It needs Linux with the memory controller of cgroups
(either version) and the right to make a group: without these it says so, and measures without a limit (RLIMIT_AS would be none:
it counts addresses, of which threads reserve many that they never use). It fails where an alert is missing or doubled, where
the process died, and where it needed more than the limit.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from service import model
from service.simulator import server, ticks, world
from service.store import enrolments, pool, schema
from service.store.embedded import Cluster

MIB = 2**20
DAY = 24 * ticks.HOUR
_STALLED = 300.0


class Group:
    """A memory cgroup without swap, for as long as the process in it lives; none (`path` is None) where it cannot be made."""

    def __init__(self, limit: int) -> None:
        self._unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
        base = Path("/sys/fs/cgroup") if self._unified else Path("/sys/fs/cgroup/memory")
        self.path: Path | None = base / f"alertwell-bounded-{os.getpid()}"
        try:
            if self._unified:
                (base / "cgroup.subtree_control").write_text("+memory")
            self.path.mkdir()
            self._write("memory.max" if self._unified else "memory.limit_in_bytes", limit)
            for name, value in (("memory.swap.max", 0), ("memory.memsw.limit_in_bytes", limit)):
                if (self.path / name).exists():
                    self._write(name, value)
        except OSError as error:
            print(f"| no memory cgroup | measured without a limit: {error} |")
            self.path = None

    def _write(self, name: str, value: int) -> None:
        assert self.path is not None
        (self.path / name).write_text(str(value))

    def enter(self) -> Callable[[], None] | None:
        """For the child, before it becomes the program."""
        if self.path is None:
            return None
        procs = self.path / "cgroup.procs"
        return lambda: procs.write_text(str(os.getpid())) and None

    def peak(self) -> float | None:
        """MiB, with the page cache that is charged to the group; None without one, or where the kernel does not tell."""
        name = "memory.peak" if self._unified else "memory.max_usage_in_bytes"
        if self.path is None or not (self.path / name).exists():
            return None
        return int((self.path / name).read_text()) / MIB

    def kills(self) -> int:
        """Processes of the group that the kernel ended for want of memory."""
        if self.path is None:
            return 0
        text = (self.path / ("memory.events" if self._unified else "memory.oom_control")).read_text()
        found = dict(line.split() for line in text.splitlines())
        return int(found.get("oom_kill", 0))

    def close(self) -> None:
        if self.path is not None:
            self.path.rmdir()


def build(options: argparse.Namespace) -> world.World:
    """Tenants with as many alerts each, spread over so many days, the last of them three hours ago."""
    shown = world.World(seed=7)
    until = ticks.now() - 3 * ticks.HOUR
    since = until - round(options.days * DAY)
    for tenant in shown.populate(options.tenants, rate=0.0):
        shown.add_backlog(tenant.tenant_id, options.alerts // options.tenants, since=since, until=until)
    return shown


async def serve(options: argparse.Namespace, folder: Path) -> None:
    """The simulator's process: says where it is on stdout, ends when stdin closes."""
    shown = build(options)
    async with server.Simulator(shown, directory=folder) as sim:
        said = {
            "ALERTWELL_AUTHORITY_URL": sim.authority_url,
            "ALERTWELL_SIEM_URL": sim.siem_url,
            "ALERTWELL_CA_FILE": str(sim.ca_file),
            "ALERTWELL_CLIENT_ID": shown.app.app_id,
            "ALERTWELL_CLIENT_SECRET": shown.app.secret,
        }
        tenants = [(each.tenant_id, each.name, each.region) for each in shown.tenants.values()]
        wanted = sum(shown.count(each).full_ids for each in shown.tenants)
        print(json.dumps({"environment": said, "tenants": tenants, "wanted": wanted}), flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def resident(pid: int) -> dict[str, float]:
    """VmHWM and VmRSS in MiB, threads; empty where the process is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    found = {
        key: value.split()[0] for key, _, value in (line.partition(":\t") for line in lines) if value.split()
    }
    return {
        "peak": int(found.get("VmHWM", 0)) / 1024,
        "now": int(found.get("VmRSS", 0)) / 1024,
        "threads": int(found.get("Threads", 0)),
        "files": len([*Path(f"/proc/{pid}/fd").iterdir()]),
    }


async def measure(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, *sys.argv[1:], "--serve", name]
        simulator = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert simulator.stdout is not None
            said = json.loads(simulator.stdout.readline())
            async with Cluster(folder / "pg") as cluster:
                await schema.migrate(cluster.dsn)
                async with pool.open_database(cluster.dsn, size=2) as database:
                    customers = [
                        enrolments.Enrolment(model.Tenant(UUID(tenant_id), name, region=region), {"siem": {}})
                        for tenant_id, name, region in said["tenants"]
                    ]
                    await enrolments.enrol(database, customers, lookback=timedelta(days=options.days + 1))
                    return await collect(options, said, cluster.dsn, database, folder)
        finally:
            assert simulator.stdin is not None
            simulator.stdin.close()
            simulator.wait()


async def collect(
    options: argparse.Namespace, said: dict, dsn: str, database: pool.Database, folder: Path
) -> int:
    group = Group(options.limit * MIB)
    environment = {
        **os.environ,
        **said["environment"],
        "ALERTWELL_DATABASE_URL": dsn,
        "ALERTWELL_HTTP_PORT": "0",
        "ALERTWELL_LOG_FORMAT": "json",
        **dict(each.split("=", 1) for each in options.set),
    }
    log = (folder / "log").open("w+")
    started = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "service", "run"],
        env=environment,
        stdout=log,
        stderr=log,
        preexec_fn=group.enter(),  # noqa: PLW1509 - no thread is started yet
    )
    peak: dict[str, float] = {}
    stored, moved = 0, started
    try:
        while stored < said["wanted"] and process.poll() is None and time.monotonic() - moved < _STALLED:
            await asyncio.sleep(0.5)
            peak = {key: max(value, peak.get(key, 0)) for key, value in resident(process.pid).items()} or peak
            async with database.connection() as connection:
                held = await connection.fetchval("SELECT coalesce(sum(inserted), 0) FROM alertwell.poll")
            if held > stored:
                stored, moved = int(held), time.monotonic()
                if options.verbose:
                    print(
                        f"{time.monotonic() - started:7.1f} s {stored:9,} {resident(process.pid)}",
                        file=sys.stderr,
                    )
        wall = time.monotonic() - started
        async with database.connection() as connection:
            held = await connection.fetchval("SELECT count(*) FROM alertwell.alert")
    finally:
        died = process.poll()
        process.terminate()
        process.wait()
        charged, kills = group.peak(), group.kills()
        group.close()
    spent = os.times().children_user + os.times().children_system
    row("alerts held", f"{held:,} (wanted {said['wanted']:,}, counted as inserted {stored:,})")
    row("wall", f"{wall:.0f} s, {held / wall:,.0f} alerts/s")
    row("CPU of the process", f"{spent:.0f} s, {spent / max(held, 1) * 1e6:.0f} µs an alert")
    row(
        "peak RSS of the process",
        f"{peak.get('peak', 0):.0f} MiB; {peak.get('threads', 0)} threads, {peak.get('files', 0)} files",
    )
    if charged is not None:
        row("peak of the cgroup, page cache included", f"{charged:.0f} of {options.limit} MiB, {kills} kills")
    log.seek(0)
    lines = log.read().splitlines()
    row("log lines", f"{len(lines)}")
    if died is not None or options.verbose:
        print("\n".join(lines[-5:]), file=sys.stderr)
    good = held == stored == said["wanted"] and died is None and not kills
    return 0 if good and peak.get("peak", 0) < options.limit else 1


def row(what: str, figure: str) -> None:
    print(f"| {what} | {figure} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--alerts", type=int, default=1_000_000)
    parser.add_argument("--tenants", type=int, default=1)
    parser.add_argument("--days", type=float, default=30.0, help="over which the alerts are spread")
    parser.add_argument("--limit", type=int, default=256, help="MiB of the cgroup")
    parser.add_argument(
        "--set", action="append", default=[], metavar="ALERTWELL_NAME=VALUE", help="a setting"
    )
    parser.add_argument("--verbose", action="store_true", help="say how far it is, on stderr")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options, options.serve))
        return 0
    print(
        f"| {options.alerts:,} alerts of {options.tenants} tenants in {options.limit} MiB "
        f"| {os.cpu_count()} cores, Python {platform.python_version()} |"
    )
    print("|---|---|", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended then, too
    return asyncio.run(measure(options))


if __name__ == "__main__":
    sys.exit(main())

"""What polls that bring nothing cost: tenants by the thousand on real processes of `alertwell run`, 60 s interval.

    .venv/bin/python benchmarks/idle.py                                   # 5,000 tenants, one process
    .venv/bin/python benchmarks/idle.py --tenants 50000 --processes 2

Over TLS against the simulator in a process of its own, into a durable PostgreSQL. All are due at once when they are taken;
the next interval spreads them, and what comes after that is measured: CPU of all threads, resident memory, and from /metrics how
long after its due time each poll began. Figures, no test; run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import bounded
import collect
import processes

from service import log, model, process
from service.store import enrolments, pool, schema
from service.store.embedded import Cluster

ROOT = Path(__file__).parents[1]
_BATCH = 5_000
_SAMPLE = re.compile(
    r'^alertwell_(polls_total|poll_lag_seconds_bucket)\{(?:.*le="([^"]+)"|[^}]*)\} (\S+)$', re.MULTILINE
)


class Replica:
    """A process of `alertwell run`, with its metrics at a port of its own."""

    def __init__(self, around: dict[str, str], output: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        with output.open("wb") as kept:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "service", "run"],
                cwd=ROOT,
                env={**around, "ALERTWELL_HTTP_PORT": str(self._port)},
                stdout=kept,
                stderr=kept,
            )

    def counts(self) -> Counter[str]:
        """Polls that ended, under `polls`, and by bucket those that began so late at most."""
        if self.process.poll() is not None:
            raise SystemExit(f"a replica ended with {self.process.returncode}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics", timeout=20) as answer:
                text = answer.read().decode()
        except OSError:
            return Counter()  # not up yet
        found: Counter[str] = Counter()
        for name, bucket, value in _SAMPLE.findall(text):
            found[bucket if name.startswith("poll_lag") else "polls"] += float(value)
        return found


async def measure(options: argparse.Namespace) -> dict[str, float]:
    scale = options.tenants / 5_000
    with tempfile.TemporaryDirectory() as name, collect.simulated("idle", scale, Path(name)) as said:
        async with Cluster(Path(name) / "pg") as cluster:
            await schema.migrate(cluster.dsn)
            customers = [
                enrolments.Enrolment(model.Tenant(UUID(t), name, region=region), {"siem": {}})
                for t, name, region in said["tenants"]
            ]
            async with pool.open_database(cluster.dsn, size=1) as database:
                for start in range(0, len(customers), _BATCH):
                    batch = customers[start : start + _BATCH]
                    await enrolments.enrol(database, batch, lookback=timedelta(days=1))
            around = {
                **os.environ,
                **{f"ALERTWELL_{key.upper()}": str(value) for key, value in collect.reaching(said).items()},
                "ALERTWELL_DATABASE_URL": cluster.dsn,
                "ALERTWELL_LOG_LEVEL": "warning",
            }
            replicas = [Replica(around, Path(name) / f"replica{n}.log") for n in range(options.processes)]
            try:
                return await watch(replicas, len(customers), options)
            finally:
                for each in replicas:
                    each.process.terminate()
                for each in replicas:
                    each.process.wait()


async def watch(replicas: list[Replica], tenants: int, options: argparse.Namespace) -> dict[str, float]:
    """The rows, once every tenant has been polled and an interval has gone by."""
    while total(replicas)["polls"] < tenants:
        await asyncio.sleep(1)
    await asyncio.sleep(options.settle)
    before, cpu, since = total(replicas), spent_by(replicas), time.monotonic()
    await asyncio.sleep(options.seconds)
    wall, spent = time.monotonic() - since, spent_by(replicas) - cpu
    done = total(replicas)
    done.subtract(before)
    memory = [bounded.resident(each.process.pid) for each in replicas]
    shares = {le: done[le] / done["+Inf"] for le in ("1.0", "2.0", "5.0")}
    collect.row(
        "polls", f"{done['polls']:.0f} in {wall:.0f} s of {tenants} tenants, {len(replicas)} processes"
    )
    each = f"{spent / wall / len(replicas):.1%} of a core a process, {spent / done['polls'] * 1e6:.0f} µs an idle poll"
    collect.row("process CPU", each)
    collect.row("resident", ", ".join(f"peak {one['peak']:.0f} MiB, now {one['now']:.0f}" for one in memory))
    within = ", ".join(f"{share:.1%} within {le} s" for le, share in shares.items())
    collect.row("polls start after their due time", f"{within} of {done['+Inf']:.0f}")
    return {
        "polls": done["polls"],
        "seconds": wall,
        "cpu": spent,
        "core": spent / wall / len(replicas),
        "peak_mib": max(one["peak"] for one in memory),
        "within_2s": shares["2.0"],
    }


def spent_by(replicas: list[Replica]) -> float:
    """CPU seconds of all of them."""
    return sum(processes.spent(each.process.pid) for each in replicas)


def total(replicas: list[Replica]) -> Counter[str]:
    """The counts of all of them."""
    return sum((each.counts() for each in replicas), Counter())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tenants", type=int, default=5_000)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument(
        "--settle", type=float, default=60.0, help="seconds before the measured ones: an interval"
    )
    parser.add_argument("--seconds", type=float, default=120.0)
    parser.add_argument("--json", action="store_true", help="print the figures as one object")
    options = parser.parse_args()
    log.configure("error", "console")
    collect.row("idle", f"{os.cpu_count()} cores, Python {platform.python_version()}")
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        found = runner.run(measure(options))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

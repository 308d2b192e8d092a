"""One command, one table: `make bench`, or `make bench QUICK=1` in under two minutes.

Alertwell, dlt and the floor (COPY into the same table with its indexes, over one connection) take the same alerts from the same
simulator into the same PostgreSQL, one after the other, each in a process of its own; every figure that another machine would
answer otherwise stands beside its ratio in the same run. Into docs/performance.md go the table and a plot, into
docs/performance.json the figures, which the next run compares itself with. No figure fails anything: read the table.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import collect
from rich.console import Console
from rich.table import Table

from service import model
from service.store import enrolments, pool, schema
from service.store.embedded import Cluster

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "performance.md"
KEPT = PAGE.with_suffix(".json")
BEGIN, END = "<!-- table of make bench -->\n", "<!-- end of the table -->\n"
QUICK = 0.2


@dataclass(frozen=True)
class Figure:
    """One row: `beside` is what it is compared with in this run, `ratio` how many times as much."""

    what: str
    value: float
    unit: str
    command: str
    ratio: float | None = None
    beside: str = ""

    def shown(self) -> tuple[str, str]:
        """Value and ratio as text."""
        size = f"{self.value:,.0f}" if self.value >= 100 else f"{self.value:.3g}"
        ratio = f"{self.ratio:.2f} × {self.beside}" if self.ratio is not None else ""
        return f"{size} {self.unit}", ratio


def called(command: list[str]) -> tuple[dict, float, float]:
    """What a program says in its last line, its seconds, and those of its CPU."""
    around = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=around) as running:
        assert running.stdout is not None
        said = running.stdout.read().strip()
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {running.returncode}")
    seconds = time.perf_counter() - started
    return json.loads(said.rpartition("\n")[2]), seconds, used.ru_utime + used.ru_stime


def ours(script: str, *options: str) -> dict:
    """The figures of another benchmark."""
    return called([sys.executable, str(HERE / script), *options, "--json"])[0]


async def copied(dsn: str, admin: str) -> float:
    """Seconds of the floor: the very rows that Alertwell stored, copied into an equal table over one connection."""
    connection = await asyncpg.connect(dsn)
    try:
        with tempfile.TemporaryFile() as held:
            await connection.copy_from_query("SELECT * FROM alertwell.alert", output=held, format="binary")
            await connection.execute("CREATE TABLE alertwell.floor (LIKE alertwell.alert INCLUDING ALL)")
            await checkpoint(admin)
            held.seek(0)
            started = time.perf_counter()
            await connection.copy_to_table("floor", schema_name="alertwell", source=held, format="binary")
            seconds = time.perf_counter() - started
        await connection.execute("DROP TABLE alertwell.floor")
        return seconds
    finally:
        await connection.close()


async def checkpoint(admin: str) -> None:
    """So that nobody writes what another one left."""
    connection = await asyncpg.connect(admin)
    try:
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def ingest(scale: float, rivals: Path | None) -> list[Figure]:
    """The job end to end."""
    found: list[Figure] = []
    with tempfile.TemporaryDirectory() as name, collect.simulated("ingest", scale, Path(name)) as said:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        async with Cluster(Path(name) / "pg", port=port) as cluster:
            since = datetime.now(UTC) - timedelta(days=7)
            where = Path(name) / "where.json"
            where.write_text(
                json.dumps({**said, "dsn": cluster.loopback_dsn, "since": f"{since:%Y-%m-%dT%H:%M:%SZ}"})
            )
            await checkpoint(cluster.admin_dsn)
            we = await asyncio.to_thread(ours, "collect.py", "ingest", "--against", str(where))
            count, speed = we["alerts"], we["alerts"] / we["seconds"]
            if we["missing"] or we["doubled"]:
                raise SystemExit(f"{we['missing']} alerts missing, {we['doubled']} doubled: no figure counts")
            floor = count / await copied(cluster.dsn, cluster.admin_dsn)
            command = "benchmarks/collect.py ingest"
            found.append(
                Figure("the floor: COPY into the same table", floor, "alerts/s", "benchmarks/bench.py")
            )
            found.append(Figure("ingest, Alertwell", speed, "alerts/s", command, speed / floor, "the floor"))
            found.append(Figure("  process CPU", we["cpu"] / count * 1e6, "µs an alert", command))
            found.append(Figure("  peak memory", we["peak_mib"], "MiB", command))
            found.append(Figure("  for a byte of answers", we["memory"], "bytes of memory", command))
            found.append(Figure("  on disk, with indexes", we["bytes"], "bytes an alert", command))
            for kind in ("upsert", "default") if rivals else ():
                await checkpoint(cluster.admin_dsn)
                theirs = await asyncio.to_thread(
                    called, [str(rivals), str(HERE / "rival_dlt.py"), str(where), kind]
                )
                said_by, seconds, cpu = theirs
                peak = said_by["peak_mib"]
                if said_by["records"] != count:
                    raise SystemExit(f"dlt loaded {said_by['records']} of {count} alerts")
                command = f"benchmarks/rival_dlt.py … {kind}"
                named = "dlt, parquet + upsert" if kind == "upsert" else "dlt, as it comes"
                rate = count / seconds
                found.append(
                    Figure(
                        f"ingest, {named}", rate, "alerts/s", command, speed / rate, "slower than Alertwell"
                    )
                )
                found.append(Figure("  process CPU", cpu / count * 1e6, "µs an alert", command))
                found.append(Figure("  peak memory", peak, "MiB", command))
                each = we["memory"] * peak / we["peak_mib"]
                found.append(Figure("  for a byte of answers", each, "bytes of memory", command))
    return found


def storing(scale: float) -> list[Figure]:
    """What is new, known and updated, over one connection."""
    said = ours("storing.py", "--alerts", str(int(50_000 * scale)))
    floor = said["floor"]
    base = floor["alerts"] / floor["wall"]
    found = []
    for kind, what in (
        ("new", "storing what is new"),
        ("unchanged", "re-reading what is known"),
        ("updated", "storing what changed"),
    ):
        part = said[kind]
        rate = part["alerts"] / part["wall"]
        found.append(Figure(what, rate, "alerts/s", "benchmarks/storing.py", rate / base, "the floor"))
        found.append(Figure("  WAL", part["wal"] / part["alerts"], "bytes an alert", "benchmarks/storing.py"))
    return found


def idle(scale: float) -> list[Figure]:
    """Polls that bring nothing."""
    tenants, short = (10_000, ()) if scale == 1 else (1_000, ("--settle", "5", "--seconds", "15"))
    said = ours("idle.py", "--tenants", str(tenants), *short)
    command = f"benchmarks/idle.py --tenants {tenants}"
    return [
        Figure(f"idle polls of {tenants:,} tenants", said["polls"] / said["seconds"], "polls/s", command),
        Figure("  process CPU", said["cpu"] / said["polls"] * 1e6, "µs a poll", command),
        Figure("  of a core", said["core"] * 100, "%", command),
        Figure("  peak memory", said["peak_mib"], "MiB", command),
        Figure("  begun within 2 s of their time", said["within_2s"] * 100, "%", command),
    ]


async def started() -> list[Figure]:
    """How long people and tenants wait for a process; the best of some, with compiled bytecode as an image has it."""
    with tempfile.TemporaryDirectory() as folder:
        async with Cluster(Path(folder) / "pg") as cluster:
            await schema.migrate(cluster.dsn)
            async with pool.open_database(cluster.dsn, size=1) as database:
                tenant = model.Tenant(UUID(int=1), "Contoso")
                wanted = [enrolments.Enrolment(tenant, {"siem": {}})]
                await enrolments.enrol(database, wanted, lookback=timedelta(days=1))
            around = {
                **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
                "PYTHONPYCACHEPREFIX": str(Path(folder) / "bytecode"),
                "ALERTWELL_DATABASE_URL": cluster.dsn,
                "ALERTWELL_CLIENT_ID": str(UUID(int=2)),
                "ALERTWELL_CLIENT_SECRET": "of nobody",
                "ALERTWELL_AUTHORITY_URL": "https://127.0.0.1:9",
                "ALERTWELL_HTTP_PORT": "0",
                "ALERTWELL_LOG_FORMAT": "json",
            }
            helped = [waited(["--help"], around, "") for _ in range(6)][1:]
            claimed = []
            for _ in range(4):
                claimed.append(waited(["run"], around, "tenants_taken"))
                await asyncio.sleep(1)
    return [
        Figure("alertwell --help", min(helped) * 1000, "ms", "alertwell --help"),
        Figure("alertwell run until it has its first tenant", min(claimed[1:]) * 1000, "ms", "alertwell run"),
    ]


def waited(arguments: list[str], around: dict[str, str], word: str) -> float:
    """Seconds until the command says this word, or ends; then it is asked to end."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "service", *arguments]
    with subprocess.Popen(
        command, env=around, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        assert running.stdout is not None
        for line in running.stdout:
            if word and word in line:
                break
        seconds = time.perf_counter() - began
        running.terminate()
    return seconds


def keep(figures: list[Figure], quick: bool, rivals: Path | None) -> None:
    """The table on the terminal, and of a full run in the documents."""
    last = {row["what"]: row for row in json.loads(KEPT.read_text())["figures"]} if KEPT.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    page = [f"{datetime.now(UTC):%Y-%m-%d}, {machine}: `make bench`", ""]
    page += ["| what | figure | in the same run | in the last one | command |", "|---|---|---|---|---|"]
    table = Table("what", "figure", "in the same run", "in the last one", title=machine)
    section = ""
    for figure in figures:
        section = section if figure.what.startswith("  ") else figure.what
        value, ratio = figure.shown()
        before = last.get(f"{section}{figure.what if figure.what.startswith('  ') else ''}")
        was = Figure(**{**before, "what": figure.what}).shown()[0] if before else ""
        table.add_row(figure.what, value, ratio, was)
        page.append(f"| {figure.what.replace('  ', '· ')} | {value} | {ratio} | {was} | `{figure.command}` |")
    Console().print(table)
    if quick:
        print("QUICK: too little for figures that are kept.")
        return
    section, rows = "", []
    for figure in figures:
        section = section if figure.what.startswith("  ") else figure.what
        rows.append({**asdict(figure), "what": section + (figure.what if figure.what != section else "")})
    taken = datetime.now(UTC).isoformat(timespec="minutes")
    KEPT.write_text(json.dumps({"taken": taken, "machine": machine, "figures": rows}, indent=1) + "\n")
    text = PAGE.read_text()
    head, _, rest = text.partition(BEGIN)
    PAGE.write_text(head + BEGIN + "\n".join(page) + "\n" + END + rest.partition(END)[2])
    if rivals:
        subprocess.run(
            [str(rivals), str(HERE / "plot.py"), str(KEPT), str(KEPT.with_suffix(".svg"))], check=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a fifth of the work; nothing is written")
    parser.add_argument(
        "--rivals", type=Path, help="the Python with benchmarks/rivals.lock; none: without dlt"
    )
    options = parser.parse_args()
    scale = QUICK if options.quick else 1.0
    figures = asyncio.run(ingest(scale, options.rivals))
    figures += storing(scale)
    figures += idle(scale)
    figures += asyncio.run(started())
    keep(figures, options.quick, options.rivals)


if __name__ == "__main__":
    main()

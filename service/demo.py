"""The demo: embedded PostgreSQL, the bundled simulator over TLS, and the real collector between them.

Nothing is configured and nothing leaves the machine. The collector runs as in production: settings, MSAL, TLS, leases, the
storing transaction. At its end the demo compares what is held with what the simulator knows.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import msgspec
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from service import app, log, model, process, settings, timestamps
from service.simulator import chaos as faults
from service.simulator import runs, server, world
from service.store import board, enrolments, pool, schema
from service.store.embedded import Cluster

FOLDER = "demo"
"""Under DATA_DIR: the demo's own database, apart from that of `run --embedded`."""

_STATES = {
    "ok": "green",
    "catching_up": "yellow",
    "new": "dim",
    "throttled": "yellow",
    "degraded": "red",
    "needs_attention": "red",
    "retired": "dim",
}
_ROWS = 30
_WIDE = 100  # columns of a terminal from which on all of a line has room


@dataclass(frozen=True, slots=True)
class _Stage:
    shown: world.World
    simulator: server.Simulator
    database: pool.Database
    collector: app.Collector
    log_file: Path


class _Rate:
    """Polls a second over the last few looks."""

    def __init__(self) -> None:
        self._seen: list[tuple[float, float]] = []

    def look(self, polls: float) -> float:
        self._seen = [*self._seen[-10:], (time.monotonic(), polls)]
        (since, before), (until, now) = self._seen[0], self._seen[-1]
        return (now - before) / (until - since) if until > since else 0.0


def run(
    config: settings.Settings, *, tenants: int = 12, seconds: float | None = None, chaos: bool = False
) -> int:
    """Until Ctrl-C, or for so many seconds; the exit code comes back: 0 where every alert that is proven is held, once."""
    return process.run_until_signalled(lambda stop: _demo(config, stop, tenants, seconds, chaos=chaos))


async def _demo(
    config: settings.Settings, stop: asyncio.Event, count: int, seconds: float | None, *, chaos: bool
) -> int:
    console = Console()
    async with _stage(config, count, chaos=chaos) as stage:
        console.print(
            f"Alertwell {app.VERSION}: {count} tenants of a simulated Defender"
            f"{', with faults' if chaos else ''}. Log: {stage.log_file}. Metrics: "
            f"http://127.0.0.1:{stage.collector.port}/metrics. Ctrl-C ends it.",
            highlight=False,
            soft_wrap=True,
        )
        deadline = time.monotonic() + seconds if seconds is not None else None
        if console.is_terminal:
            await _show_live(console, stage, stop, deadline)
        else:
            await _show_lines(stage, stop, deadline)
        if stage.collector.failed.done():
            console.print("The collector ended by itself; the log says why.")
            return 1
        return await _summary(console, stage)


@asynccontextmanager
async def _stage(config: settings.Settings, count: int, *, chaos: bool) -> AsyncIterator[_Stage]:
    folder = config.data_dir / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder / "demo.log"
    async with AsyncExitStack() as stack:
        # appended to, and before all else: a second demo is told that the first one has the folder, and spoils nothing
        log.configure(config.log_level, "json", stack.enter_context(log_file.open("a", encoding="utf-8")))
        cluster = await stack.enter_async_context(Cluster(folder / "postgres"))
        quirks = (
            runs.Quirks(late_share=0.02, late_seconds=60, tied_share=0.2, revised_share=0.05)
            if chaos
            else None
        )
        shown = world.World(seed=1, quirks=quirks)
        shown.populate(count, rate=3.0, history=86_400.0)
        simulator = await stack.enter_async_context(
            server.Simulator(
                shown, directory=folder, chaos=faults.Chaos.passing(0.2) if chaos else None, control=False
            )
        )
        await schema.reset(cluster.dsn)  # each demo begins anew; the last one's data stayed to be looked at
        await schema.migrate(cluster.dsn)
        demo_config = settings.load(
            {},
            data_dir=config.data_dir,
            client_id=shown.app.app_id,
            client_secret=shown.app.secret,
            authority_url=simulator.authority_url,
            siem_url=simulator.siem_url,
            ca_file=simulator.ca_file,
            http_port=0,
            # quick enough to watch
            poll_interval="5s",
            overlap="2m",
            overlap_max="5m",
            initial_lookback="24h",
            request_timeout="10s",
        )
        database = await stack.enter_async_context(pool.open_database(cluster.dsn, size=4))
        wanted = [
            enrolments.Enrolment(model.Tenant(UUID(t.tenant_id), t.name, region=t.region), {"siem": {}})
            for t in shown.tenants.values()
        ]
        await enrolments.enrol(database, wanted, lookback=demo_config.initial_lookback)
        collector = await stack.enter_async_context(app.collector(demo_config, cluster.dsn))
        yield _Stage(shown, simulator, database, collector, log_file)


def _polls(stage: _Stage) -> float:
    return sum(
        sample.value
        for metric in stage.collector.metrics.polls.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    )


def _over(stage: _Stage, stop: asyncio.Event, deadline: float | None) -> bool:
    return (
        stop.is_set()
        or stage.collector.failed.done()
        or (deadline is not None and time.monotonic() >= deadline)
    )


async def _wait(stop: asyncio.Event, seconds: float) -> None:
    waiting = asyncio.ensure_future(stop.wait())
    await asyncio.wait({waiting}, timeout=seconds)
    waiting.cancel()


async def _show_live(console: Console, stage: _Stage, stop: asyncio.Event, deadline: float | None) -> None:
    rate = _Rate()
    with Live(console=console, refresh_per_second=4, transient=True) as live:
        while not _over(stage, stop, deadline):
            lines = await board.lines(stage.database)
            live.update(picture(lines, rate.look(_polls(stage)), console.width))
            await _wait(stop, 0.5)
    console.print(picture(await board.lines(stage.database), rate.look(_polls(stage)), console.width))


def picture(lines: list[board.Line], polls_a_second: float, width: int) -> Group:
    """The tenants as a table, and their sum; on a narrow terminal names are cut and watermarks left out, but no figures."""
    wide = width >= _WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("tenant")
    for heading in ("state", *(("watermark",) if wide else ()), "lag", "gaps"):
        table.add_column(heading, no_wrap=True)
    for heading in ("stored", "updated", "rejected"):
        table.add_column(heading, justify="right", no_wrap=True)
    for line in lines[:_ROWS]:
        watermark = line.watermark.strftime("%H:%M:%S.%f")[:-3] if line.watermark else "–"
        table.add_row(
            Text(line.tenant, no_wrap=True, overflow="ellipsis"),
            Text(line.state, style=_STATES.get(line.state, "")),
            *((watermark,) if wide else ()),
            f"{line.lag_seconds:.0f} s" if line.lag_seconds is not None else "–",
            timestamps.human(timedelta(seconds=line.gap_seconds)) if line.gap_seconds else "none",
            f"{line.stored:,}",
            f"{line.updated:,}",
            f"{line.rejected:,}",
        )
    more = f" ({len(lines) - _ROWS} tenants not shown)" if len(lines) > _ROWS else ""
    total = (
        f"{sum(line.stored for line in lines):,} alerts stored, {sum(line.updated for line in lines):,} updated, "
        f"{sum(line.rejected for line in lines):,} rejected, {polls_a_second:.1f} polls/s{more}"
    )
    return Group(table, Text(total, style="bold"))


async def _show_lines(stage: _Stage, stop: asyncio.Event, deadline: float | None) -> None:
    rate = _Rate()
    while True:
        lines = await board.lines(stage.database)
        states: dict[str, int] = {}
        for line in lines:
            states[line.state] = states.get(line.state, 0) + 1
        shown = ", ".join(f"{number} {state}" for state, number in sorted(states.items()))
        ages = [line.lag_seconds for line in lines if line.lag_seconds is not None]
        sys.stdout.write(
            f"{datetime.now(UTC):%H:%M:%S} tenants: {shown}; alerts: {sum(line.stored for line in lines)} stored, "
            f"{sum(line.updated for line in lines)} updated, {sum(line.rejected for line in lines)} rejected; "
            f"lag: {max(ages, default=0):.0f} s; polls/s: {rate.look(_polls(stage)):.1f}\n"
        )
        sys.stdout.flush()
        if _over(stage, stop, deadline):
            return
        left = 2.0 if deadline is None else max(min(2.0, deadline - time.monotonic()), 0.0)
        await _wait(stop, left)


class _Dated(msgspec.Struct):
    last_processed: str = msgspec.field(name="LastProcessedTimeUtc")


async def _summary(console: Console, stage: _Stage) -> int:
    """Held against the truth, inside what is proven."""
    truths = missing = doubled = 0
    decoder = msgspec.json.Decoder(_Dated)
    for line in await board.lines(stage.database):
        if line.proven_from is None or line.proven_until is None:
            continue
        held = await board.held(stage.database, line.tenant_id, line.proven_until)
        for full_id, record in stage.shown.truth(str(line.tenant_id)).items():
            if (
                line.proven_from
                <= timestamps.parse(decoder.decode(record).last_processed)
                < line.proven_until
            ):
                truths += 1
                missing += full_id not in held
                doubled += held.get(full_id, 1) > 1
    console.print(
        f"Proven complete: {truths:,} alerts of the simulator lie in the proven intervals; missing {missing}, "
        f"doubled {doubled}. The feed has {await board.changes(stage.database):,} changes.",
        highlight=False,
        soft_wrap=True,
    )
    requests = stage.simulator.counters
    wrong = sum(number for name, number in requests.items() if name.startswith("fault:"))
    console.print(
        f"The simulator answered {requests['siem']:,} requests for alerts and {requests['token']:,} for tokens, "
        f"{wrong:,} of them with a fault.",
        highlight=False,
        soft_wrap=True,
    )
    return 0 if missing == doubled == 0 else 1

"""A storm over real processes, and the verdict: `make chaos`, `make soak HOURS=n`.

    python -m tests.chaos.run [--minutes M | --hours H] [--seed N] [--tenants N] [--replicas N] [--json FILE]

The exit code is 0 where all is as promised, 1 where it is not, 130 after Ctrl-C. Everything runs on loopback and ends with the
run; logs stay in .alertwell/chaos.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Final

import aiohttp
import structlog
from rich.console import Console

from service.simulator import ticks
from tests.chaos import fleet, judging, logs, report, scene, secrecy, stage, verdict, vitals, weather

FOLDER = Path(".alertwell", "chaos")


Say = Callable[[str], None]


async def perform(
    wanted: scene.Scene,
    command: str,
    say: Say = lambda _: None,
    events: Sequence[weather.Event] = (),
) -> report.Report:
    """A whole run, with the weather that follows from the seed, or these events; `say` gets lines of progress."""
    told = report.Report(
        command, wanted.seed, wanted.seconds, tenants=wanted.tenants, replicas=wanted.replicas
    )
    async with asyncio.timeout(wanted.seconds + wanted.patience * 2 + 300):
        async with stage.opened(wanted) as running:
            told.streams = len(running.streams)
            claims = judging.Claims()
            every = max(2.0, min(20.0, wanted.seconds / 60))
            sampling = asyncio.create_task(judging.sample_claims(running, claims, every), name="claims")
            try:
                await _happen(running, told, say, events)
            finally:
                sampling.cancel()
                await asyncio.wait([sampling])
            told.claims = {
                "samples": claims.samples,
                "records claimed": claims.claimed,
                "broken": len(claims.broken),
                "streams spared": claims.spared,
            }
            told.violations += claims.broken[:10]
            if not sampling.cancelled():
                told.violations.append(f"sampling ended: {sampling.exception()!r}")
            await _close(running, told)
        await _look_back(running, told)
    return told


async def _happen(
    running: stage.Stage, told: report.Report, say: Say, given: Sequence[weather.Event]
) -> None:
    wanted, storm = running.scene, running.storm
    opening = min(90.0, wanted.patience)
    await judging.stored(running, opening, lambda text: say(f"opening: {text}"), read=False)
    calm_from = time.time()
    await asyncio.sleep(wanted.warm_up)
    rough_from = time.time()
    events = [*given] or _forecast(running)
    say(f"weather: {len(events)} events in {wanted.seconds - wanted.warm_up:.0f} s")
    ticking = asyncio.create_task(_tick(running, say), name="progress")
    try:
        await storm.rage(events)
    finally:
        ticking.cancel()
        await asyncio.wait([ticking])
    await running.defender.clear()
    since = time.monotonic()
    if not given:
        # What failed may have been told to wait for up to an hour; a deployment ends that, as it does in production.
        for replica in running.replicas:
            await _end(replica, told)
            await replica.start()
    if await _healed(running, told, say):
        told.healed_seconds = time.monotonic() - since
    else:
        told.violations.append(f"not healed within {wanted.patience:g} s")
    await judging.judge(running, told)
    first = await judging.first_shown(running)
    told.delays = judging.delays(running.followers[0].seen, first, (calm_from, rough_from), rough_from)
    counters = await running.defender.counters()
    told.fired = {
        name.removeprefix("fault:"): count
        for name, count in sorted(counters.items())
        if name.startswith(("fault:", "status:"))
    }


async def _healed(running: stage.Stage, told: report.Report, say: Say) -> bool:
    """Whether all of a world that stands still is stored, numbered, read and proven within the scene's patience.

    The replicas end in peace at the end of it, and so write down what they have proven; where that is not all, they go on.
    """
    wanted = running.scene
    deadline = time.monotonic() + wanted.patience
    still = await running.defender.hold_still()
    settled = time.monotonic() + wanted.overlap_max + 2 * wanted.interval + 1
    while True:
        left = max(0.0, deadline - time.monotonic())
        stored = await judging.stored(running, left, lambda text: say(f"healing: {text}"))
        await asyncio.sleep(max(0.0, settled - time.monotonic()))
        for replica in running.replicas:
            await _end(replica, told)
        gaps = await judging.unproven(running, verdict.moment(ticks.parse(still)))
        if stored and not gaps:
            return True
        say(f"healing: {len(gaps)} streams with gaps, such as {gaps[:1]}")
        if time.monotonic() > deadline:
            told.violations += gaps[:10]
            return False
        for replica in running.replicas:
            await replica.start()
        settled = time.monotonic() + 2 * wanted.interval + 10


async def _end(replica: fleet.Process, told: report.Report) -> None:
    """In peace; what it counted is looked at before, and what it holds."""
    port = logs.port(replica.log)
    with contextlib.suppress(OSError, aiohttp.ClientError):  # it is just starting
        wrong = await judging.accounts(port) if port else None
        if wrong:
            told.violations.append(f"{replica.name}: {wrong}")
    await replica.end()


def _forecast(running: stage.Stage) -> list[weather.Event]:
    wanted, customers = running.scene, running.customers

    def holders(surface: str) -> list[int]:
        return [n for n, each in enumerate(customers) if surface in map(scene.SURFACES.get, each.sources)]

    return weather.forecast(
        wanted.seed,
        wanted.seconds - wanted.warm_up,
        replicas=wanted.replicas,
        holders=holders,
        tenants=len(customers),
        spacing=wanted.spacing,
        spared=0 if wanted.judged else None,
    )


async def _tick(running: stage.Stage, say: Say) -> None:
    begun = time.monotonic()
    while True:
        await asyncio.sleep(10)
        seen = [len(each.seen) for each in running.followers]
        say(
            f"{time.monotonic() - begun:.0f} s: {running.storm.done.total()} events over, {seen[0]} changes read"
        )


async def _close(running: stage.Stage, told: report.Report) -> None:
    """What has to be asked while it all is still there."""
    for process in (*running.replicas, running.simulator):
        await process.look(time.monotonic() - running.begun)
    for check in CHECKS:
        told.violations += await check(running)


async def unended(running: stage.Stage) -> list[str]:
    """Readers and watchers that ended before the run did."""
    tasks = (*running.following, running.watching)
    return [f"{task.get_name()} ended: {task.exception()!r}" for task in tasks if task.done()]


CHECKS: Final[tuple[Callable[[stage.Stage], Awaitable[list[str]]], ...]] = (unended, secrecy.kept)
"""What is searched when all is over, while PostgreSQL, the simulator and every file are still there: each says what it found."""


async def _look_back(running: stage.Stage, told: report.Report) -> None:
    told.events = dict(sorted(running.storm.done.items()))
    told.faults = dict(sorted(running.storm.named.items()))
    told.violations += running.storm.odd
    for process in (*running.replicas, running.simulator):
        told.violations += process.faults
        lives = [vitals.growth(process.name, life) for life in process.lives if life]
        if lives:
            told.growths.append(max(lives, key=lambda each: each.hours))
    if running.scene.judged:
        told.violations += [
            f"{each.name} grows by {each.mib_an_hour:.1f} MiB and {each.files_an_hour:.1f} files an hour"
            for each in told.growths
            if each.grows and each.name != running.simulator.name
        ]
    found = logs.read(running.logs)
    told.logs = {"lines": found.lines, **found.levels, "bad": len(found.bad)}
    told.violations += found.bad[:10]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.run", description="A storm over real processes, and the verdict."
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--minutes", type=float, default=5.0)
    length.add_argument("--hours", type=float, help="a soak: calmer, and growth is judged")
    parser.add_argument("--seed", type=int, help="the same seed brings the same weather and alerts")
    parser.add_argument("--tenants", type=int, default=40)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--rate", type=float, default=10.0, help="alerts a minute of a tenant in the middle")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the report as JSON, too")
    given = parser.parse_args()
    seed = given.seed if given.seed is not None else time.time_ns() // 1_000_000 % 1_000_000
    folder = FOLDER.absolute() / str(seed)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    soak = given.hours is not None
    wanted = scene.Scene(
        seed,
        given.hours * 3600 if soak else given.minutes * 60,
        folder,
        tenants=given.tenants,
        replicas=given.replicas,
        rate=given.rate,
        spacing=8.0 if soak else 1.0,
        judged=soak,
    )
    word = f"make soak HOURS={given.hours:g}" if soak else f"make chaos MINUTES={given.minutes:g}"
    console = Console(soft_wrap=True)
    console.print(f"{word} SEED={seed}; logs in {folder}", highlight=False)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory((folder / "runner.log").open("a")))

    last = ""

    def say(text: str) -> None:
        nonlocal last
        if text == last:
            return
        last = text
        console.print(f"{time.strftime('%H:%M:%S')} {text}", highlight=False, markup=False)

    try:
        told = asyncio.run(_stoppable(perform(wanted, f"{word} SEED={seed}", say)))
    except asyncio.CancelledError:
        console.print("stopped; nothing of it runs any more")
        return 130
    told.print(Console(width=160 if not console.is_terminal else None))
    if given.json:
        given.json.write_text(told.json() + "\n", encoding="utf-8")
    return 1 if told.violations else 0


async def _stoppable(work: Coroutine[None, None, report.Report]) -> report.Report:
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main())

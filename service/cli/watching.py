"""How far a backfill is, until it is read: a bar with the time left on a terminal, else a line now and then."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from service import timestamps
from service.cli import output
from service.intervals import Intervals

_LOOK_EVERY: Final = 1.0
_SAY_EVERY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Reached:
    """What is not proven yet, how many alerts of the time asked for are held, and why it may not go on."""

    left: Intervals
    alerts: int
    trouble: str | None


async def until_read(
    asked: Intervals,
    look: Callable[[], Awaitable[Reached]],
    stream: str,
    *,
    quiet: bool,
    every: float = _LOOK_EVERY,
) -> None:
    """Return when nothing is left. `quiet` shows nothing (stdout is a program's)."""
    from rich import progress
    from rich.console import Console

    total = asked.total().total_seconds()
    bar = progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[alerts]}", markup=False),
        progress.TimeElapsedColumn(),
        progress.TextColumn("left"),
        progress.TimeRemainingColumn(),
        console=Console(file=sys.stdout),
        disable=quiet or not output.on_terminal(),
        speed_estimate_period=600,  # what idle polls have read is written once a minute
    )
    lines = not quiet and not output.on_terminal()
    said = time.monotonic()
    with bar:
        task = bar.add_task(stream, total=total, alerts="")
        while True:
            asked_at = time.monotonic()
            reached = await look()
            took = time.monotonic() - asked_at
            left = reached.left.total().total_seconds()
            held = output.many(reached.alerts, "alert")
            shown = output.printable(f"{stream} ({reached.trouble})" if reached.trouble else stream)
            bar.update(task, completed=total - left, description=shown, alerts=held)
            if not reached.left:
                break
            if lines and time.monotonic() - said >= _SAY_EVERY:
                said = time.monotonic()
                human = timestamps.human(timedelta(seconds=left))
                output.say(f"{shown}: {1 - left / total:.0%} read, {human} left, {held}")
            await asyncio.sleep(max(every, 10 * took))  # counting millions of alerts is not free
    if not quiet:
        output.say(f"read: {output.printable(stream)} holds {held} of that time")

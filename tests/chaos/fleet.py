"""The processes of a run: started, signalled, killed, watched, and all ended at the end, however that comes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import vitals

ROOT = Path(__file__).parents[2]
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's, without settings of Alertwell that it happens to have."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("ALERTWELL_")}
    if own.pop("PYTHONDONTWRITEBYTECODE", None):
        # replicas that compile all they import at each start would be away for most of a run
        own["PYTHONPYCACHEPREFIX"] = str(ROOT / ".alertwell" / "chaos" / "pycache")
    return {**own, **extra, "PYTHONUNBUFFERED": "1"}


def _dies_with_us() -> None:
    # where the runner is killed itself, nothing of it stays behind
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass
class Process:
    """A program that is started again and again; what it writes is appended to `log`.

    `faults` counts the deaths that were not asked for. `lives` has the samples of each start.
    """

    name: str
    arguments: Sequence[str]
    settings: Mapping[str, str]
    log: Path
    lives: list[list[vitals.Vitals]] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    _running: asyncio.subprocess.Process | None = None
    _ending: bool = False
    _written: int = 0

    @property
    def pid(self) -> int | None:
        """Of the running process; None while there is none."""
        return self._running.pid if self._running and self._running.returncode is None else None

    async def start(self) -> None:
        """Start it; in a session of its own, so that Ctrl-C is for the runner alone."""
        with self.log.open("ab") as output:
            self._written = output.tell()
            self._running = await asyncio.create_subprocess_exec(
                sys.executable,
                *self.arguments,
                cwd=ROOT,
                env=environment(self.settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_dies_with_us,
            )
        # not before: `look` would take the one that was ended for one that ended by itself
        self._ending = False
        self.lives.append([])

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it runs."""
        if self._running is not None and self._running.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._running.send_signal(number)

    async def kill(self) -> None:
        """End it without a word."""
        self._ending = True
        self.signal(signal.SIGKILL)
        if self._running is not None:
            await self._running.wait()

    async def end(self, seconds: float = 30.0) -> int | None:
        """SIGTERM; the exit code. Where it takes longer it is killed, and that is a fault."""
        self._ending = True
        if self._running is None or self._running.returncode is not None:
            return None
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        try:
            code = await asyncio.wait_for(self._running.wait(), seconds)
        except TimeoutError:
            self.faults.append(f"{self.name} did not end within {seconds:g} s of SIGTERM")
            await self.kill()
            return None
        starting = code == -signal.SIGTERM and self.log.stat().st_size == self._written
        if (
            code != 0 and not starting
        ):  # who has not said a word yet holds nothing that could be let go in peace
            self.faults.append(f"{self.name} ended with exit code {code} after SIGTERM")
        return code

    async def look(self, at: float) -> None:
        """Sample what it holds. Where it ended by itself it is started anew, and that is a fault."""
        if self._running is None or self._ending:
            return
        if self._running.returncode is not None:
            self.faults.append(f"{self.name} ended by itself with exit code {self._running.returncode}")
            await self.start()
        sample = vitals.look(self._running.pid, at)
        if sample is not None:
            self.lives[-1].append(sample)


async def watch(processes: Sequence[Process], begun: float, seconds: float) -> None:
    """Sample all of them every so many seconds; `begun` is on the monotonic clock."""
    while True:
        for process in processes:
            await process.look(time.monotonic() - begun)
        await asyncio.sleep(seconds)


async def command(
    arguments: Sequence[str], settings: Mapping[str, str], log: Path, seconds: float = 60.0
) -> int:
    """Run `alertwell …` to its end, at most so long; its exit code (-9 where it took longer)."""
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            *arguments,
            cwd=ROOT,
            env=environment(settings),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_dies_with_us,
        )
    try:
        return await asyncio.wait_for(process.wait(), seconds)
    except BaseException as error:
        process.kill()
        await process.wait()
        if isinstance(error, TimeoutError):
            return -signal.SIGKILL
        raise


async def until(
    condition: Callable[[], bool], seconds: float, saying: Callable[[], str] = lambda: "not so"
) -> None:
    """Return once the condition holds. Raises RuntimeError with what `saying` says where that takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"not within {seconds:g} s: {saying()}")
        await asyncio.sleep(0.05)


def quit_server(pid: int) -> None:
    """PostgreSQL's immediate shutdown: connections are dropped, and the next start recovers."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGQUIT)

"""A replica in a process of its own, for what only a process can show: signals, and a sudden death."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.ingest import stages
from tests.ingest.waiting import until

ROOT = Path(__file__).parents[2]


@dataclass
class Replica:
    """The process and the lines that it has logged so far."""

    process: asyncio.subprocess.Process
    lines: list[dict[str, Any]] = field(default_factory=list)
    other: list[str] = field(default_factory=list)

    async def logs(self, event: str, seconds: float = 20.0) -> dict[str, Any]:
        """Wait for a line with this event."""
        return await until(
            lambda: next((line for line in self.lines if line.get("event") == event), None),
            seconds,
            saying=lambda: (self.lines[-5:], self.other[-20:]),
        )

    async def ends(self, seconds: float = 20.0) -> int:
        """Wait for the end; the exit code."""
        return await asyncio.wait_for(self.process.wait(), seconds)


@asynccontextmanager
async def running(stage: stages.Stage, root: Path = ROOT, **environment: str) -> AsyncIterator[Replica]:
    """`alertwell run` as a process, of the software in `root`; it is killed at the end if it still lives."""
    # other software keeps its bytecode where it lies, and goes with it
    kept = {} if root == ROOT else {"PYTHONPYCACHEPREFIX": str(root / "bytecode")}
    quick = {f"ALERTWELL_{name}".upper(): str(value) for name, value in stages.QUICK.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        "run",
        cwd=root,
        env={
            **os.environ,
            **kept,
            **quick,
            **stage.environment(),
            "ALERTWELL_LOG_FORMAT": "json",
            **environment,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    replica = Replica(process)

    async def read() -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                replica.lines.append(json.loads(line))
            except ValueError:
                replica.other.append(line.decode(errors="replace"))

    reading = asyncio.create_task(read())
    try:
        yield replica
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading

"""A run that is stopped in the middle leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.chaos import fleet


def living(pids: Iterable[int]) -> list[int]:
    """Those that still run."""
    return [pid for pid in pids if Path("/proc", str(pid)).exists()]


def descendants(pid: int) -> set[int]:
    """The processes that a process started, and theirs."""
    children = {
        int(each)
        for file in Path("/proc", str(pid), "task").glob("*/children")
        for each in file.read_text().split()
    }
    return children.union(*map(descendants, children))


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_ctrl_c_ends_all_of_it(number):
    """Ctrl-C and SIGTERM in the middle of the weather: exit code 130, and no process of the run is left."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.chaos.run", "--minutes", "2", "--seed", "3", "--tenants", "4", "--replicas", "2"),
        cwd=fleet.ROOT,
        env=fleet.environment({}),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            if b"weather:" in line:
                break
        started = descendants(process.pid)
        assert len(started) >= 4  # two replicas, the simulator, PostgreSQL
        process.send_signal(number)
        rest = await process.stdout.read()
        assert await process.wait() == 130
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert b"nothing of it runs any more" in rest
    assert not living(started)

"""A backlog that is larger than the memory: `alertwell run` in a memory cgroup, where the machine has these."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.chaos
@pytest.mark.parametrize(
    "options",
    [
        ["--alerts", "100000"],
        ["--alerts", "100000", "--tenants", "50"],
        ["--alerts", "120000", "--tenants", "8", "--days", "0.01"],
    ],
    ids=["one tenant", "many tenants", "answers of 26 MB"],
)
async def test_a_backlog_is_stored_in_256_mib(options):
    """Each alert is held once in the end, the process was not killed and needed less than the limit."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "benchmarks/bounded.py",
        *options,
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()

"""`alertwell demo`: what it draws, and where it cannot run one line that says what is missing."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from rich.console import Console

from service import demo
from service.store import board

ROOT = Path(__file__).parents[2]


async def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    """Where ALERTWELL_DATA_DIR cannot be made, as on a read-only root, the demo ends with 2 and names the setting."""
    (tmp_path / "file").write_text("")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALERTWELL_")}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "demo",
        cwd=tmp_path, env={**kept, "PYTHONPATH": str(ROOT), "ALERTWELL_DATA_DIR": "file/data"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, said = await child.communicate()
    assert (child.returncode, out) == (2, b"")
    assert said == b"alertwell: ALERTWELL_DATA_DIR='file/data' cannot be used: Not a directory\n"


@pytest.mark.parametrize("width", [80, 120])
def test_no_figure_is_cut_off(width):
    """A narrow terminal costs the ends of names, and no figures."""
    line = board.Line(
        UUID("11111111-1111-1111-1111-111111111111"), "Graphic Design Institute", "catching_up", None,
        datetime(2026, 1, 31, 12, tzinfo=UTC), 123.0, 31_200.0, None, None, 123_456, 1_234, 12,
    )  # fmt: skip
    console = Console(width=width)
    with console.capture() as drawn:
        console.print(demo.picture([line], 2.5, width))
    row = drawn.get().splitlines()[1]
    assert row.startswith("Graphic Design")
    for figure in ("catching_up", "123 s", "8 h 40 min", "123,456", "1,234", "12"):
        assert figure in row

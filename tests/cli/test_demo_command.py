"""`alertwell demo` where it cannot run: one line that says what is missing."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

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

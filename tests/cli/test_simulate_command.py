"""`alertwell simulate`: the stand-in as a process, and its files as `tenants import` reads them."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from pathlib import Path

import aiohttp

ROOT = Path(__file__).parents[2]


async def test_its_files_point_a_collector_at_it(database_url, tmp_path):
    """It prints its settings, serves TLS that its ca.pem verifies, its tenants.csv imports, and SIGTERM ends it with 0."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALERTWELL_")}
    environment = {**kept, "PYTHONPATH": str(ROOT), "ALERTWELL_DATABASE_URL": database_url}
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "simulate", "--port", "0", "--tenants", "3", "--directory", "sim",
        cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None
    try:
        told = {}
        async with asyncio.timeout(60):
            while not (line := (await child.stdout.readline()).decode()).startswith("#"):
                name, _, value = line.strip().partition("=")
                told[name] = value
        assert {
            "ALERTWELL_AUTHORITY_URL",
            "ALERTWELL_SIEM_URL",
            "ALERTWELL_CA_FILE",
            "ALERTWELL_CLIENT_ID",
        } <= set(told)
        assert Path(told["ALERTWELL_CLIENT_SECRET_FILE"]).is_absolute()
        context = ssl.create_default_context(cafile=told["ALERTWELL_CA_FILE"])
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{told['ALERTWELL_SIEM_URL']}/api/alerts", ssl=context) as answer,
        ):
            assert answer.status == 401
        importing = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "tenants", "import", "sim/tenants.csv",
            cwd=tmp_path, env=environment, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert (await importing.communicate())[0] == b"3 added, 0 changed, 0 unchanged\n"
        # a second one cannot have its port
        port = told["ALERTWELL_SIEM_URL"].rsplit(":", 1)[1]
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "simulate", "--port", port, "--directory", "sim2",
            cwd=tmp_path, env=environment, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said = (await second.communicate())[1].decode()
        assert (second.returncode, said.count("\n")) == (2, 1)
        assert f"cannot serve on 127.0.0.1:{port}" in said
        assert "the port is in use; take a free one with --port" in said
    finally:
        child.send_signal(signal.SIGTERM)
        _, said_last = await child.communicate()
    assert (child.returncode, said_last) == (0, b"")

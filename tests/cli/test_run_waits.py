"""`alertwell run` whose database is not there: it lives, says what it waits for, and ends in peace."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import aiohttp

from service.auth import sealing

ROOT = Path(__file__).parents[2]


async def test_it_answers_probes_before_it_has_a_database(tmp_path):
    """Without PostgreSQL and with sealing keys alone, /livez is 200, /readyz 503 with the reason, and SIGTERM ends it with 0."""
    (tmp_path / "keys").write_text(sealing.generate_key())
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALERTWELL_")}
    with socket.socket() as closed:  # bound and never listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "run",
            cwd=tmp_path,
            env={
                **kept,
                "PYTHONPATH": str(ROOT),
                "ALERTWELL_DATABASE_URL": f"postgresql://alertwell@127.0.0.1:{closed.getsockname()[1]}/alertwell",
                "ALERTWELL_SEALING_KEYS_FILE": "keys",
                "ALERTWELL_HTTP_PORT": "0",
            },
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert child.stdout is not None
        try:
            async with asyncio.timeout(60):
                while (said := json.loads(await child.stdout.readline()))["event"] != "http_listening":
                    pass
                async with aiohttp.ClientSession(f"http://127.0.0.1:{said['port']}") as session:
                    async with session.get("/livez") as answer:
                        assert answer.status == 200
                    async with session.get("/readyz") as answer:
                        assert answer.status == 503
                        [check] = (await answer.json())["checks"]
        finally:
            child.send_signal(signal.SIGTERM)
            await child.communicate()
    assert check == {"name": "collecting", "ok": False, "detail": "waits for the database"}
    assert child.returncode == 0

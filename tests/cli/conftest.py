"""The command line in-process: `alertwell("tenants", "list")` on a database of the test's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
import structlog
from typer.testing import CliRunner, Result

from service.auth import sealing
from service.cli import main


class Alertwell(Protocol):
    """Runs a command; `env` comes on top of the test's settings."""

    def __call__(self, *arguments: str, exit_code: int = 0, env: dict[str, str] | None = None) -> Result: ...


@pytest.fixture
def alertwell(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Alertwell]:
    """Commands in a folder and on a database of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALERTWELL_DATABASE_URL", database_url)

    def run(*arguments: str, exit_code: int = 0, env: dict[str, str] | None = None) -> Result:
        result = CliRunner().invoke(main.app, arguments, env=env, prog_name="alertwell")
        assert result.exit_code == exit_code, (result.output, result.exception)
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result

    yield run
    structlog.reset_defaults()  # a command sets its own log level, for its process


@pytest.fixture
def fetch(database_url: str) -> Callable[..., list[dict[str, Any]]]:
    """Rows of a statement, as the owner of the database; also runs what changes it."""

    def run(statement: str, *arguments: Any) -> list[dict[str, Any]]:
        async def go() -> list[dict[str, Any]]:
            connection = await asyncpg.connect(database_url)
            try:
                return [dict(row) for row in await connection.fetch(statement, *arguments)]
            finally:
                await connection.close()

        return asyncio.run(go())

    return run


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sealing.Sealer:
    """Sealing keys, named by the settings."""
    path = tmp_path / "keys"
    path.write_text(sealing.generate_key() + "\n")
    monkeypatch.setenv("ALERTWELL_SEALING_KEYS_FILE", str(path))
    return sealing.Sealer.from_file(path)


@pytest.fixture
def listed(alertwell: Alertwell) -> Callable[[], dict[str, dict[str, Any]]]:
    """`tenants list --json` by name."""

    def run() -> dict[str, dict[str, Any]]:
        return {row["name"]: row for row in json.loads(alertwell("tenants", "list", "--json").stdout)}

    return run

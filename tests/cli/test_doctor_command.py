"""`alertwell doctor` as people and programs read it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import Result

from service import model
from service.simulator import server, world
from service.store import enrolments, pool
from tests.cli.conftest import Alertwell

CONTOSO = "11111111-1111-1111-1111-111111111111"


@pytest.fixture
async def shown(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[world.World]:
    """Contoso with its simulator, named by the settings."""
    made = world.World()
    made.add_tenant(CONTOSO, "Contoso")
    async with pool.open_database(database_url, size=2) as database:
        enrolment = enrolments.Enrolment(model.Tenant(UUID(CONTOSO), "Contoso", region="eu"), {"siem": {}})
        await enrolments.enrol(database, [enrolment], lookback=timedelta(hours=1))
    async with server.Simulator(made, directory=tmp_path / "ca") as running:
        for name, value in {
            "CLIENT_ID": made.app.app_id,
            "CLIENT_SECRET": made.app.secret,
            "AUTHORITY_URL": running.authority_url,
            "SIEM_URL": running.siem_url,
            "CA_FILE": str(running.ca_file),
        }.items():
            monkeypatch.setenv(f"ALERTWELL_{name}", value)
        yield made


async def asked(alertwell: Alertwell, *arguments: str, exit_code: int = 0) -> Result:
    """The command in a thread: the simulator answers from this loop."""
    return await asyncio.to_thread(alertwell, "doctor", *arguments, exit_code=exit_code)


@pytest.mark.usefixtures("shown")
async def test_well(alertwell: Alertwell):
    """Warnings alone end with 0."""
    said = (await asked(alertwell)).stdout
    assert said.splitlines()[-1] == "0 broken, 1 warning"
    assert "Contoso (1111…) siem" in said


async def test_broken(alertwell: Alertwell, shown: world.World):
    """What is broken stands first, with what to do; the exit code is 1."""
    shown.tenants[CONTOSO].consented.clear()
    lines = (await asked(alertwell, exit_code=1)).stdout.splitlines()
    assert lines[1].startswith("broken")
    assert "Send: alertwell tenants invite Contoso" in lines[1]


@pytest.mark.usefixtures("shown")
async def test_for_programs(alertwell: Alertwell):
    """JSON has every finding, and the counts."""
    found = json.loads((await asked(alertwell, "--json")).stdout)
    assert (found["broken"], found["warnings"]) == (0, 1)
    assert set(found["findings"][0]) == {"area", "subject", "ok", "sentence", "remedy"}


@pytest.mark.usefixtures("shown")
async def test_without_tenants(alertwell: Alertwell):
    """No token is asked for."""
    assert "Contoso" not in (await asked(alertwell, "--no-tenants")).stdout


@pytest.mark.usefixtures("shown")
async def test_a_tenant_that_is_not_there(alertwell: Alertwell):
    """Is a mistake of whoever typed it."""
    assert "no tenant" in (await asked(alertwell, "--tenant", "nobody", exit_code=2)).stderr


@pytest.mark.usefixtures("shown")
async def test_a_setting_that_is_none(alertwell: Alertwell, monkeypatch: pytest.MonkeyPatch):
    """Is a warning with the name that was probably meant."""
    monkeypatch.setenv("ALERTWELL_POLL_INTERVALL", "9")
    assert "did you mean ALERTWELL_POLL_INTERVAL?" in (await asked(alertwell, "--no-tenants")).stdout

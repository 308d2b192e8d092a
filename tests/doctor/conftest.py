"""A world with Contoso and Fabrikam enrolled, and the doctor's findings about it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from service import model, settings
from service.doctor import examination, finding
from service.simulator import server, world
from service.store import enrolments, pool

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"


@dataclass
class Ward:
    """What a test examines; `environ` are the settings, without the prefix."""

    shown: world.World
    simulator: server.Simulator
    environ: dict[str, str]

    async def examine(self, **changes: Any) -> list[finding.Finding]:
        """Every finding, by these settings."""
        config = settings.load({f"ALERTWELL_{name}": value for name, value in self.environ.items()})
        dsn = config.dsn or ""
        return await examination.examine(examination.Wish(config, lambda: dsn, **changes))

    async def bad(self, **changes: Any) -> list[finding.Finding]:
        """Those that are not ok."""
        return [found for found in await self.examine(**changes) if found.ok != "ok"]


Enrol = Callable[..., Awaitable[None]]


@pytest.fixture
async def enrol(database_url: str) -> Enrol:
    """Enrols tenants by id and name."""

    async def run(*named: tuple[str, str], source: str = "siem") -> None:
        async with pool.open_database(database_url, size=2) as database:
            wanted = [
                enrolments.Enrolment(model.Tenant(UUID(tenant_id), name, region="eu"), {source: {}})
                for tenant_id, name in named
            ]
            await enrolments.enrol(database, wanted, lookback=timedelta(hours=1))

    return run


@pytest.fixture
async def ward(database_url: str, enrol: Enrol, tmp_path: Path) -> AsyncIterator[Ward]:
    """Contoso and Fabrikam, both well."""
    shown = world.World()
    shown.add_tenant(CONTOSO, "Contoso")
    shown.add_tenant(FABRIKAM, "Fabrikam")
    await enrol((CONTOSO, "Contoso"), (FABRIKAM, "Fabrikam"))
    async with server.Simulator(shown, directory=tmp_path / "ca") as running:
        yield Ward(
            shown,
            running,
            {
                "DATABASE_URL": database_url,
                "CLIENT_ID": shown.app.app_id,
                "CLIENT_SECRET": shown.app.secret,
                "AUTHORITY_URL": running.authority_url,
                "SIEM_URL": running.siem_url,
                "GRAPH_URL": running.graph_url,
                "CA_FILE": str(running.ca_file),
            },
        )

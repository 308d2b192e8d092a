"""Fixtures for the collector: a world by the real clock with whole collectors, or one by a clock in hand with single polls."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from service.simulator import graph, mde, server, ticks, world, xdr
from service.store import pool as doors
from tests.ingest import stages

Staged = Callable[..., AbstractAsyncContextManager[stages.Bench]]
# The clock stands still, so quotas by the minute would never open again.
_FREE: dict[str, Any] = {"per_minute": None, "per_hour": None}


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[doors.Database]:
    """The service's own door to the test's database."""
    async with doors.open_database(database_url, size=4) as opened:
        yield opened


@pytest.fixture
def books(pool: asyncpg.Pool) -> stages.Books:
    """What the database holds."""
    return stages.Books(pool)


@pytest.fixture
async def stage(
    database_url: str, database: doors.Database, books: stages.Books, tmp_path: Path
) -> AsyncIterator[stages.Stage]:
    """A world by the real clock, with Contoso and Fabrikam in it; no alerts but those that a test files."""
    shown = world.World(3)
    shown.add_tenant(stages.CONTOSO, "Contoso")
    shown.add_tenant(stages.FABRIKAM, "Fabrikam")
    async with server.Simulator(shown, directory=tmp_path / "ca") as running:
        yield stages.Stage(shown, running, database_url, books, database, tmp_path)


@pytest.fixture
def clock() -> ticks.HandClock:
    """The present time, standing still."""
    return ticks.HandClock(ticks.now() // ticks.SECOND * ticks.SECOND)


@pytest.fixture
async def bench(
    clock: ticks.HandClock, database: doors.Database, books: stages.Books, tmp_path: Path
) -> AsyncIterator[stages.Bench]:
    """Single polls of Contoso and Fabrikam by a clock in hand."""
    shown = world.World(5, clock)
    shown.add_tenant(stages.CONTOSO, "Contoso")
    shown.add_tenant(stages.FABRIKAM, "Fabrikam")
    async with (
        server.Simulator(shown, directory=tmp_path / "ca") as running,
        stages.bench(shown, running, database, books, clock) as made,
    ):
        yield made


@pytest.fixture
def staged(clock: ticks.HandClock, database: doors.Database, books: stages.Books, tmp_path: Path) -> Staged:
    """Makes a bench for a world; `choices` are of the simulator's APIs."""

    @asynccontextmanager
    async def opened(
        shown: world.World | None = None, *, security: graph.Choices | None = None, **options: Any
    ) -> AsyncIterator[stages.Bench]:
        shown = shown or world.World(5, clock)
        if stages.CONTOSO not in shown.tenants:
            shown.add_tenant(stages.CONTOSO, "Contoso")
        security = security or graph.Choices()
        async with (
            server.Simulator(
                shown,
                directory=tmp_path / "ca",
                mde=dataclasses.replace(mde.DOCUMENTED, **_FREE),
                xdr=dataclasses.replace(xdr.DOCUMENTED, **_FREE),
                graph=dataclasses.replace(
                    security,
                    alerts=dataclasses.replace(security.alerts, **_FREE),
                    incidents=dataclasses.replace(security.incidents, **_FREE),
                ),
            ) as simulator,
            stages.bench(shown, simulator, database, books, clock, **options) as bench,
        ):
            yield bench

    return opened

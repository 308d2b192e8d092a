"""The fixtures of the tests of faults; and for those of crashes a world without a network, whose replicas share
one fate at a time.
"""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator

import asyncpg
import pytest

from service.ingest import outage
from service.simulator import ticks, world
from service.store import pool as doors
from tests.chaos import direct, fate, lives
from tests.ingest.conftest import bench, books, clock, database, stage, staged

__all__ = ["bench", "books", "clock", "database", "stage", "staged"]


@pytest.fixture
async def fated(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """Tasks of this test's loop are driven by their replica's fate."""
    loop = asyncio.get_running_loop()
    loop.set_task_factory(fate.factory)
    monkeypatch.setattr(outage, "_SHORTEST", 0.0)
    monkeypatch.setattr(outage, "_LONGEST", 0.0)
    yield
    loop.set_task_factory(None)
    with warnings.catch_warnings():  # who is killed closes nothing
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
async def lived(
    fated: None, clock: ticks.HandClock, database_url: str, database: doors.Database, pool: asyncpg.Pool
) -> lives.World:
    """A world without tenants."""
    del fated
    return lives.World(direct.Api(world.World(7, clock)), clock, database_url, pool, database)

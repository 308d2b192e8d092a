"""Fixtures of the store's tests: the database as the service opens it, and a tenant whose lease is ours."""

from collections.abc import AsyncIterator

import pytest

from service.store import pool
from tests.store import rows


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[pool.Database]:
    """The fresh database of this test, as the service opens it."""
    async with pool.open_database(database_url, size=8) as opened:
        yield opened


@pytest.fixture
async def owner(database: pool.Database) -> rows.Owner:
    """Tenant 1 with a siem stream, its lease, and what stores under it."""
    [one] = await rows.owners(database, 1)
    return one

"""Fixtures for every test: a real PostgreSQL, a database of one's own, and no task left behind.

postgres      the server of the whole run (ALERTWELL_TEST_DATABASE_URL, or an embedded one)
database_url  a fresh database with the newest schema, as the role that owns it
admin_url     the same database as superuser
empty_url     a fresh database without any schema
pool          an asyncpg pool on `database_url`
"""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest

from tests import postgres as servers

TREE = Path(__file__).parent
LONG = {
    TREE / name
    for name in (
        "chaos/test_chaos_short.py",
        "chaos/test_fault_matrix_api.py",
        "chaos/test_fault_matrix_entra.py",
        "chaos/test_isolation.py",
        "cli/test_command_line.py",
        "ingest/test_sources_trust.py",
        "ingest/test_sources_end_to_end.py",
        "ingest/test_stops.py",
    )
}
"""What takes longest; the order is all that depends on it."""


def pytest_configure(config: pytest.Config) -> None:
    """What this process, the workers and all their children start with.

    Bytecode is kept beside pytest's cache even where the environment forbids it elsewhere: some sixty children would compile
    all that they import, which is more than they do.

    A shell starts what runs in its background with SIGINT ignored, and every child would inherit that: not Ctrl-C's tests.
    """
    if config.pluginmanager.hasplugin("cacheprovider"):
        sys.dont_write_bytecode = False
        sys.pycache_prefix = str(config.cache.mkdir("bytecode"))
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = sys.pycache_prefix
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """For `-n auto`: half as many more as there are cores, since tests of faults wait more than they work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores + cores // 2


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first: a worker takes a file whole, and one that began last would be waited for."""
    items.sort(key=lambda item: (item.path not in LONG, item.path.parent.name != "chaos"))


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Server]:
    """A running server for the whole run."""
    with servers.running() as server:
        yield server


@pytest.fixture(scope="session")
def template(postgres: servers.Server) -> Iterator[str]:
    """The database that `database_url` copies; migrated once."""
    with servers.migrated(postgres) as name:
        yield name


@pytest.fixture
async def database_url(postgres: servers.Server, template: str) -> AsyncIterator[str]:
    """A fresh database with the newest schema."""
    async with postgres.database(template) as name:
        yield postgres.dsn(name)


@pytest.fixture
def admin_url(postgres: servers.Server, database_url: str) -> str:
    """The database of `database_url` as superuser: for roles, and for what the service itself may not do."""
    return postgres.admin(servers.urlsplit(database_url).path.removeprefix("/"))


@pytest.fixture
async def empty_url(postgres: servers.Server) -> AsyncIterator[str]:
    """A fresh database without any schema."""
    async with postgres.database() as name:
        yield postgres.dsn(name)


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to `database_url`."""
    async with asyncpg.create_pool(database_url, min_size=1, max_size=8) as connections:
        yield connections


@pytest.fixture
async def task_watch() -> AsyncIterator[None]:
    """Fails a test that leaves tasks behind, once all its other fixtures are gone."""
    yield
    left = asyncio.all_tasks() - {asyncio.current_task()}
    if left:
        _, left = await asyncio.wait(left, timeout=1)  # what was cancelled gets the time to end
    assert not left, f"left behind: {sorted(task.get_name() for task in left)}"


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest) -> None:
    """Puts `task_watch` around every coroutine test, outermost."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("task_watch")

"""The PostgreSQL of the test run, and databases on it that cost a few milliseconds each."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import asyncpg

from service import errors
from service.store import embedded
from service.store.embedded import folder as owners

T = TypeVar("T")
PREFIX = "alertwell-tests-"
OVERRIDE = "ALERTWELL_TEST_DATABASE_URL"
_YOUNG = 300.0


@dataclass(frozen=True)
class Server:
    """A running server. `owner_dsn` and `admin_dsn` name the role that tests run as and a superuser."""

    owner_dsn: str
    admin_dsn: str
    # Runs a coroutine on the loop of the server's thread: session fixtures are older than any test's loop.
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def dsn(self, database: str) -> str:
        """A database of this server as the role that owns it."""
        return of_database(self.owner_dsn, database)

    def admin(self, database: str) -> str:
        """A database of this server as superuser."""
        return of_database(self.admin_dsn, database)

    def fresh_name(self) -> str:
        """A name that no other database has; runs against one server at a time do not meet."""
        return f"alertwell_test_{os.getpid()}_{next(self._numbers)}"

    @asynccontextmanager
    async def database(self, template: str = "template0") -> AsyncIterator[str]:
        """A new database, a copy of the template, dropped at the end whoever is still connected: its name."""
        name = self.fresh_name()
        owner = urlsplit(self.owner_dsn).username
        await self.execute(
            f'CREATE DATABASE {name} TEMPLATE {template} OWNER "{owner}" STRATEGY {STRATEGY}',
        )
        try:
            yield name
        finally:
            await self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def execute(self, statement: str) -> None:
        """One statement as superuser, outside of every test database."""
        connection = await asyncpg.connect(self.admin("postgres"))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


# Files of an unsynced server are copied faster than they are written to its log.
STRATEGY = "FILE_COPY"


def of_database(dsn: str, database: str) -> str:
    """The same address, another database."""
    return urlsplit(dsn)._replace(path=f"/{database}").geturl()


@contextmanager
def running() -> Iterator[Server]:
    """The server named by ALERTWELL_TEST_DATABASE_URL (its role must be superuser), or one of our own.

    Ours lives in a thread with a loop of its own, so that it outlasts the loops of the tests.
    """
    ready: Future[tuple[str, str, asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        try:
            override = os.environ.get(OVERRIDE)
            if override is not None:
                ready.set_result((override, override, loop, stop))
                await stop.wait()
                return
            _sweep(quick_folder())
            with tempfile.TemporaryDirectory(prefix=PREFIX, dir=quick_folder()) as folder:
                async with embedded.Cluster(Path(folder, "postgres"), durable=False) as cluster:
                    ready.set_result((cluster.dsn, cluster.admin_dsn, loop, stop))
                    await stop.wait()
        except BaseException as error:
            if ready.done():
                raise
            ready.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="postgres")
    thread.start()
    try:
        owner, admin, loop, stop = ready.result()
        try:
            yield Server(owner, admin, lambda work: asyncio.run_coroutine_threadsafe(work, loop).result())
        finally:
            loop.call_soon_threadsafe(stop.set)
    finally:
        thread.join()


def quick_folder() -> Path:
    """Where servers of tests live: the 370 files of a database take 15 ms to copy in memory, 400 on disk."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 2 << 30
    return memory if roomy else Path(tempfile.gettempdir())


def _sweep(parent: Path) -> None:
    # What a run that was killed left in memory would stay there until the next boot. A young one may be about to be owned.
    for folder in parent.glob(f"{PREFIX}*/postgres"):
        try:
            if time.time() - folder.stat().st_mtime < _YOUNG:
                continue
            with owners.owned(folder):
                shutil.rmtree(folder.parent, ignore_errors=True)
        except (errors.UserMistake, FileNotFoundError):
            continue  # at work, or another user's


@contextmanager
def migrated(server: Server) -> Iterator[str]:
    """A template database with the newest schema, migrated by the role that will own its copies: its name."""
    from service.store import schema

    async def make() -> str:
        name = server.fresh_name()
        await server.execute(
            f'CREATE DATABASE {name} OWNER "{urlsplit(server.owner_dsn).username}" TEMPLATE template0'
        )
        await schema.migrate(server.dsn(name))
        # A template that somebody (autovacuum, too) is connected to cannot be copied.
        await server.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
        return name

    template = server.run(make())
    try:
        yield template
    finally:
        server.run(server.execute(f"DROP DATABASE {template} WITH (FORCE)"))

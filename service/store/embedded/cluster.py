"""A PostgreSQL server that lives exactly as long as its owner wants, and comes back when it dies."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote, urlencode

import asyncpg
import structlog

from service import errors
from service.store.embedded import binaries, database, folder, identity, leftovers, process

_log = structlog.get_logger(__name__)

PORT = 5432  # without TCP a part of the socket's name and nothing more
ATTEMPTS = 3
START_LIMIT = 300.0  # seconds; recovery after a crash reads up to max_wal_size of log
STOP_LIMIT = 30.0  # seconds that a fast shutdown, which writes everything out, gets
LONGEST_PAUSE = 10.0  # seconds between attempts to bring back a server that keeps dying
CALM = 60.0  # seconds after which a server does not count as one that keeps dying
BREATH = 0.01

SETTINGS = {
    "unix_socket_permissions": "0700",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "password_encryption": "scram-sha-256",
    "random_page_cost": "1.1",  # no disk that turns: else the newest of a large tenant are found by sorting all that it has
}
# For data to throw away: a death of the machine may ruin it, one of the server still loses nothing.
FORGETFUL = {
    "fsync": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "min_wal_size": "64MB",
    "max_wal_size": "256MB",
}


class Cluster:
    """`async with Cluster(data_dir) as cluster`: a running server with the database `alertwell`.

    `binaries`: folder of PostgreSQL's programs, else the first found. `durable=False`: data to throw away.
    `port`: TCP port on 127.0.0.1 for tools that know no unix sockets; without it nothing listens.

    One process at a time owns a data folder. The server dies with its owner, in whatever way that ends, and
    while the owner lives a server that dies is started anew, under the same addresses.

    Raises errors.EmbeddedUnavailable and errors.EmbeddedInUse on entry.
    """

    def __init__(
        self, data_dir: Path, *, binaries: Path | None = None, durable: bool = True, port: int | None = None
    ) -> None:
        self._folder = data_dir.absolute()
        self._setting = binaries
        self._durable = durable
        self._port = port
        self._stack = AsyncExitStack()
        self._starts = 0
        self._started = asyncio.Condition()
        self._changing = asyncio.Lock()

    @property
    def dsn(self) -> str:
        """Over the private socket, as the owner of the database. Holds the password: never log it."""
        return self._address(folder.ROLE, database.NAME)

    @property
    def admin_dsn(self) -> str:
        """The same database as the superuser `postgres`."""
        return self._address(folder.ADMIN, database.NAME)

    @property
    def loopback_dsn(self) -> str | None:
        """`dsn` over TCP, where a port was asked for."""
        if self._port is None:
            return None
        return f"postgresql://{folder.ROLE}:{quote(self._passwords[folder.ROLE])}@127.0.0.1:{self._port}/{database.NAME}"

    @property
    def server_pid(self) -> int | None:
        """The server's main process, as it noted itself."""
        return leftovers.postmaster(self._data)

    @property
    def keeper_pid(self) -> int:
        """The process between us and the server."""
        return self._kept.pid

    @property
    def starts(self) -> int:
        """How often the server came up: 1 on entry, one more after each death or restart."""
        return self._starts

    async def wait_for_start(self, number: int) -> None:
        """Return once the server has come up `number` times."""
        async with self._started:
            await self._started.wait_for(lambda: self._starts >= number)

    async def restart(self) -> None:
        """Stop the server, ending its connections, and start it again under the same addresses."""
        async with self._changing:
            await self._kept.stop(STOP_LIMIT)
            await self._start()

    async def __aenter__(self) -> Self:
        try:
            async with AsyncExitStack() as stack:
                await self._open(stack)
                self._stack = stack.pop_all()
        except database.DRIVER_ERRORS as error:
            raise errors.EmbeddedUnavailable(
                f"the embedded PostgreSQL in {self._folder} failed: {error!r}"
            ) from error
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _open(self, stack: AsyncExitStack) -> None:
        stack.enter_context(folder.owned(self._folder))
        self._folder = self._folder.resolve()
        programs = binaries.find(self._setting)
        self._postgres = programs.postgres
        self._as_whom = await identity.choose(programs, self._folder)
        self._passwords = folder.passwords(self._folder)
        self._data = await folder.prepare(self._folder, programs, self._as_whom, durable=self._durable)
        self._sockets = folder.socket_folder(self._folder, self._as_whom, self._port or PORT)
        stack.callback(folder.remove_short_socket_folder, self._folder)
        await self._start()
        stack.push_async_callback(self._stop)
        await database.make(
            self._address(folder.ADMIN, "postgres"), folder.ROLE, self._passwords[folder.ROLE]
        )
        watch = asyncio.create_task(self._bring_back(), name="embedded-postgres")
        stack.push_async_callback(_end, watch)

    async def _stop(self) -> None:
        await self._kept.stop(STOP_LIMIT)

    async def _bring_back(self) -> None:
        clock, pause = asyncio.get_running_loop().time, 0.0
        while True:
            kept, since = self._kept, clock()
            code = await kept.wait()
            async with self._changing:
                if self._kept is not kept:
                    continue  # restart() was it
                if clock() - since > CALM:
                    pause = 0.0
                _log.warning("embedded_server_died", exit_code=code)
                kept.let_go()
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, pause * 2 + 0.1)
                try:
                    await self._start()
                except (errors.UserMistake, *database.DRIVER_ERRORS) as error:
                    _log.error("embedded_server_not_back", error=str(error), next_attempt_seconds=pause)

    async def _start(self) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            await leftovers.clear(self._data, self._sockets)
            with folder.log(self._folder) as output:
                since = output.tell()
                self._as_whom.own(self._folder)
                self._kept = await process.start(
                    self._command(), who=self._as_whom.who, folder=self._folder.parent, output=output
                )
            try:
                came_up = await self._wait_until_ready()
            except BaseException:
                self._kept.let_go()
                await self._kept.wait()
                raise
            if came_up:
                break
            self._kept.let_go()
            if attempt == ATTEMPTS:
                said = folder.log_end(self._folder, since)
                raise errors.EmbeddedUnavailable(f"the embedded PostgreSQL does not start: {said}")
        async with self._started:
            self._starts += 1
            self._started.notify_all()
        _log.info("embedded_server_started", data_dir=str(self._folder), starts=self._starts)

    def _command(self) -> list[str | Path]:
        settings = {
            **SETTINGS,
            **({} if self._durable else FORGETFUL),
            "cluster_name": leftovers.server_name(self._data),
            "unix_socket_directories": _quoted(self._sockets),
            "listen_addresses": "127.0.0.1" if self._port is not None else "",
            "port": str(self._port or PORT),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [self._postgres, "-D", self._data, *options]

    async def _wait_until_ready(self) -> bool:
        """Whether the server came up; no where its process ended."""
        async with asyncio.timeout(START_LIMIT):
            while not self._kept.ended:
                try:
                    connection = await asyncpg.connect(self._address(folder.ADMIN, "postgres"), timeout=10)
                except asyncpg.InvalidAuthorizationSpecificationError as error:
                    raise errors.EmbeddedUnavailable(
                        f"the database in {self._folder} does not let us in with its passwords.json: {error}"
                    ) from None
                except database.DRIVER_ERRORS:
                    await asyncio.sleep(BREATH)  # not listening yet, or still in recovery
                else:
                    await connection.close()
                    return True
        return False

    def _address(self, role: str, name: str) -> str:
        query = urlencode({"host": self._sockets, "port": self._port or PORT}, quote_via=quote)
        return f"postgresql://{role}:{quote(self._passwords[role])}@/{name}?{query}"


def _quoted(path: Path) -> str:
    # An item of a list setting, where blanks, commas and quotes of a path would have a meaning.
    return '"' + str(path).replace('"', '""') + '"'


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])

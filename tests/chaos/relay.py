"""A TCP relay on loopback between a replica and PostgreSQL: open, slow, silent, or cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

Way = Literal["open", "slow", "silent", "cut"]
_PIECE = 16 * 1024


class Relay:
    """`async with Relay(target) as relay`: what connects to `relay.port` reaches its target as `relay.way` allows: a port of
    127.0.0.1, or the path of a socket.

    slow: every piece waits `pause` seconds; silent: nothing passes and nothing ends, as where packets are lost; cut: connections
    are reset, and new ones too.
    """

    def __init__(self, target: int | str) -> None:
        self.way: Way = "open"
        self.pause = 0.0
        self.port = 0
        self._target = target
        self._changed = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def turn(self, way: Way, pause: float = 0.0) -> None:
        """Let pass what `way` says from now on."""
        self.way, self.pause = way, pause
        self._changed.set()
        self._changed = asyncio.Event()
        if way == "cut":
            for writer in [*self._writers]:
                writer.transport.abort()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        self.turn("cut")
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._writers.add(writer)
        try:
            while self.way == "silent":
                await self._changed.wait()
            if self.way == "cut":
                return
            further, back = await self._reach()
            self._writers.add(back)
            try:
                await asyncio.gather(self._carry(reader, back), self._carry(further, writer))
            finally:
                self._writers.discard(back)
                back.transport.abort()
        except OSError:
            pass  # the other side is down or gone: so is this one
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if isinstance(self._target, str):
            return await asyncio.open_unix_connection(self._target)
        return await asyncio.open_connection("127.0.0.1", self._target)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            while self.way == "silent":
                await self._changed.wait()
            if self.way == "slow":
                await asyncio.sleep(self.pause)
            writer.write(piece)
            await writer.drain()
        # one side has ended: a half-open connection to a database is of no use
        raise ConnectionResetError


@asynccontextmanager
async def relayed(dsn: str) -> AsyncIterator[tuple[Relay, str]]:
    """A relay in front of the database at this address, and the address that leads through it."""
    parts = urlsplit(dsn)
    query = parse_qs(parts.query)
    host = query.get("host", [parts.hostname or "localhost"])[0]
    port = int(query.get("port", [str(parts.port or 5432)])[0])
    async with Relay(f"{host}/.s.PGSQL.{port}" if host.startswith("/") else port) as relay:
        user = parts.netloc.rpartition("@")[0]
        yield relay, f"postgresql://{user}@127.0.0.1:{relay.port}{parts.path}"

"""A TCP relay on loopback between a replica and PostgreSQL: open, slow, silent, or cut."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Literal, Self

Way = Literal["open", "slow", "silent", "cut"]
_PIECE = 16 * 1024


class Relay:
    """`async with Relay(port) as relay`: what connects to `relay.port` reaches that port of 127.0.0.1 as `relay.way` allows.

    slow: every piece waits `pause` seconds; silent: nothing passes and nothing ends, as where packets are lost; cut: connections
    are reset, and new ones too.
    """

    def __init__(self, target: int) -> None:
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
            further, back = await asyncio.open_connection("127.0.0.1", self._target)
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

"""A pooler in transaction mode, as small as can be: a client has a server's connection from its first message to the end
of its transaction, and the next one gets the connection that has waited longest. So nothing that is kept in a session is found
again. Like PgBouncer, it refuses startup parameters that it does not know.

    async with pooler.serve(dsn, size=2) as running:
        running.dsn, running.transactions
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import asyncpg

_TAKEN = {
    *("user", "database", "client_encoding", "application_name", "timezone", "datestyle"),
    "standard_conforming_strings",
}
_SSL, _CANCEL = 80877103, 80877102
_ANSWERED_BY_READY = b"SQF"  # Sync, Query, FunctionCall


class _Server(asyncio.Protocol):
    """A connection to the server, its handshake done; what it says goes to whoever has it."""

    def __init__(self, connection: asyncpg.Connection, free: asyncio.Queue[_Server]) -> None:
        self.client: asyncio.StreamWriter | None = None
        self.asked = 0
        self._free = free
        self._kept = connection  # its driver would close the transport with it
        self._buffer = b""
        self.transport = connection._transport
        self.transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        if self.client is not None:
            self.client.write(data)
        self._buffer += data
        while len(self._buffer) >= 5:
            length = 1 + struct.unpack("!I", self._buffer[1:5])[0]
            if len(self._buffer) < length:
                return
            message, self._buffer = self._buffer[:length], self._buffer[length:]
            if message[:1] == b"Z":
                self.asked -= 1
                if message[5:] == b"I" and not self.asked:
                    self.client = None
                    self._free.put_nowait(self)

    def connection_lost(self, _: Exception | None) -> None:
        if self.client is not None:
            self.client.close()


@dataclass
class Pooler:
    """A running pooler, and what went through it."""

    dsn: str
    version: str = ""
    transactions: int = 0
    refused: list[str] = field(default_factory=list)
    free: asyncio.Queue[_Server] = field(default_factory=asyncio.Queue)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes."""
        server: _Server | None = None
        try:
            if not await self._greeted(reader, writer):
                return
            while True:
                kind = await reader.readexactly(1)
                size = await reader.readexactly(4)
                body = await reader.readexactly(struct.unpack("!I", size)[0] - 4)
                if kind == b"X":
                    return
                if server is None or server.client is not writer:
                    server = await self.free.get()
                    server.client = writer
                    self.transactions += 1
                server.asked += kind in _ANSWERED_BY_READY
                server.transport.write(kind + size + body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            if server is not None and server.client is writer:
                server.client = None
                server.transport.abort()  # in the middle of a transaction: nobody else shall go on with it
            writer.close()

    async def _greeted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        while True:
            length, code = struct.unpack("!II", await reader.readexactly(8))
            body = await reader.readexactly(length - 8)
            if code == _CANCEL:
                return False
            if code != _SSL:
                break
            writer.write(b"N")
        words = body.rstrip(b"\0").decode().split("\0")
        unknown = [name for name in words[::2] if name.lower() not in _TAKEN]
        if unknown:
            self.refused += unknown
            said = f"SFATAL\0C08P01\0Munsupported startup parameter: {unknown[0]}\0\0"
            writer.write(_message(b"E", said.encode()))
            return False
        writer.write(_message(b"R", struct.pack("!I", 0)))
        told = {"server_version": self.version, "client_encoding": "UTF8", "TimeZone": "UTC"}
        for name, value in {**told, "integer_datetimes": "on", "standard_conforming_strings": "on"}.items():
            writer.write(_message(b"S", f"{name}\0{value}\0".encode()))
        writer.write(_message(b"K", struct.pack("!II", 1, 1)) + _message(b"Z", b"I"))
        return True


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!I", len(body) + 4) + body


@asynccontextmanager
async def serve(dsn: str, *, size: int = 3) -> AsyncIterator[Pooler]:
    """A pooler of `size` connections to the server at `dsn`, listening on a port of 127.0.0.1, that asks for no password."""
    parts = urlsplit(dsn)
    running = Pooler("")
    opened = []
    for _ in range(size):
        connection = await asyncpg.connect(dsn)
        opened.append(connection)
        running.version = connection.get_settings().server_version
        running.free.put_nowait(_Server(connection, running.free))
    listening = await asyncio.start_server(running.handle, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    running.dsn = f"postgresql://{parts.username}:x@127.0.0.1:{port}{parts.path}"
    try:
        yield running
    finally:
        listening.close()
        for connection in opened:
            connection.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(listening.wait_closed(), 5)

"""A proxy for tests: CONNECT with Basic authentication, and, where it is to inspect, TLS with a CA of its own on both sides.

async with proxy.serve(user="alice", password="…") as running:
    running.url, running.asked (hosts of every CONNECT), running.tunnels (those let through), running.sent (header lines)
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trustme

USER = "alice"
PASSWORD = "proxy-password-never-shown"


@dataclass
class Proxy:
    """What a running proxy has seen. `status`, where set, is its answer to every CONNECT."""

    password: str | None = None
    inspects: ssl.SSLContext | None = None
    trusts: ssl.SSLContext | None = None
    status: int = 0
    url: str = ""
    asked: list[str] = field(default_factory=list)
    tunnels: int = 0
    sent: list[str] = field(default_factory=list)
    inside: bytearray = field(default_factory=bytearray)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until it goes."""
        raw = writer.transport
        try:
            with contextlib.suppress(OSError, EOFError, ssl.SSLError):
                await self._connect(reader, writer)
        finally:
            writer.close()
            raw.abort()  # TLS inside of it may be half made

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, *headers = (
            (await reader.readuntil(b"\r\n\r\n")).decode().replace("\r\n", " \n").split(" ")
        )
        lines = " ".join(headers)
        self.sent.append(lines)
        self.asked.append(target)
        basic = base64.b64encode(f"{USER}:{self.password}".encode()).decode()
        refusal = self.status or (407 if self.password and f"Basic {basic}" not in lines else 0)
        if method != "CONNECT" or refusal:
            writer.write(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % (refusal or 405))
            await writer.drain()
            return
        host, _, port = target.rpartition(":")
        onward = await asyncio.open_connection(
            host, int(port), ssl=self.trusts, server_hostname=host if self.trusts else None
        )
        self.tunnels += 1
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await writer.drain()
        if self.inspects:
            await writer.start_tls(self.inspects)
        try:
            await asyncio.gather(self._pump(reader, onward[1], keep=True), self._pump(onward[0], writer))
        finally:
            onward[1].transport.abort()

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, keep: bool = False
    ) -> None:
        with contextlib.suppress(OSError, ssl.SSLError):
            while data := await source.read(65536):
                if keep:
                    self.inside += data
                sink.write(data)
                await sink.drain()
        sink.close()


@asynccontextmanager
async def serve(
    *,
    password: str | None = None,
    inspect: tuple[Path, Path] | None = None,
    tls: Path | None = None,
    status: int = 0,
) -> AsyncIterator[Proxy]:
    """A proxy on a free port. `password`: of USER, else it asks nobody. `inspect`: (the CA that it trusts, where its own goes).

    `tls`: it is an https:// proxy, and puts its CA there.
    """
    made = Proxy(password, status=status)
    if inspect is not None:
        made.trusts = ssl.create_default_context(cafile=inspect[0])
        made.inspects = _issue(inspect[1])
    listening = _issue(tls) if tls else None
    busy: set[asyncio.Task[None]] = set()

    def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made.handle(reader, writer), name="proxy")
        busy.add(task)
        task.add_done_callback(busy.discard)

    server = await asyncio.start_server(meet, "127.0.0.1", 0, ssl=listening)
    made.url = f"{'https' if tls else 'http'}://localhost:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)


def _issue(ca_file: Path) -> ssl.SSLContext:
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(ca_file))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    return context

"""A network between a replica and the database that is slow, or gone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
import structlog

from tests.chaos import databases
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


@dataclass
class Relay:
    """Passes on what it gets, `delay` seconds late each way; cut, it ends what is open and refuses what comes."""

    port: int
    delay: float = 0.0
    cut: bool = False
    open: set[asyncio.StreamWriter] = field(default_factory=set)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until an end of it goes."""
        if self.cut:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.port)
        both = {writer, server_writer}
        self.open |= both
        try:
            await asyncio.gather(self._pass(reader, server_writer), self._pass(server_reader, writer))
        finally:
            self.open -= both
            for each in both:
                each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay)
                writer.write(data)
                await writer.drain()
        writer.close()

    def part(self) -> None:
        """From here on nobody gets through."""
        self.cut = True
        for each in self.open:
            each.transport.abort()


@asynccontextmanager
async def relay(dsn: str, port: int) -> AsyncIterator[tuple[Relay, str]]:
    """A relay in front of the server on this port, and the address that leads through it."""
    running = Relay(port)
    listening = await asyncio.start_server(running.handle, "127.0.0.1", 0)
    own = listening.sockets[0].getsockname()[1]
    try:
        yield running, dsn.replace(f":{port}", f":{own}")
    finally:
        running.part()
        listening.close()


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_replica_that_is_cut_off(tmp_path):
    """The other one takes its tenants; it stops asking Microsoft, and shares again when it is back. All is held once."""
    port = databases.free_port()
    async with (
        databases.alone(port=port) as cluster,
        relay(cluster.loopback_dsn, port) as (line, through),
        databases.staged(cluster.dsn, tmp_path) as stage,
    ):
        far = replace(stage, dsn=through)
        await stage.enrol(CONTOSO, FABRIKAM)
        with structlog.testing.capture_logs() as logs:
            async with far.collecting() as cut, stage.collecting() as near, databases.reading(stage):

                async def owned_by(*replicas):
                    return set(await stage.books.owners()) == {one.replica_id for one in replicas}

                line.delay = 0.05
                await until(lambda: owned_by(cut, near), 60)
                for turn, owners in (("slow", (cut, near)), ("cut", (near,)), ("back", (cut, near))):
                    if turn == "cut":
                        line.part()
                    if turn == "back":
                        line.cut = False
                    await until(lambda: owned_by(*owners), 60)  # noqa: B023 - asked at once
                    for tenant_id in (CONTOSO, FABRIKAM):
                        stages.file(stage.shown, tenant_id, f"{turn} {tenant_id}", stage.shown.clock())
                    await databases.all_held(stage)
                assert not cut.failed.done()
        assert not [entry for entry in logs if entry["log_level"] == "error"]

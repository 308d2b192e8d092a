"""Databases that a test may break: a server of its own, a primary with a streaming standby, and who reads the feed meanwhile.

async with databases.pair(folder) as pair, databases.staged(pair.dsn, tmp_path) as stage:
    await pair.part()          # from here on the standby hears nothing
    await pair.fail_over()     # the primary dies, the standby takes over; what it has not heard is lost
"""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg

from service.simulator import server, world
from service.store import pool as doors
from service.store import schema
from service.store.embedded import Cluster, binaries, process
from service.store.embedded import database as inside
from tests import postgres as servers
from tests.ingest import stages
from tests.ingest.waiting import until

AWAY = inside.DRIVER_ERRORS


@dataclass
class Pair:
    """A primary and its standby; `dsn` names both."""

    primary: Cluster
    standby: Cluster
    dsn: str

    async def caught_up(self) -> None:
        """Return once the standby has replayed all that the primary has written."""
        position = await on(self.primary.admin_dsn, "SELECT pg_current_wal_lsn()::text")

        async def replayed() -> bool:
            return await on(
                self.standby.admin_dsn, f"SELECT pg_last_wal_replay_lsn() >= '{position}'::pg_lsn"
            )

        await until(replayed, 60)

    async def part(self) -> None:
        """Let the standby have all there is now, and nothing from here on."""
        await self.caught_up()
        await on(self.standby.admin_dsn, "ALTER SYSTEM SET primary_conninfo = ''")
        await on(self.standby.admin_dsn, "SELECT pg_reload_conf()")

        async def deaf() -> bool:
            return not await on(self.standby.admin_dsn, "SELECT count(*) FROM pg_stat_wal_receiver")

        await until(deaf, 60)

    async def fail_over(self) -> None:
        """The primary is gone at once and for good, and the standby takes writes."""
        await kill(self.primary)
        assert await on(self.standby.admin_dsn, "SELECT pg_promote()")


async def on(dsn: str, statement: str) -> object:
    """The first value of one statement, by a connection of its own."""
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def kill(cluster: Cluster) -> None:
    """End the server as SIGQUIT does, and keep it from coming back."""
    await cluster._changing.acquire()
    cluster._kept.let_go()
    await cluster._kept.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@asynccontextmanager
async def alone(*, port: int | None = None) -> AsyncIterator[Cluster]:
    """A migrated server of one's own."""
    with tempfile.TemporaryDirectory(prefix=servers.PREFIX, dir=servers.quick_folder()) as folder:
        async with Cluster(Path(folder, "postgres"), durable=False, port=port) as cluster:
            await schema.migrate(cluster.dsn)
            yield cluster


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    """A migrated primary with a standby that streams, asynchronously, over TCP."""
    with tempfile.TemporaryDirectory(prefix=servers.PREFIX, dir=servers.quick_folder()) as folder:
        ports = free_port(), free_port()
        homes = Path(folder, "primary"), Path(folder, "standby")
        async with Cluster(homes[0], port=ports[0]) as primary:
            await schema.migrate(primary.dsn)
            homes[1].mkdir(mode=0o700)
            shutil.copy(homes[0] / "passwords.json", homes[1])
            password = json.loads((homes[0] / "passwords.json").read_text())["postgres"]
            code, said = await process.run(
                [
                    binaries.find().folder / "pg_basebackup",
                    *("-D", homes[1] / "data", "-X", "stream", "-c", "fast", "-R"),
                    *("-d", f"host=127.0.0.1 port={ports[0]} user=postgres password={password}"),
                ],
                who=primary._as_whom.who,
                folder=homes[1],
            )
            assert code == 0, said
            async with Cluster(homes[1], port=ports[1]) as standby:
                assert primary.loopback_dsn is not None
                both = primary.loopback_dsn.replace(f":{ports[0]}", f":{ports[0]},127.0.0.1:{ports[1]}")
                try:
                    yield Pair(primary, standby, both)
                finally:
                    if primary._changing.locked():
                        primary._changing.release()


@asynccontextmanager
async def staged(
    dsn: str, folder: Path, *, rows: str | None = None, pooler: str = "none"
) -> AsyncIterator[stages.Stage]:
    """A world with Contoso and Fabrikam over TLS, and the database at `dsn`; `rows` is an address for the test's own looks."""
    shown = world.World(3)
    shown.add_tenant(stages.CONTOSO, "Contoso")
    shown.add_tenant(stages.FABRIKAM, "Fabrikam")
    async with (
        server.Simulator(shown, directory=folder / "ca") as simulator,
        doors.open_database(dsn, size=2, pooler=pooler) as database,
        asyncpg.create_pool(
            rows or dsn, min_size=0, max_size=3, timeout=10, target_session_attrs="read-write"
        ) as looks,
    ):
        yield stages.Stage(shown, simulator, dsn, stages.Books(looks), database, folder)


async def patient(condition: Callable[[], Awaitable[object]], seconds: float = 60.0) -> None:
    """As `until`, by connections that may be lost meanwhile."""

    async def asked() -> object:
        try:
            return await condition()
        except AWAY:
            return None

    await until(asked, seconds)


async def all_held(stage: stages.Stage, seconds: float = 60.0) -> None:
    """Wait until both tenants hold as much as the world shows, then compare it record by record."""

    async def complete() -> bool:
        return all(
            [
                await stage.books.count(tenant_id) == len(stage.shown.full_ids(tenant_id))
                for tenant_id in (stages.CONTOSO, stages.FABRIKAM)
            ]
        )

    await patient(complete, seconds)
    for tenant_id in (stages.CONTOSO, stages.FABRIKAM):
        await stage.books.same_as(stage.shown, tenant_id)


@dataclass
class Reader:
    """Follows the change feed as documented: in order, from the last number it has seen, through every outage."""

    stage: stages.Stage
    seqs: list[int] = field(default_factory=list)
    full_ids: list[str] = field(default_factory=list)
    trouble: BaseException | None = None

    async def follow(self) -> None:
        """For ever."""
        while True:
            try:
                rows = await self.stage.books.rows.fetch(
                    "SELECT * FROM soc.changes($1)", self.seqs[-1] if self.seqs else None
                )
            except asyncpg.InvalidParameterValueError:  # beyond the head: as documented, try again
                rows = []
            except (TimeoutError, *AWAY) as error:
                self.trouble = error
                await asyncio.sleep(0.2)
                continue
            for row in rows:
                self.seqs.append(row["seq"])
                self.full_ids.append(row["full_id"])
            await asyncio.sleep(0.05)

    def in_order(self) -> None:
        """No number came twice, none was smaller than the one before."""
        assert self.seqs == sorted(set(self.seqs))


@asynccontextmanager
async def reading(stage: stages.Stage) -> AsyncIterator[Reader]:
    """A reader, following as long as the context lasts; at the end it has seen every alert that is held."""
    reader = Reader(stage)
    task = asyncio.create_task(reader.follow(), name="reader")
    try:
        yield reader
        held = {row["full_id"] for row in await stage.books.rows.fetch("SELECT full_id FROM alertwell.alert")}
        await until(
            lambda: task.done() or held <= set(reader.full_ids),
            60,
            saying=lambda: (held - set(reader.full_ids), reader.seqs[-1:], str(reader.trouble), task),
        )
        assert not task.done(), task
        reader.in_order()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

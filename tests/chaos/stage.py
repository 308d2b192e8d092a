"""Everything that a run stands on, opened in one stack: PostgreSQL, the simulator, relays, replicas, readers. Loopback alone."""

from __future__ import annotations

import asyncio
import secrets
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit
from uuid import UUID

from service import model
from service.store import enrolments, pool, schema
from service.store.embedded import Cluster
from tests import postgres
from tests.chaos import fleet, ledger, relay, scene
from tests.chaos.defender import Defender
from tests.chaos.follower import Follower
from tests.chaos.storm import Customer, Storm


@dataclass
class Stage:
    """All of it, running. `begun` is monotonic."""

    scene: scene.Scene
    cluster: Cluster
    simulator: fleet.Process
    defender: Defender
    replicas: Sequence[fleet.Process]
    followers: Sequence[Follower]
    following: Sequence[asyncio.Task[None]]
    watching: asyncio.Task[None]
    storm: Storm
    begun: float

    @property
    def customers(self) -> Sequence[Customer]:
        """The tenants, and what each is read from."""
        return self.storm.customers

    @property
    def streams(self) -> list[ledger.Key]:
        """Each tenant with each of its sources."""
        return [(each.tenant_id, source) for each in self.customers for source in each.sources]

    @property
    def logs(self) -> list[Path]:
        """Of the replicas."""
        return [each.log for each in self.replicas]


@asynccontextmanager
async def opened(wanted: scene.Scene) -> AsyncIterator[Stage]:
    """Open it all, enrol the tenants and start the replicas; at the end, however it comes, nothing of it is left running."""
    async with AsyncExitStack() as stack:
        quick = stack.enter_context(
            tempfile.TemporaryDirectory(prefix=postgres.PREFIX, dir=postgres.quick_folder())
        )
        cluster = await stack.enter_async_context(
            Cluster(Path(quick, "postgres"), durable=False, port=_free_port())
        )
        await schema.migrate(cluster.dsn)
        simulator, defender = await _simulator(stack, wanted)
        customers = [
            Customer(tenant_id, name, scene.sources(number))
            for number, (tenant_id, name) in enumerate(_tenants(wanted.folder / "simulator" / "tenants.csv"))
        ]
        begun_at = datetime.now(UTC)
        await _enrol(cluster, customers, wanted.lookback)
        settings = {**wanted.settings(), **defender.settings}
        relays = [
            await stack.enter_async_context(relay.Relay(_port(cluster))) for _ in range(wanted.replicas)
        ]
        replicas = [
            fleet.Process(
                f"replica {number}",
                ("-m", "service", "run"),
                {**settings, "ALERTWELL_DATABASE_URL": _through(cluster, line.port)},
                wanted.folder / f"replica-{number}.log",
            )
            for number, line in enumerate(relays, 1)
        ]
        for replica in replicas:
            stack.push_async_callback(replica.kill)
            await replica.start()
        followers = await _followers(cluster, customers)
        begun = time.monotonic()
        following = [asyncio.create_task(each.run(), name=each.name) for each in followers]
        every = max(1.0, min(10.0, wanted.seconds / 300))
        watching = asyncio.create_task(fleet.watch([*replicas, simulator], begun, every), name="watch")
        for task in (*following, watching):
            stack.push_async_callback(_ended, task)
        direct = {**settings, "ALERTWELL_DATABASE_URL": _through(cluster, _port(cluster))}
        storm = Storm(
            replicas, relays, cluster, defender, customers, direct, wanted.folder / "commands.log", begun_at
        )
        yield Stage(
            wanted, cluster, simulator, defender, replicas, followers, following, watching, storm, begun
        )


async def _simulator(stack: AsyncExitStack, wanted: scene.Scene) -> tuple[fleet.Process, Defender]:
    folder = wanted.folder / "simulator"
    folder.mkdir(parents=True)
    told = (str(folder), str(wanted.seed), str(wanted.tenants), str(wanted.rate))
    told += str(wanted.history), str(wanted.late)
    log = wanted.folder / "simulator.log"
    simulator = fleet.Process("simulator", ("-m", "tests.chaos.stand_in", *told), {}, log)
    stack.push_async_callback(simulator.kill)
    await simulator.start()
    # settings.env is written before anybody can connect, and the lines are printed after that
    ready = wanted.folder / "simulator.log"
    await fleet.until(lambda: b"tenants.csv" in ready.read_bytes(), 60, lambda: ready.read_text()[-500:])
    return simulator, await stack.enter_async_context(Defender(folder))


def _tenants(file: Path) -> list[tuple[str, str]]:
    rows = [line.split(",") for line in file.read_text().splitlines()[1:]]
    return [(row[0], row[1]) for row in rows]


async def _enrol(cluster: Cluster, customers: Sequence[Customer], lookback: float) -> None:
    async with pool.open_database(cluster.dsn, size=2) as database:
        wanted = [
            enrolments.Enrolment(
                model.Tenant(UUID(each.tenant_id), each.name, region="eu"),
                {source: {} for source in each.sources},
            )
            for each in customers
        ]
        await enrolments.enrol(database, wanted, lookback=timedelta(seconds=lookback))


async def _followers(cluster: Cluster, customers: Sequence[Customer]) -> list[Follower]:
    """One who may see all tenants, and one who may see two of three."""
    some = [each.tenant_id for number, each in enumerate(customers) if number % 3]
    password = secrets.token_hex(16)
    connection = await ledger.connect(cluster.admin_dsn)
    try:
        await ledger.make_reader(connection, "soc_of_all", password, None)
        await ledger.make_reader(connection, "soc_of_some", password, some)
    finally:
        await connection.close()
    host = f"127.0.0.1:{_port(cluster)}"
    name = urlsplit(cluster.loopback_dsn or "").path
    everything = Follower(
        "the reader of all tenants",
        f"postgresql://soc_of_all:{password}@{host}{name}",
        frozenset(each.tenant_id for each in customers),
    )
    limited = Follower(
        "the limited reader", f"postgresql://soc_of_some:{password}@{host}{name}", frozenset(some)
    )
    return [everything, limited]


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _port(cluster: Cluster) -> int:
    port = urlsplit(cluster.loopback_dsn or "").port
    assert port is not None
    return port


def _through(cluster: Cluster, port: int) -> str:
    """The database's address with another port: that of a relay."""
    address = urlsplit(cluster.loopback_dsn or "")
    if address.hostname != "127.0.0.1":
        raise RuntimeError(f"a run stays on this machine, and PostgreSQL is at {address.hostname}")
    return address._replace(netloc=f"{address.username}:{address.password}@127.0.0.1:{port}").geturl()

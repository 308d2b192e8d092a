"""What tests of the collector stand on: a simulated world over TLS, a database, tenants, and whatever reads between them.

`Stage` runs whole collectors (`app.collector`) by the real clock. `Bench` drives single polls by a clock that is moved by hand.
"""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from service import app, clouds, intervals, model, settings, timestamps
from service.auth import modes, tokens
from service.ingest import owned, plan, poll, reading, slots, turn, unpacking
from service.metrics import Metrics
from service.simulator import cases, filing, server, ticks, world
from service.sources import registry
from service.store import enrolments, leases, pool, ranges, storing, streams
from service.transport import budget, client
from service.transport import session as sessions
from tests.ingest.waiting import until

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
MIB = 1024 * 1024

QUICK: dict[str, Any] = {
    "poll_interval": "1s",
    "overlap": "1s",
    "overlap_max": "1s",
    "sweep_interval": "36500d",
    "live_span": "20s",
    "lease_ttl": "3s",
    "shutdown_grace": "10s",
    "http_port": 0,
    "database_pool_size": 6,
}


def moment(at: int) -> datetime:
    """The simulator's ticks as a datetime, floored."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=at // 10)


def tick(at: datetime) -> int:
    """A datetime as the simulator's ticks."""
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10


def record(full_id: str, at: int, **fields: Any) -> bytes:
    """A record with the fields that it needs and those given; None leaves one out."""
    made = {"FullId": full_id, "LastProcessedTimeUtc": ticks.text(at), "AlertTitle": "Something", **fields}
    return json.dumps({key: value for key, value in made.items() if value is not None}).encode()


def file(shown: world.World, tenant_id: str, full_id: str, at: int, **options: Any) -> str:
    """File a minimal record of the tenant; `visible_at` as for `World.add_record`, other options are fields."""
    visible_at = options.pop("visible_at", None)
    raw = record(full_id, at, **options)
    shown.add_record(tenant_id, raw, at=at, full_id=full_id, visible_at=visible_at)
    return full_id


def series(metrics: Metrics) -> dict[str, float]:
    """Every sample of the registry, as `name{label=value,…}`."""
    return {
        sample.name
        + "".join(f"{{{key}={value}}}" for key, value in sorted(sample.labels.items())): sample.value
        for metric in metrics.registry.collect()
        for sample in metric.samples
    }


_APIS: dict[str, tuple[cases.Api, str]] = {
    "mde_alerts": ("mde", "id"),
    "xdr_incidents": ("xdr", "alertId"),
    "graph_alerts": ("graph", "id"),
    "graph_incidents": ("graph", "id"),
}


@dataclass
class Books:
    """What the database holds, as tests ask for it."""

    rows: asyncpg.Pool

    async def alerts(self, tenant_id: str = CONTOSO, source: str | None = None) -> dict[str, asyncpg.Record]:
        """soc.alerts of the tenant (or one source of it) by FullId; a key held twice fails."""
        found = await self.rows.fetch("SELECT * FROM soc.alerts WHERE tenant_id = $1", UUID(tenant_id))
        by_key = {row["full_id"]: row for row in found if source in (None, row["source"])}
        assert len(by_key) == sum(source in (None, row["source"]) for row in found)
        return by_key

    async def count(self, tenant_id: str = CONTOSO) -> int:
        """How many alerts are held."""
        return await self.rows.fetchval(
            "SELECT count(*) FROM alertwell.alert WHERE tenant_id = $1", UUID(tenant_id)
        )

    async def stream(self, tenant_id: str = CONTOSO) -> asyncpg.Record:
        """soc.coverage of the tenant's stream."""
        return await self.rows.fetchrow("SELECT * FROM soc.coverage WHERE tenant_id = $1", UUID(tenant_id))

    async def state(self, tenant_id: str = CONTOSO) -> str:
        """The stream's state."""
        return (await self.stream(tenant_id))["state"]

    async def coverage(self, tenant_id: str = CONTOSO) -> intervals.Intervals:
        """What is proven."""
        return ranges.decode((await self.stream(tenant_id))["coverage"])

    async def gaps(self, tenant_id: str = CONTOSO) -> list[asyncpg.Record]:
        """soc.gaps, oldest first."""
        return await self.rows.fetch(
            "SELECT * FROM soc.gaps WHERE tenant_id = $1 ORDER BY gap_from", tenant_id
        )

    async def rejects(self, tenant_id: str = CONTOSO) -> list[asyncpg.Record]:
        """soc.rejects, in the order of arrival."""
        return await self.rows.fetch(
            "SELECT * FROM soc.rejects WHERE tenant_id = $1 ORDER BY id", UUID(tenant_id)
        )

    async def polls(self, tenant_id: str = CONTOSO) -> list[asyncpg.Record]:
        """Rows of polls, oldest first."""
        return await self.rows.fetch(
            "SELECT * FROM alertwell.poll WHERE tenant_id = $1 ORDER BY started_at", UUID(tenant_id)
        )

    async def same_alerts(
        self, shown: world.World, source: str, tenant_id: str = CONTOSO
    ) -> dict[str, asyncpg.Record]:
        """The source's alerts are the newest versions that its API shows, each once; they come back."""
        api, key = _APIS[source]
        held = await self.alerts(tenant_id, source)
        truth = {told[key]: told for told in map(json.loads, shown.truth_alerts(tenant_id, api).values())}
        assert held.keys() == truth.keys()
        for full_id, told in truth.items():
            assert json.loads(held[full_id]["raw"]) == told
        return held

    async def owners(self) -> dict[UUID, list[str]]:
        """Tenants by the replica that owns them; active ones only."""
        found = await self.rows.fetch(
            "SELECT l.owner, l.tenant_id FROM alertwell.lease l JOIN alertwell.tenant t USING (tenant_id)"
            " WHERE t.state = 'active' ORDER BY l.tenant_id"
        )
        by_owner: dict[UUID, list[str]] = {}
        for row in found:
            by_owner.setdefault(row["owner"], []).append(str(row["tenant_id"]))
        return by_owner

    async def same_as(self, shown: world.World, tenant_id: str = CONTOSO) -> None:
        """Every row is the simulator's truth: key by key, the raw record, the typed columns, the time floored; each once."""
        held = await self.alerts(tenant_id)
        truth = shown.truth(tenant_id)
        assert held.keys() == truth.keys()
        for full_id, raw in truth.items():
            row, told = held[full_id], json.loads(raw)
            assert json.loads(row["raw"]) == told
            assert row["source_updated_text"] == told["LastProcessedTimeUtc"]
            assert row["last_processed_at"] == moment(ticks.parse(told["LastProcessedTimeUtc"]))
            assert row["title"] == (told.get("AlertTitle") or None)
            assert row["severity"] == str(told.get("Severity") or "unknown").lower()
            assert row["alert_id"] == (told.get("AlertId") or full_id.partition(":")[0])
            assert row["category"] == (told.get("Category") or None)
            assert row["device_name"] == (told.get("ComputerDnsName") or told.get("MachineName") or None)
            happened = told.get("AlertTime")
            assert row["event_time"] == (moment(ticks.parse(happened)) if happened else None)
            assert row["tenant_name"] == shown.tenants[tenant_id].name
            assert (row["source"], row["status"]) == ("siem", None)


@dataclass
class Stage:
    """A world, its server and a database; collectors of any number work between them."""

    shown: world.World
    simulator: server.Simulator
    dsn: str
    books: Books
    database: pool.Database
    folder: Path
    secret_file: Path = field(init=False)

    def __post_init__(self) -> None:
        self.secret_file = self.folder / "client_secret"
        self.secret_file.write_text(self.shown.app.secret)

    def environment(self) -> dict[str, str]:
        """What points a collector at the simulator, as a process's environment."""
        return {
            "ALERTWELL_CLIENT_ID": self.shown.app.app_id,
            "ALERTWELL_CLIENT_SECRET_FILE": str(self.secret_file),
            "ALERTWELL_AUTHORITY_URL": self.simulator.authority_url,
            "ALERTWELL_SIEM_URL": self.simulator.siem_url,
            "ALERTWELL_MDE_URL": self.simulator.mde_url,
            "ALERTWELL_XDR_URL": self.simulator.xdr_url,
            "ALERTWELL_GRAPH_URL": self.simulator.graph_url,
            "ALERTWELL_CA_FILE": str(self.simulator.ca_file),
            "ALERTWELL_DATABASE_URL": self.dsn,
        }

    def config(self, **changes: Any) -> settings.Settings:
        """Settings for a quick collector."""
        return settings.load(self.environment(), **(QUICK | changes))

    @asynccontextmanager
    async def collecting(self, **changes: Any) -> AsyncIterator[app.Collector]:
        """A collector, running."""
        async with app.collector(self.config(**changes), self.dsn) as running:
            yield running
            assert not running.failed.done(), "a root task ended"

    async def enrol(self, *tenant_ids: str, lookback: float = 3600.0, **options: Any) -> None:
        """Enrol tenants of the world with a siem stream that wants the last `lookback` seconds."""
        wanted = [
            enrolments.Enrolment(
                model.Tenant(UUID(tenant_id), self.shown.tenants[tenant_id].name, region="eu"),
                {"siem": {}},
                **options,
            )
            for tenant_id in tenant_ids
        ]
        await enrolments.enrol(self.database, wanted, lookback=timedelta(seconds=lookback))

    async def stored(self, tenant_id: str = CONTOSO, seconds: float = 20.0) -> None:
        """Wait until as many alerts are held as the simulator shows."""
        await until(lambda: self._as_many(tenant_id), seconds, saying=lambda: self._numbers(tenant_id))

    async def _as_many(self, tenant_id: str) -> bool:
        return await self.books.count(tenant_id) == len(self.shown.full_ids(tenant_id))

    async def _numbers(self, tenant_id: str) -> tuple[int, int, Any]:
        shown = len(self.shown.full_ids(tenant_id))
        return await self.books.count(tenant_id), shown, dict(await self.books.stream(tenant_id))

    async def well(self, tenant_id: str = CONTOSO, seconds: float = 20.0) -> None:
        """Wait until the stream is up to date and has no gap that is worth reading."""

        async def seen() -> bool:
            return await self.books.state(tenant_id) == "ok"

        await until(seen, seconds, saying=lambda: self._numbers(tenant_id))


@dataclass
class Listener:
    """A sender that keeps the windows asked for and lets a test answer in the client's place.

    `instead(since, until)` may raise, and may wait; `after(answer)` may wait, and alter the answer. Times as the request says.
    """

    sender: reading.Sender
    instead: Callable[[datetime, datetime], Awaitable[None]] | None = None
    after: Callable[[model.Answer], Awaitable[model.Answer]] | None = None
    windows: list[tuple[datetime, datetime]] = field(default_factory=list)
    requests: list[model.Request] = field(default_factory=list)

    @asynccontextmanager
    async def send(self, access: model.Access, request: model.Request) -> AsyncIterator[model.Answer]:
        """See reading.Sender."""
        query = dict(request.query)
        self.requests.append(request)
        filtered = query.get("$filter", "").split()
        times = [query[name] for name in ("sinceTimeUtc", "untilTimeUtc") if name in query] or filtered[2::4]
        if not times:  # a link of the service's own
            async with self.sender.send(access, request) as answer:
                yield await self.after(answer) if self.after else answer
            return
        since, until = (timestamps.parse(text, zoneless_is_utc=True) for text in times)
        self.windows.append((since, until))
        if self.instead:
            await self.instead(since, until)
        async with self.sender.send(access, request) as answer:
            yield await self.after(answer) if self.after else answer


@dataclass
class Bench:
    """One replica without a scheduler: tests take each turn themselves, by a clock that they move."""

    shown: world.World
    simulator: server.Simulator
    database: pool.Database
    books: Books
    desk: reading.Desk
    clock: ticks.HandClock
    replica_id: UUID = field(default_factory=uuid4)
    slots: slots.Slots = field(default_factory=lambda: slots.Slots(4))

    @property
    def now(self) -> datetime:
        """The world's time."""
        return moment(self.clock())

    def ago(self, seconds: float) -> int:
        """Ticks so many seconds before the world's time."""
        return self.clock() - round(seconds * ticks.SECOND)

    def advance(self, seconds: float) -> None:
        """Move the world's clock; the collector's follows as if answers had told it."""
        self.clock.advance(seconds)
        self.learn()

    def learn(self) -> None:
        """Teach the desk's clock the world's time."""
        for _ in range(5):
            self.desk.clock.learn(self.now - timedelta(milliseconds=500))

    async def take(
        self,
        tenant_id: str = CONTOSO,
        *,
        source: str = "siem",
        parameters: dict[str, Any] | None = None,
        lookback: float = 3600.0,
        **options: Any,
    ) -> owned.Owned:
        """Enrol a tenant, whose wanted time ends at the world's clock, and take its lease."""
        name = self.shown.tenants[tenant_id].name
        enrolment = enrolments.Enrolment(
            model.Tenant(UUID(tenant_id), name, region="eu"), {source: parameters or {}}, **options
        )
        await enrolments.enrol(self.database, [enrolment], lookback=timedelta(seconds=lookback))
        await self.books.rows.execute(
            "UPDATE alertwell.stream SET enrolled_at = $2,"
            " wanted = tstzmultirange(tstzrange($2::timestamptz - make_interval(secs => $3), NULL)) WHERE tenant_id = $1",
            UUID(tenant_id),
            self.now,
            lookback,
        )
        return await self.claim()

    async def claim(self) -> owned.Owned:
        """Take the one tenant that is free, as this replica or one that follows it."""
        await leases.heartbeat(self.database, self.replica_id, host="bench", version="0", ttl=60)
        (lease,) = await leases.claim(self.database, self.replica_id, limit=1, ttl=60)
        (loaded,) = await streams.load(self.database, [lease.tenant_id])
        return owned.Owned(lease, loaded.access, loaded.stream, due=0.0)

    async def again(self) -> owned.Owned:
        """What this replica owns, read anew after its epoch has grown."""
        (lease,) = await leases.held(self.database, self.replica_id)
        (loaded,) = await streams.load(self.database, [lease.tenant_id])
        return owned.Owned(lease, loaded.access, loaded.stream, due=0.0)

    async def turn(self, mine: owned.Owned, *, live: bool = True, budget: float = 60.0) -> turn.Turn:
        """One turn of the stream, and a flush; without `live` gaps alone are read, whatever is due."""
        mine.gap_due = 0.0
        mine.due = 1e12  # far away, and still a time
        taken = turn.Turn(
            self.desk, self.replica_id, mine, self.slots, live=live, budget=budget, dice=random.Random(1)
        )
        await taken.take()
        progress = mine.progress(float("inf"), self.now)
        if progress is not None and await streams.flush(self.database, [progress]):
            mine.written(progress, 0.0)
        return taken

    def poll(self, mine: owned.Owned, *, budget: float = 60.0) -> poll.Poll:
        """A poll of the stream of which a test calls the parts."""
        record = storing.Poll(uuid4(), self.replica_id, datetime.now(UTC))
        return poll.Poll(self.desk, mine.lease, mine.access, mine.stream, mine.memory, record, budget=budget)

    def listen(self, **answers: Any) -> Listener:
        """Put a Listener between the polls and the client from now on."""
        listener = Listener(self.desk.sender, **answers)
        self.desk = replace(self.desk, sender=listener)
        return listener

    def requests(self, surface: str = "siem") -> int:
        """Requests that the API has had."""
        return self.simulator.counters[surface]

    def file_desk(self, tenant_id: str = CONTOSO) -> filing.Desk:
        """Where records of the mutable APIs are handed in."""
        return filing.Desk(self.shown, tenant_id)


@asynccontextmanager
async def bench(
    shown: world.World,
    simulator: server.Simulator,
    database: pool.Database,
    books: Books,
    clock: ticks.HandClock,
    *,
    max_body: int = 32 * MIB,
    live_span: float = 7200.0,
    overlap: float = 600.0,
    sweep_interval: float = 36500 * 86400.0,
    request_timeout: float = 30.0,
) -> AsyncIterator[Bench]:
    """A bench with a real client and real tokens."""
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(sessions.open_session(simulator.ca_file))
        hosts = clouds.Endpoints(
            {
                "authority": simulator.authority_url,
                "siem": simulator.siem_url,
                "mde": simulator.mde_url,
                "xdr": simulator.xdr_url,
                "graph": simulator.graph_url,
            }
        )
        provider = tokens.Tokens(
            hosts,
            session,
            shared=modes.SharedApp(shown.app.app_id, shown.app.secret),
            ca_file=simulator.ca_file,
        )
        stack.push_async_callback(provider.close)
        in_flight = budget.ByteBudget(3 * max_body, max_body)
        rules = plan.Rules(
            timedelta(seconds=60),
            timedelta(seconds=live_span),
            timedelta(seconds=overlap),
            sweep_interval=timedelta(seconds=sweep_interval),
        )
        desk = reading.Desk(
            sender=client.Client(session, provider, hosts, in_flight, timeout=request_timeout),
            database=database,
            sources=registry.SOURCES,
            rules=rules,
            clock=reading.Clock(),
            unpacking=unpacking.Unpacking(32 * 2**20, at_once=2),
            metrics=Metrics("0"),
        )
        made = Bench(shown, simulator, database, books, desk, clock)
        made.learn()
        yield made


async def taken(bench: Bench, mine: owned.Owned, turns: int = 20) -> None:
    """Turns until the stream has no gap left that is worth reading."""
    for _ in range(turns):
        await bench.turn(mine)
        if mine.stream.state == "ok":
            return
    raise AssertionError(mine.stream)

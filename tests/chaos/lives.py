"""Whole lives of replicas, awaited step by step: they take tenants over, poll them, write progress, number changes, resign.

And what must be true of the database whatever became of them, by the simulator's truth.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, get_args
from uuid import UUID, uuid4

import asyncpg

from service import errors, intervals, model
from service.ingest import ownership, plan, reading, unpacking, worker
from service.metrics import Metrics
from service.simulator import ticks
from service.store import enrolments, feed, pool, ranges
from tests.chaos import direct, fate
from tests.ingest import stages

SOURCES = ("siem", "mde_alerts")
TTL = 60.0
_STATES = get_args(model.StreamState)
_ROUNDS = 8


@dataclass
class Replica:
    """A replica without a clock of its own: `once` does all that its schedule would, one after the other."""

    database: pool.Database
    worker: worker.Worker
    owner: ownership.Ownership
    replica_id: UUID
    fate: fate.Fate

    async def once(self) -> None:
        """Take over, poll what is due until nothing is, write progress, number. Raises DatabaseUnavailable."""
        await self.owner.round()
        self.worker.wake(_STATES)
        self.worker.start_due()
        while polls := {task for task in self.fate.others() if task.get_name().startswith("poll ")}:
            await asyncio.wait(polls)
        await self.worker.flush(everything=True)
        while await feed.number(self.database):
            pass

    async def whole(self) -> None:
        """`once`, and resign."""
        await self.once()
        await self.owner.resign()

    def cut(self) -> None:
        """Its connections are gone at once, as those of a process that was killed."""
        self.database._pool.terminate()


@dataclass
class World:
    """What replicas live in: the API, a database, a clock in hand."""

    api: direct.Api
    hand: ticks.HandClock
    dsn: str
    rows: asyncpg.Pool
    database: pool.Database
    metrics: Metrics = field(default_factory=lambda: Metrics("0"))
    rules: plan.Rules = field(
        default_factory=lambda: plan.Rules(
            timedelta(seconds=60),
            timedelta(hours=2),
            timedelta(minutes=10),
            sweep_span=timedelta(hours=24),
            sweep_interval=timedelta(seconds=1),
        )
    )

    @property
    def now(self) -> datetime:
        return stages.moment(self.hand())

    @asynccontextmanager
    async def replica(
        self,
        lot: fate.Fate | None = None,
        *,
        ahead: timedelta = timedelta(),
        dsn: str | None = None,
        ttl: float = TTL,
        sender: Callable[[reading.Sender], reading.Sender] = lambda sender: sender,
    ) -> AsyncIterator[Replica]:
        """A replica of this fate; its clock is `ahead`, it reaches the database by `dsn`."""
        async with pool.open_database(dsn or self.dsn, size=4) as database:
            desk = reading.Desk(
                sender=sender(direct.Direct(self.api, self.hand)),
                database=database,
                sources=direct.sources(),
                rules=self.rules,
                clock=direct.Clock(self.hand, ahead),
                metrics=self.metrics,
                unpacking=unpacking.Unpacking(32 * 1024 * 1024, at_once=2),
            )
            replica_id = uuid4()
            working = worker.Worker(desk, replica_id, slots=8, budget=60)
            owner = ownership.Ownership(
                database,
                working,
                self.metrics,
                replica_id=replica_id,
                host="bench",
                version="0",
                ttl=ttl,
                forget=lambda _: None,
            )
            made = Replica(database, working, owner, replica_id, lot or fate.Fate())
            try:
                yield made
            finally:
                if made.fate.dead.is_set():
                    made.cut()
                await made.fate.bury()

    async def live(self, replica: Replica, *tenant_ids: str) -> None:
        """Let it live until these tenants are well, through whatever happens to its connections; then it resigns."""
        for _ in range(_ROUNDS):
            if await self._lasts(replica, replica.once) and await self._well(tenant_ids):
                break
        else:
            seen = await self.rows.fetch("SELECT * FROM soc.coverage WHERE tenant_id = ANY ($1)", tenant_ids)
            raise AssertionError(f"not well after {_ROUNDS} rounds: {seen}")
        for _ in range(_ROUNDS):
            if await self._lasts(replica, replica.owner.resign):
                return

    async def _lasts(self, replica: Replica, work: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        try:
            return await replica.fate.end(work())
        except errors.DatabaseUnavailable:
            return False

    async def _well(self, tenant_ids: tuple[str, ...]) -> bool:
        """Whether every stream is read up to what can be proven now, and nothing waits for a number."""
        return await self.rows.fetchval(
            """
            SELECT NOT EXISTS (SELECT FROM alertwell.unnumbered) AND NOT EXISTS (
                SELECT FROM soc.coverage WHERE tenant_id = ANY ($1)
                AND (state <> 'ok' OR gaps <> '{}' OR proven_until IS NULL
                     OR proven_until + coalesce(overlap, $3::interval) < $2))
            """,
            [UUID(tenant_id) for tenant_id in tenant_ids],
            self.now - timedelta(seconds=2),
            self.rules.overlap,
        )

    async def enrol(self, count: int, after: int = 0) -> list[str]:
        """So many tenants of two streams each, numbered on from `after`; an hour is wanted."""
        tenant_ids = [str(UUID(int=number, version=4)) for number in range(after + 1, after + count + 1)]
        for tenant_id in tenant_ids:
            self.api.shown.add_tenant(tenant_id, tenant_id)
        streams: dict[str, Any] = {source: {} for source in SOURCES}
        await enrolments.enrol(
            self.database,
            [enrolments.Enrolment(model.Tenant(UUID(each), each), streams) for each in tenant_ids],
            lookback=timedelta(hours=1),
        )
        return tenant_ids

    async def succeed(self, *tenant_ids: str) -> None:
        """Let the time to live of whoever died pass, and a new replica make the tenants well."""
        await self.rows.execute(
            "UPDATE alertwell.replica SET heartbeat_at = heartbeat_at - interval '1 hour'"
        )
        async with self.replica() as heir:
            await self.live(heir, *tenant_ids)

    async def forget(self, *replica_ids: UUID) -> None:
        """The time to live of these replicas passes, or that of all."""
        await self.rows.execute(
            "UPDATE alertwell.replica SET heartbeat_at = heartbeat_at - interval '1 hour'"
            " WHERE replica_id = ANY ($1) OR $1 = '{}'",
            list(replica_ids),
        )

    async def alone(self, *tenant_ids: str) -> None:
        """All other tenants are paused."""
        await self.rows.execute(
            "UPDATE alertwell.tenant SET state = CASE WHEN tenant_id = ANY ($1) THEN 'active' ELSE 'paused' END",
            [UUID(tenant_id) for tenant_id in tenant_ids],
        )

    def truth(self, tenant_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        """What a collector that read everything holds, by source and key."""
        told = {("siem", key): json.loads(raw) for key, raw in self.api.shown.truth(tenant_id).items()}
        listed = self.api.shown.truth_alerts(tenant_id, "mde").values()
        return told | {("mde_alerts", each["id"]): each for each in map(json.loads, listed)}

    async def held(self, tenant_id: str) -> dict[tuple[str, str], dict[str, Any]]:
        """What is held of the tenant: the records by source and key."""
        found = await self.rows.fetch(
            "SELECT source, full_id, raw FROM soc.alerts WHERE tenant_id = $1", UUID(tenant_id)
        )
        by_key = {(row["source"], row["full_id"]): json.loads(row["raw"]) for row in found}
        assert len(by_key) == len(found)
        return by_key

    async def claims(self, tenant_id: str) -> dict[str, intervals.Intervals]:
        """What coverage says is held, by source."""
        found = await self.rows.fetch(
            "SELECT source, coverage FROM soc.coverage WHERE tenant_id = $1", UUID(tenant_id)
        )
        return {row["source"]: ranges.decode(row["coverage"]) for row in found}

    async def honest(self, tenant_id: str, but: frozenset[str] = frozenset()) -> None:
        """Whatever coverage claims is held, in that version; `but` are keys that came later than the overlap."""
        claims, held = await self.claims(tenant_id), await self.held(tenant_id)
        for (source, key), told in self.truth(tenant_id).items():
            if key not in but and claims[source].contains(updated(told)):
                assert held.get((source, key)) == told, (source, key, claims[source])

    async def consistent(self, tenant_id: str) -> None:
        """At any moment: the feed tells of each version once, in order, and the polls' accounts say the same."""
        one = UUID(tenant_id)
        revisions = await self.rows.fetch(
            "SELECT source, full_id, revision FROM alertwell.alert WHERE tenant_id = $1", one
        )
        changes = await self.rows.fetch(
            """
            SELECT c.source, c.full_id, c.kind, c.revision, f.seq
            FROM alertwell.alert_change c LEFT JOIN alertwell.feed f USING (tenant_id, batch, n)
            WHERE c.tenant_id = $1 AND c.record = 'alert' ORDER BY c.source, c.full_id, c.revision
            """,
            one,
        )
        told = {
            key: [(row["kind"], row["revision"]) for row in rows]
            for key, rows in itertools.groupby(changes, lambda row: (row["source"], row["full_id"]))
        }
        assert told == {
            (row["source"], row["full_id"]): [
                ("updated" if n > 1 else "created", n) for n in range(1, row["revision"] + 1)
            ]
            for row in revisions
        }
        numbers = [row["seq"] for row in changes if row["seq"] is not None]
        assert len(numbers) == len(set(numbers))
        polls = await self.rows.fetch(
            "SELECT source, sum(inserted) AS inserted, sum(updated) AS updated FROM alertwell.poll"
            " WHERE tenant_id = $1 GROUP BY source",
            one,
        )
        for row in polls:
            kinds = [each["kind"] for each in changes if each["source"] == row["source"]]
            assert (row["inserted"], row["updated"]) == (kinds.count("created"), kinds.count("updated"))

    async def complete(self, tenant_id: str) -> None:
        """In the end: stored = truth, each record once, every change numbered, each alert merged once."""
        await self.consistent(tenant_id)
        await self.honest(tenant_id)
        assert await self.held(tenant_id) == self.truth(tenant_id)
        waiting = await self.rows.fetchval(
            """
            SELECT count(*) FROM alertwell.alert_change c
            WHERE c.tenant_id = $1 AND NOT EXISTS (
                SELECT FROM alertwell.feed f WHERE (f.tenant_id, f.batch, f.n) = (c.tenant_id, c.batch, c.n))
            """,
            UUID(tenant_id),
        )
        assert waiting == 0
        merged = await self.rows.fetch(
            "SELECT alert_id, full_ids FROM soc.alerts_merged WHERE tenant_id = $1", UUID(tenant_id)
        )
        keys = [key for row in merged for key in row["full_ids"]]
        assert len({row["alert_id"] for row in merged}) == len(merged)
        assert sorted(keys) == sorted(key for _, key in self.truth(tenant_id))

    async def dense(self) -> None:
        """The feed's numbers have no hole, and readers get every change by them once."""
        seqs = [row["seq"] for row in await self.rows.fetch("SELECT seq FROM alertwell.feed ORDER BY seq")]
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) == await self.rows.fetchval("SELECT count(*) FROM alertwell.alert_change")


def updated(told: dict[str, Any]) -> datetime:
    """A record's update time."""
    return stages.moment(ticks.parse(told.get("LastProcessedTimeUtc") or told["lastUpdateTime"]))

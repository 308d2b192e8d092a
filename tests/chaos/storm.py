"""The weather made to happen: each event is a task that ends with what it broke mended again."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg

from service.simulator import ticks
from service.store.embedded import Cluster
from tests.chaos import fleet, ledger, relay, weather
from tests.chaos.defender import Defender


@dataclass(frozen=True, slots=True)
class Customer:
    """A tenant of the simulator and what it is read from."""

    tenant_id: str
    name: str
    sources: Sequence[str]


@dataclass
class Storm:
    """Performs events. `done` counts them by kind, `named` the faults of APIs and Entra by surface and name; `odd` says what a
    command did that it should not; `lied` has the streams whose API denied what is there.
    """

    replicas: Sequence[fleet.Process]
    relays: Sequence[relay.Relay]
    cluster: Cluster
    defender: Defender
    customers: Sequence[Customer]
    settings: Mapping[str, str]
    log: Path
    begun: datetime
    done: Counter[str] = field(default_factory=Counter)
    named: Counter[str] = field(default_factory=Counter)
    odd: list[str] = field(default_factory=list)
    lied: set[ledger.Key] = field(default_factory=set)

    async def rage(self, events: Sequence[weather.Event]) -> None:
        """All of them, each at its time; returns when the last is over."""
        begun = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for event in events:
                await asyncio.sleep(max(0.0, begun + event.at - time.monotonic()))
                group.create_task(self._happen(event), name=f"chaos-{event.kind}")

    async def _happen(self, event: weather.Event) -> None:
        match event.kind:
            case "kill" | "restart" | "freeze":
                await self._end(self.replicas[event.target], event)
            case "silence" | "cut" | "slow":
                await self._part(self.relays[event.target], event)
            case "postgres":
                pid = self.cluster.server_pid
                if pid is not None:
                    starts = self.cluster.starts
                    fleet.quit_server(pid)
                    await self.cluster.wait_for_start(starts + 1)
            case "backends":
                await self._end_backends()
            case "api" | "entra":
                customer = self.customers[event.target]
                if event.fault in weather.LYING:
                    self.lied |= {(customer.tenant_id, source) for source in customer.sources}
                self.named[f"{event.surface} {event.fault}"] += 1
                await self.defender.plague(event.surface, customer.tenant_id, event.fault, event.seconds)
            case "pause":
                await self._command("tenants", "pause", self._tenant(event))
                await asyncio.sleep(event.seconds)
                await self._command("tenants", "resume", self._tenant(event))
            case "backfill":
                await self._again("backfill", event, "--no-wait")
            case "rewind":
                await self._again("rewind", event, "--reason", "looked at twice")
            case "burst":
                at = ticks.now() + 2 * ticks.SECOND
                until = at + (ticks.SECOND if event.target % 2 else 0)
                await self.defender.burst(self._tenant(event), 40, ticks.text(at), ticks.text(until))
        self.done[event.kind] += 1

    def _tenant(self, event: weather.Event) -> str:
        return self.customers[event.target].tenant_id

    async def _end(self, replica: fleet.Process, event: weather.Event) -> None:
        async with replica.busy:  # one thing at a time happens to a process
            if event.kind == "freeze":
                replica.signal(signal.SIGSTOP)
                try:
                    await asyncio.sleep(event.seconds)
                finally:
                    replica.signal(signal.SIGCONT)
                return
            if event.kind == "kill":
                await replica.kill()
            else:
                await replica.end()
            await asyncio.sleep(event.seconds)
            await replica.start()

    async def _part(self, line: relay.Relay, event: weather.Event) -> None:
        way: dict[str, relay.Way] = {"silence": "silent", "cut": "cut", "slow": "slow"}
        line.turn(way[event.kind], 0.05)
        try:
            await asyncio.sleep(event.seconds)
        finally:
            line.turn("open")

    async def _end_backends(self) -> None:
        with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
            connection = await ledger.connect(self.cluster.admin_dsn)
            try:
                await ledger.end_backends(connection, 2)
            finally:
                connection.terminate()

    async def _again(self, word: str, event: weather.Event, *options: str) -> None:
        customer = self.customers[event.target]
        source = customer.sources[0]
        since, until = self.begun - timedelta(seconds=1200), self.begun - timedelta(seconds=60)
        if word == "rewind":
            since, until = (
                datetime.now(UTC) - timedelta(seconds=120),
                datetime.now(UTC) - timedelta(seconds=20),
            )
        span = ("--since", since.isoformat(), "--until", until.isoformat())
        await self._command(word, customer.tenant_id, "--source", source, *span, *options)

    async def _command(self, *arguments: str) -> None:
        """As a person would: where the database is away, the command says so, and is given again."""
        for _ in range(10):
            code = await fleet.command(arguments, self.settings, self.log)
            if code == 0:
                return
            await asyncio.sleep(2)
        self.odd.append(f"alertwell {' '.join(arguments)} ended with {code} ten times")

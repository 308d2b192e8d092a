"""Retention of one day of the default 400, while alerts are stored and the newest are read: what it costs, and who waits."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import asyncpg
import filling

from service import errors, model
from service.ingest import retention
from service.intervals import Intervals
from service.store import alerts, leases, pool, storing

Batches = list[tuple[UUID, tuple[model.Alert, ...]]]


def running(pid: int) -> float:
    """CPU seconds of a process."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


async def store(
    database: pool.Database, owned: dict[UUID, model.Lease], poll: storing.Poll, batches: Batches
) -> None:
    """The batches as a poll stores them."""
    for tenant, batch in batches:
        found = await alerts.sort(database, tenant, "siem", batch)
        harvest = storing.Harvest(
            found, lambda _: "live", (), 0, len(batch), None, Intervals(), Intervals(), None
        )
        counts = (await storing.store(database, owned[tenant], "siem", poll, harvest)).counts
        if counts.inserted != len(batch):
            raise SystemExit(f"{counts} where {len(batch)} were new")


async def day(
    connect: Callable[[], Awaitable[asyncpg.Connection]],
    say: Callable[[str, float], None],
    admin: asyncpg.Connection,
    databases: tuple[pool.Database, pool.Database],
    owned: dict[UUID, model.Lease],
    poll: storing.Poll,
    todo: Batches,
) -> None:
    """Retention of one day, while alerts are stored and the newest are read."""
    database, other = databases
    reading, looking = await connect(), await connect()
    tenant = todo[0][0]
    stores: dict[bool, list[float]] = {False: [], True: []}
    reads: dict[bool, list[float]] = {False: [], True: []}
    waits, over, during = [0, 0], asyncio.Event(), [False]

    async def storing_on() -> None:
        while not over.is_set() and todo:
            started = time.perf_counter()
            batch = todo.pop()
            try:
                await store(other, owned, poll, [batch])
            except errors.LeaseLost:  # promises have shrunk: an owner takes the tenant anew
                owned.update({each.tenant_id: each for each in await leases.held(other, poll.replica_id)})
                await store(other, owned, poll, [batch])
            stores[during[0]].append(time.perf_counter() - started)
            await asyncio.sleep(0.02)

    async def reading_on() -> None:
        text = (
            f"SELECT * FROM soc.alerts WHERE tenant_id = '{tenant}' ORDER BY last_processed_at DESC LIMIT 50"
        )
        while not over.is_set():
            started = time.perf_counter()
            await reading.fetch(text)
            reads[during[0]].append(time.perf_counter() - started)
            await asyncio.sleep(0.02)

    async def looking_on() -> None:
        while not over.is_set():
            waits[0] += 1
            waits[1] += await looking.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
            )
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        for work in (storing_on, reading_on, looking_on):
            group.create_task(work())
        await asyncio.sleep(3)
        wal = await admin.fetchval("SELECT pg_current_wal_insert_lsn()")
        oldest = "SELECT count(*) FROM alertwell.alert WHERE last_processed_at < now() - interval '398 days'"
        before = await admin.fetchval(oldest)
        async with database.connection() as connection:
            backend = await connection.fetchval("SELECT pg_backend_pid()")
        cpu = running(backend)
        during[0], waits[:] = True, [0, 0]
        started = time.perf_counter()
        keep = retention.Keep(
            timedelta(days=filling.DAYS - 1),
            timedelta(days=filling.DAYS_OF_CHANGES - 1),
            timedelta(days=filling.DAYS_OF_POLLS - 1),
            timedelta(days=filling.DAYS_OF_CHANGES),
        )
        await retention.prune(database, keep)
        wall = time.perf_counter() - started
        during[0] = False
        cpu = running(backend) - cpu
        wal = await admin.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", wal)
        over.set()
    await asyncio.sleep(2)  # what the sessions counted is told
    gone = before - await admin.fetchval(oldest)
    say("a day goes: s", wall)
    say("a day goes: about so many alerts", float(gone))
    say("a day goes: WAL, MB", float(wal) / 1e6)
    say("a day goes: server CPU, s", cpu)
    say("a day goes: lock waits seen (of so many looks)", float(waits[1]))
    for name, times in (("a store of 20", stores), ("newest 50", reads)):
        for when, word in ((False, "before"), (True, "meanwhile")):
            found = sorted(times[when]) or [0.0]
            say(f"a day goes: {name}, {word}: median ms", statistics.median(found) * 1e3)
            say(f"a day goes: {name}, {word}: longest ms", found[-1] * 1e3)
    dead = await admin.fetchval(
        "SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE relname = ANY ($1)", list(filling.TABLES)
    )
    say("a day goes: dead rows left", float(dead or 0))
    started = time.perf_counter()
    for name in filling.TABLES:
        await admin.execute(f"VACUUM alertwell.{name}")
    say("a day goes: VACUUM after it, s", time.perf_counter() - started)

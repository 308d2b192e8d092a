"""Replicas that are cut off from the database, stopped in mid-poll, or killed again and again: fenced, and taken over."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

import pytest

from service.simulator import chaos, ticks
from tests.chaos.relay import relayed
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


async def owner_is_not(stage, *replica_ids):
    """Wait until a tenant's owner is another one; who."""

    async def seen():
        owners = set(await stage.books.owners()) - {None, *replica_ids}
        return owners.pop() if owners else None

    return await until(seen, 60, saying=stage.books.owners)


async def moment(stage):
    """The database's time, by which leases go."""
    return await stage.books.rows.fetchval("SELECT clock_timestamp()")


async def beats(stage, replica_id, since):
    """Wait for two heartbeats of a replica after this moment: by then it knows what it has lost."""
    for _ in range(2):

        async def seen(after=since):
            return await stage.books.rows.fetchval(
                "SELECT heartbeat_at FROM alertwell.replica WHERE replica_id = $1 AND heartbeat_at > $2",
                replica_id,
                after,
            )

        since = await until(seen, 60)


async def polls_of(stage, replica_id, since, until_then=None):
    """How many polls a replica began in this time and stored something of."""
    return await stage.books.rows.fetchval(
        "SELECT count(*) FROM alertwell.poll WHERE replica_id = $1 AND started_at >= $2"
        " AND started_at < coalesce($3::timestamptz, 'infinity')",
        replica_id,
        since,
        until_then,
    )


async def once_each(stage, *tenant_ids):
    """Stored = truth, and a change for each version, once."""
    for tenant_id in tenant_ids:
        await stage.books.same_as(stage.shown, tenant_id)
    changes = await stage.books.rows.fetchval("SELECT count(*) FROM alertwell.alert_change")
    assert changes == await stage.books.rows.fetchval("SELECT sum(revision) FROM alertwell.alert")


async def test_a_replica_cut_off_from_the_database_stops_and_writes_nothing_late(lived):
    """What it had fetched is refused once the network is back; it starts no poll that its last heartbeat does not cover."""
    (tenant_id,) = await lived.enrol(1)
    stages.file(lived.api.shown, tenant_id, "a:1", lived.hand() - 20 * ticks.MINUTE)
    async with relayed(lived.dsn) as (network, through):
        fetched = asyncio.Event()

        class Slow:
            """Answers, and then the network is cut."""

            def __init__(self, sender):
                self._sender = sender

            @asynccontextmanager
            async def send(self, access, request):
                async with self._sender.send(access, request) as answer:
                    network.turn("silent")
                    fetched.set()
                    yield answer

        async with lived.replica(dsn=through, ttl=2.0, sender=Slow) as lost:
            living = lost.fate.begin(lost.once())
            await fetched.wait()
            await lived.succeed(tenant_id)
            await lived.complete(tenant_id)
            asked = lived.api.asked[tenant_id]
            polls = await lived.rows.fetchval("SELECT count(*) FROM alertwell.poll")
            assert not living.done()
            network.turn("open")
            await living
            assert stages.series(lived.metrics)["alertwell_leases_lost_total"] >= 1
            await until(lambda: time.monotonic() > lost.worker.may_poll_until)
            lost.worker.wake(["new", "ok", "catching_up"])
            lost.worker.start_due()
            assert not lost.fate.others()
            assert lived.api.asked[tenant_id] == asked
            assert await lived.rows.fetchval("SELECT count(*) FROM alertwell.poll") == polls
            await lived.complete(tenant_id)


async def test_a_replica_that_was_paused_writes_nothing_late(stage):
    """SIGSTOP in the middle of a poll, SIGCONT when another one has the tenant: its write is refused, and it goes on in peace."""
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    stage.simulator.plan("siem", CONTOSO, chaos.Fault("slow", seconds=1))
    await stage.enrol(CONTOSO)
    async with processes.running(stage) as paused:
        await until(lambda: stage.simulator.counters["fault:slow"], 60)
        since = await moment(stage)
        paused.process.send_signal(signal.SIGSTOP)
        (before,) = await stage.books.owners()
        async with stage.collecting():
            await owner_is_not(stage, before)
            await stage.stored()
            woken = await moment(stage)
            paused.process.send_signal(signal.SIGCONT)
            await beats(stage, before, woken)
            await once_each(stage, CONTOSO)
            stages.file(stage.shown, CONTOSO, "b", stage.shown.clock())
            await stage.stored()
        paused.process.send_signal(signal.SIGTERM)
        assert await paused.ends(60) == 0
    await once_each(stage, CONTOSO)
    assert not await polls_of(stage, before, datetime.min.replace(tzinfo=UTC), since), (
        "it stored what it had fetched"
    )


async def _only(stage, replica_id):
    return set(await stage.books.owners()) == {replica_id}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [1, pytest.param(15, marks=pytest.mark.chaos)])
async def test_replicas_killed_at_random_lose_and_double_nothing(stage, kills):
    """kill -9 at any instant of two replicas under load, each replaced by a new one."""
    dice = random.Random(5)
    tenants = (CONTOSO, FABRIKAM)
    now = stage.shown.clock()
    for tenant_id in tenants:
        stage.shown.add_backlog(tenant_id, 100 * kills, since=now - 3500 * ticks.SECOND, until=now)
    await stage.enrol(*tenants)
    small = {"ALERTWELL_MAX_BODY_BYTES": "65536", "ALERTWELL_MAX_BYTES_IN_FLIGHT": "262144"}
    async with AsyncExitStack() as stack:
        survivor = await stack.enter_async_context(stage.collecting())
        for number in range(kills):
            async with processes.running(stage, **small) as doomed:
                await doomed.logs("tenants_taken", 60)
                for tenant_id in tenants:
                    for n in range(20):
                        stages.file(stage.shown, tenant_id, f"{number}.{n}:1", stage.shown.clock())
                await asyncio.sleep(dice.uniform(0, 1.5))  # the instant is what varies, nothing waits for it
                doomed.process.kill()
                await doomed.process.wait()
        for tenant_id in tenants:
            await stage.stored(tenant_id, 120)
            await stage.well(tenant_id, 120)
        await until(lambda: _only(stage, survivor.replica_id), 60)
    await once_each(stage, *tenants)

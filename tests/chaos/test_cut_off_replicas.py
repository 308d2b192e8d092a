"""Replicas that are cut off from the database, stopped in mid-poll, or killed again and again: fenced, and taken over."""

from __future__ import annotations

import asyncio
import random
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime

import pytest

from service import app
from service.simulator import chaos, server
from service.simulator import ticks as time
from tests.chaos.relay import relay
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


async def test_a_replica_cut_off_from_the_database_stops_and_writes_nothing_late(stage, tmp_path):
    """Its polls end with its heartbeat's time to live; what it had fetched is refused once the network is back."""
    stages.file(stage.shown, CONTOSO, "before", stage.shown.clock())
    await stage.enrol(CONTOSO)
    async with (
        relay(stage.dsn) as network,
        server.Simulator(stage.shown, directory=tmp_path / "another") as another,
        AsyncExitStack() as stack,
    ):
        lost = await stack.enter_async_context(app.collector(stage.config(), network.dsn))
        await stage.stored()
        # an answer that takes its time: it comes when the database is out of reach
        since = await moment(stage)
        stages.file(stage.shown, CONTOSO, "fetched by both", stage.shown.clock())
        stage.simulator.plan("siem", CONTOSO, chaos.Fault("slow", seconds=1))
        await until(lambda: stage.simulator.counters["fault:slow"])
        network.cut()
        elsewhere = {
            "authority_url": another.authority_url,
            "siem_url": another.siem_url,
            "ca_file": another.ca_file,
        }
        heir = await stack.enter_async_context(stage.collecting(**elsewhere))
        assert await owner_is_not(stage, lost.replica_id) == heir.replica_id
        asked = stage.simulator.counters["siem"]
        stages.file(stage.shown, CONTOSO, "while it was away", stage.shown.clock())
        await stage.stored()
        rounds = another.counters["siem"]
        await another.reached("siem", rounds + 2)
        assert stage.simulator.counters["siem"] == asked, "it polled on without a heartbeat"
        stored = await polls_of(stage, lost.replica_id, since)
        mended = await moment(stage)
        network.mend()
        await beats(stage, lost.replica_id, mended)
        assert not lost.failed.done()
        await once_each(stage, CONTOSO)
    assert await polls_of(stage, lost.replica_id, since, mended) == stored, (
        "it stored what it had fetched before"
    )


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
@pytest.mark.parametrize("kills", [1, pytest.param(40, marks=pytest.mark.chaos)])
async def test_replicas_killed_at_random_lose_and_double_nothing(stage, kills):
    """kill -9 at any instant of two replicas under load, each replaced by a new one."""
    dice = random.Random(5)
    tenants = (CONTOSO, FABRIKAM)
    now = stage.shown.clock()
    for tenant_id in tenants:
        stage.shown.add_backlog(tenant_id, 100 * kills, since=now - 3500 * time.SECOND, until=now)
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

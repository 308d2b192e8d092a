"""Several replicas: fair shares, no stream polled by two at once, and a dead or late one does no harm."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from contextlib import AsyncExitStack

import pytest

from service import errors
from service.ingest import reading
from service.simulator import ticks
from service.store import leases
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until

TEN = [str(uuid.UUID(int=number, version=4)) for number in range(1, 11)]


@pytest.fixture
async def ten(stage):
    """Ten tenants with some alerts each, enrolled."""
    now = stage.shown.clock()
    for number, tenant_id in enumerate(TEN):
        stage.shown.add_tenant(tenant_id, f"Customer {number}")
        stage.shown.add_backlog(tenant_id, 40, since=now - 3000 * ticks.SECOND, until=now)
    await stage.enrol(*TEN)
    return stage


async def shares(stage):
    """How many tenants each replica owns; free ones under None."""
    return {owner: len(owned) for owner, owned in (await stage.books.owners()).items()}


async def splits(stage, expected):
    """Wait until the tenants are owned so."""

    async def seen():
        return await shares(stage) == expected

    await until(seen, 15, saying=lambda: shares(stage))


async def taken_turns(stage, tenant_ids):
    """No two polls of a stream overlap in time, whichever replicas they ran on; the replicas seen."""
    replicas = set()
    for tenant_id in tenant_ids:
        rows = await stage.books.polls(tenant_id)
        replicas |= {row["replica_id"] for row in rows}
        for before, after in itertools.pairwise(rows):
            assert before["ended_at"] <= after["started_at"]
    return replicas


async def test_replicas_share_and_rebalance(ten):
    """One has all ten, two have five each, and after a stop the one that stays has all; every alert is held once."""
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(ten.collecting())
        await splits(ten, {first.replica_id: 10})
        async with ten.collecting() as second:
            await splits(ten, {first.replica_id: 5, second.replica_id: 5})
            kept = set((await ten.books.owners())[first.replica_id])
            for tenant_id in TEN:
                stages.file(ten.shown, tenant_id, "while two work", ten.shown.clock())
            for tenant_id in TEN:
                await ten.stored(tenant_id)
        await splits(ten, {first.replica_id: 10})
        assert kept <= set((await ten.books.owners())[first.replica_id])
        for tenant_id in TEN:
            stages.file(ten.shown, tenant_id, "one again", ten.shown.clock())
        for tenant_id in TEN:
            await ten.stored(tenant_id)
    for tenant_id in TEN:
        await ten.books.same_as(ten.shown, tenant_id)
    assert await taken_turns(ten, TEN) == {first.replica_id, second.replica_id}


async def test_a_killed_replicas_tenants_go_on_elsewhere(stage):
    """kill -9 in the middle of polls: after LEASE_TTL the other one has all tenants, nothing is lost or doubled."""
    now = stage.shown.clock()
    for tenant_id in (CONTOSO, FABRIKAM):
        stage.shown.add_backlog(tenant_id, 900, since=now - 3500 * ticks.SECOND, until=now)
    await stage.enrol(CONTOSO, FABRIKAM)
    small = {"ALERTWELL_MAX_BODY_BYTES": "65536", "ALERTWELL_MAX_BYTES_IN_FLIGHT": "262144"}
    async with processes.running(stage, **small) as doomed:

        async def in_the_middle():
            held = await stage.books.rows.fetchval("SELECT count(*) FROM alertwell.alert")
            return 100 < held < 1500

        await until(in_the_middle)
        doomed.process.kill()
        await doomed.process.wait()
    held = await stage.books.rows.fetchval("SELECT count(*) FROM alertwell.alert")
    assert held < 1800
    (dead,) = await stage.books.owners()
    assert dead is not None
    async with stage.collecting() as heir:
        await splits(stage, {heir.replica_id: 2})
        for tenant_id in (CONTOSO, FABRIKAM):
            await stage.stored(tenant_id)
    for tenant_id in (CONTOSO, FABRIKAM):
        await stage.books.same_as(stage.shown, tenant_id)
    assert await taken_turns(stage, (CONTOSO, FABRIKAM)) <= {dead, heir.replica_id}
    changes = await stage.books.rows.fetchval("SELECT count(*) FROM alertwell.alert_change")
    assert changes == await stage.books.rows.fetchval("SELECT sum(revision) FROM alertwell.alert")


async def test_a_late_writer_writes_nothing(bench):
    """A poll that fetched under a lease which another replica has taken meanwhile stores no row and proves nothing."""
    stages.file(bench.shown, CONTOSO, "a", bench.ago(100))
    mine = await bench.take()
    fetched, let_go = asyncio.Event(), asyncio.Event()

    async def after(answer):
        fetched.set()
        await let_go.wait()
        return answer

    bench.listen(after=after)
    late = asyncio.create_task(bench.turn(mine))
    await asyncio.wait_for(fetched.wait(), 10)
    await leases.release(bench.database, [mine.lease])
    bench.replica_id = uuid.uuid4()
    heir = await bench.claim()
    let_go.set()
    taken = await late
    assert taken.lease_lost
    assert await bench.books.count() == 0
    assert not await bench.books.polls()
    assert not await bench.books.coverage()
    await bench.turn(heir)
    await bench.books.same_as(bench.shown)
    changes = await bench.books.rows.fetchval("SELECT count(*) FROM alertwell.alert_change")
    assert changes == 1


async def test_a_store_waits_for_nobody_and_is_fenced_first(bench):
    """The same one call deeper: reading a window under an old epoch raises LeaseLost."""
    stages.file(bench.shown, CONTOSO, "a", bench.ago(100))
    mine = await bench.take()
    await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    poll = bench.poll(mine)
    with pytest.raises(errors.LeaseLost):
        await poll.live()
    assert isinstance(bench.desk, reading.Desk)
    assert poll.tally.counts.items == 0
    assert not await bench.books.polls()


async def test_changed_streams_are_read_anew_by_their_owner(stage):
    """An epoch that a person's change made greater ends the polls under way; the owner goes on with the new picture."""
    stage.simulator.plan("siem", CONTOSO, "hang")
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    await stage.enrol(CONTOSO)
    async with stage.collecting() as collector:
        await until(lambda: stage.simulator.counters["fault:hang"])
        async with stage.database.transaction() as connection:
            await leases.changed(connection, [uuid.UUID(CONTOSO)])
        await stage.stored()
        assert stages.series(collector.metrics)["alertwell_polls_running"] <= 1

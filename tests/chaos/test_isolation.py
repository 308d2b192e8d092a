"""Thirty bad neighbours and few places: tenants that hang, fail or flood, beside one whose alerts have to come on time.

Nothing is timed: what the healthy tenant got is counted while its neighbours still wait for what they began with.
"""

from __future__ import annotations

import uuid

import pytest

from service.simulator import chaos, ticks
from tests.ingest import stages
from tests.ingest.stages import CONTOSO
from tests.ingest.waiting import until

_MANY = 30
_FEW = 8
_ROUNDS = 4


def neighbours(stage, count=_MANY):
    """Tenants beside the healthy one."""
    tenant_ids = [str(uuid.UUID(int=0x44444444 << 96 | number)) for number in range(count)]
    for number, tenant_id in enumerate(tenant_ids):
        stage.shown.add_tenant(tenant_id, f"Neighbour {number}")
    return tenant_ids


async def served(stage, rounds=_ROUNDS):
    """File alerts of the healthy tenant one after the other; each is stored before the next is filed."""
    for number in range(rounds):
        stages.file(stage.shown, CONTOSO, f"live {uuid.uuid4()} {number}", stage.shown.clock())
        await stage.stored(CONTOSO)


async def test_tenants_that_hang_leave_places_to_others(stage):
    """Thirty tenants without an answer and eight places: all of them are tried, none is answered, the healthy one is read on."""
    bad = neighbours(stage)
    for tenant_id in bad:
        stage.simulator.plan("siem", tenant_id, "hang", None)
    await stage.enrol(*bad, CONTOSO, lookback=20)
    asked = stage.simulator.siem_requests
    async with stage.collecting(max_concurrent_polls=_FEW) as collector:
        await served(stage)
        await until(lambda: all(asked[each] for each in bad))
        before = asked[CONTOSO]
        await served(stage)
        assert asked[CONTOSO] > before
        seen = stages.series(collector.metrics)
        assert seen["alertwell_polls_running"] <= _FEW
    arrivals = {row["arrival"] for row in (await stage.books.alerts(CONTOSO)).values()}
    assert arrivals == {"live"}
    for tenant_id in bad:
        assert not await stage.books.count(tenant_id)


async def test_tenants_whose_tokens_hang_leave_threads_to_others(stage):
    """Forty directories that do not answer are more than the threads for tokens: a tenant that comes later gets its token."""
    bad = neighbours(stage, 40)
    for tenant_id in bad:
        stage.simulator.plan("token", tenant_id, "hang", None)
    await stage.enrol(*bad, lookback=20)
    async with stage.collecting(max_concurrent_polls=64):
        await until(lambda: sum(bool(stage.simulator.token_requests[each]) for each in bad) >= 32)
        await stage.enrol(CONTOSO, lookback=20)
        await served(stage)
    assert not any(stage.simulator.siem_requests[each] for each in bad)


@pytest.mark.parametrize("fault", ["reset", "500", "429-bare", "html", "reset-inside"])
async def test_tenants_that_fail_leave_the_pace_to_others(stage, fault):
    """Thirty tenants that fail in one way at every poll do not hold up the healthy one, and log one line each."""
    bad = neighbours(stage)
    for tenant_id in bad:
        stages.file(stage.shown, tenant_id, f"of {tenant_id}", stage.shown.clock())
        stage.simulator.plan("siem", tenant_id, fault, None)
    await stage.enrol(*bad, CONTOSO, lookback=20)
    asked = stage.simulator.siem_requests
    async with stage.collecting(max_concurrent_polls=_FEW):
        await until(lambda: all(asked[each] for each in bad))
        before = asked[CONTOSO]
        await served(stage)
        assert asked[CONTOSO] > before


async def test_floods_take_their_turn(stage):
    """Neighbours with a hundred times the volume of others in few bytes of memory: each alert of the healthy one comes meanwhile."""
    now = stage.shown.clock()
    bad = neighbours(stage, 6)
    for tenant_id in bad:
        stage.shown.add_backlog(tenant_id, 1_200, since=now - 86_400 * ticks.SECOND, until=now)
        stage.simulator.plan("siem", tenant_id, chaos.Fault("slow", seconds=0.3), None)
    await stage.enrol(*bad, lookback=86_400)
    await stage.enrol(CONTOSO, lookback=20)
    options = {"max_concurrent_polls": 4, "max_body_bytes": 64 * 1024, "max_bytes_in_flight": 128 * 1024}
    async with stage.collecting(**options):
        for tenant_id in bad[:2]:
            await until(lambda: stage.books.count(tenant_id))  # noqa: B023 - asked at once
        await served(stage, 3)
        held = [await stage.books.count(each) for each in bad]
    assert sum(held) < 1_200 * len(bad)
    assert all(held), "each has had its turn"

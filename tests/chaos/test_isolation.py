"""Many bad neighbours and few places: tenants that hang, fail or flood, beside one whose alerts have to come on time.

Nothing is timed: what the healthy tenant got is counted while its neighbours still wait for what they began with.
"""

from __future__ import annotations

import uuid
from collections import Counter

import pytest
import structlog

from service.ingest import outage, turn
from service.simulator import chaos, ticks
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until

_ROUNDS = 3
SIZES = [
    pytest.param(9, 3, id="nine"),
    pytest.param(30, 8, id="thirty", marks=pytest.mark.chaos),
]
"""Neighbours, and places for polls."""


def neighbours(stage, count):
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


@pytest.mark.parametrize(("many", "few"), SIZES)
async def test_tenants_that_hang_leave_places_to_others(stage, many, few):
    """Many tenants without an answer and few places: all of them are tried, none is answered, the healthy one is read on."""
    bad = neighbours(stage, many)
    for tenant_id in bad:
        stage.simulator.plan("siem", tenant_id, "hang", None)
    await stage.enrol(*bad, CONTOSO, lookback=20)
    asked = stage.simulator.siem_requests
    async with stage.collecting(max_concurrent_polls=few, shutdown_grace="0s") as collector:
        await served(stage)
        await until(lambda: all(asked[each] for each in bad), 90)
        before = asked[CONTOSO]
        await served(stage)
        assert asked[CONTOSO] > before
        assert stages.series(collector.metrics)["alertwell_polls_running"] <= few
    assert {row["arrival"] for row in (await stage.books.alerts(CONTOSO)).values()} == {"live"}


@pytest.mark.chaos
async def test_tenants_whose_tokens_hang_leave_threads_to_others(stage):
    """Forty directories that do not answer are more than the threads for tokens: a tenant that comes later gets its token."""
    bad = neighbours(stage, 40)
    for tenant_id in bad:
        stage.simulator.plan("token", tenant_id, "hang", None)
    await stage.enrol(*bad, lookback=20)
    async with stage.collecting(max_concurrent_polls=64, shutdown_grace="0s"):
        await until(lambda: sum(bool(stage.simulator.token_requests[each]) for each in bad) >= 32, 90)
        await stage.enrol(CONTOSO, lookback=20)
        await served(stage)
    assert not any(stage.simulator.siem_requests[each] for each in bad)


@pytest.mark.parametrize(("many", "few"), SIZES)
async def test_tenants_that_fail_leave_the_pace_to_others(stage, many, few):
    """Tenants that fail in every way at every poll do not hold up the healthy one, and log two lines each, once."""
    bad = neighbours(stage, many)
    faults = [
        "reset",
        "500",
        "429-bare",
        "html",
        "reset-inside",
        "403",
        "truncated",
        "503-retry",
        "wrong-type",
    ]
    for number, tenant_id in enumerate(bad):
        stages.file(stage.shown, tenant_id, f"of {tenant_id}", stage.shown.clock())
        stage.simulator.plan("siem", tenant_id, faults[number % len(faults)], None)
    await stage.enrol(*bad, CONTOSO, lookback=20)
    asked = stage.simulator.siem_requests
    with structlog.testing.capture_logs() as logs:
        async with stage.collecting(max_concurrent_polls=few, shutdown_grace="0s"):
            await until(lambda: all(asked[each] for each in bad), 90)
            before = asked[CONTOSO]
            await served(stage)
            await until(lambda: asked[CONTOSO] >= before + 2 * _ROUNDS)
            assert sum(asked[each] for each in bad) > 2 * len(bad)
    lines = Counter(
        entry["event"]
        for entry in logs
        if entry["log_level"] != "debug" and entry.get("outcome") != "complete"
    )
    # where a body was kept in part for soc.rejects, or a stream goes from one state to another, one more
    assert lines["poll"] <= 2 * len(bad)
    # once for each reason; the healthy one may have had to make room, once
    assert lines["stream_failing"] <= 2 * len(bad)
    assert lines.total() <= 3 * len(bad) + 20


@pytest.mark.chaos
async def test_slow_bodies_that_fill_the_memory_leave_room_for_small_answers(stage):
    """Neighbours whose bodies drip hold all bytes in flight: the healthy one's small answers need none of them."""
    now = stage.shown.clock()
    bad = neighbours(stage, 6)
    for tenant_id in bad:
        stage.shown.add_backlog(tenant_id, 40, since=now - 10 * ticks.SECOND, until=now)
        stage.simulator.plan("siem", tenant_id, chaos.Fault("slow", seconds=30), None)
    await stage.enrol(*bad, CONTOSO, lookback=20)
    options = {"max_concurrent_polls": 8, "max_body_bytes": 64 * 1024, "max_bytes_in_flight": 128 * 1024}
    async with stage.collecting(**options, shutdown_grace="0s"):
        asked = stage.simulator.siem_requests
        await until(lambda: all(asked[each] for each in bad), 90)
        before = asked[CONTOSO]
        await served(stage)
        assert asked[CONTOSO] >= before + _ROUNDS
        assert [asked[each] for each in bad] == [1] * len(bad)  # their first answers still drip


async def test_floods_take_their_turn(stage):
    """Neighbours with a hundred times the volume of others, and few bytes of memory: the healthy one's alerts come meanwhile."""
    now = stage.shown.clock()
    bad = neighbours(stage, 4)
    for tenant_id in bad:
        stage.shown.add_backlog(tenant_id, 1_000, since=now - 86_400 * ticks.SECOND, until=now)
        stage.simulator.plan("siem", tenant_id, chaos.Fault("slow", seconds=0.3), None)
    await stage.enrol(*bad, lookback=86_400)
    await stage.enrol(CONTOSO, lookback=20)
    options = {"max_concurrent_polls": 4, "max_body_bytes": 64 * 1024, "max_bytes_in_flight": 128 * 1024}
    async with stage.collecting(**options, poll_budget="1s"):
        for tenant_id in bad:
            await until(lambda: stage.books.count(tenant_id), 60)  # noqa: B023 - asked at once
        await served(stage, 3)
        held = [await stage.books.count(each) for each in bad]
    assert sum(held) < 1_000 * len(bad)
    assert all(held), "each has had its turn"


async def test_a_tenant_that_cannot_be_stored_holds_up_nobody(stage, monkeypatch):
    """What the database refuses of one tenant, poll by poll, is no outage: the others are polled as ever."""
    monkeypatch.setattr(outage, "_SHORTEST", 0.1)
    monkeypatch.setattr(turn, "_DATABASE_PAUSE", 0.1)
    await stage.books.rows.execute(
        f"""
        CREATE FUNCTION public.damaged() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'invalid page in block 7' USING ERRCODE = 'XX001'; END $$;
        CREATE TRIGGER damaged BEFORE INSERT ON alertwell.alert FOR EACH ROW
        WHEN (NEW.tenant_id = '{FABRIKAM}') EXECUTE FUNCTION public.damaged()
        """
    )
    stages.file(stage.shown, FABRIKAM, "never stored", stage.shown.clock())
    await stage.enrol(FABRIKAM, CONTOSO, lookback=20)
    with structlog.testing.capture_logs() as logs:
        async with stage.collecting():
            await until(lambda: stage.simulator.siem_requests[FABRIKAM] > 3, 60)
            await served(stage, 2)
    waits = [entry["seconds"] for entry in logs if entry["event"] == "polls_wait_for_database"]
    assert waits == [0.1]

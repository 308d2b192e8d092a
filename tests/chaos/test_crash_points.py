"""Killed at any await: of a takeover, a poll, a flush, a numbering, a goodbye. Polled again, never lost, never doubled."""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service import errors, model
from service.simulator import filing, ticks, world
from service.store import leases, schema
from service.store import pool as doors
from service.store.embedded import Cluster
from tests import postgres as servers
from tests.chaos import direct, fate, lives
from tests.ingest import stages
from tests.ingest.waiting import until

MINUTE = ticks.MINUTE
LATE = 35 * 60
"""Seconds: later than the overlap, so the sweep finds it and the overlap grows."""


async def settle(lived: lives.World, count: int, after: int = 0) -> list[str]:
    """So many tenants that a replica has read, which died since; with news of every kind for the next one to find.

    New alerts, newer versions of held ones, more than a page holds, one that came later than the overlap, a record that
    cannot be read, and a gap.
    """
    tenant_ids = await lived.enrol(count, after)
    shown, now = lived.api.shown, lived.hand()
    desks, keys = {}, {}
    for tenant_id in tenant_ids:
        desks[tenant_id] = filing.Desk(shown, tenant_id)
        for n in range(2):
            stages.file(shown, tenant_id, f"old{n}:1", now - (30 + n) * MINUTE)
        keys[tenant_id] = [desks[tenant_id].add_alert(at=now - (30 + n) * MINUTE) for n in range(2)]
    await lived.alone(*tenant_ids)
    async with lived.replica() as first:
        assert await first.fate.end(first.once())
    for tenant_id in tenant_ids:
        await lived.complete(tenant_id)
    lived.hand.advance(20 * 60)
    now = lived.hand()
    for tenant_id, desk in desks.items():
        for n in range(3):
            stages.file(shown, tenant_id, f"new{n}:1", now - (1 + n) * MINUTE)
        stages.file(shown, tenant_id, "old0:1", now - 5 * MINUTE, AlertTitle="Reviewed")
        stages.file(shown, tenant_id, "late:1", now - LATE * ticks.SECOND, visible_at=now)
        shown.add_record(tenant_id, b'{"FullId": 17}', at=now - MINUTE, full_id=None)
        for n in range(5):
            desk.add_alert(at=now - (1 + n) * MINUTE)
        desk.update_alert(keys[tenant_id][0], at=now - MINUTE, status="Resolved")
    # an hour more is wanted: a gap
    await lived.rows.execute(
        """
        UPDATE alertwell.stream
        SET wanted = wanted + tstzmultirange(tstzrange(lower(wanted) - interval '1 hour', lower(wanted)))
        WHERE tenant_id = ANY ($1)
        """,
        [UUID(each) for each in tenant_ids],
    )
    await lived.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    await lived.rows.execute("UPDATE alertwell.replica SET heartbeat_at = heartbeat_at - interval '1 hour'")
    return tenant_ids


async def struck(
    lived: lives.World, strike: fate.Strike, most: int | None
) -> AsyncIterator[tuple[str, fate.Fate]]:
    """A tenant and a fate for each place to strike, at one of its awaits: all places of an undisturbed life, or so many."""
    (rehearsing,) = await settle(lived, 1)
    await lived.alone(rehearsing)
    async with lived.replica() as only:
        assert await only.fate.end(only.whole())
    await lived.succeed(rehearsing)
    await lived.complete(rehearsing)
    places = only.fate.places
    dice = random.Random(1)
    anywhere = sorted({place for place in places if place[0]})
    assert len(anywhere) > 40  # if the service is seen no more, nothing is struck
    drawn = anywhere if most is None else dice.sample(anywhere, most)
    points: list[fate.Point] = [(place, dice.randint(1, places.count(place))) for place in drawn]
    missed = 0
    for point, tenant_id in zip(points, await settle(lived, len(points), after=1), strict=True):
        await lived.alone(tenant_id)
        fated = fate.Fate(point, strike)
        yield tenant_id, fated
        missed += not fated.struck
    # two streams of a tenant do not take their turns alike each time
    assert missed <= len(points) / 5
    await lived.dense()


KILLED = [
    pytest.param(fate.answered, 6, id="some answered"),
    pytest.param(fate.sent, 3, id="some sent"),
    pytest.param(fate.answered, None, id="all answered", marks=pytest.mark.chaos),
    pytest.param(fate.sent, None, id="all sent", marks=pytest.mark.chaos),
]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("strike", "most"), KILLED)
async def test_a_replica_killed_at_any_await_costs_nothing(lived, strike, most):
    """What it stored is whole and what it claims is held; its heir stores the rest, and all of it is there once."""
    async for tenant_id, fated in struck(lived, strike, most):
        async with lived.replica(fated) as doomed:
            await fated.end(doomed.whole())
            doomed.cut()
            await lived.honest(tenant_id, but=frozenset({"late:1"}))
            await lived.consistent(tenant_id)
            await lived.succeed(tenant_id)
            await lived.complete(tenant_id)
            await fated.bury()


async def _left_nothing_open(lived: lives.World) -> bool:
    """End what waits for the paused one in the middle of something; one may wait for another one's locks."""
    states = await lived.rows.fetch(
        """
        SELECT CASE WHEN wait_event = 'ClientRead' THEN pg_terminate_backend(pid, 1000) END
        FROM pg_stat_activity
        WHERE datname = current_database() AND application_name = 'alertwell' AND state <> 'idle'
        """
    )
    return not states


@pytest.mark.timeout(900)
@pytest.mark.parametrize("most", [3, pytest.param(None, marks=pytest.mark.chaos)])
async def test_a_replica_paused_at_any_await_writes_nothing_late(lived, most):
    """It goes on when its heir has done all of it: whatever it still wants to write is refused, and nothing is there twice."""
    async for tenant_id, fated in struck(lived, fate.answered, most):
        async with lived.replica(fated) as paused:
            await fated.end(paused.whole())
            await until(lambda: _left_nothing_open(lived))
            await lived.succeed(tenant_id)
            await lived.complete(tenant_id)
            await fated.revive()
            await lived.consistent(tenant_id)
        await lived.succeed(tenant_id)
        await lived.complete(tenant_id)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("most", [3, pytest.param(None, marks=pytest.mark.chaos)])
async def test_connections_cut_at_any_await_cost_nothing(lived, most):
    """PostgreSQL ends the backends between any two statements: the replica goes on by new ones, and stores all of it once."""

    async def cut(_: Any) -> bool:
        await lived.rows.execute(
            "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'alertwell'"
        )
        return False

    async for tenant_id, fated in struck(lived, cut, most):
        async with lived.replica(fated) as hurt:
            await lived.live(hurt, tenant_id)
        await lived.succeed(tenant_id)  # a goodbye that was cut leaves the lease to its heir
        await lived.complete(tenant_id)


@pytest.mark.parametrize("strike", [fate.answered, pytest.param(fate.sent, marks=pytest.mark.chaos)])
async def test_a_replica_killed_at_any_await_of_a_handover_costs_nothing(lived, strike):
    """Whoever dies while it gives tenants to another replica: nobody has a tenant twice, its late writes are refused."""
    await lived.enrol(4)
    awaits = itertools.count(1)
    died = True
    while died:
        fated = fate.Fate(next(awaits), strike)
        other = uuid4()
        async with lived.replica(fated) as giving:
            for replica_id in (giving.replica_id, other):
                await leases.heartbeat(lived.database, replica_id, host="", version="0", ttl=lives.TTL)
            mine = await leases.claim(lived.database, giving.replica_id, limit=4, ttl=lives.TTL)
            assert len(mine) == 4
            died = not await fated.end(giving.owner.round())
            if died:
                giving.cut()
                await lived.forget(giving.replica_id)
            theirs = await leases.claim(lived.database, other, limit=4, ttl=lives.TTL)
            assert len(theirs) == (4 if died else 2)
            taken = {each.tenant_id for each in theirs}
            for lease in mine:
                assert await _may_write(lived, lease) == (lease.tenant_id not in taken)
            await lived.forget(giving.replica_id, other)
            await fated.bury()
    assert next(awaits) > 15


async def _may_write(lived: lives.World, lease: model.Lease) -> bool:
    async with lived.database.transaction() as connection:
        try:
            await leases.fence(connection, lease)
        except errors.LeaseLost:
            return False
        return True


@pytest.mark.timeout(900)
@pytest.mark.parametrize("most", [1, pytest.param(20, marks=pytest.mark.chaos)])
async def test_a_server_killed_at_any_await_costs_a_pause(clock, fated, most):
    """PostgreSQL dies of SIGKILL between any two statements and recovers: what it said was committed is there, once."""
    del fated
    with tempfile.TemporaryDirectory(dir=servers.quick_folder()) as folder:
        async with Cluster(Path(folder) / "postgres", durable=False) as cluster:
            await schema.migrate(cluster.dsn)
            async with (
                asyncpg.create_pool(cluster.dsn, min_size=0, max_size=2) as rows,
                doors.open_database(cluster.dsn, size=2) as database,
            ):
                api = direct.Api(world.World(7, clock))
                lived = lives.World(api, clock, cluster.dsn, rows, database)

                async def kill(_: Any) -> bool:
                    again = cluster.starts + 1
                    assert cluster.server_pid is not None
                    os.kill(cluster.server_pid, signal.SIGKILL)
                    await cluster.wait_for_start(again)
                    await rows.expire_connections()
                    return False

                async for tenant_id, fated_life in struck(lived, kill, most):
                    async with lived.replica(fated_life) as hurt:
                        await lived.live(hurt, tenant_id)
                    await lived.succeed(tenant_id)
                    await lived.complete(tenant_id)

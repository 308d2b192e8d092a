"""Who owns which tenant: claims, shares, deaths, and the fence over many."""

import asyncio
import random
from dataclasses import replace
from uuid import UUID

import asyncpg
from hypothesis import given
from hypothesis import strategies as st

from service import model
from service.store import leases, pool, tenants
from tests.store import rows

A, B, C = (UUID(int=n) for n in (10, 20, 30))


async def owned(connection: asyncpg.Connection) -> dict[UUID, tuple[UUID | None, int]]:
    found = await connection.fetch("SELECT tenant_id, owner, epoch FROM alertwell.lease")
    return {row["tenant_id"]: (row["owner"], row["epoch"]) for row in found}


@given(tenants=st.integers(0, 10_000), alive=st.integers(1, 50))
def test_shares_are_fair_and_exact(tenants: int, alive: int):
    """The shares of all ranks are all tenants, and no two differ by more than one."""
    shares = [leases.Fleet(alive, rank, tenants, 0).share for rank in range(alive)]
    assert sum(shares) == tenants
    assert max(shares) - min(shares) <= 1


async def test_heartbeats_count_who_lives(database: pool.Database, pool: asyncpg.Pool):
    """A replica is alive while its heartbeat is younger than the ttl; ranks go by id; the long dead are forgotten."""
    await rows.enrol(database, 1, 2, 3)
    await tenants.set_state(database, rows.tenant_id(3), "paused")
    for replica in (B, A, C):
        fleet = await rows.beat(database, replica)
    assert (fleet.alive, fleet.rank, fleet.tenants) == (3, 2, 2)
    assert fleet.roster_version == await leases.roster_version(database) == 2
    await rows.age(pool, A, rows.TTL + 1)
    await rows.age(pool, B, 21 * rows.TTL)
    fleet = await rows.beat(database, C)
    assert (fleet.alive, fleet.rank) == (1, 0)
    assert {row[0] for row in await pool.fetch("SELECT replica_id FROM alertwell.replica")} == {A, C}
    assert (await rows.beat(database, A)).alive == 2


async def test_a_claim_takes_what_is_free(database: pool.Database, pool: asyncpg.Pool):
    """At most `limit` active tenants that nobody alive owns are taken, each with a new epoch, and stay taken."""
    await rows.enrol(database, *range(1, 8))
    await tenants.set_state(database, rows.tenant_id(7), "paused")
    before = await owned(pool)
    mine = await rows.claim(database, A, limit=4)
    theirs = await rows.claim(database, B)
    assert (len(mine), len(theirs)) == (4, 2)
    for lease in mine + theirs:
        assert lease.epoch == before[lease.tenant_id][1] + 1
    assert await rows.claim(database, A) == []
    assert sorted(await leases.held(database, A), key=lambda lease: lease.tenant_id) == mine
    assert await leases.claim(database, A, limit=0, ttl=rows.TTL) == []


async def test_a_dead_owner_s_tenants_are_taken(database: pool.Database, pool: asyncpg.Pool):
    """After the ttl, not before it, another replica takes them; the old lease is over."""
    await rows.enrol(database, 1, 2)
    old = await rows.claim(database, A)
    await rows.age(pool, A, rows.TTL - 10)
    assert await rows.claim(database, B) == []
    await rows.age(pool, A, 11)
    new = await rows.claim(database, B)
    assert [lease.epoch for lease in new] == [lease.epoch + 1 for lease in old]
    assert await leases.held(database, A) == []
    async with database.transaction() as connection:
        assert await leases.fence_all(connection, old) == set()
        assert await leases.fence_all(connection, new) == {rows.tenant_id(1), rows.tenant_id(2)}
        assert await leases.fence_all(connection, [old[0], new[1]]) == {rows.tenant_id(2)}
        assert await leases.fence_all(connection, []) == set()


async def test_release_and_retire(database: pool.Database, pool: asyncpg.Pool):
    """What is released or left behind by a goodbye is free at once; what is no longer ours is left alone."""
    await rows.enrol(database, 1, 2, 3)
    first, second, third = await rows.claim(database, A)
    stale = model.Lease(third.tenant_id, A, third.epoch - 1, third.server)
    await leases.release(database, [first, stale, replace(second, owner=B)])
    assert await leases.held(database, A) == [second, third]
    await leases.release(database, [])
    [again] = await rows.claim(database, B)
    assert (again.tenant_id, again.epoch) == (first.tenant_id, first.epoch + 2)
    await leases.retire(database, A)
    assert {lease.tenant_id for lease in await rows.claim(database, B)} == {second.tenant_id, third.tenant_id}
    assert await pool.fetchval("SELECT array_agg(replica_id) FROM alertwell.replica") == [B]


async def test_a_paused_tenant_is_dropped(database: pool.Database):
    """Pausing takes a tenant out of what is held and of what can be claimed; resumed, it can be claimed, with a new epoch."""
    await rows.enrol(database, 1)
    [lease] = await rows.claim(database, A)
    await tenants.set_state(database, lease.tenant_id, "paused")
    assert await leases.held(database, A) == []
    assert await rows.claim(database, B) == []
    await tenants.set_state(database, lease.tenant_id, "active")
    assert await leases.held(database, A) == []
    [back] = await rows.claim(database, A)
    assert back.epoch > lease.epoch


async def test_concurrent_claims_never_share_a_tenant(database: pool.Database, pool: asyncpg.Pool):
    """Replicas that claim, release and die at the same moment never hold a tenant together, and none is left over."""
    await rows.enrol(database, *range(1, 61))
    dice = random.Random(5)
    replicas = [UUID(int=n) for n in range(1, 7)]
    for _ in range(15):
        await asyncio.gather(*(rows.beat(database, replica) for replica in replicas))
        claims = await asyncio.gather(
            *(leases.claim(database, one, limit=dice.randint(5, 25), ttl=rows.TTL) for one in replicas)
        )
        taken = [lease.tenant_id for claimed in claims for lease in claimed]
        assert len(taken) == len(set(taken))
        # nobody took what somebody alive had: all that was claimed in this round still stands
        now = await owned(pool)
        assert all(now[one.tenant_id] == (one.owner, one.epoch) for claimed in claims for one in claimed)
        rest = await leases.claim(database, replicas[0], limit=100, ttl=rows.TTL)
        assert all(owner is not None for owner, _ in (await owned(pool)).values())
        await leases.release(database, rest)
        await rows.age(pool, dice.choice(replicas), 2 * rows.TTL)
        await leases.retire(database, dice.choice(replicas))


async def test_fencing_many_and_changing_many_do_not_deadlock(database: pool.Database):
    """Flushes, changes, releases and retirements over the same tenants in any order all come to an end without an error."""
    numbers = list(range(1, 41))
    await rows.enrol(database, *numbers)
    dice = random.Random(7)

    async def fence() -> None:
        held = await leases.held(database, A)
        dice.shuffle(held)
        async with database.transaction() as connection:
            await leases.fence_all(connection, held)

    async def change() -> None:
        dice.shuffle(numbers)
        async with database.transaction() as connection:
            await leases.changed(connection, [rows.tenant_id(n) for n in numbers])

    async def give() -> None:
        held = await leases.held(database, A)
        dice.shuffle(held)
        await leases.release(database, held)

    for _ in range(12):
        await rows.claim(database, A)
        assert (
            await rows.together(fence, change, fence, give, change, lambda: leases.retire(database, A))
            == [None] * 6
        )

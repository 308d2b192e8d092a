"""Who owns which tenant: replicas with heartbeats, leases with epochs, and the fence in front of every write.

A lease is taken by growing its epoch. Whatever an older epoch still has in flight finds no row in `fence` and writes
nothing. Nor does what was taken on another life of the server (`servers`): a failover that lost the last commits hands
the same epochs out again, and what owners know of their tenants may be ahead of it. Anything that changes what an owner
has read of a tenant (paused, new parameters, a rewind) grows the epoch too.

Locks are taken in one order, or two transactions would wait for each other: tenant, lease (by tenant_id), stream,
stream_progress, and the roster last.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from service import errors, model
from service.store import pool, servers


@dataclass(frozen=True, slots=True)
class Fleet:
    """What one look at the replicas shows: how many live, which rank we have among them, how many tenants there are."""

    alive: int
    rank: int
    tenants: int
    roster_version: int

    @property
    def share(self) -> int:
        """Our fair share of the tenants: all shares together are exactly all tenants."""
        return self.tenants // self.alive + (1 if self.rank < self.tenants % self.alive else 0)


async def heartbeat(
    database: pool.Database, replica_id: UUID, *, host: str, version: str, ttl: float
) -> Fleet:
    """Say that we live, forget replicas that died long ago, and count the fleet. `ttl` is in seconds."""
    async with database.transaction() as connection:
        await connection.execute(
            """
            INSERT INTO alertwell.replica (replica_id, host, version) VALUES ($1, $2, $3)
            ON CONFLICT (replica_id) DO UPDATE SET heartbeat_at = now()
            """,
            replica_id,
            host,
            version,
        )
        await connection.execute(
            """
            DELETE FROM alertwell.replica WHERE replica_id IN (
                SELECT replica_id FROM alertwell.replica WHERE heartbeat_at < now() - make_interval(secs => $1)
                FOR UPDATE SKIP LOCKED)
            """,
            ttl * 20,
        )
        row = await connection.fetchrow(
            """
            SELECT count(*) AS alive,
                   count(*) FILTER (WHERE replica_id < $1) AS rank,
                   (SELECT count(*) FROM alertwell.tenant WHERE state = 'active') AS tenants,
                   (SELECT version FROM alertwell.roster) AS roster_version
            FROM alertwell.replica
            WHERE replica_id = $1 OR heartbeat_at > now() - make_interval(secs => $2)
            """,
            replica_id,
            ttl,
        )
    assert row is not None  # noqa: S101 - an aggregate always brings a row
    return Fleet(row["alive"], row["rank"], row["tenants"], row["roster_version"])


async def retire(database: pool.Database, replica_id: UUID) -> None:
    """Say goodbye: our leases are free at once, and nobody waits for our heartbeat to grow old."""
    async with database.transaction() as connection:
        await connection.execute(
            """
            WITH ours AS MATERIALIZED (
                -- one that somebody holds for long, as a purge does, runs out with our heartbeat
                SELECT tenant_id FROM alertwell.lease WHERE owner = $1 ORDER BY tenant_id FOR NO KEY UPDATE SKIP LOCKED
            )
            UPDATE alertwell.lease l SET owner = NULL, epoch = l.epoch + 1
            FROM ours WHERE l.tenant_id = ours.tenant_id
            """,
            replica_id,
        )
        await connection.execute("DELETE FROM alertwell.replica WHERE replica_id = $1", replica_id)


async def roster_version(database: pool.Database) -> int:
    """Grows with each change that a person made to tenants, streams or credentials."""
    async with database.connection() as connection:
        return int(await connection.fetchval("SELECT version FROM alertwell.roster"))


async def claim(database: pool.Database, replica_id: UUID, *, limit: int, ttl: float) -> list[model.Lease]:
    """Take up to `limit` active tenants that nobody alive owns. Two replicas never get the same one."""
    async with database.transaction() as connection:
        rows = await connection.fetch(
            f"""
            WITH free AS MATERIALIZED (
                SELECT l.tenant_id, l.epoch
                FROM alertwell.lease l
                JOIN alertwell.tenant t ON t.tenant_id = l.tenant_id AND t.state = 'active'
                WHERE NOT EXISTS (  -- an owner whose heartbeat is fresh
                    SELECT FROM alertwell.replica r
                    WHERE r.replica_id = l.owner AND r.heartbeat_at > now() - make_interval(secs => $3))
            ), taken AS MATERIALIZED (
                -- a lease that changed since the snapshot was taken has another epoch: it is not free any more
                SELECT l.tenant_id
                FROM alertwell.lease l JOIN free ON free.tenant_id = l.tenant_id AND free.epoch = l.epoch
                LIMIT $2
                FOR UPDATE OF l SKIP LOCKED
            )
            UPDATE alertwell.lease l SET owner = $1, epoch = l.epoch + 1
            FROM taken WHERE l.tenant_id = taken.tenant_id
            RETURNING l.tenant_id, l.epoch, (SELECT {servers.LIFE}) AS server
            """,  # noqa: S608 - made of constants
            replica_id,
            limit,
            ttl,
        )
    return [model.Lease(row["tenant_id"], replica_id, row["epoch"], row["server"]) for row in rows]


async def held(database: pool.Database, replica_id: UUID) -> list[model.Lease]:
    """The leases that name us as owner, of active tenants only."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            f"""
            SELECT l.tenant_id, l.epoch, (SELECT {servers.LIFE}) AS server
            FROM alertwell.lease l JOIN alertwell.tenant t ON t.tenant_id = l.tenant_id AND t.state = 'active'
            WHERE l.owner = $1
            """,  # noqa: S608 - made of constants
            replica_id,
        )
    return [model.Lease(row["tenant_id"], replica_id, row["epoch"], row["server"]) for row in rows]


async def release(database: pool.Database, leases: Iterable[model.Lease]) -> None:
    """Give tenants back; a lease that is no longer ours is left alone."""
    listed = list(leases)
    async with database.connection() as connection:
        await connection.execute(
            """
            WITH ours AS MATERIALIZED (
                SELECT l.tenant_id
                FROM alertwell.lease l
                JOIN unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS given (tenant_id, owner, epoch)
                  ON l.tenant_id = given.tenant_id AND l.owner = given.owner AND l.epoch = given.epoch
                ORDER BY l.tenant_id
                FOR NO KEY UPDATE OF l
            )
            UPDATE alertwell.lease l SET owner = NULL, epoch = l.epoch + 1
            FROM ours WHERE l.tenant_id = ours.tenant_id
            """,
            [lease.tenant_id for lease in listed],
            [lease.owner for lease in listed],
            [lease.epoch for lease in listed],
        )


async def fence(connection: pool.Connection, lease: model.Lease) -> None:
    """First statement of every write of a poll: holds the lease until the transaction ends, or raises LeaseLost."""
    found = await connection.fetchval(
        f"""
        SELECT true, {servers.DURABLE}
        FROM alertwell.lease WHERE tenant_id = $1 AND owner = $2 AND epoch = $3 AND {servers.LIFE} = $4 FOR SHARE
        """,  # noqa: S608 - made of constants
        lease.tenant_id,
        lease.owner,
        lease.epoch,
        lease.server,
    )
    if found is None:
        raise errors.LeaseLost(f"tenant {lease.tenant_id}: epoch {lease.epoch} is over")


async def advance(connection: pool.Connection, lease: model.Lease) -> None:
    """First statement of a write that changes what an owner has read: its own epoch is over with it, or raises LeaseLost.

    The roster says so, and the owner takes the tenant anew.
    """
    found = await connection.fetchval(
        f"""
        UPDATE alertwell.lease SET epoch = epoch + 1
        WHERE tenant_id = $1 AND owner = $2 AND epoch = $3 AND {servers.LIFE} = $4
        RETURNING true, {servers.DURABLE}
        """,  # noqa: S608 - made of constants
        lease.tenant_id,
        lease.owner,
        lease.epoch,
        lease.server,
    )
    if found is None:
        raise errors.LeaseLost(f"tenant {lease.tenant_id}: epoch {lease.epoch} is over")


async def fence_all(connection: pool.Connection, leases: Sequence[model.Lease]) -> set[UUID]:
    """The same for many tenants at once: those whose lease still stands, locked until the transaction ends."""
    rows = await connection.fetch(
        f"""
        SELECT l.tenant_id, (SELECT {servers.DURABLE})
        FROM alertwell.lease l
        JOIN unnest($1::uuid[], $2::uuid[], $3::bigint[], $4::text[]) AS ours (tenant_id, owner, epoch, server)
          ON l.tenant_id = ours.tenant_id AND l.owner = ours.owner AND l.epoch = ours.epoch
        WHERE ours.server = (SELECT {servers.LIFE})
        ORDER BY l.tenant_id
        FOR SHARE OF l
        """,  # noqa: S608 - made of constants
        [lease.tenant_id for lease in leases],
        [lease.owner for lease in leases],
        [lease.epoch for lease in leases],
        [lease.server for lease in leases],
    )
    return {row["tenant_id"] for row in rows}


async def lock(connection: pool.Connection, tenant_ids: Sequence[UUID]) -> None:
    """Wait for the writes of polls that are under way in these tenants, and keep new ones out until the transaction ends."""
    await connection.execute(
        """
        SELECT FROM alertwell.lease WHERE tenant_id = ANY ($1::uuid[]) ORDER BY tenant_id FOR NO KEY UPDATE
        """,
        tenant_ids,
    )


async def changed(connection: pool.Connection, tenant_ids: Sequence[UUID]) -> None:
    """What an owner has read of these tenants is out of date: it reads anew, and older polls write nothing."""
    await lock(connection, tenant_ids)
    await connection.execute(
        "UPDATE alertwell.lease SET epoch = epoch + 1 WHERE tenant_id = ANY ($1::uuid[])", tenant_ids
    )
    await connection.execute("UPDATE alertwell.roster SET version = version + 1")

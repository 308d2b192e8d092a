"""Streams: what an owner loads, and the progress that idle polls leave."""

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from service.intervals import Intervals
from service.store import credentials, enrolments, leases, pool, ranges, retention, streams, tenants
from tests.store import rows

NEXT = rows.hour(50)


def progress(lease, **changes) -> streams.Progress:
    return replace(
        streams.Progress(lease, "siem", rows.hour(1), rows.hour(1), None, Intervals(), NEXT), **changes
    )


async def test_load_brings_streams_with_their_credential(database: pool.Database, pool: asyncpg.Pool):
    """Enabled streams come with coverage, what is unfolded, and the credential that counts: the stream's, the tenant's, none."""
    await enrolments.enrol(
        database,
        [
            rows.enrolment(
                1,
                sources={"siem": {"machinegroups": ["A"]}, "graph_alerts": {}},
                own=credentials.Own("own", "client_secret", b"1"),
                labels={"team": "blue"},
                region="eu",
                external_ref="X1",
            ),
            rows.enrolment(2, sources={"siem": {}, "xdr_incidents": {}}),
        ],
        lookback=rows.LOOKBACK,
    )
    await pool.execute("UPDATE alertwell.stream SET enabled = false WHERE source = 'xdr_incidents'")
    await pool.execute(
        "INSERT INTO alertwell.credential (tenant_id, source, app_id, kind, sealed) "
        "VALUES ($1, 'graph_alerts', 'special', 'client_secret', '2')",
        rows.tenant_id(1),
    )
    await pool.execute(
        "UPDATE alertwell.stream SET coverage = $1, backfill = $2, watermark = $3, overlap = '20 min', failures = 2",
        ranges.encode(rows.interval(0, 1)),
        ranges.encode(rows.interval(-9, -8)),
        rows.hour(1),
    )
    await pool.execute(
        "UPDATE alertwell.stream_progress SET proven = $1", ranges.encode_pair(rows.hour(1), rows.hour(2))
    )
    loaded = await streams.load(database, [rows.tenant_id(n) for n in (1, 2, 3)])
    found = {(one.stream.tenant_id, one.stream.source): one for one in loaded}
    assert set(found) == {
        (rows.tenant_id(1), "siem"),
        (rows.tenant_id(1), "graph_alerts"),
        (rows.tenant_id(2), "siem"),
    }
    one = found[rows.tenant_id(1), "siem"]
    assert one.stream.parameters == {"machinegroups": ["A"]}
    assert one.stream.coverage == rows.interval(0, 2)
    assert one.stream.unfolded == rows.interval(1, 2)
    assert one.stream.backfill == rows.interval(-9, -8)
    assert (one.stream.watermark, one.stream.overlap, one.stream.failures) == (
        rows.hour(1),
        timedelta(minutes=20),
        2,
    )
    assert one.stream.wanted.pairs[0][0] < rows.NOON
    assert (
        one.access.tenant == rows.enrolment(1, labels={"team": "blue"}, region="eu", external_ref="X1").tenant
    )
    assert (one.access.credential.app_id, one.access.credential.sealed) == ("own", b"1")
    assert found[rows.tenant_id(1), "graph_alerts"].access.credential.app_id == "special"
    assert found[rows.tenant_id(2), "siem"].access.credential is None


async def test_state_since_moves_with_the_state_only(owner: rows.Owner, pool: asyncpg.Pool):
    """A new reason or count leaves state_since where it is; a new state moves it."""

    async def show(state: str, reason: str | None) -> asyncpg.Record:
        await streams.show_state(owner.database, owner.lease, "siem", state=state, reason=reason, failures=1)
        return await pool.fetchrow("SELECT state, state_reason, state_since FROM soc.coverage")

    first = await show("degraded", "one")
    second = await show("degraded", "two")
    third = await show("ok", None)
    assert (second["state_reason"], third["state_reason"]) == ("two", None)
    assert first["state_since"] == second["state_since"] < third["state_since"]


async def test_flush_writes_what_moved(database: pool.Database, pool: asyncpg.Pool):
    """Times move forward only, a missing one leaves what is there, one range goes to the progress and several to the row."""
    one, two = await rows.owners(database, 2)
    several = rows.interval(0, 1) | rows.interval(2, 3)
    first = [
        progress(one.lease, proven=(rows.hour(0), rows.hour(1))),
        progress(two.lease, folded=several),
    ]
    assert await streams.flush(database, first) == {one.lease.tenant_id, two.lease.tenant_id}
    second = [progress(one.lease, last_success_at=None, read_to=rows.hour(0), next_poll_at=rows.hour(60))]
    await streams.flush(database, second)
    found = await pool.fetch("SELECT * FROM soc.coverage ORDER BY tenant_id")
    assert [ranges.decode(row["coverage"]) for row in found] == [rows.interval(0, 1), several]
    assert [row["last_success_at"] for row in found] == [rows.hour(1)] * 2
    assert [row["next_poll_at"] for row in found] == [rows.hour(60), NEXT]
    assert await pool.fetchval("SELECT min(read_to) FROM alertwell.stream_progress") == rows.hour(1)
    assert await streams.flush(database, []) == set()


async def test_flush_is_fenced_tenant_by_tenant(database: pool.Database, pool: asyncpg.Pool):
    """A tenant whose lease is over is left out, the others are written; of two leases of one tenant only the one that stands."""
    one, two = await rows.owners(database, 2)
    await tenants.set_state(database, two.lease.tenant_id, "active")
    held = {lease.tenant_id: lease for lease in await leases.held(database, rows.REPLICA)}
    mixed = [progress(one.lease), progress(two.lease, folded=rows.interval(0, 1))]
    assert await streams.flush(database, mixed) == {one.lease.tenant_id}
    both = [
        progress(two.lease, folded=rows.interval(0, 1)),
        progress(held[two.lease.tenant_id], read_to=rows.hour(9)),
    ]
    assert await streams.flush(database, both) == {two.lease.tenant_id}
    row = await pool.fetchrow(
        "SELECT coverage, read_to FROM alertwell.stream NATURAL JOIN alertwell.stream_progress WHERE tenant_id = $1",
        two.lease.tenant_id,
    )
    assert tuple(row) == ([], rows.hour(9))


async def test_idle_progress_is_hot(pool: asyncpg.Pool):
    """Progress has no index but its key, so that its updates leave no index entries behind."""
    indexes = await pool.fetchval(
        "SELECT count(*) FROM pg_index WHERE indrelid = 'alertwell.stream_progress'::regclass"
    )
    assert indexes == 1


async def test_flush_store_enrol_and_shrink_do_not_deadlock(database: pool.Database):
    """All that writes streams, at once and over the same tenants in any order, comes to an end; the late get LeaseLost."""
    owners = await rows.owners(database, 8)
    dice = random.Random(11)

    async def flush() -> None:
        held = await leases.held(database, rows.REPLICA)
        dice.shuffle(held)
        await streams.flush(database, [progress(lease, folded=rows.interval(0, 1)) for lease in held])

    async def store() -> None:
        held = {lease.tenant_id: lease for lease in await leases.held(database, rows.REPLICA)}
        one = dice.choice(owners)
        one.lease = held[one.lease.tenant_id]
        await one.store(rows.alert(f"{dice.random()}:1"), folded=rows.interval(3, 4))

    async def enrol() -> None:
        numbers = list(range(1, 9))
        dice.shuffle(numbers)
        parameters = {"machinegroups": [str(dice.random())]}
        await enrolments.enrol(
            database,
            [rows.enrolment(n, sources={"siem": parameters}) for n in numbers],
            lookback=rows.LOOKBACK,
        )

    async def shrink() -> None:
        async with database.transaction() as connection:
            await leases.lock(connection, [one.lease.tenant_id for one in owners])
            await connection.execute("UPDATE alertwell.stream SET wanted = '{[2001-01-01,)}'")
        await retention.shrink(database, timedelta(days=30))

    async def pause() -> None:
        await tenants.set_state(database, dice.choice(owners).lease.tenant_id, "active")

    for _ in range(10):
        done = await rows.together(flush, store, enrol, store, flush, shrink, pause, store)
        assert {type(one).__name__ for one in done} <= {"NoneType", "LeaseLost"}, done


@pytest.mark.parametrize("count", [300])
async def test_many_streams_flush_at_once(database: pool.Database, pool: asyncpg.Pool, count: int):
    """One transaction writes the progress of hundreds of streams."""
    owners = await rows.owners(database, count)
    written = await streams.flush(
        database, [progress(one.lease, proven=(rows.hour(0), rows.hour(1))) for one in owners]
    )
    assert len(written) == count
    assert (
        await pool.fetchval("SELECT count(*) FROM soc.coverage WHERE last_success_at = $1", rows.hour(1))
        == count
    )
    await asyncio.gather(*(one.store(rows.alert("a:1")) for one in owners[:20]))

"""A purge: nothing of the tenant is left but one change that says so, whatever else is under way."""

import asyncio

import asyncpg
import pytest

from service import errors, model
from service.store import credentials, enrolments, feed, invitations, pool, storing, streams, tenants
from tests.store import rows


async def test_purge_leaves_one_change_and_nothing_else(
    database: pool.Database, pool: asyncpg.Pool, admin_url: str
):
    """No table holds anything of a purged tenant but one `purged` change and its audit; its neighbour keeps everything."""
    one, other = await rows.owners(database, 2)
    for each in (one, other):
        await each.store(rows.alert("a:1"), rejects=[model.Reject("not JSON", b"{")])
        await each.store(incidents=[rows.incident("7")])
        await feed.number(database)
        await each.store(rows.alert("b:1"))
        await streams.note_gap(
            database,
            each.lease,
            "siem",
            each.poll,
            span=(rows.hour(0), rows.hour(1)),
            reason="refused",
            sample=b"",
        )
    key = one.lease.tenant_id
    await enrolments.enrol(
        database,
        [rows.enrolment(1, own=credentials.Own("app", "client_secret", b"s"))],
        lookback=rows.LOOKBACK,
    )
    for n, each in enumerate((one, other), 1):
        wanted = invitations.Wanted(
            each.lease.tenant_id, f"Contoso {n}", "public", None, ("graph_alerts",), "v2"
        )
        await invitations.invite(database, [wanted], valid=rows.LOOKBACK, actor="ada@desk")
        await pool.execute(
            "INSERT INTO alertwell.stream_volume (tenant_id, source, began_at) VALUES ($1, 'siem', now())",
            each.lease.tenant_id,
        )
    async with rows.reader(admin_url, key, other.lease.tenant_id) as reader:
        deleted = await tenants.purge(database, key)
        assert {
            table: deleted[table]
            for table in ("alert", "incident", "alert_change", "poll", "reject", "reader", "tenant")
        } == {
            "alert": 2,
            "incident": 1,
            "alert_change": 3,
            "poll": 1,
            "reject": 1,
            "reader": 1,
            "tenant": 1,
        }
        tables = await pool.fetch(
            """
            SELECT DISTINCT attrelid::regclass::text FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
            WHERE relnamespace = 'alertwell'::regnamespace AND relkind = 'r' AND attname = 'tenant_id' AND NOT attisdropped
            """
        )
        left = {}
        for (table,) in tables:
            for place, who in (("purged", key), ("kept", other.lease.tenant_id)):
                count = await pool.fetchval(f"SELECT count(*) FROM {table} WHERE tenant_id = $1", who)
                left[table.removeprefix("alertwell."), place] = count
        assert {table for table, place in left if place == "purged" and left[table, place]} == {
            "alert_change",
            "unnumbered",
            "audit",
        }
        assert left["alert_change", "purged"] == left["unnumbered", "purged"] == 1
        assert all(left[table, "kept"] for table, _ in left if table not in ("credential", "reader_rule"))
        assert not await pool.fetch(
            "SELECT FROM alertwell.alert_change c WHERE c::text LIKE '%a:1%' AND tenant_id = $1", key
        )
        await feed.number(database)
        last = await pool.fetchrow("SELECT * FROM soc.changes() ORDER BY seq DESC LIMIT 1")
        assert (last["kind"], last["tenant_id"], last["tenant_name"]) == ("purged", str(key), None)
        assert last["changed"] == '{"tenant_name": ["Contoso 1", null]}'
        assert await reader.fetchval("SELECT count(*) FROM soc.alerts") == 2
    with pytest.raises(errors.LeaseLost):
        await one.store(rows.alert("c:1"))
    with pytest.raises(errors.BadInput, match=str(key)):
        await tenants.purge(database, key)
    assert (await rows.enrol(database, 1)).added == 1


async def test_a_purge_waits_for_a_store_under_way(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
):
    """What a store under way writes is purged too, and what comes after it is fenced off."""
    reached, go_on = asyncio.Event(), asyncio.Event()
    real = storing._move

    async def slowly(*arguments):
        reached.set()
        await go_on.wait()
        await real(*arguments)

    monkeypatch.setattr(storing, "_move", slowly)
    store = asyncio.create_task(owner.store(rows.alert("a:1")))
    await reached.wait()
    purge = asyncio.create_task(tenants.purge(owner.database, owner.lease.tenant_id))
    await rows.blocked(pool)
    go_on.set()
    await store
    assert (await purge)["alert"] == 1
    assert await rows.counts(pool) == {
        "alert": 0,
        "alert_change": 1,
        "feed": 0,
        "poll": 0,
        "reject": 0,
        "unnumbered": 1,
    }


async def test_a_purge_waits_for_a_sequencer_under_way(owner: rows.Owner, pool: asyncpg.Pool):
    """What a sequencer is numbering while a purge begins leaves nothing in the feed."""
    await owner.store(rows.alert("a:1"))
    async with owner.database.transaction() as numbering:
        await numbering.execute("DELETE FROM alertwell.unnumbered")
        await numbering.execute(
            "INSERT INTO alertwell.feed SELECT 1, tenant_id, batch, n FROM alertwell.alert_change"
        )
        purge = asyncio.create_task(tenants.purge(owner.database, owner.lease.tenant_id))
        await rows.blocked(pool)
    await purge
    assert await pool.fetchval("SELECT count(*) FROM alertwell.feed") == 0


async def test_a_purge_under_way_does_not_hold_up_the_others(database: pool.Database, pool: asyncpg.Pool):
    """While one tenant's changes are being deleted, the sequencer numbers everybody else's."""
    one, other = await rows.owners(database, 2)
    await one.store(rows.alert("a:1"))
    await other.store(rows.alert("b:1"))
    async with database.transaction() as purging:
        await purging.execute("DELETE FROM alertwell.unnumbered WHERE tenant_id = $1", one.lease.tenant_id)
        assert await asyncio.wait_for(feed.number(database), 10) == 1
    assert [row["full_id"] for row in await pool.fetch("SELECT full_id FROM soc.changes()")] == ["b:1"]

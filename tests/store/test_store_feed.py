"""The change feed: dense numbers for what is committed, whoever commits when, and readers who never miss one."""

import asyncio
import random

import asyncpg
import pytest

from service import model
from service.store import feed, pool, tenants
from tests.store import rows

PAGE = "SELECT seq, change_id, full_id, tenant_id FROM soc.changes($1, $2)"


async def head(connection: asyncpg.Connection) -> asyncpg.Record:
    return await connection.fetchrow("SELECT * FROM soc.feed")


async def seqs(connection: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await connection.fetch("SELECT seq FROM soc.change_feed ORDER BY seq")]


async def test_each_change_gets_one_number(owner: rows.Owner, pool: asyncpg.Pool):
    """Numbers are dense from 1 in the order of commits, an alert's changes in their own; the backlog is what waits."""
    assert await feed.number(owner.database) == 0
    await owner.store(rows.alert("a:1"), rows.alert("b:1"))
    await owner.store(rows.alert("a:1", rows.hour(1)), rows.alert("c:1"))
    waiting = await feed.backlog(owner.database)
    assert waiting.unnumbered == 4
    assert waiting.oldest_seconds > 0
    assert await feed.number(owner.database) == 4
    assert await feed.number(owner.database) == 0
    found = await pool.fetch("SELECT seq, full_id, kind, revision FROM soc.change_feed ORDER BY seq")
    assert [row["seq"] for row in found] == [1, 2, 3, 4]
    assert [tuple(row)[2:] for row in found if row["full_id"] == "a:1"] == [("created", 1), ("updated", 2)]
    assert await feed.backlog(owner.database) == feed.Backlog(0, 0)
    row = await head(pool)
    assert (row["oldest_seq"], row["head_seq"], row["unnumbered"], row["restored_at"]) == (1, 4, 0, None)


async def test_a_rollback_leaves_no_hole(owner: rows.Owner, pool: asyncpg.Pool):
    """A transaction that is undone gets no number."""
    await owner.store(rows.alert("a:1"))
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.store(rows.alert("b:1"), items=9)
    await owner.store(rows.alert("c:1"))
    assert await feed.number(owner.database) == 2
    assert await seqs(pool) == [1, 2]


async def test_a_late_commit_gets_a_higher_number(owner: rows.Owner, pool: asyncpg.Pool):
    """The classic lost row: what began first and commits last is numbered after what readers have seen."""
    database = owner.database
    async with database.transaction() as slow:
        await slow.execute(
            "WITH c AS (INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, source, full_id) "
            "VALUES ($1, nextval('alertwell.change_batch'), 1, 1, 'created', 'siem', 'slow:1') RETURNING batch) "
            "INSERT INTO alertwell.unnumbered SELECT $1, batch, 1 FROM c",
            owner.lease.tenant_id,
        )
        await owner.store(rows.alert("quick:1"))
        assert await feed.number(database) == 1
        assert (await pool.fetchrow(PAGE, None, 10))["full_id"] == "quick:1"
    assert await feed.number(database) == 1
    assert [row["full_id"] for row in await pool.fetch(PAGE, 1, 10)] == ["slow:1"]


async def test_readers_miss_nothing_while_many_store(database: pool.Database, pool: asyncpg.Pool):
    """Storing transactions that commit in any order, some undone, two sequencers and a reader at once: each change once."""
    owners = await rows.owners(database, 6)
    dice = random.Random(3)
    stored: list[str] = []
    done = asyncio.Event()

    async def write(one: rows.Owner, place: int) -> None:
        for turn in range(12):
            keys = [f"t{place}-{turn}-{n}:1" for n in range(dice.randint(1, 6))]
            again = rows.alert(dice.choice(keys), rows.hour(turn + 1))
            try:
                await one.store(
                    *(rows.alert(key) for key in keys), items=99 if dice.random() < 0.2 else len(keys)
                )
            except asyncpg.CheckViolationError:
                continue
            await one.store(again)
            stored.extend([*keys, again.full_id])

    async def number() -> None:
        while not done.is_set():
            await feed.number(database)

    seen: list[asyncpg.Record] = []

    async def read() -> None:
        last = None
        while True:
            final = done.is_set()
            page = await pool.fetch(PAGE, last, 7)
            seen.extend(page)
            last = page[-1]["seq"] if page else last
            if final and not page:
                return

    sequencers = [asyncio.create_task(number()) for _ in range(2)]
    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(one, place) for place, one in enumerate(owners)))
    while (await feed.backlog(database)).unnumbered:
        await feed.number(database)
    done.set()
    await asyncio.gather(*sequencers, reader)
    assert sorted(row["full_id"] for row in seen) == sorted(stored)
    assert len({row["change_id"] for row in seen}) == len(stored)
    assert [row["seq"] for row in seen] == list(range(1, len(stored) + 1))


async def test_one_sequencer_at_a_time(owner: rows.Owner, pool: asyncpg.Pool):
    """While another one is numbering there is nothing to do; many at once number each change once."""
    await owner.store(rows.alert("a:1"))
    async with owner.database.transaction() as other:
        await other.execute("SELECT pg_advisory_xact_lock($1)", feed._LOCK)
        assert await feed.number(owner.database) == 0
    assert sum(await asyncio.gather(*(feed.number(owner.database) for _ in range(6)))) == 1
    assert await seqs(pool) == [1]


async def test_numbering_goes_in_bounded_steps(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
):
    """A long backlog is numbered in steps, oldest batch first, dense over all of them."""
    monkeypatch.setattr(feed, "_BATCHES", 2)
    for n in range(5):
        await owner.store(rows.alert(f"a{n}:1"), rows.alert(f"b{n}:1"))
    assert [await feed.number(owner.database) for _ in range(4)] == [4, 4, 2, 0]
    keys = [row[0] for row in await pool.fetch("SELECT full_id FROM soc.change_feed ORDER BY seq")]
    assert keys == [f"{letter}{n}:1" for n in range(5) for letter in "ab"]


async def test_numbering_announces_the_head(owner: rows.Owner, database_url: str):
    """A listener of soc_changes hears the newest number, and nothing while there is nothing new."""
    heard: asyncio.Queue[str] = asyncio.Queue()
    listener = await asyncpg.connect(database_url)
    try:
        await listener.add_listener("soc_changes", lambda *said: heard.put_nowait(said[3]))
        await feed.number(owner.database)
        await owner.store(rows.alert("a:1"), rows.alert("b:1"))
        await feed.number(owner.database)
        await feed.number(owner.database)
        await owner.store(rows.alert("c:1"))
        await feed.number(owner.database)
        assert [await asyncio.wait_for(heard.get(), 10) for _ in range(2)] == ["2", "3"]
        await listener.fetchval("SELECT 1")
        assert heard.empty()
    finally:
        await listener.close()


async def test_changes_pages_through_the_feed(owner: rows.Owner, pool: asyncpg.Pool):
    """Pages of any size from any position hold what comes next, in order; null starts at the oldest."""
    for n in range(30):
        await owner.store(rows.alert(f"a{n}:1"), rows.alert(f"b{n}:1"))
    await feed.number(owner.database)
    for size in (1, 7, 60, 1000):
        last, found = None, []
        while page := await pool.fetch(PAGE, last, size):
            assert len(page) <= size
            last = page[-1]["seq"]
            found += [row["seq"] for row in page]
        assert found == list(range(1, 61))
    assert len(await pool.fetch("SELECT * FROM soc.changes()")) == 60
    assert len(await pool.fetch("SELECT * FROM soc.changes(10, NULL)")) == 50
    assert await pool.fetch("SELECT * FROM soc.changes(0, 0)") == []
    row = await pool.fetchrow("SELECT * FROM soc.changes(59)")
    assert (row["kind"], row["severity"], row["title"]) == ("created", "medium", "Suspicious process")
    assert '"FullId": "b29:1"' in row["alert"]


async def test_a_change_outlives_its_alert(owner: rows.Owner, pool: asyncpg.Pool):
    """A change whose alert was retired is still there, without it."""
    await owner.store(rows.alert("a:1"), rejects=[model.Reject("not JSON", b"{")])
    await feed.number(owner.database)
    await pool.execute("DELETE FROM alertwell.alert")
    row = await pool.fetchrow("SELECT * FROM soc.change_feed")
    assert (row["full_id"], row["alert"], row["severity"]) == ("a:1", None, None)
    await tenants.purge(owner.database, owner.lease.tenant_id)
    await feed.number(owner.database)
    assert [row["kind"] for row in await pool.fetch("SELECT kind FROM soc.changes()")] == ["purged"]

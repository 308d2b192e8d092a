"""Both ends of the change feed: what retention cuts off, positions beyond them, and the jump of another database."""

from datetime import timedelta

import asyncpg
import pytest

from service.store import feed, leases, pool
from tests import postgres
from tests.store import rows

PAGE = "SELECT seq, change_id, full_id, tenant_id FROM soc.changes($1, $2)"


async def head(connection: asyncpg.Connection) -> asyncpg.Record:
    return await connection.fetchrow("SELECT * FROM soc.feed")


async def seqs(connection: asyncpg.Connection) -> list[int]:
    return [row[0] for row in await connection.fetch("SELECT seq FROM soc.change_feed ORDER BY seq")]


async def make_older(connection: asyncpg.Connection, upto: int, days: int = 100) -> None:
    await connection.execute(
        """
        UPDATE alertwell.alert_change c SET at = at - make_interval(days => $2)
        FROM alertwell.feed f WHERE f.seq <= $1 AND (f.tenant_id, f.batch, f.n) = (c.tenant_id, c.batch, c.n)
        """,
        upto,
        days,
    )


async def test_positions_out_of_the_feed_are_errors(owner: rows.Owner, pool: asyncpg.Pool):
    """A position older than the feed or beyond its head is an error that says what to do; both ends themselves are not."""
    for n in range(6):
        await owner.store(rows.alert(f"a{n}:1"))
    await feed.number(owner.database)
    await make_older(pool, 3)
    assert await feed.prune(owner.database, older_than=timedelta(days=30), limit=100) == 3
    for position, count in ((3, 3), (6, 0), (None, 3)):
        assert len(await pool.fetch(PAGE, position, 100)) == count
    for position, words in ((2, "older than the feed"), (7, "beyond the head"), (-1, "older than the feed")):
        with pytest.raises(asyncpg.InvalidParameterValueError, match=words) as caught:
            await pool.fetch(PAGE, position, 100)
        assert caught.value.hint


async def test_the_feed_is_cut_from_its_old_end_only(owner: rows.Owner, pool: asyncpg.Pool):
    """Pruning stops at the first change that is kept, whatever lies behind it, takes at most its limit, and moves soc.feed."""
    for n in range(10):
        await owner.store(rows.alert(f"a{n}:1"))
    await feed.number(owner.database)
    await make_older(pool, 9)
    await pool.execute("UPDATE alertwell.alert_change SET at = now() WHERE full_id = 'a5:1'")
    pruned = [await feed.prune(owner.database, older_than=timedelta(days=30), limit=3) for _ in range(3)]
    assert pruned == [3, 2, 0]
    assert await seqs(pool) == [6, 7, 8, 9, 10]
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert_change") == 5
    row = await head(pool)
    assert (row["oldest_seq"], row["pruned_to"], row["head_seq"]) == (6, 5, 10)
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert") == 10
    await make_older(pool, 10, 200)
    assert await feed.prune(owner.database, older_than=timedelta(days=30), limit=100) == 5
    row = await head(pool)
    assert (row["oldest_seq"], row["pruned_to"], row["head_seq"]) == (None, 10, 10)
    await owner.store(rows.alert("z:1"))
    await feed.number(owner.database)
    assert await seqs(pool) == [11]


async def test_changes_without_a_number_are_not_pruned(owner: rows.Owner, pool: asyncpg.Pool):
    """Retention never takes a change that no reader could have seen."""
    await owner.store(rows.alert("a:1"))
    await pool.execute("UPDATE alertwell.alert_change SET at = now() - interval '1 year'")
    assert await feed.prune(owner.database, older_than=timedelta(days=30), limit=100) == 0
    assert await feed.number(owner.database) == 1


async def test_numbers_jump_on_another_database(owner: rows.Owner, pool: asyncpg.Pool):
    """Where the identity differs numbers go on 2^32 higher, once; soc.feed says when, and owners look at what they own."""
    await owner.store(rows.alert("a:1"))
    await feed.number(owner.database)
    await pool.execute("UPDATE alertwell.feed_head SET identity = 'another'")
    version = await leases.roster_version(owner.database)
    assert await feed.number(owner.database) == 0
    assert (await head(pool))["restored_at"] is not None
    assert await leases.roster_version(owner.database) == version + 1
    for n in range(2):
        await owner.store(rows.alert(f"b{n}:1"))
        await feed.number(owner.database)
    assert await seqs(pool) == [1, 2**32 + 2, 2**32 + 3]
    row = await head(pool)
    assert (row["head_seq"], row["restored_at"] is not None) == (2**32 + 3, True)
    assert [one["seq"] for one in await pool.fetch(PAGE, 1, 10)] == [2**32 + 2, 2**32 + 3]


async def test_a_number_that_was_seen_is_not_given_again(owner: rows.Owner, pool: asyncpg.Pool):
    """A server that lost the last numbers and says that it is the same one jumps all the same, beyond whatever was seen."""
    seen = feed.Seen()
    await owner.store(rows.alert("a:1"), rows.alert("b:1"))
    await feed.number(owner.database, seen)
    await pool.execute("UPDATE alertwell.feed_head SET last_seq = 1")
    await pool.execute("DELETE FROM alertwell.feed WHERE seq = 2")
    assert await feed.number(owner.database, seen) == 0
    assert (await head(pool))["head_seq"] == 2**32 + 1
    assert (await head(pool))["restored_at"] is not None
    await pool.execute("UPDATE alertwell.feed_head SET last_seq = 1")
    await owner.store(rows.alert("c:1"))
    await feed.number(owner.database, seen)
    assert await seqs(pool) == [1, 2 * 2**32 + 2]


async def test_a_server_that_lost_its_first_numbers_jumps(owner: rows.Owner, pool: asyncpg.Pool):
    """Its identity went with them, or it got one before there was anything to number: either way no number is given again."""
    seen = feed.Seen()
    assert await feed.number(owner.database, seen) == 0
    assert await pool.fetchval("SELECT identity FROM alertwell.feed_head") is not None
    await owner.store(rows.alert("a:1"), rows.alert("b:1"))
    assert await feed.number(owner.database, seen) == 2
    assert (await head(pool))["restored_at"] is None
    await pool.execute("UPDATE alertwell.feed_head SET last_seq = 0, identity = NULL")
    await pool.execute("DELETE FROM alertwell.feed")
    await owner.store(rows.alert("c:1"))
    await feed.number(owner.database, seen)
    assert await seqs(pool) == [2**32 + 1]
    assert (await head(pool))["restored_at"] is not None


async def test_a_hasty_server_does_not_number_in_haste(owner: rows.Owner, pool: asyncpg.Pool):
    """What is promised is on disk when it is said, also where the database says synchronous_commit = off."""
    name = await pool.fetchval("SELECT current_database()")
    await pool.execute(f"ALTER DATABASE {name} SET synchronous_commit = 'off'")
    await owner.database._pool.expire_connections()
    async with owner.database.transaction() as connection:
        assert await connection.fetchval("SHOW synchronous_commit") == "off"
        await leases.fence(connection, owner.lease)
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    async with owner.database.transaction() as connection:
        await leases.fence_all(connection, [owner.lease])
        assert await connection.fetchval("SHOW synchronous_commit") == "on"
    async with owner.database.transaction() as connection:
        await feed._last_seq(connection, 0)
        assert await connection.fetchval("SHOW synchronous_commit") == "on"


async def test_a_restored_database_is_another_one(postgres: postgres.Server, template: str):
    """A copy of a database jumps with its first change; a reader that was ahead of the copy gets an error, then goes on."""
    async with postgres.database(template) as original:
        async with pool.open_database(postgres.dsn(original), size=2) as database:
            [one] = await rows.owners(database, 1)
            await one.store(rows.alert("a:1"), rows.alert("b:1"))
            await feed.number(database)
        async with rows.beside(postgres, original) as restored, pool.open_database(restored, size=2) as copy:
            connection = await asyncpg.connect(restored)
            try:
                with pytest.raises(asyncpg.InvalidParameterValueError, match="beyond the head"):
                    await connection.fetch(PAGE, 3, 10)
                one = rows.Owner(copy, one.lease)
                await one.store(rows.alert("c:1"))
                await feed.number(copy)
                assert await seqs(connection) == [1, 2, 2**32 + 3]
                assert [row["full_id"] for row in await connection.fetch(PAGE, 3, 10)] == ["c:1"]
                assert (await head(connection))["restored_at"] is not None
            finally:
                await connection.close()


async def test_an_ordinary_role_learns_the_identity(owner: rows.Owner, pool: asyncpg.Pool, admin_url: str):
    """What tells one database from another is complete, and open to a role that is no superuser."""
    await owner.store(rows.alert("a:1"))
    await feed.number(owner.database)
    parts = (await pool.fetchval("SELECT identity FROM alertwell.feed_head")).split("/")
    async with rows.reader(admin_url) as ordinary:
        row = await ordinary.fetchrow(
            "SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_lsn()), 8) FROM pg_control_system()"
        )
    assert parts[:2] == list(row)
    assert len(parts) == 4
    assert all(parts)


async def test_changes_over_wide_holes(owner: rows.Owner, pool: asyncpg.Pool):
    """Positions far below the next change, over holes of billions, bring it in one call."""
    await owner.store(rows.alert("a:1"), rows.alert("b:1"))
    await feed.number(owner.database)
    await pool.execute("UPDATE alertwell.feed SET seq = 9223372036854775000 WHERE seq = 2")
    await pool.execute("UPDATE alertwell.feed_head SET last_seq = 9223372036854775000")
    assert [row["seq"] for row in await pool.fetch(PAGE, None, 5)] == [1, 9223372036854775000]
    assert [row["seq"] for row in await pool.fetch(PAGE, 2, 5)] == [9223372036854775000]

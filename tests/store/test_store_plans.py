"""Plans: what readers and the collector ask again and again is answered from an index, however much there is."""

import json
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from service.store import feed, retention, sorting
from tests import postgres
from tests.store import rows

# of 20,000: PostgreSQL 15 looks through the 40 tenants for each record that it shows, later ones do not
FEW = 8_000
FEED = "SELECT * FROM soc.change_feed WHERE seq > {0} AND seq <= {0} + 1000 ORDER BY seq LIMIT 1000"
EVERYBODY, ONE = "everybody", "one"
READERS = {
    "plans_everybody": [None],
    "plans_one": [rows.tenant_id(7)],
    "plans_three": [rows.tenant_id(n) for n in (7, 23, 39)],
    "plans_six": [rows.tenant_id(n) for n in (7, 8, 9, 23, 38, 39)],
}


@pytest.fixture(scope="module")
def many(postgres: postgres.Server, template: str) -> Iterator[str]:
    """A database with 20,000 alerts and incidents of 40 tenants, changes of two alerts and an incident in turn, numbered, and
    readers of different width: its name.
    """

    async def fill(name: str) -> None:
        connection = await asyncpg.connect(postgres.admin(name))
        try:
            await connection.execute(
                """
                INSERT INTO alertwell.tenant (tenant_id, name)
                SELECT ('11111111-1111-1111-1111-' || lpad(t::text, 12, '0'))::uuid, 'Contoso ' || t
                FROM generate_series(1, 40) t;
                INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, source_updated_text, content_hash,
                                             arrival, alert_id, device_name, raw)
                SELECT ('11111111-1111-1111-1111-' || lpad((1 + n % 40)::text, 12, '0'))::uuid, 'siem', n || ':1',
                       now() - make_interval(mins => n), '', n, 'live', n::text, 'ws-' || n % 400,
                       jsonb_build_object('Description', repeat('x', 500))
                FROM generate_series(1, 20000) n;
                INSERT INTO alertwell.incident (tenant_id, source, incident_id, last_update, source_updated_text, content_hash,
                                                status, raw)
                SELECT tenant_id, source, full_id, last_processed_at, '', 0, 'active', raw FROM alertwell.alert;
                INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, source, full_id, record)
                SELECT tenant_id, content_hash / 100, content_hash % 100, 1, 'created', source, full_id,
                       CASE WHEN content_hash % 3 = 0 THEN 'incident' ELSE 'alert' END
                FROM alertwell.alert;
                INSERT INTO alertwell.feed SELECT batch * 100 + n, tenant_id, batch, n FROM alertwell.alert_change;
                UPDATE alertwell.feed_head SET last_seq = 20000;
                INSERT INTO alertwell.poll (tenant_id, poll_id, source, replica_id, started_at, outcome, windows, items, inserted,
                                            updated, unchanged, stale, duplicate, rejected)
                SELECT tenant_id, gen_random_uuid(), 'siem', tenant_id, last_processed_at, 'complete', 1, 1, 1, 0, 0, 0, 0, 0
                FROM alertwell.alert;
                """
            )
            for role, seen in READERS.items():
                await connection.execute(f"CREATE ROLE {role}; GRANT USAGE ON SCHEMA soc TO {role}")
                await connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA soc TO {role}")
                await connection.executemany(
                    "INSERT INTO alertwell.reader VALUES ($1, $2)", [(role, one) for one in seen]
                )
            await connection.execute("VACUUM ANALYZE")
        finally:
            await connection.close()

    async def drop(name: str) -> None:
        connection = await asyncpg.connect(postgres.admin(name))
        try:
            for role in READERS:
                await connection.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
        finally:
            await connection.close()

    made = postgres.database(template)
    name = postgres.run(made.__aenter__())
    try:
        postgres.run(fill(name))
        yield name
        postgres.run(drop(name))
    finally:
        postgres.run(made.__aexit__(None, None, None))


@pytest.fixture(params=[EVERYBODY, ONE])
async def reader(
    request: pytest.FixtureRequest, postgres: postgres.Server, many: str
) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the reader of all tenants, and as the reader of one."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        await connection.execute(f"SET ROLE plans_{request.param}; SET jit = off")
        yield connection
    finally:
        await connection.close()


def nodes(plan: dict) -> Iterator[dict]:
    yield plan
    for below in plan.get("Plans", ()):
        yield from nodes(below)


async def read(
    connection: asyncpg.Connection, statement: str, *arguments: object
) -> tuple[set[str], set[str], int]:
    """Indexes that were used, tables that were read whole, and rows that were looked at."""
    [explained] = json.loads(
        await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON, TIMING OFF) {statement}", *arguments)
    )
    run = [node for node in nodes(explained["Plan"]) if node["Actual Loops"]]
    looked = sum(
        (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
        for node in run
        if "Relation Name" in node
    )
    return (
        {node["Index Name"] for node in run if "Index Name" in node},
        {node["Relation Name"] for node in run if node["Node Type"] == "Seq Scan"}
        & {"alert", "alert_change", "alert_merged", "feed", "incident", "poll"},
        looked,
    )


async def test_newest_alerts_of_a_tenant(reader: asyncpg.Connection):
    """They come from the index by tenant, without a look at other tenants' alerts."""
    indexes, whole, looked = await read(
        reader,
        "SELECT * FROM soc.alerts WHERE tenant_id = $1 ORDER BY last_processed_at DESC LIMIT 50",
        rows.tenant_id(7),
    )
    assert whole == set()
    assert indexes & {"alert_newest", "alert_by_alert_id", "alert_pkey"}
    assert looked < FEW


async def test_newest_merged_alerts_of_all_tenants(postgres: postgres.Server, many: str):
    """A reader of all tenants gets the newest 100 from the index by time, in its order, with what stands in their records."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        await connection.execute("SET ROLE plans_everybody; SET jit = off")
        indexes, whole, looked = await read(
            connection, "SELECT * FROM soc.alerts_merged ORDER BY last_processed_at DESC LIMIT 100"
        )
        assert ("alert_merged_newest_of_all" in indexes, whole) == (True, set())
        assert looked < FEW
    finally:
        await connection.close()


async def test_newest_merged_alerts_of_a_tenant(reader: asyncpg.Connection):
    """They come from an index by tenant, whoever asks."""
    indexes, whole, looked = await read(
        reader,
        "SELECT * FROM soc.alerts_merged WHERE tenant_id = $1 ORDER BY last_processed_at DESC LIMIT 100",
        rows.tenant_id(7),
    )
    assert whole == set()
    assert indexes & {"alert_merged_newest", "alert_merged_pkey"}
    assert looked < FEW


async def test_newest_merged_alerts_of_a_reader_of_three(postgres: postgres.Server, many: str):
    """Each of its tenants is read in the order of its index, and no further than the limit: nothing is sorted."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        await connection.execute("SET ROLE plans_three; SET jit = off")
        newest = "FROM soc.alerts_merged ORDER BY last_processed_at DESC LIMIT 100"
        # few columns: with 500 rows a tenant, fetching all of them whole and sorting them would be cheap too
        indexes, whole, looked = await read(connection, f"SELECT tenant_id {newest}")
        assert ("alert_merged_newest" in indexes, whole) == (True, set())
        assert looked < 600
        await connection.execute("RESET ROLE")
        for role, seen in READERS.items():
            tenants = [one for one in seen if one is not None] or [rows.tenant_id(n) for n in range(1, 41)]
            newest_of_all = await connection.fetch(
                """
                SELECT tenant_id, alert_id FROM alertwell.alert_merged WHERE tenant_id = ANY ($1)
                ORDER BY last_processed_at DESC LIMIT 100
                """,
                tenants,
            )
            await connection.execute(f"SET ROLE {role}")
            assert await connection.fetch(f"SELECT tenant_id, alert_id {newest}") == newest_of_all, role
            assert await connection.fetchval("SELECT count(*) FROM soc.alerts_merged") == 500 * len(tenants)
            await connection.execute("RESET ROLE")
    finally:
        await connection.close()


async def test_newest_alerts_since_a_time(reader: asyncpg.Connection):
    """With a time the index gives just those."""
    indexes, whole, looked = await read(
        reader,
        "SELECT * FROM soc.alerts WHERE tenant_id = $1 AND last_processed_at > now() - interval '1 day'",
        rows.tenant_id(7),
    )
    assert ("alert_newest" in indexes, whole) == (True, set())
    assert looked < 200


async def test_an_alert_by_its_id(reader: asyncpg.Connection):
    """tenant_id and alert_id find an alert in one step."""
    indexes, whole, looked = await read(
        reader, "SELECT * FROM soc.alerts WHERE tenant_id = $1 AND alert_id = $2", rows.tenant_id(7), "46"
    )
    assert ("alert_by_alert_id" in indexes, whole) == (True, set())
    assert looked < 200  # tenants and readers among them


async def test_the_newest_alerts_of_a_tenant_are_not_sorted(reader: asyncpg.Connection):
    """They come in the order of the index by tenant, and a limit ends it, where no page of the disk is far."""
    await reader.execute("SET random_page_cost = 1.1")
    indexes, whole, looked = await read(
        reader,
        "SELECT full_id, raw FROM soc.alerts WHERE tenant_id = $1 ORDER BY last_processed_at DESC LIMIT 50",
        rows.tenant_id(7),
    )
    assert ("alert_newest" in indexes, whole) == (True, set())
    assert looked < 200  # of its 500


async def test_the_newest_alerts_of_a_reader_of_three(postgres: postgres.Server, many: str):
    """Each of its tenants is read in the order of its index; and readers of any number see the newest of exactly theirs."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        await connection.execute("SET ROLE plans_three; SET jit = off; SET random_page_cost = 1.1")
        newest = "FROM soc.alerts ORDER BY last_processed_at DESC LIMIT 100"
        indexes, whole, looked = await read(connection, f"SELECT tenant_id {newest}")
        assert ("alert_newest" in indexes, whole) == (True, set())
        assert looked < 600
        await connection.execute("RESET ROLE")
        for role, seen in READERS.items():
            tenants = [one for one in seen if one is not None] or [rows.tenant_id(n) for n in range(1, 41)]
            newest_of_all = await connection.fetch(
                """
                SELECT tenant_id, full_id FROM alertwell.alert WHERE tenant_id = ANY ($1)
                ORDER BY last_processed_at DESC LIMIT 100
                """,
                tenants,
            )
            await connection.execute(f"SET ROLE {role}")
            assert await connection.fetch(f"SELECT tenant_id, full_id {newest}") == newest_of_all, role
            assert await connection.fetchval("SELECT count(*) FROM soc.alerts") == 500 * len(tenants)
            await connection.execute("RESET ROLE")
    finally:
        await connection.close()


async def test_one_severity_since_a_time(reader: asyncpg.Connection):
    """What all tenants have had since a time is found by that time."""
    indexes, whole, looked = await read(
        reader,
        """
        SELECT * FROM soc.alerts WHERE severity = 'unknown' AND last_processed_at > now() - interval '100 minutes'
        ORDER BY last_processed_at DESC
        """,
    )
    assert whole == set()
    assert indexes & {"alert_newest_of_all", "alert_newest"}
    assert looked < 600


async def test_alerts_of_a_device(reader: asyncpg.Connection):
    """A tenant and a device find its alerts, and no other device's are looked at."""
    indexes, whole, looked = await read(
        reader,
        "SELECT * FROM soc.alerts WHERE tenant_id = $1 AND device_name = $2 ORDER BY last_processed_at DESC LIMIT 50",
        rows.tenant_id(7),
        "ws-6",
    )
    assert ("alert_by_device" in indexes, whole) == (True, set())
    assert looked < FEW


@pytest.mark.parametrize(
    ("what", "index"),
    [
        ("alerts", "alert_newest_of_all"),
        ("alerts_merged", "alert_merged_newest_of_all"),
        ("incidents", "incident_newest_of_all"),
        ("polls", "poll_started"),
    ],
)
async def test_retention_finds_the_oldest(postgres: postgres.Server, many: str, what: str, index: str):
    """What is past its time comes from an index in its order, wherever in the table it lies: nothing else is read."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        indexes, whole, looked = await read(
            connection, retention.STATEMENTS[what], timedelta(days=4000), 2000
        )
        assert (index in indexes, whole) == (True, set())
        assert looked < 200
    finally:
        await connection.close()


async def test_the_end_of_the_feed(postgres: postgres.Server, many: str):
    """Looking whether the oldest changes are past their time reads these, and not the feed."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        indexes, whole, looked = await read(connection, feed.PRUNE, timedelta(days=4000), 100)
        assert ("feed_pkey" in indexes, whole) == (True, set())
        assert looked < 500
    finally:
        await connection.close()


@pytest.mark.parametrize("position", [19_900, 19_999])
async def test_a_poll_near_the_head(reader: asyncpg.Connection, position: int):
    """A few changes after a position cost a few rows, not the feed, in whatever form they are asked for."""
    for statement in (
        f"SELECT * FROM soc.change_feed WHERE seq > {position} ORDER BY seq",
        f"SELECT * FROM soc.change_feed WHERE seq > {position} ORDER BY seq LIMIT 1000",
        FEED.format(position),
    ):
        indexes, whole, looked = await read(reader, statement)
        assert whole == set(), statement
        assert indexes & {"feed_pkey", "feed_by_tenant"}
        assert looked < 1000


@pytest.mark.parametrize("position", [0, 10_000])
async def test_a_page_far_behind_the_head(reader: asyncpg.Connection, position: int):
    """What soc.changes asks for a page reads about that page, wherever it begins."""
    indexes, whole, looked = await read(reader, FEED.format(position))
    assert indexes & {"feed_pkey", "feed_by_tenant"}
    assert whole <= {"alert_change"}  # 20,000 of them fit into a few hundred blocks: a hash may be cheaper
    assert looked < 25_000


async def test_changes_of_a_reader_of_one_tenant(postgres: postgres.Server, many: str):
    """All changes of one tenant among forty are found in one call, in order, from the first page on."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        await connection.execute("SET ROLE plans_one")
        found = await connection.fetch("SELECT seq, tenant_id FROM soc.changes(0, 100)")
        assert len(found) == 100
        assert {UUID(row["tenant_id"]) for row in found} == {rows.tenant_id(7)}
        more = await connection.fetch("SELECT seq FROM soc.changes($1, 1000)", found[-1]["seq"])
        everything = [row["seq"] for row in [*found, *more]]
        assert everything == sorted(everything)
        assert len(everything) == 500
    finally:
        await connection.close()


async def test_the_owner_s_own_questions(postgres: postgres.Server, many: str):
    """Comparing keys before a store, and numbering, go through the primary keys."""
    connection = await asyncpg.connect(postgres.admin(many))
    try:
        indexes, whole, _ = await read(
            connection,
            sorting.statement("alert", "full_id", "last_processed_at"),
            rows.tenant_id(7),
            "siem",
            json.dumps([f"{6 + 40 * n}:1" for n in range(50)]),
            "{" + ",".join(["0"] * 50) + "}",
        )
        assert (indexes, whole) == ({"alert_pkey"}, set())
        indexes, whole, _ = await read(connection, "SELECT min(seq) FROM alertwell.feed WHERE seq > 10")
        assert (indexes, whole) == ({"feed_pkey"}, set())
    finally:
        await connection.close()

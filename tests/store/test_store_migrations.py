"""From one revision to the next: nothing that is held is lost, and the result is the schema that a fresh database gets."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.store import feed, pool, schema
from tests import postgres
from tests.store import rows

FIRST, SECOND, THIRD = (
    Path(schema.folder(), "versions", name).read_text("utf-8")
    for name in ("0001_collector.sql", "0002_sources.sql", "0003_incident_changes.sql")
)
OLD = """
    INSERT INTO alertwell.tenant (tenant_id, name) VALUES ($1, 'Contoso')
"""
# As software of revision 1 writes.
OLD_ALERT = """
    INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, source_updated_text, content_hash, arrival,
                                 alert_id, title, raw)
    SELECT $1, 'siem', f, now(), '', 0, 'live', split_part(f, ':', 1), f, '{"Description": "x"}' FROM unnest($2::text[]) f
"""
OLD_POLL = """
    INSERT INTO alertwell.poll (tenant_id, poll_id, source, replica_id, started_at, outcome, windows, items, inserted, updated,
                                unchanged, stale, duplicate, rejected)
    VALUES ($1, gen_random_uuid(), 'siem', gen_random_uuid(), now(), 'complete', 1, 3, 3, 0, 0, 0, 0, 0)
"""
# As software of revision 2 writes: the change of an alert, and an incident, which has none.
SECOND_CHANGE = """
    WITH change AS (
        INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id)
        SELECT $1, nextval('alertwell.change_batch'), 1, 1, 'created', 'live', 'siem', $2 RETURNING tenant_id, batch
    )
    INSERT INTO alertwell.unnumbered (tenant_id, batch, changes) SELECT tenant_id, batch, 1 FROM change
"""
SECOND_INCIDENT = """
    INSERT INTO alertwell.incident AS held (tenant_id, source, incident_id, last_update, source_updated_text, content_hash,
                                            status, raw, raw_exact, alert_ids)
    SELECT $1, 'xdr_incidents', i.incident_id, now(), '', 0, 'active', i.raw::jsonb, i.raw_exact, i.alert_ids
    FROM unnest($2::alertwell.incoming_incident[]) AS i
    ON CONFLICT (tenant_id, source, incident_id) DO UPDATE
    SET alert_ids = excluded.alert_ids, revision = held.revision + 1
"""
# Three alerts of two sources: reopened by a fresher record, with a verdict of one record alone, and with a word unknown.
WORKED_ON = f"""
    INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, source_updated_text, content_hash, arrival,
                                 alert_id, status, assigned_to, resolved_at, raw)
    SELECT $1, w.source, w.id, '{rows.NOON}'::timestamptz + w.later, '', 0, 'live', w.id, w.status, w.kim,
           w.done, '{{}}'
    FROM (VALUES ('xdr_incidents', 'm', '0 h'::interval, 'resolved', 'kim', '{rows.NOON}'::timestamptz),
                 ('mde_alerts', 'm', '1 h', 'new', NULL, NULL),
                 ('xdr_incidents', 'n', '0 h', 'resolved', 'kim', '{rows.NOON}'),
                 ('xdr_incidents', 'o', '0 h', 'resolved', 'kim', '{rows.NOON}'),
                 ('mde_alerts', 'o', '1 h', 'unknown', NULL, NULL)) w (source, id, later, status, kim, done)
"""
OBJECTS = """
    SELECT c.oid::regclass::text AS name, c.relkind::text AS kind, a.attname::text AS column,
           format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS needed, a.attcompression::text AS compression
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    WHERE c.relnamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace) ORDER BY 1, a.attnum
"""


@pytest.fixture
async def first_revision(empty_url: str) -> asyncpg.Connection:
    """A database at revision 1, as its migration left it, with a tenant, three alerts and a poll."""
    connection = await asyncpg.connect(empty_url)
    await connection.execute("CREATE SCHEMA alertwell")
    await connection.execute(FIRST)
    await connection.execute(
        """
        CREATE TABLE alertwell.alembic_version (
            version_num varchar(32) CONSTRAINT alembic_version_pkc PRIMARY KEY);
        INSERT INTO alertwell.alembic_version VALUES ('0001');
        """
    )
    await connection.execute(OLD, rows.tenant_id(1))
    await connection.execute(OLD_ALERT, rows.tenant_id(1), ["a:1", "a:2", "b:1"])
    await connection.execute(OLD_POLL, rows.tenant_id(1))
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def second_revision(first_revision: asyncpg.Connection) -> asyncpg.Connection:
    """The same at revision 2, with a change in the feed."""
    await first_revision.execute(SECOND)
    await first_revision.execute("UPDATE alertwell.alembic_version SET version_num = '0002'")
    await first_revision.execute(SECOND_CHANGE, rows.tenant_id(1), "a:1")
    return first_revision


async def test_what_was_held_stays_and_is_merged(first_revision: asyncpg.Connection, empty_url: str):
    """Alerts, polls and tenants are as they were; each alert id has its merged row; the next run changes nothing."""
    tables = ("tenant", "alert")
    before = {table: await first_revision.fetch(f"SELECT * FROM alertwell.{table}") for table in tables}
    assert await schema.migrate(empty_url) == schema.REVISION
    for table in tables:
        assert await first_revision.fetch(f"SELECT * FROM alertwell.{table}") == before[table]
    merged = await first_revision.fetch(
        "SELECT alert_id, full_ids, description FROM soc.alerts_merged ORDER BY 1"
    )
    assert [tuple(row) for row in merged] == [("a", ["a:1", "a:2"], "x"), ("b", ["b:1"], "x")]
    assert await first_revision.fetchval("SELECT nested FROM alertwell.poll") == 0
    async with pool.open_database(empty_url, size=1) as database:
        await schema.check(database)


async def test_an_upgraded_schema_is_a_fresh_one(
    first_revision: asyncpg.Connection, empty_url: str, pool: asyncpg.Pool
):
    """Relations, columns, types, views, functions and their grants, indexes and triggers are the same either way."""
    await schema.migrate(empty_url)
    for statement in (
        OBJECTS,
        "SELECT viewname::text, definition FROM pg_views WHERE schemaname IN ('alertwell', 'soc') ORDER BY 1",
        "SELECT indexdef FROM pg_indexes WHERE schemaname IN ('alertwell', 'soc') ORDER BY 1",
        "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
        """
        SELECT pg_get_functiondef(oid) FROM pg_proc
        WHERE pronamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace) ORDER BY 1
        """,
        "SELECT proname::text, proacl::text FROM pg_proc WHERE pronamespace = 'soc'::regnamespace ORDER BY 1",
        "SELECT revision, works_with_from FROM alertwell.schema_version",
    ):
        assert await first_revision.fetch(statement) == await pool.fetch(statement)


async def test_software_of_the_first_revision_goes_on(first_revision: asyncpg.Connection, empty_url: str):
    """What it writes after the upgrade is merged too: so works_with_from says 1."""
    await schema.migrate(empty_url)
    await first_revision.execute(OLD_ALERT, rows.tenant_id(1), ["b:2", "c:1"])
    await first_revision.execute(OLD_POLL, rows.tenant_id(1))
    await first_revision.execute("UPDATE alertwell.alert SET title = 'newer' WHERE full_id = 'c:1'")
    merged = await first_revision.fetch("SELECT alert_id, full_ids FROM soc.alerts_merged ORDER BY 1")
    assert [tuple(row) for row in merged] == [("a", ["a:1", "a:2"]), ("b", ["b:1", "b:2"]), ("c", ["c:1"])]
    assert (
        await first_revision.fetchval("SELECT title FROM soc.alerts_merged WHERE alert_id = 'c'") == "newer"
    )
    assert await first_revision.fetchval("SELECT works_with_from FROM alertwell.schema_version") == 1


async def test_software_of_the_second_revision_goes_on(second_revision: asyncpg.Connection, empty_url: str):
    """What it writes after the upgrade is stored, and its changes are of alerts."""
    await schema.migrate(empty_url)
    await second_revision.execute(SECOND_CHANGE, rows.tenant_id(1), "b:1")
    travelling = [("7", *(None,) * 3, '{"incidentId": "7"}', *(None,) * 11, ["b"])]
    for _ in range(2):
        await second_revision.execute(SECOND_INCIDENT, rows.tenant_id(1), travelling)
    async with pool.open_database(empty_url, size=1) as database:
        assert await feed.number(database) == 2
    found = await second_revision.fetch(
        "SELECT record, full_id, title, incident_id, incident FROM soc.changes()"
    )
    assert [tuple(row) for row in found] == [("alert", key, key, None, None) for key in ("a:1", "b:1")]
    assert await second_revision.fetchval("SELECT revision FROM soc.incidents") == 2


async def test_merged_rows_lose_what_was_cleared(second_revision: asyncpg.Connection, empty_url: str):
    """Revision 3 kept a verdict and an owner that a fresher record had cleared: the upgrade takes them out of the rows of
    several records, and leaves all others as they are.
    """
    await second_revision.execute(THIRD)
    await second_revision.execute("UPDATE alertwell.alembic_version SET version_num = '0003'")
    await second_revision.execute(WORKED_ON, rows.tenant_id(1))
    kept = "SELECT alert_id, status, assigned_to, resolved_at FROM soc.alerts_merged ORDER BY 1"
    before = await second_revision.fetch(kept)
    untouched = "SELECT alert_id, xmin::text FROM alertwell.alert_merged WHERE alert_id <> 'm' ORDER BY 1"
    versions = await second_revision.fetch(untouched)
    await schema.migrate(empty_url)
    assert [tuple(row) for row in before if row["alert_id"] == "m"] == [("m", "new", "kim", rows.NOON)]
    assert [tuple(row) for row in await second_revision.fetch(kept)] == [
        ("m", "new", None, None) if row["alert_id"] == "m" else tuple(row) for row in before
    ]
    assert await second_revision.fetch(untouched) == versions
    for one, other in (("alert_merging", "alert_merged"), ("alert_merged", "alert_merging")):
        rest = f"SELECT * FROM alertwell.{one} EXCEPT SELECT * FROM alertwell.{other}"
        assert await second_revision.fetch(rest) == []


@pytest.mark.parametrize("by", ["owner", "superuser"])
async def test_readers_read_on(
    second_revision: asyncpg.Connection, postgres: postgres.Server, empty_url: str, by: str
):
    """A role that was made as documented before an upgrade reads the feed after it, whoever migrates, even where the
    functions had been taken from PUBLIC; nobody else gets them, and their owner is who it was.
    """
    name = urlsplit(empty_url).path.removeprefix("/")
    admin_url = postgres.admin(name)
    await second_revision.execute("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA soc FROM PUBLIC")
    owners = "SELECT proname::text, proowner FROM pg_proc WHERE pronamespace = 'soc'::regnamespace ORDER BY 1"
    before = await second_revision.fetch(owners)
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        role = await reader.fetchval("SELECT current_user")
        await second_revision.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA soc TO {role}")
        await schema.migrate(admin_url if by == "superuser" else empty_url)
        async with pool.open_database(empty_url, size=1) as database:
            await feed.number(database)
        for relation in ("soc.changes()", "soc.change_feed"):
            [row] = await reader.fetch(f"SELECT full_id, record FROM {relation}")
            assert tuple(row) == ("a:1", "alert")
        async with rows.reader(admin_url) as other:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await other.fetch("SELECT FROM soc.changes()")
    assert await second_revision.fetch(owners) == before

"""From one revision to the next: nothing that is held is lost, and the result is the schema that a fresh database gets."""

from pathlib import Path

import asyncpg
import pytest

from service.store import pool, schema
from tests.store import rows

FIRST = Path(schema.folder(), "versions", "0001_collector.sql").read_text("utf-8")
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
    """Relations, columns, types, definitions of views, functions, indexes and triggers are the same either way."""
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

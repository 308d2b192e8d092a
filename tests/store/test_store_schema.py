"""The schema: made from nothing, checked at every start, and what it promises about itself."""

import asyncio
import re
from pathlib import Path

import asyncpg
import pytest

from service import errors
from service.store import pool, schema
from tests import postgres
from tests.store import rows

TEXTS = (
    "tenant_name",
    "source",
    "full_id",
    "alert_id",
    "incident_id",
    "title",
    "description",
    "severity",
    "status",
    "category",
    "detection_source",
    "service_source",
    "device_name",
    "device_id",
    "device_group",
    "user_name",
    "file_sha256",
    "threat_name",
    "assigned_to",
    "classification",
    "determination",
    "remediation_action",
    "alert_url",
    "incident_url",
    "arrival",
    "external_ref",
)
TIMES = (
    "event_time",
    "last_processed_at",
    "source_updated_at",
    "created_at",
    "resolved_at",
    "first_seen_at",
    "updated_at",
)
FEED = {
    "tenant_id": "text",
    "tenant_name": "text",
    "source": "text",
    "full_id": "text",
    "alert_id": "text",
    "kind": "text",
    "arrival": "text",
    "severity": "text",
    "status": "text",
    "title": "text",
    "seq": "bigint",
    "change_id": "uuid",
    "revision": "integer",
    "at": "timestamp with time zone",
    "record": "text",
    "incident_id": "text",
}
STAMP = "timestamp with time zone"
CONTRACT = {
    "alerts": {
        **dict.fromkeys(TEXTS, "text"),
        **dict.fromkeys(TIMES, STAMP),
        "tenant_id": "uuid",
        "severity_rank": "smallint",
        "mitre_techniques": "text[]",
        "revision": "integer",
        "labels": "jsonb",
        "raw": "jsonb",
    },
    "alerts_merged": {
        **dict.fromkeys(set(TEXTS) - {"source", "full_id"}, "text"),
        **dict.fromkeys(set(TIMES) - {"source_updated_at"}, STAMP),
        "newest_source": "text",
        "newest_full_id": "text",
        "tenant_id": "uuid",
        "severity_rank": "smallint",
        "sources": "text[]",
        "full_ids": "text[]",
        "detections": "integer",
        "mitre_techniques": "text[]",
        "labels": "jsonb",
    },
    "incidents": {
        "tenant_id": "uuid",
        "tenant_name": "text",
        "source": "text",
        "incident_id": "text",
        "redirect_incident_id": "text",
        "alert_ids": "text[]",
        "title": "text",
        "severity": "text",
        "severity_rank": "smallint",
        "status": "text",
        "assigned_to": "text",
        "tags": "text[]",
        "incident_url": "text",
        "created_at": STAMP,
        "source_updated_at": STAMP,
        "first_seen_at": STAMP,
        "updated_at": STAMP,
        "revision": "integer",
        "labels": "jsonb",
        "raw": "jsonb",
        "raw_exact": "bytea",
    },
    "change_feed": {**FEED, "changed": "text", "alert": "text", "incident": "text"},
    "feed": {
        "oldest_seq": "bigint",
        "head_seq": "bigint",
        "unnumbered": "bigint",
        "oldest_unnumbered_seconds": "double precision",
        "restored_at": STAMP,
    },
    "coverage": {
        "tenant_id": "uuid",
        "tenant_name": "text",
        "source": "text",
        "state": "text",
        "state_reason": "text",
        "state_since": STAMP,
        "enabled": "boolean",
        "wanted": "tstzmultirange",
        "watermark": STAMP,
        "coverage": "tstzmultirange",
        "gaps": "tstzmultirange",
        "proven_until": STAMP,
        "data_age_seconds": "double precision",
        "late_arrivals": "bigint",
        "last_verified_at": STAMP,
        "last_success_at": STAMP,
        "next_poll_at": STAMP,
    },
    "accounting": {
        "tenant_id": "uuid",
        "tenant_name": "text",
        "source": "text",
        "items": "bigint",
        "inserted": "bigint",
        "updated": "bigint",
        "unchanged": "bigint",
        "stale": "bigint",
        "duplicate": "bigint",
        "rejected": "bigint",
    },
    "gaps": {
        "tenant_id": "text",
        "tenant_name": "text",
        "source": "text",
        "gap_from": STAMP,
        "gap_to": STAMP,
        "reason": "text",
        "opened_at": STAMP,
        "lost_after": STAMP,
    },
    "rejects": {
        "id": "bigint",
        "tenant_id": "uuid",
        "source": "text",
        "reason": "text",
        "received_at": STAMP,
        "raw": "text",
    },
    "tenants": {
        "tenant_id": "uuid",
        "name": "text",
        "cloud": "text",
        "region": "text",
        "state": "text",
        "state_reason": "text",
        "labels": "jsonb",
        "external_ref": "text",
        "consented_at": STAMP,
        "sources": "text[]",
    },
    "audit": {
        "audit_id": "bigint",
        "at": STAMP,
        "actor": "text",
        "action": "text",
        "tenant_id": "uuid",
        "tenant_name": "text",
        "detail": "jsonb",
    },
    "invitations": {
        "invitation_id": "uuid",
        "name": "text",
        "tenant_id": "uuid",
        "sources": "text[]",
        "state": "text",
        "state_reason": "text",
        "created_at": STAMP,
        "created_by": "text",
        "expires_at": STAMP,
        "used_at": STAMP,
    },
}
# Rows of these belong to no tenant.
OF_NOBODY = {"replica", "roster", "schema_version", "alembic_version", "feed_head", "reader_rule"}


async def relations(connection: asyncpg.Connection, namespace: str, kinds: str) -> set[str]:
    found = await connection.fetch(
        'SELECT relname FROM pg_class WHERE relnamespace = $1::regnamespace AND relkind = ANY ($2::"char"[])',
        namespace,
        [kind.encode() for kind in kinds],
    )
    return {row[0] for row in found}


async def test_migrates_from_empty_and_again(postgres: postgres.Server):
    """An empty database of a role that is no superuser gets the newest schema; a second run changes nothing."""
    async with (
        postgres.database() as name,
        rows.role(postgres.admin(name), "CREATE ON DATABASE " + name) as dsn,
    ):
        assert await schema.migrate(dsn) == schema.REVISION
        connection = await asyncpg.connect(dsn)
        try:
            assert not await connection.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user")
            everything = "SELECT oid, xmin::text FROM pg_class WHERE relnamespace::regnamespace::text IN ('alertwell', 'soc')"
            before = await connection.fetch(everything)
            assert await schema.migrate(dsn) == schema.REVISION
            assert await connection.fetch(everything) == before
            async with pool.open_database(dsn, size=1) as database:
                await schema.check(database)
            await schema.reset(dsn)
            assert await connection.fetchval("SELECT to_regnamespace('alertwell')") is None
        finally:
            await connection.close()
        assert await schema.migrate(dsn) == schema.REVISION


@pytest.mark.parametrize(
    "obstacle",
    [
        "CREATE SCHEMA soc",
        "CREATE SCHEMA alertwell; CREATE TABLE alertwell.alembic_version (version_num text CHECK (version_num <> '0001'))",
    ],
)
async def test_a_migration_that_fails_leaves_nothing(empty_url: str, obstacle: str):
    """Schema and version are one transaction: what stops it, at the start or at the very end, leaves no table behind."""
    connection = await asyncpg.connect(empty_url)
    try:
        await connection.execute(obstacle)
        with pytest.raises(errors.SchemaMismatch, match="the migration did not run: "):
            await schema.migrate(empty_url)
        left = await connection.fetchval(
            "SELECT count(*) FROM pg_class WHERE relname IN ('tenant', 'alert', 'stream')"
        )
        assert left == 0
    finally:
        await connection.close()


async def test_migrations_run_one_at_a_time(empty_url: str):
    """Two that start together both succeed."""
    assert await asyncio.gather(schema.migrate(empty_url), schema.migrate(empty_url)) == [schema.REVISION] * 2


async def test_tables_in_the_way_are_told(empty_url: str):
    """What stands in the way of a migration is named in one line, not traced as a stack."""
    connection = await asyncpg.connect(empty_url)
    try:
        await connection.execute("CREATE SCHEMA alertwell; CREATE TABLE alertwell.schema_version (one int)")
    finally:
        await connection.close()
    with pytest.raises(errors.SchemaMismatch, match='relation "schema_version" already exists'):
        await schema.migrate(empty_url)


async def test_check_of_an_empty_database(empty_url: str):
    """No schema: the command to run is named."""
    async with pool.open_database(empty_url, size=1) as database:
        with pytest.raises(
            errors.SchemaMismatch, match=r"no schema of Alertwell yet\. Run: alertwell migrate"
        ):
            await schema.check(database)


@pytest.mark.parametrize(
    ("revision", "works_with_from", "said"),
    [
        (schema.REVISION, schema.REVISION, None),
        (schema.REVISION - 1, 0, "Run: alertwell migrate"),
        (schema.REVISION + 5, schema.REVISION, None),
        (schema.REVISION + 5, schema.REVISION + 1, "Update Alertwell"),
    ],
    ids=["same", "older", "newer and compatible", "newer and incompatible"],
)
async def test_check(
    database: pool.Database, pool: asyncpg.Pool, revision: int, works_with_from: int, said: str | None
):
    """A service starts on its own schema and on a newer one that works with it; else the message says what to do."""
    await pool.execute(
        "UPDATE alertwell.schema_version SET revision = $1, works_with_from = $2", revision, works_with_from
    )
    if said is None:
        await schema.check(database)
    else:
        with pytest.raises(errors.SchemaMismatch, match=said):
            await schema.check(database)


async def test_everything_public_has_a_comment(pool: asyncpg.Pool):
    """Schema, views and functions of soc say what they are."""
    silent = await pool.fetch(
        """
        SELECT c.relname::text FROM pg_class c
        WHERE c.relnamespace = 'soc'::regnamespace AND c.relkind IN ('v', 'r', 'm')
          AND obj_description(c.oid, 'pg_class') IS NULL
        UNION ALL
        SELECT p.proname::text FROM pg_proc p
        WHERE p.pronamespace = 'soc'::regnamespace AND obj_description(p.oid, 'pg_proc') IS NULL
        UNION ALL
        SELECT 'soc' WHERE obj_description('soc'::regnamespace, 'pg_namespace') IS NULL
        """
    )
    assert silent == []


@pytest.mark.parametrize("view", CONTRACT)
async def test_public_columns(pool: asyncpg.Pool, view: str):
    """Each view has the columns of the contract with their types."""
    found = await pool.fetch(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0",
        f"soc.{view}",
    )
    assert CONTRACT[view].items() <= {row[0]: row[1] for row in found}.items()


async def test_public_objects(pool: asyncpg.Pool):
    """Schema soc holds the contract's views and functions and nothing else, least of all a table."""
    assert await relations(pool, "soc", "v") == set(CONTRACT)
    assert await relations(pool, "soc", "rmSp") == set()
    functions = await pool.fetch(
        "SELECT oid::regprocedure::text FROM pg_proc WHERE pronamespace = 'soc'::regnamespace"
    )
    assert {row[0] for row in functions} == {"soc.changes(bigint,integer)", "soc.readable(bytea)"}


async def test_changes_has_the_feed_s_columns(pool: asyncpg.Pool):
    """soc.changes brings the rows of soc.change_feed, with jsonb where the view has text."""
    row = await pool.fetchrow(
        "SELECT proallargtypes::regtype[]::text[] AS types, proargnames AS names, proargmodes::text[] AS modes "
        "FROM pg_proc WHERE proname = 'changes'"
    )
    columns = {
        name: kind
        for name, kind, mode in zip(row["names"], row["types"], row["modes"], strict=True)
        if mode == "t"
    }
    assert columns == {**FEED, "changed": "jsonb", "alert": "jsonb", "incident": "jsonb"}


async def test_keys_of_tenant_data_start_with_the_tenant(pool: asyncpg.Pool):
    """Primary keys and unique constraints begin with tenant_id, but for what can be without a tenant."""
    found = await pool.fetch(
        """
        SELECT indrelid::regclass::text AS relation, (
            SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = indkey[0]) AS first
        FROM pg_index JOIN pg_class ON pg_class.oid = indrelid
        WHERE relnamespace = 'alertwell'::regnamespace AND indisunique
        """
    )
    others = {
        (row["relation"].removeprefix("alertwell."), row["first"])
        for row in found
        if row["first"] != "tenant_id"
    }
    assert {one for one in others if one[0] not in OF_NOBODY} == {
        ("feed", "seq"),
        ("reader", "role"),
        ("audit", "audit_id"),
        ("invitation", "invitation_id"),
    }


async def test_alerts_and_changes_have_no_foreign_keys(pool: asyncpg.Pool):
    """They cost 6 % each."""
    found = await pool.fetch(
        "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
    )
    large = ("alert", "alert_change", "alert_merged", "feed", "incident")
    assert not {f"alertwell.{name}" for name in large} & {row[0] for row in found}


async def test_records_are_compressed_with_lz4_where_there_is_lz4(pool: asyncpg.Pool):
    """Raw records use lz4 exactly where the server has it."""
    has = await pool.fetchval(
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'"
    )
    used = await pool.fetch(
        """
        SELECT attcompression::text FROM pg_attribute
        WHERE (attrelid, attname) IN (('alertwell.alert'::regclass, 'raw'), ('alertwell.incident'::regclass, 'raw'),
                                      ('alertwell.alert_change'::regclass, 'changed'))
        """
    )
    assert [row[0] for row in used] == ["l" if has else ""] * 3


async def test_relations_are_granted_to_nobody_else(pool: asyncpg.Pool):
    """No relation of either schema has been granted to anyone but the group roles by the migration, PUBLIC included."""
    found = await pool.fetch(
        """
        SELECT relname, acl.grantee FROM pg_class, aclexplode(relacl) acl
        WHERE relnamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace) AND acl.grantee <> relowner
          AND acl.grantee NOT IN (SELECT oid FROM pg_roles WHERE rolname IN ('alertwell_service', 'soc_reader'))
        """
    )
    assert found == []


def test_the_migrations_are_plain_sql_without_schema_gaps():
    """Names in the script are qualified: it does not depend on a search_path."""
    scripts = sorted(Path(schema.folder(), "versions").glob("*.sql"))
    assert scripts[-1].name.startswith(f"{schema.REVISION:04}_")
    for script in scripts:
        created = re.findall(
            r"^CREATE (?:OR REPLACE )?(?:TABLE|VIEW|SEQUENCE|FUNCTION|TYPE) (\S+)",
            script.read_text("utf-8"),
            re.MULTILINE,
        )
        assert all(name.startswith(("alertwell.", "soc.")) for name in created)

"""The group roles: what the service may do and what it may not, and a migration by whoever owns the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import asyncpg
import pytest

from service.store import pool, roles, schema
from tests import postgres
from tests.store import rows

DENIED = (
    "CREATE TABLE alertwell.mine ()",
    "CREATE TABLE soc.mine ()",
    "DROP VIEW soc.alerts",
    "ALTER TABLE alertwell.alert ADD COLUMN mine text",
    "TRUNCATE alertwell.alert",
    "CREATE OR REPLACE VIEW soc.alerts AS SELECT",
    "ALTER FUNCTION alertwell.apply_labels() SECURITY INVOKER",
    "DELETE FROM alertwell.tenant",
    "DELETE FROM alertwell.credential",
    "DELETE FROM alertwell.audit",
    "UPDATE alertwell.audit SET actor = 'nobody'",
    "UPDATE alertwell.alert_change SET changed = NULL",
    "INSERT INTO alertwell.reader VALUES (current_user, NULL)",
    "INSERT INTO alertwell.reader_rule (role, everything, added_by) VALUES (current_user, true, 'me')",
    "UPDATE alertwell.schema_version SET works_with_from = 0",
    "SELECT FROM alertwell.alembic_version",
    "UPDATE alertwell.alembic_version SET version_num = '0001'",
    "SET session_replication_role = replica",
    "SET ROLE soc_reader",
    "CREATE ROLE another",
)


@pytest.fixture
async def service(admin_url: str) -> AsyncIterator[str]:
    """The address of the database as a login that is a member of alertwell_service and of nothing else."""
    async with rows.role(admin_url, roles.SERVICE) as dsn:
        yield dsn


async def test_the_service_lacks_what_it_does_not_need(service: str):
    """No DDL, no deletion of tenants, credentials or audit, no hand on the wall, on the schema's version or on other roles."""
    connection = await asyncpg.connect(service)
    try:
        for statement in DENIED:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)
        facts = await connection.fetchrow(
            """
            SELECT rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls AS mighty,
                   pg_has_role(oid, (SELECT nspowner FROM pg_namespace WHERE nspname = 'alertwell'), 'MEMBER') AS owner
            FROM pg_roles WHERE rolname = current_user
            """
        )
        assert tuple(facts) == (False, False)
        assert await connection.fetchval("SELECT everything FROM alertwell.reader_scope")
    finally:
        await connection.close()


async def test_each_table_says_what_the_service_does_to_it(pool: asyncpg.Pool):
    """A new table of schema alertwell gets its line in `roles`, and what is granted is what stands there."""
    found = await pool.fetch(
        """
        SELECT c.relname::text, ARRAY(SELECT a.privilege_type FROM aclexplode(c.relacl) a
                                      WHERE a.grantee = 'alertwell_service'::regrole ORDER BY 1)
        FROM pg_class c WHERE c.relnamespace = 'alertwell'::regnamespace AND c.relkind IN ('r', 'p')
        """
    )
    wanted = {name: sorted({"SELECT", *writes}) for name, writes in roles.WRITES.items()}
    assert dict(map(tuple, found)) == wanted | {name: [] for name in roles.HIDDEN}


async def test_a_migration_takes_back_what_is_too_much(database_url: str, pool: asyncpg.Pool):
    """Rights that were given by hand, and ones that a later version needs no more, are gone after it."""
    await pool.execute(
        "GRANT ALL ON alertwell.audit TO alertwell_service; GRANT SELECT ON alertwell.alert TO soc_reader"
    )
    await schema.migrate(database_url)
    granted = "SELECT has_table_privilege($1, $2, $3)"
    assert not await pool.fetchval(granted, roles.SERVICE, "alertwell.audit", "DELETE")
    assert await pool.fetchval(granted, roles.SERVICE, "alertwell.audit", "INSERT")
    assert not await pool.fetchval(granted, roles.READER, "alertwell.alert", "SELECT")


async def test_migrates_as_a_plain_owner(postgres: postgres.Server, empty_url: str):
    """A role that owns the database and may do nothing else brings it up to date; so does a superuser after it, and all that is
    made belongs to the owner.
    """
    name = urlsplit(empty_url).path.removeprefix("/")
    async with rows.role(postgres.admin(name)) as dsn:
        owner = urlsplit(dsn).username
        await postgres.execute(f"ALTER DATABASE {name} OWNER TO {owner}")
        try:
            assert await schema.migrate(dsn) == schema.REVISION
            assert await schema.migrate(postgres.admin(name)) == schema.REVISION
            connection = await asyncpg.connect(dsn)
            owners = await connection.fetch(
                """
                SELECT DISTINCT relowner::regrole::text FROM pg_class
                WHERE relnamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace)
                UNION SELECT proowner::regrole::text FROM pg_proc
                WHERE pronamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace)
                """
            )
            await connection.close()
            assert [row[0] for row in owners] == [owner]
        finally:
            admin = await asyncpg.connect(postgres.admin(name))
            await admin.execute(
                f"DROP SCHEMA soc, alertwell CASCADE; REASSIGN OWNED BY {owner} TO CURRENT_USER"
            )
            await admin.execute(f"ALTER DATABASE {name} OWNER TO CURRENT_USER")
            await admin.close()


async def test_migrates_as_the_owner_of_the_schemas(postgres: postgres.Server, empty_url: str):
    """Once the schemas are there, a role that owns them, and may not make others in the database, migrates."""
    name = urlsplit(empty_url).path.removeprefix("/")
    async with rows.role(postgres.admin(name)) as dsn:
        await schema.migrate(postgres.admin(name))
        owner = urlsplit(dsn).username
        admin = await asyncpg.connect(postgres.admin(name))
        try:
            await admin.execute(
                f"ALTER SCHEMA alertwell OWNER TO {owner}; ALTER SCHEMA soc OWNER TO {owner};"
                f"ALTER TABLE alertwell.alembic_version OWNER TO {owner}; ALTER TABLE alertwell.schema_version OWNER TO {owner}"
            )
            assert await schema.migrate(dsn) == schema.REVISION
        finally:
            await admin.execute(f"REASSIGN OWNED BY {owner} TO CURRENT_USER")
            await admin.close()


async def test_the_roles_that_an_administrator_has_to_make(postgres: postgres.Server, template: str):
    """Where all is there nothing is said; asked for the whole, each statement is."""
    async with postgres.database(template) as name:
        assert await roles.for_administrator(postgres.dsn(name)) == []
        whole = await roles.for_administrator(postgres.dsn(name), whole=True)
    assert [statement.split()[:3] for statement in whole] == [
        ["CREATE", "ROLE", "alertwell_service"],
        ["CREATE", "ROLE", "soc_reader"],
        ["GRANT", "soc_reader", "TO"],
    ]


async def test_rules_and_labels_at_once(database: pool.Database, pool: asyncpg.Pool):
    """A tenant that gets its label while a rule is added is seen, whichever of the two commits first."""
    await rows.enrol(database, 1)
    rule = (
        "INSERT INTO alertwell.reader_rule (role, labels, added_by) VALUES ($1, '{\"team\": \"blue\"}', 'me')"
    )
    label = 'UPDATE alertwell.tenant SET labels = \'{"team": "blue"}\''
    seen = "SELECT count(*) FROM alertwell.reader WHERE role = $1"
    for first, second in ((rule, label), (label, rule)):
        role = f"reader_of_{first[:6].lower()}"
        await pool.execute("UPDATE alertwell.tenant SET labels = '{}'")
        one, other = await pool.acquire(), await pool.acquire()
        transaction = one.transaction()
        await transaction.start()
        await one.execute(first, *[role] * (first is rule))
        waiting = asyncio.ensure_future(other.execute(second, *[role] * (second is rule)))
        await rows.blocked(one)
        await transaction.commit()
        await waiting
        assert await one.fetchval(seen, role) == 1, first
        await pool.release(one)
        await pool.release(other)

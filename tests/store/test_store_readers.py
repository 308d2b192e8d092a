"""The wall between readers: each view and function shows a role its own tenants, whatever it asks."""

from datetime import timedelta

import asyncpg
import pytest

from service import model
from service.store import feed, invitations, pool, streams
from tests.store import rows

TENANT_OF = {
    "tenants": "tenant_id::text",
    "alerts": "tenant_id::text",
    "alerts_merged": "tenant_id::text",
    "incidents": "tenant_id::text",
    "change_feed": "tenant_id",
    "coverage": "tenant_id::text",
    "accounting": "tenant_id::text",
    "gaps": "tenant_id",
    "rejects": "tenant_id::text",
    "audit": "tenant_id::text",
    "invitations": "tenant_id::text",
    "changes()": "tenant_id",
}


async def fill(database: pool.Database) -> list[rows.Owner]:
    """Two tenants with something in every view."""
    owners = await rows.owners(database, 2)
    for n, one in enumerate(owners, 1):
        secret = f"secret of {n}"
        await one.store(
            rows.alert(f"{secret}:1", title=secret),
            rejects=[model.Reject("not JSON", secret.encode())],
            folded=rows.interval(0, 1) | rows.interval(2, 3),
        )
        await one.store(incidents=[rows.incident(secret, title=secret, record={"comment": secret})])
        await streams.note_gap(
            database,
            one.lease,
            "siem",
            one.poll,
            span=(rows.hour(1), rows.hour(2)),
            reason=secret,
            sample=b"",
        )
        wanted = invitations.Wanted(
            one.lease.tenant_id, f"Contoso {n}", "public", None, ("graph_alerts",), "v2", {"note": secret}
        )
        await invitations.invite(database, [wanted], valid=timedelta(days=1), actor=secret)
    await feed.number(database)
    return owners


async def tenants_in(reader: asyncpg.Connection, relation: str) -> set[str]:
    return {row[0] for row in await reader.fetch(f"SELECT {TENANT_OF[relation]} FROM soc.{relation}")}


@pytest.mark.parametrize("relation", TENANT_OF)
async def test_a_reader_sees_its_tenants_only(database: pool.Database, admin_url: str, relation: str):
    """One tenant, all tenants, none: what `reader` names is what is seen, and nothing else in any column."""
    one, two = (str(each.lease.tenant_id) for each in await fill(database))
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        assert await tenants_in(reader, relation) == {one}
        text = str(await reader.fetch(f"SELECT v::text FROM soc.{relation} v"))
        assert "secret of 2" not in text
        assert two not in text
        assert await reader.fetch(f"SELECT FROM soc.{relation} WHERE {TENANT_OF[relation]} = $1", two) == []
    async with rows.reader(admin_url, None) as reader:
        assert await tenants_in(reader, relation) == {one, two}
    async with rows.reader(admin_url, rows.tenant_id(1), rows.tenant_id(2), rows.tenant_id(3)) as reader:
        assert await tenants_in(reader, relation) == {one, two}
    async with rows.reader(admin_url) as reader:
        assert await tenants_in(reader, relation) == set()


async def test_every_view_is_in_the_leak_test(pool: asyncpg.Pool):
    """A view of soc that shows tenants is among those that are tested for leaks."""
    found = await pool.fetch(
        """
        SELECT relname FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attname IN ('tenant_id', 'raw', 'alert_id')
        WHERE relnamespace = 'soc'::regnamespace GROUP BY relname
        """
    )
    assert {row[0] for row in found} == set(TENANT_OF) - {"changes()"}


@pytest.mark.parametrize("relation", TENANT_OF)
async def test_a_leaky_condition_sees_no_foreign_row(database: pool.Database, admin_url: str, relation: str):
    """A reader's own function, cheaper than any comparison, is not called with a value of another tenant."""
    await fill(database)
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        heard: list[str] = []
        reader.add_log_listener(lambda _, message: heard.append(message.message))
        await reader.execute(
            """
            CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001
            AS $$ BEGIN RAISE NOTICE 'leak %', $1; RETURN true; END $$
            """
        )
        columns = await reader.fetch(f"SELECT * FROM soc.{relation}")
        for name in columns[0].keys():  # noqa: SIM118 - a record is no dictionary
            await reader.fetch(f'SELECT count(*) FROM soc.{relation} v WHERE pg_temp.leak(v."{name}"::text)')
        await reader.fetch(f"SELECT count(*) FROM soc.{relation} v WHERE pg_temp.leak(v::text)")
    leaked = [
        text
        for text in heard
        if "secret of 2" in text or str(rows.tenant_id(2)) in text or "Contoso 2" in text
    ]
    assert leaked == []
    assert any("Contoso 1" in text for text in heard)


async def test_a_leaky_condition_on_the_tenant_s_columns(
    database: pool.Database, pool: asyncpg.Pool, admin_url: str
):
    """The tenants joined to alerts are behind the wall too, where a condition could be run before the join."""
    await fill(database)
    await pool.execute("ANALYZE")
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        for column in ("tenant_name", "labels ->> 'x'", "external_ref"):
            with pytest.raises(asyncpg.InvalidTextRepresentationError) as caught:
                await reader.fetch(
                    f"SELECT full_id FROM soc.alerts WHERE (coalesce({column}, tenant_name))::int = 1"
                )
            assert "Contoso 1" in str(caught.value)


async def test_private_tables_are_closed(database: pool.Database, admin_url: str):
    """A reader names nothing of schema alertwell, and writes nothing through a view."""
    await fill(database)
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        private = await reader.fetch(
            """
            SELECT oid::regclass::text FROM pg_class
            WHERE relnamespace::regnamespace::text = 'alertwell' AND relkind IN ('r', 'v')
            """
        )
        assert len(private) > 15
        for (relation,) in private:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await reader.fetch(f"SELECT FROM {relation}")
        for statement in (
            "INSERT INTO alertwell.reader VALUES (current_user, NULL)",
            "DELETE FROM soc.alerts",
            "UPDATE soc.tenants SET name = 'mine'",
            "INSERT INTO soc.feed VALUES (1)",
        ):
            with pytest.raises(
                (
                    asyncpg.InsufficientPrivilegeError,
                    asyncpg.ObjectNotInPrerequisiteStateError,
                    asyncpg.FeatureNotSupportedError,
                )
            ):
                await reader.execute(statement)


async def test_no_view_is_without_its_wall(pool: asyncpg.Pool):
    """Whatever view filters by reader is a security_barrier; whatever soc view is none has another one below it."""
    found = await pool.fetch(
        """
        SELECT c.oid::regclass::text AS name, coalesce('security_barrier=true' = ANY (c.reloptions), false) AS barrier,
               pg_get_viewdef(c.oid) AS text
        FROM pg_class c WHERE c.relkind = 'v' AND c.relnamespace IN ('soc'::regnamespace, 'alertwell'::regnamespace)
        """
    )
    for view in found:
        if "alertwell.reader" in view["text"]:
            assert view["barrier"], view["name"]
    assert {view["name"] for view in found if view["name"].startswith("soc.") and not view["barrier"]} == {
        "soc.alerts",
        "soc.alerts_merged",
        "soc.feed",
    }


async def test_the_feed_s_place_is_the_same_for_all(database: pool.Database, admin_url: str):
    """soc.feed has no tenants in it; a reader's page ends at its own last change, wherever the head is."""
    await fill(database)
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        assert await reader.fetchval("SELECT head_seq FROM soc.feed") == 4
        assert len(await reader.fetch("SELECT * FROM soc.changes(0, 10)")) == 2
        assert await reader.fetch("SELECT * FROM soc.changes(4)") == []
        with pytest.raises(asyncpg.InvalidParameterValueError):
            await reader.fetch("SELECT * FROM soc.changes(5)")


async def test_a_role_that_is_set_counts(database: pool.Database, admin_url: str):
    """SET ROLE to a reader narrows a superuser to what that reader sees."""
    await fill(database)
    async with rows.reader(admin_url, rows.tenant_id(1), name="narrow_reader"):
        admin = await asyncpg.connect(admin_url)
        try:
            assert len(await tenants_in(admin, "alerts")) == 2
            await admin.execute("SET ROLE narrow_reader")
            assert len(await tenants_in(admin, "alerts")) == 1
        finally:
            await admin.close()


async def test_every_object_of_soc_has_its_case(pool: asyncpg.Pool):
    """A view, table, function, sequence or type that is added to soc has to be added to these tests."""
    found = await pool.fetch(
        """
        SELECT relname::text FROM pg_class WHERE relnamespace = 'soc'::regnamespace
        UNION SELECT proname || '()' FROM pg_proc WHERE pronamespace = 'soc'::regnamespace
        """
    )
    assert {row[0] for row in found} == {*TENANT_OF, "feed", "readable()"}


@pytest.mark.parametrize("relation", TENANT_OF)
async def test_an_error_tells_nothing_of_other_tenants(
    database: pool.Database, admin_url: str, relation: str
):
    """A condition that fails, or quotes what it fails on, for other tenants' rows alone does not fail; nor do a join, an order, a
    group or a CASE that would be run on them first.
    """
    await fill(database)
    tenant, other = TENANT_OF[relation], rows.tenant_id(2)
    bomb = f"CASE WHEN {tenant}::text = '{other}' THEN 1 / (length({tenant}::text) - 36) ELSE 1 END"
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        await reader.execute("SET enable_hashjoin = off; SET enable_mergejoin = off; SET jit = off")
        for query in (
            f"SELECT count(*) FROM soc.{relation} WHERE {bomb} = 1",
            f"SELECT count(*) FROM soc.{relation} GROUP BY {bomb}",
            f"SELECT {bomb} FROM soc.{relation} ORDER BY {bomb} LIMIT 1",
            f"SELECT count(*) FROM soc.{relation} a JOIN soc.tenants b ON ({bomb.replace(tenant, 'a.' + tenant)}) = 1",
            f"SELECT max({bomb}) FROM soc.{relation}",
        ):
            assert await reader.fetch(query), query
        quoting = f"SELECT FROM soc.{relation} v WHERE (v::text)::integer = 1"
        with pytest.raises(asyncpg.InvalidTextRepresentationError) as caught:
            await reader.fetch(quoting)
        assert str(other) not in str(caught.value)
        assert "secret of 2" not in str(caught.value)


async def test_what_a_reader_looks_up_elsewhere(database: pool.Database, pool: asyncpg.Pool, admin_url: str):
    """Plans, statistics, rights, sequences, notifications and functions with another's rights tell a reader no other's value."""
    await fill(database)
    await pool.execute("ANALYZE")
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        seen = []
        for relation in TENANT_OF:
            for explain in ("EXPLAIN (VERBOSE)", "EXPLAIN (ANALYZE, VERBOSE, TIMING OFF)"):
                seen += await reader.fetch(f"{explain} SELECT * FROM soc.{relation}")
        seen += await reader.fetch("SELECT s::text FROM pg_stats s WHERE schemaname IN ('alertwell', 'soc')")
        seen += await reader.fetch("SELECT query FROM pg_stat_activity WHERE usename <> current_user")
        assert "secret of 2" not in str(seen)
        assert str(rows.tenant_id(2)) not in str(seen)
        rights = await reader.fetch(
            """
            SELECT oid::regclass::text FROM pg_class
            WHERE relnamespace = 'alertwell'::regnamespace AND relkind IN ('r', 'p', 'v')
              AND has_table_privilege(oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
            UNION ALL SELECT oid::regclass::text FROM pg_class
            WHERE CASE relkind WHEN 'S' THEN has_sequence_privilege(oid, 'USAGE, SELECT, UPDATE') END
            UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'alertwell' AND has_schema_privilege(oid, 'USAGE, CREATE')
            UNION ALL SELECT nspname FROM pg_namespace WHERE nspname = 'soc' AND has_schema_privilege(oid, 'CREATE')
            """
        )
        assert rights == []
        for statement in ("SELECT last_value FROM alertwell.change_batch", "SELECT alertwell.apply_labels()"):
            with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.FeatureNotSupportedError)):
                await reader.execute(statement)


async def test_functions_with_their_owner_s_rights(pool: asyncpg.Pool):
    """There are two, both triggers, which nobody calls; each has its search_path pinned, temporary objects last."""
    found = await pool.fetch(
        """
        SELECT proname::text, prorettype::regtype::text, proconfig FROM pg_proc
        WHERE prosecdef AND pronamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace) ORDER BY 1
        """
    )
    assert [tuple(row) for row in found] == [
        (name, "trigger", ["search_path=pg_catalog, pg_temp"])
        for name in ("apply_labels", "apply_reader_rules")
    ]


async def test_a_notification_says_a_number_alone(database: pool.Database, admin_url: str):
    """What numbering sends to all listeners is the head of the feed."""
    async with rows.reader(admin_url, rows.tenant_id(1)) as reader:
        heard: list[object] = []
        await reader.add_listener("soc_changes", lambda *told: heard.append(told[-1]))
        await fill(database)
        await reader.fetchval("SELECT 1")
        await until_heard(reader, heard)
        await reader.remove_listener("soc_changes", lambda *_: None)
    assert set(heard) == {"4"}


async def until_heard(reader: asyncpg.Connection, heard: list[object]) -> None:
    """Notifications come with whatever the server says next."""
    for _ in range(200):
        if heard:
            return
        await reader.fetchval("SELECT 1")


async def test_an_invitation_shows_no_state(database: pool.Database, admin_url: str):
    """Neither invitations nor the audit have the link or its state: who reads them cannot answer for the customer."""
    await fill(database)
    async with rows.reader(admin_url, None) as reader:
        for view in ("invitations", "audit"):
            text = str(await reader.fetch(f"SELECT v::text FROM soc.{view} v"))
            assert "adminconsent" not in text
            assert "state=" not in text

"""`alertwell readers add|list|remove` and `migrate --roles`: roles on a real server, and what they see through the wall."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
C = "33333333-3333-3333-3333-333333333333"
WORD = "c4nary-of/the'reader"
pytestmark = pytest.mark.usefixtures("customers")

REFUSED = (
    (["x"], "--label KEY=VALUE, --tenant TENANT, or --all"),
    (["x", "--all", "--tenant", A], "--all goes with neither"),
    (["x", "--label", "team"], "--label 'team' must be key=value"),
    (["x", "--label", "colour=blue"], "no tenant has a label 'colour'; labels are: site, team"),
    (["x", "--label", "team=green"], "'team' is never 'green', but: blue, red"),
    (["x", "--label", "team=red", "--label", "site=eu"], "no tenant has all of these labels"),
    (["x", "--tenant", "nobody"], "no tenant 'nobody'"),
    (["Splunk", "--all"], "'Splunk' is no name for a reader"),
    (["pg_monitor", "--all"], "a word of PostgreSQL's own"),
    (["soc_reader", "--all"], "is the group that readers or services belong to"),
    (["alertwell_service", "--all"], "is the group that readers or services belong to"),
    (["x", "--all", "--password-file", "word"], "word: is empty"),
)
MIGHTY = (
    ("SUPERUSER", "is a superuser"),
    ("CREATEROLE", "may make roles"),
    ("REPLICATION", "may replicate"),
    ("IN ROLE {owner}", "owns the schema alertwell, or is a member of "),
    ("NOINHERIT IN ROLE {owner}", "is a member of "),
    ("IN ROLE alertwell_service", "is a member of alertwell_service"),
    ("IN ROLE pg_read_all_data", "is a member of pg_read_all_data"),
)


@pytest.fixture
def name(admin_url: str) -> Iterator[str]:
    """The name of a reader whose role is gone at the end."""
    made = f"reader_{uuid4().hex[:12]}"
    yield made

    async def drop() -> None:
        connection = await asyncpg.connect(admin_url)
        try:
            if await connection.fetchval("SELECT to_regrole($1) IS NOT NULL", made):
                await connection.execute(f"DROP OWNED BY {made}; DROP ROLE {made}")
        finally:
            await connection.close()

    asyncio.run(drop())


@pytest.fixture
def sees(admin_url: str) -> Callable[..., set[str]]:
    """The names of the tenants that a role sees, once it has logged in with its password or been set."""

    def run(role: str, password: str | None = None) -> set[str]:
        async def go() -> set[str]:
            place = urlsplit(admin_url)
            if password is None:
                connection = await asyncpg.connect(admin_url)
                await connection.execute(f'SET ROLE "{role}"')
            else:
                own = place._replace(netloc=place.netloc.rpartition("@")[2]).geturl()
                connection = await asyncpg.connect(own, user=role, password=password)
            try:
                return {row[0] for row in await connection.fetch("SELECT name FROM soc.tenants")}
            finally:
                await connection.close()

        return asyncio.run(go())

    return run


@pytest.fixture
def customers(alertwell) -> None:
    """Contoso and Fabrikam of the blue team, the second in region eu too; Tailspin of the red team."""
    for tenant, called, *labels in (
        (A, "Contoso", "team=blue"),
        (B, "Fabrikam", "team=blue", "site=eu"),
        (C, "Tailspin", "team=red"),
    ):
        alertwell(
            "tenants",
            "add",
            tenant,
            called,
            "--region",
            "eu",
            *[x for label in labels for x in ("--label", label)],
        )


def test_a_reader_by_label_follows_the_labels(alertwell, sees, name, tmp_path):
    """It logs in with its password and sees who has the label now: no more, no less, as labels move."""
    (tmp_path / "word").write_text(WORD + "\n")
    said = alertwell("readers", "add", name, "--label", "team=blue", "--password-file", "word")
    assert said.stdout == f"{name} reads 2 tenants: team=blue\n"
    assert sees(name, WORD) == {"Contoso", "Fabrikam"}
    alertwell("tenants", "add", C, "Tailspin", "--region", "eu", "--label", "team=blue")
    assert sees(name) == {"Contoso", "Fabrikam", "Tailspin"}
    alertwell("tenants", "add", A, "Contoso", "--region", "eu", "--label", "team=red")
    alertwell("tenants", "pause", B)
    assert sees(name) == {"Fabrikam", "Tailspin"}
    alertwell(
        "tenants",
        "add",
        "44444444-4444-4444-4444-444444444444",
        "Wingtip",
        "--region",
        "uk",
        "--label",
        "team=blue",
    )
    assert sees(name) == {"Fabrikam", "Tailspin", "Wingtip"}
    alertwell("tenants", "remove", C, "--purge", "--yes")
    assert sees(name) == {"Fabrikam", "Wingtip"}


def test_rules_add_up_and_go_one_by_one(alertwell, sees, name):
    """Two labels of one rule narrow it, a second rule widens; each can be taken back; the audit has it all."""
    alertwell("readers", "add", name, "--label", "team=blue", "--label", "site=eu")
    assert sees(name) == {"Fabrikam"}
    alertwell("readers", "add", name, "--tenant", "contoso", "--label", "team=red")
    assert sees(name) == {"Contoso", "Fabrikam", "Tailspin"}
    [listed] = json.loads(alertwell("readers", "list", "--json").stdout)
    assert listed["rules"] == [
        {"labels": {"site": "eu", "team": "blue"}},
        {"labels": {"team": "red"}},
        {"tenant_id": A},
    ]
    assert (listed["name"], listed["tenants"], listed["trouble"]) == (name, 3, None)
    alertwell("readers", "remove", name, "--tenant", A)
    alertwell("readers", "remove", name, "--label", "team=red")
    assert sees(name) == {"Fabrikam"}
    alertwell("readers", "add", name, "--all")
    assert sees(name) == {"Contoso", "Fabrikam", "Tailspin"}
    assert f"{name}  all" in alertwell("readers", "list").stdout
    assert alertwell("readers", "remove", name).stdout == f"{name} sees no tenant any more\n"
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        sees(name)
    assert alertwell("readers", "list").stdout.startswith("no readers; see: alertwell readers add")
    assert "is not a reader" in alertwell("readers", "remove", name, exit_code=2).stderr
    audited = json.loads(
        alertwell(
            "sql", "--json", "SELECT actor, action, detail FROM soc.audit WHERE action ~ '^reader'"
        ).stdout
    )
    assert [row["action"] for row in audited] == ["reader.added"] * 2 + ["reader.removed"] * 2 + [
        "reader.added",
        "reader.removed",
    ]
    assert all("@" in row["actor"] and row["detail"]["reader"] == name for row in audited)


def test_what_is_refused(alertwell, tmp_path):
    """One sentence names what is wrong and what would be right, and nothing is changed."""
    (tmp_path / "word").write_text("\n")
    for arguments, says in REFUSED:
        assert says in alertwell("readers", "add", *arguments, exit_code=2).stderr
    assert json.loads(alertwell("readers", "list", "--json").stdout) == []


def test_a_role_that_no_wall_stops_is_no_reader(alertwell, admin_url, name):
    """Superusers, the owner's kin and whoever could make himself one of them are refused, with the reason."""

    async def make(attributes: str) -> None:
        connection = await asyncpg.connect(admin_url)
        owner = await connection.fetchval(
            "SELECT nspowner::regrole::text FROM pg_namespace WHERE nspname = 'alertwell'"
        )
        await connection.execute(f"DROP ROLE IF EXISTS {name}")
        await connection.execute(f"CREATE ROLE {name} {attributes.format(owner=owner)}")
        await connection.close()

    for attributes, says in MIGHTY:
        asyncio.run(make(attributes))
        assert says in alertwell("readers", "add", name, "--label", "team=blue", exit_code=2).stderr, (
            attributes
        )
    assert json.loads(alertwell("readers", "list", "--json").stdout) == []


def test_without_the_right_to_make_roles(alertwell, admin_url, database_url, name, sees):
    """The rule is kept, what an administrator has to run is printed, and it is all that was missing."""

    async def admin(*statements: str) -> None:
        connection = await asyncpg.connect(admin_url)
        for statement in statements:
            await connection.execute(statement)
        await connection.close()

    plain, place = f"{name}_owner", urlsplit(database_url)
    asyncio.run(
        admin(
            f"CREATE ROLE {plain} LOGIN PASSWORD 'example'",
            f"GRANT {place.username} TO {plain}",
            f"ALTER ROLE {plain} SET ROLE {place.username}",
            f"ALTER ROLE {place.username} NOCREATEROLE",
        )
    )
    try:
        url = place._replace(netloc=f"{plain}:example@{place.netloc.rpartition('@')[2]}").geturl()
        env = {"ALERTWELL_DATABASE_URL": url}
        done = alertwell("readers", "add", name, "--label", "team=red", "--json", env=env, exit_code=1)
        told = json.loads(done.stdout)
        assert told["to_be_run_by_an_administrator"] == [
            f"CREATE ROLE {name} LOGIN",
            f"GRANT soc_reader TO {name}",
        ]
        assert told["trouble"] == "no such role yet: an administrator has to make it"
        assert f"CREATE ROLE {name} LOGIN;" in done.stderr
        asyncio.run(admin(*told["to_be_run_by_an_administrator"]))
        assert sees(name) == {"Tailspin"}
        again = alertwell("readers", "add", name, "--label", "team=red", env=env)
        assert again.stdout == f"{name} reads 1 tenant: team=red\n"
    finally:
        asyncio.run(
            admin(f"ALTER ROLE {place.username} CREATEROLE", f"DROP OWNED BY {plain}", f"DROP ROLE {plain}")
        )


def test_the_statements_for_an_administrator(alertwell, fetch):
    """`migrate --roles` prints SQL alone, with the owner's own name in it."""
    [[owner]] = [row.values() for row in fetch("SELECT current_user::regrole::text")]
    assert alertwell("migrate", "--roles").stdout.splitlines() == [
        "CREATE ROLE alertwell_service NOLOGIN;",
        "CREATE ROLE soc_reader NOLOGIN;",
        f"GRANT soc_reader TO {owner} WITH ADMIN OPTION;",
    ]

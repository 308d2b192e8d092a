"""The documents against what they speak of: the database, the command line, the metrics, the tree."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import asyncpg
import pytest
import typer.main
from prometheus_client import CollectorRegistry

from service import metrics, model, settings
from service.cli import main
from service.store import enrolments, feed
from service.store import pool as pools

TREE = Path(__file__).parents[2]
PAGES = {str(page.relative_to(TREE)): page for page in (*TREE.glob("*.md"), *TREE.glob("docs/*.md"))}
DOWNSTREAM = TREE / "docs" / "downstream.md"
OPERATIONS = TREE / "docs" / "operations.md"
SHORT = {"timestamp with time zone": "timestamptz"}
CONTOSO = UUID("11111111-1111-1111-1111-111111111111")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(
        rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )


def section(page: Path, heading: str) -> str:
    """What stands under a heading, up to the next one of any rank."""
    found = re.search(
        rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)",
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    assert found, f"{page.name} has no heading {heading!r}"
    return found[1]


def rows(text: str) -> list[list[str]]:
    """The cells of tables whose first cell is code, without their marks."""
    return [
        [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| `")
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """What `#…` may name, as GitHub makes it of headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# --- the public contract ---------------------------------------------------------------------------------------------


async def test_every_view_of_soc_is_described_column_by_column(pool: asyncpg.Pool):
    """docs/downstream.md has each view with its columns in order, their types and a meaning."""
    found = await pool.fetch(
        """
        SELECT c.relname AS name, array_agg(ARRAY[a.attname::text, format_type(a.atttypid, a.atttypmod)] ORDER BY a.attnum)
                   AS columns
        FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
        WHERE c.relnamespace = 'soc'::regnamespace GROUP BY c.relname
        """
    )

    assert len(found) >= 7
    for view in found:
        described = rows(section(DOWNSTREAM, f"soc.{view['name']}"))
        assert [line[:2] for line in described] == [
            [name, SHORT.get(kind, kind)] for name, kind in view["columns"]
        ], view["name"]
        assert all(line[2] for line in described), view["name"]


async def test_every_function_of_soc_is_described(pool: asyncpg.Pool):
    """docs/downstream.md has each function with its arguments, and with the columns of what it returns."""
    found = await pool.fetch(
        """
        SELECT p.proname AS name, pg_get_function_arguments(p.oid) AS arguments, p.proallargtypes::oid[] AS types,
               p.proargnames AS names, p.proargmodes::text[] AS modes,
               ARRAY(SELECT format_type(t, NULL) FROM unnest(p.proallargtypes) t) AS shown
        FROM pg_proc p WHERE p.pronamespace = 'soc'::regnamespace
        """
    )

    assert {function["name"] for function in found} == {"changes", "readable"}
    for function in found:
        text = section(DOWNSTREAM, f"soc.{function['name']}")
        call = re.search(rf"`soc\.{function['name']}\((.*?)\)`", text)
        assert call, function["name"]
        assert call[1].lower() == re.sub(r"::\w+", "", function["arguments"]).lower()
        returned = [
            [name, SHORT.get(kind, kind)]
            for name, kind, mode in zip(
                function["names"], function["shown"], function["modes"] or (), strict=False
            )
            if mode == "t"
        ]
        assert [line[:2] for line in rows(text)] == returned


async def test_nothing_is_described_that_does_not_exist(pool: asyncpg.Pool):
    """Every soc.… and alertwell.… relation that a document names exists."""
    known = {
        row["name"]
        for row in await pool.fetch(
            """
            SELECT n.nspname || '.' || c.relname AS name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN ('soc', 'alertwell')
            UNION ALL SELECT 'soc.' || proname FROM pg_proc WHERE pronamespace = 'soc'::regnamespace
            """
        )
    }
    named = {
        (name, word)
        for name, page in PAGES.items()
        for word in re.findall(
            r"(?<![\w./@-])(?:soc|alertwell)\.[a-z_]+(?![\w/])", page.read_text(encoding="utf-8")
        )
        if word.rsplit(".")[1] not in {"service", "svc", "env"}
    }

    assert sorted((name, word) for name, word in named if word not in known) == []


@asynccontextmanager
async def reader(admin_url: str) -> AsyncIterator[tuple[asyncpg.Connection, str]]:
    """A superuser's connection inside a transaction that is undone, after the first block of "A role for a reader"."""
    connection = await asyncpg.connect(admin_url)
    undone = connection.transaction()
    await undone.start()
    try:
        grants = blocks(DOWNSTREAM, "sql")[0]
        # roles belong to the whole server, and several runs may share it
        role = f"reader_{uuid4().hex}"
        await connection.execute(grants.replace("splunk", role))
        yield connection, role
    finally:
        await undone.rollback()
        await connection.close()


async def some_changes(database_url: str) -> None:
    """A tenant with two alerts, their changes numbered."""
    async with pools.open_database(database_url, size=1) as database:
        enrolment = enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso", region="eu"), {"siem": {}})
        await enrolments.enrol(database, [enrolment], lookback=timedelta(days=1))
        async with database.transaction() as connection:
            await connection.execute(
                """
                INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, content_hash, arrival,
                                             source_updated_text, title, severity_rank, raw)
                SELECT $1, 'siem', id, now(), 0, 'live', '', 'A title', 4, '{}' FROM unnest(ARRAY['a:1', 'b:1']) id
                """,
                CONTOSO,
            )
            await connection.execute(
                """
                INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id)
                VALUES ($1, 1, 1, 1, 'created', 'live', 'siem', 'a:1'), ($1, 1, 2, 1, 'created', 'live', 'siem', 'b:1')
                """,
                CONTOSO,
            )
            await connection.execute(
                "INSERT INTO alertwell.unnumbered (tenant_id, batch, changes) VALUES ($1, 1, 2)", CONTOSO
            )
        assert await feed.number(database) == 2


async def test_the_documented_grants_open_soc_and_nothing_else(database_url: str, admin_url: str):
    """A role made as documented reads every view and function of soc, and no private table."""
    await some_changes(database_url)
    async with reader(admin_url) as (connection, role):
        await connection.execute(f"SET LOCAL ROLE {role}")
        for statement in blocks(DOWNSTREAM, "sql")[2:]:
            await connection.execute(statement)
        seen = await connection.fetchval("SELECT count(*) FROM soc.alerts")
        followed = await connection.fetchval("SELECT count(*) FROM soc.changes()")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("SELECT FROM alertwell.alert")

    assert (seen, followed) == (2, 2)


async def test_a_reader_of_some_tenants_is_made_as_documented(database_url: str, admin_url: str):
    """The second block of "A role for a reader" adds the tenants that it selects, and no others are seen."""
    await some_changes(database_url)
    async with reader(admin_url) as (connection, role):
        await connection.execute("DELETE FROM alertwell.reader WHERE role = $1", role)
        await connection.execute(blocks(DOWNSTREAM, "sql")[1].replace("splunk", role))
        await connection.execute(f"SET LOCAL ROLE {role}")
        unlabelled = await connection.fetchval("SELECT count(*) FROM soc.alerts")
        await connection.execute("RESET ROLE")
        await connection.execute("""UPDATE alertwell.tenant SET labels = '{"team": "blue"}'""")
        await connection.execute(blocks(DOWNSTREAM, "sql")[1].replace("splunk", role))
        await connection.execute(f"SET LOCAL ROLE {role}")
        labelled = await connection.fetchval("SELECT count(*) FROM soc.alerts")

    assert (unlabelled, labelled) == (0, 2)


async def test_the_consumer_of_the_page_reads_each_change_once(database_url: str):
    """The Python recipe handles every change in order, goes on from its position, and is told of one that is impossible."""
    await some_changes(database_url)
    [program] = blocks(DOWNSTREAM, "python")
    consumer: dict[str, Any] = {"__name__": "consumer"}
    exec(compile(program, str(DOWNSTREAM), "exec"), consumer)
    handled: list[str] = []
    consumer["handle"] = lambda change: handled.append(change["full_id"])
    consumer["PAGE"] = 1
    connection = await asyncpg.connect(database_url)
    try:
        position, more, pages = None, True, 0
        while more:
            position, more = await consumer["read"](connection, position)
            pages += 1
        head = await connection.fetchval("SELECT head_seq FROM soc.feed")
        with pytest.raises(asyncpg.InvalidParameterValueError, match="beyond the head"):
            await consumer["read"](connection, head + 1)
    finally:
        await connection.close()

    assert handled == ["a:1", "b:1"]
    assert (position, pages) == (head, 3)


@pytest.mark.parametrize("name", sorted(set(PAGES) - {"docs/downstream.md"}))
async def test_sql_of_the_other_pages_runs(name: str, database_url: str):
    """Every sql block of the documents is accepted by a database with the newest schema."""
    connection = await asyncpg.connect(database_url)
    undone = connection.transaction()
    await undone.start()
    try:
        for statement in blocks(PAGES[name], "sql"):
            await connection.execute(statement)
    finally:
        await undone.rollback()
        await connection.close()


# --- the command line ------------------------------------------------------------------------------------------------


def invocations(page: Path) -> Iterator[list[str]]:
    """Words of each `alertwell …` that a page shows in code, without what comes before and after it."""
    text = page.read_text(encoding="utf-8")
    code = re.findall(r"^(?:    |\t)(.*)$", prose(page), re.MULTILINE)
    code += re.findall(r"(?<!`)`([^`\n]+)`(?!`)", prose(page))
    code += [
        line
        for block in re.findall(r"^```(?:sh|bash|shell|console)?\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
        for line in block.replace("\\\n", " ").splitlines()
    ]
    for line in code:
        for found in re.finditer(r"(?:^|[\s(/])alertwell +([a-z][^|&;#`]*)", line):
            yield found[1].split()


def problem(command: Any, words: list[str]) -> str | None:
    """What is wrong with an invocation of this: a command or an option that does not exist."""
    taken = 0
    while hasattr(command, "commands") and taken < len(words) and re.fullmatch(r"[a-z][a-z-]*", words[taken]):
        following = command.commands.get(words[taken])
        if following is None:
            return f"no command {' '.join(words[: taken + 1])!r}"
        command, taken = following, taken + 1
    options = {name for parameter in command.params for name in parameter.opts} | {"--help"}
    unknown = [
        word
        for word in words[taken:]
        if re.match(r"--[a-z]", word) and re.split(r"[=)\]…,.]", word)[0] not in options
    ]
    return f"no option {' '.join(unknown)} in {' '.join(words)!r}" if unknown else None


def test_every_command_in_the_documents_exists():
    """Each `alertwell …` shown is a command with these options, as the command line itself knows them."""
    shown = [(name, words) for name, page in PAGES.items() for words in invocations(page)]

    alertwell = typer.main.get_command(main.app)
    assert len(shown) > 30
    assert [(name, wrong) for name, words in shown if (wrong := problem(alertwell, words))] == []


def test_every_command_is_documented():
    """README or docs/operations.md shows each command and each subcommand."""
    shown = {
        " ".join(words[:2]) if words[0] == "tenants" else words[0]
        for name in ("README.md", "docs/operations.md")
        for words in invocations(PAGES[name])
    }
    commands = typer.main.get_command(main.app).commands
    there = {f"tenants {name}" for name in commands["tenants"].commands} | {*commands} - {"tenants"}

    assert there - shown == set()


def test_every_target_of_the_makefile_that_is_named_exists():
    """`make …` in the documents is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (TREE / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {
        (name, target)
        for name, page in PAGES.items()
        for target in re.findall(
            r"(?:^|`|    |&& )make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE
        )
    }

    assert {target for _, target in named} >= {"demo", "test", "check"}
    assert sorted((name, target) for name, target in named if target not in targets) == []


# --- settings, metrics, links ----------------------------------------------------------------------------------------


def test_every_setting_that_is_named_exists():
    """`ALERTWELL_…` in the documents is a setting, or a file for one."""
    known = {f"ALERTWELL_{name.upper()}" for name in settings.Settings.model_fields}
    known |= {f"{name}_FILE" for name in known if not name.endswith("_FILE")}
    known |= {"ALERTWELL_NAME", "ALERTWELL_NAME_FILE", "ALERTWELL_TEST_DATABASE_URL", "ALERTWELL_IMAGE"}
    named = {
        (name, word)
        for name, page in PAGES.items()
        if name != "docs/settings.md"
        for word in re.findall(r"ALERTWELL_[A-Z_]*[A-Z]", page.read_text(encoding="utf-8"))
    }

    assert sorted((name, word) for name, word in named if word not in known) == []


def test_every_metric_is_documented():
    """docs/operations.md has each metric of the process by its exposed name, and no other."""
    registry: CollectorRegistry = metrics.Metrics("0").registry
    there = {
        f"{family.name}_total" if family.type == "counter" else family.name
        for family in registry.collect()
        if family.name.startswith("alertwell_") and family.type != "info"
    } | {"alertwell_build_info"}
    described = {line[0].split("{")[0] for line in rows(section(OPERATIONS, "Metrics"))}

    assert described == there


def test_every_state_is_documented():
    """docs/operations.md says of each state of a stream and of a tenant what to do."""
    states = {line[0] for line in rows(section(OPERATIONS, "States"))}

    assert states == {*get_args(model.StreamState), *get_args(model.TenantState)}


def test_every_rule_for_prometheus_is_documented():
    """docs/operations.md has each alert of deploy/prometheus/alerts.yml."""
    rules = (TREE / "deploy" / "prometheus" / "alerts.yml").read_text(encoding="utf-8")

    assert {line[0] for line in rows(section(OPERATIONS, "Alerts"))} == set(
        re.findall(r"- alert: (\w+)", rules)
    )


def test_every_log_event_is_documented():
    """docs/operations.md has each event that the service logs above debug."""
    logged = {
        event
        for path in (TREE / "service").rglob("*.py")
        for event in re.findall(
            r"\b_?log\.(?:info|warning|error|exception)\(\s*\"([\w.]+)\"", path.read_text(encoding="utf-8")
        )
    }
    described = {
        word for line in rows(section(OPERATIONS, "Logs")) for word in re.findall(r"[a-z_.]+", line[0])
    }

    assert logged - described == set()


@pytest.mark.parametrize("name", sorted(PAGES))
def test_every_relative_link_resolves(name: str):
    """A link to a file of the tree, or to a heading, finds it."""
    page = PAGES[name]
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)

    assert broken == []


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/operations.md"])
def test_every_path_in_code_marks_exists(name: str):
    """What looks like a path of the tree is there."""
    named = re.findall(
        r"`((?:service|tests|docs|deploy|migrations|benchmarks)/[\w./-]+?)`", PAGES[name].read_text("utf-8")
    )

    assert sorted({path for path in named if not (TREE / path).exists()}) == []


def test_every_test_that_is_named_exists():
    """`test_…` in the documents is a test function or a test module."""
    source = "\n".join(path.read_text(encoding="utf-8") for path in (TREE / "tests").rglob("*.py"))
    modules = {path.stem for path in (TREE / "tests").rglob("test_*.py")}
    named = {
        (name, word)
        for name, page in PAGES.items()
        for word in re.findall(r"\btest_\w+", page.read_text(encoding="utf-8"))
    }

    assert (
        sorted((name, word) for name, word in named if word not in modules and f"def {word}(" not in source)
        == []
    )


def test_every_module_is_on_the_map():
    """ARCHITECTURE.md has each package and each module of `service` that stands alone."""
    text = (TREE / "ARCHITECTURE.md").read_text(encoding="utf-8")
    here = {path.name for path in (TREE / "service").glob("*.py") if not path.name.startswith("__")}
    here |= {f"{path.parent.name}/" for path in (TREE / "service").glob("*/__init__.py")}

    assert sorted(name for name in here if not re.search(rf"(?<![\w/]){re.escape(name)}", text)) == []


def test_readme_starts_with_the_two_commands():
    """The first block of code in README.md is `make demo` and `make test`."""
    first = re.search(
        r"^```\w*\n(.*?)^```$", (TREE / "README.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
    )

    assert first
    assert [line.split("#")[0].strip() for line in first[1].splitlines()] == ["make demo", "make test"]

"""Old and new software on one schema: expand, deploy, contract.

The rule: `works_with_from` of a schema names the oldest revision whose software goes on under it. What that software reads and
writes is still there, and nothing new must be written; what ends it says so first, and ends replicas that are too old.
"""

from __future__ import annotations

import io
import re
import signal
import subprocess
import tarfile
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from service import app, errors
from service.store import schema
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until

COLUMNS = """
    SELECT c.oid::regclass::text AS relation, c.relkind::text AS kind, a.attname::text AS column, a.attnum AS place,
           format_type(a.atttypid, a.atttypmod) AS type, a.attnotnull AS needed,
           a.atthasdef OR a.attidentity <> '' OR a.attgenerated <> '' AS filled
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE c.relnamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace) AND c.relkind IN ('r', 'p', 'v', 'c', 'S')
"""
FUNCTIONS = """
    SELECT p.oid::regprocedure::text AS function, pg_get_function_result(p.oid) AS result FROM pg_proc p
    WHERE p.pronamespace IN ('alertwell'::regnamespace, 'soc'::regnamespace)
"""
SCRIPTS = sorted(Path(schema.folder(), "versions").glob("*.sql"))


async def snapshot(connection: asyncpg.Connection) -> tuple[dict, dict]:
    """Columns by relation and name; functions by signature."""
    columns = {(row["relation"], row["column"]): row for row in await connection.fetch(COLUMNS)}
    return columns, {row["function"]: row["result"] for row in await connection.fetch(FUNCTIONS)}


async def test_a_newer_schema_has_all_that_older_software_uses(empty_url: str):
    """Columns, types and functions of every revision that the schema works with are still there; no new column must be filled."""
    connection = await asyncpg.connect(empty_url)
    try:
        await connection.execute("CREATE SCHEMA alertwell")
        taken = []
        for script in SCRIPTS:
            await connection.execute(script.read_text("utf-8"))
            taken.append(await snapshot(connection))
        works_with_from = await connection.fetchval("SELECT works_with_from FROM alertwell.schema_version")
    finally:
        await connection.close()
    assert len(taken) == schema.REVISION
    newest, functions = taken[-1]
    for revision, (columns, called) in enumerate(taken[works_with_from - 1 : -1], works_with_from):
        relations = {relation for relation, _ in columns}
        for place, column in columns.items():
            now = newest.get(place)
            assert now is not None, f"revision {revision} uses {place}"
            assert now["type"] == column["type"], (revision, place)
            assert column["needed"] or not now["needed"] or now["filled"], (revision, place)
        for (relation, name), column in newest.items():
            if relation in relations and (relation, name) not in columns:
                # a value of a composite type is sent whole
                assert column["kind"] != "c", f"revision {revision} sends {relation} without {name}"
                assert not column["needed"] or column["filled"] or column["kind"] == "v", (
                    revision,
                    relation,
                    name,
                )
        missing = called.keys() - functions.keys()
        assert not missing, f"revision {revision} calls {missing}"


async def test_a_replica_that_the_schema_outgrew_ends(stage):
    """A migration that ends what it needs ends it too, though it has been running: it says so, and stores nothing more."""
    await stage.enrol(CONTOSO)
    async with app.collector(stage.config(), stage.dsn) as running:
        await stage.well()
        await stage.books.rows.execute(
            "UPDATE alertwell.schema_version SET revision = $1, works_with_from = $1", schema.REVISION + 1
        )
        await until(running.failed.done)
        mismatch = running.failed.exception()
    assert isinstance(mismatch, errors.SchemaMismatch)
    assert "Update Alertwell" in str(mismatch)


def releases(folder: Path) -> dict[str, Path]:
    """Of the software of earlier schema revisions, out of the history, the oldest, the last and one between, and this one."""
    found = {"this": processes.ROOT}

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=processes.ROOT, check=True, capture_output=True).stdout

    if not (processes.ROOT / ".git").exists():
        return found
    last: dict[int, str] = {}
    for commit in git("rev-list", "--first-parent", "HEAD").decode().split():
        try:
            text = git("show", f"{commit}:service/store/schema.py").decode()
        except subprocess.CalledProcessError:
            break
        revision = re.search(r"^REVISION = (\d+)$", text, re.MULTILINE)
        assert revision is not None
        last.setdefault(int(revision[1]), commit)
    older = sorted(revision for revision in last if revision < schema.REVISION)
    for revision in {older[0], older[len(older) * 2 // 3], older[-1]} if older else ():
        target = folder / f"revision-{revision}"
        with tarfile.open(fileobj=io.BytesIO(git("archive", last[revision]))) as archive:
            archive.extractall(target, filter="data")
        found[f"revision {revision}"] = target
    return found


async def owned(stage: stages.Stage, *numbers: int) -> None:
    """Wait until so many tenants are owned by each replica, and none is free."""

    async def seen() -> bool:
        owners = await stage.books.owners()
        return None not in owners and sorted(map(len, owners.values())) == sorted(numbers)

    await until(seen, 120, saying=stage.books.owners)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
async def test_old_and_new_software_hand_tenants_back_and_forth(stage, tmp_path):
    """Each older release that the schema works with, beside this one, under load: no alert is lost or doubled."""
    tenants = [CONTOSO, FABRIKAM]
    await stage.enrol(*tenants)
    filed = 0

    async def load() -> None:
        nonlocal filed
        for tenant_id in tenants:
            for _ in range(5):
                filed += 1
                stages.file(stage.shown, tenant_id, f"{filed}:1", stage.shown.clock())
        for tenant_id in tenants:
            await stage.stored(tenant_id, 120)

    for name, root in releases(tmp_path).items():
        async with AsyncExitStack() as stack:
            old = await stack.enter_async_context(processes.running(stage, root))
            await old.logs("collecting", 120)
            await owned(stage, 2)
            await load()
            async with processes.running(stage) as new:
                await new.logs("collecting", 120)
                await owned(stage, 1, 1)
                await load()
                old.process.send_signal(signal.SIGTERM)
                await load()
                assert await old.ends(60) == 0, name
                await owned(stage, 2)
                await load()
                back = await stack.enter_async_context(processes.running(stage, root))
                await back.logs("collecting", 120)
                await owned(stage, 1, 1)
                await load()
                new.process.kill()
                await load()
            await owned(stage, 2)
            back.process.send_signal(signal.SIGTERM)
            assert await back.ends(60) == 0, name
            for replica in (old, new, back):
                bad = [line for line in replica.lines if line["level"] in ("error", "critical")]
                assert not bad, (name, bad)
    for tenant_id in tenants:
        await stage.books.same_as(stage.shown, tenant_id)
    changes = await stage.books.rows.fetchval("SELECT count(*) FROM alertwell.alert_change")
    assert changes == filed == await stage.books.rows.fetchval("SELECT sum(revision) FROM alertwell.alert")

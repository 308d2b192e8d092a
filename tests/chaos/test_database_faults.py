"""A database that is there and takes nothing, goes away and comes back, or is slow: polls wait, and all is held once."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import structlog

from service.simulator import ticks
from tests import postgres as servers
from tests.chaos import databases
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until

_FULL = """
CREATE FUNCTION public.full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
CREATE TRIGGER no_space BEFORE INSERT ON alertwell.alert EXECUTE FUNCTION public.full()
"""
_EVERYBODY_OUT = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def events(logs, name):
    return [entry for entry in logs if entry["event"] == name]


def quiet(logs):
    """Nothing in the log is an error, nothing shows a stack, and an outage is said in a few lines."""
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")]
    assert not [entry for entry in logs if entry.get("exc_info")]
    assert len([entry for entry in logs if entry["log_level"] == "warning"]) < 60


def file(stage, word):
    for tenant_id in (CONTOSO, FABRIKAM):
        stages.file(stage.shown, tenant_id, f"{word} {tenant_id}", stage.shown.clock())


@pytest.mark.parametrize(
    ("begin", "end"),
    [
        pytest.param(
            "ALTER DATABASE {name} CONNECTION LIMIT 0",
            "ALTER DATABASE {name} CONNECTION LIMIT -1",
            id="out of connections",
        ),
        pytest.param(
            "ALTER DATABASE {name} SET default_transaction_read_only = on",
            "ALTER DATABASE {name} RESET default_transaction_read_only",
            id="read-only",
        ),
        pytest.param(_FULL, "DROP TRIGGER no_space ON alertwell.alert", id="out of disk"),
    ],
)
async def test_a_database_that_takes_nothing(database_url, admin_url, tmp_path, begin, end):
    """Also at the start: nothing ends, nothing is fetched in vain for long, and what came meanwhile is stored when it can be."""
    name = urlsplit(database_url).path[1:]
    async with databases.staged(database_url, tmp_path, rows=admin_url) as stage:
        await stage.enrol(CONTOSO, FABRIKAM)
        with structlog.testing.capture_logs() as logs:
            async with stage.collecting() as running:
                file(stage, "before")
                await databases.all_held(stage)
                await change(admin_url, begin.format(name=name))
                file(stage, "meanwhile")
                # a poll saw it first, or a heartbeat: none is started from then on
                await until(
                    lambda: events(logs, "polls_wait_for_database") or events(logs, "database_unavailable"),
                    60,
                )
                await change(admin_url, end.format(name=name))
                await databases.all_held(stage)
                assert not running.failed.done()
        quiet(logs)


async def change(dsn, statement):
    """What a database administrator does; the sessions that it has are ended, as new ones are what it shows in."""
    connection = await asyncpg.connect(dsn, server_settings={"default_transaction_read_only": "off"})
    try:
        await connection.execute(statement)
        await connection.execute(_EVERYBODY_OUT)
    finally:
        await connection.close()


async def test_no_place_at_the_start(database_url, admin_url, tmp_path):
    """A collector that finds no connection waits for one, in a few lines, and then collects."""
    name = urlsplit(database_url).path[1:]
    async with databases.staged(database_url, tmp_path, rows=admin_url) as stage:
        await stage.enrol(CONTOSO, FABRIKAM)
        file(stage, "before")
        await change(admin_url, f"ALTER DATABASE {name} CONNECTION LIMIT 0")

        async def collect():
            async with stage.collecting():
                await databases.all_held(stage)

        with structlog.testing.capture_logs() as logs:
            task = asyncio.create_task(collect())
            await until(lambda: len(events(logs, "database_unavailable")) >= 2 or task.done(), 60)
            assert not task.done()
            await change(admin_url, f"ALTER DATABASE {name} CONNECTION LIMIT -1")
            await task
        quiet(logs)


@pytest.mark.chaos
async def test_a_table_that_somebody_locks(database_url, admin_url, tmp_path):
    """Polls wait behind the lock, heartbeats do not: no tenant changes hands, and all is stored once the lock is gone."""
    async with databases.staged(database_url, tmp_path, rows=admin_url) as stage:
        await stage.enrol(CONTOSO, FABRIKAM)
        async with stage.collecting() as running, databases.reading(stage):
            file(stage, "before")
            await databases.all_held(stage)
            locking = await asyncpg.connect(admin_url)
            async with locking.transaction():
                await locking.execute("LOCK TABLE alertwell.alert IN ACCESS EXCLUSIVE MODE")
                file(stage, "meanwhile")
                beat = await locking.fetchval("SELECT clock_timestamp()")

                async def beaten():
                    return await locking.fetchval(
                        "SELECT bool_and(heartbeat_at > $1::timestamptz + interval '5 s') FROM alertwell.replica",
                        beat,
                    )

                # a snapshot of each statement's own: READ COMMITTED
                await until(beaten, 60)
                assert set(await stage.books.owners()) == {running.replica_id}
            await locking.close()
            await databases.all_held(stage)


@pytest.mark.chaos
@pytest.mark.parametrize("end", ["fast", "immediate", "kill"])
@pytest.mark.timeout(400)
async def test_a_server_that_ends_and_comes_back(tmp_path, end):
    """Two replicas go on by themselves, three times in a row; a reader that followed has every number once."""
    async with databases.alone() as cluster, databases.staged(cluster.dsn, tmp_path) as stage:
        await stage.enrol(CONTOSO, FABRIKAM)
        with structlog.testing.capture_logs() as logs:
            async with (
                stage.collecting() as one,
                stage.collecting() as two,
                databases.reading(stage) as reader,
            ):
                for turn in range(3):
                    file(stage, f"before {turn}")
                    await databases.all_held(stage)
                    starts = cluster.starts
                    file(stage, f"meanwhile {turn}")
                    if end == "fast":
                        await cluster.restart()
                    elif end == "immediate":
                        cluster._kept.let_go()
                    else:
                        assert cluster.server_pid is not None
                        os.kill(cluster.server_pid, signal.SIGKILL)
                    await asyncio.wait_for(cluster.wait_for_start(starts + 1), 120)
                    file(stage, f"after {turn}")
                    await databases.all_held(stage)
                assert not one.failed.done()
                assert not two.failed.done()
        assert reader.seqs == list(range(1, len(reader.seqs) + 1))
        quiet(logs)


@asynccontextmanager
async def small_disk(size):
    """A folder on a disk of its own that is soon full."""
    mount = shutil.which("mount")
    folder = Path(tempfile.mkdtemp(prefix=servers.PREFIX))
    done = mount and await run(mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
    assert done == 0, "this test mounts a small tmpfs: run it as root"
    try:
        yield folder
    finally:
        await run("umount", "--lazy", str(folder))
        shutil.rmtree(folder, ignore_errors=True)


async def run(*command):
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await process.wait()


@pytest.mark.chaos
@pytest.mark.timeout(400)
async def test_a_disk_that_is_full(database_url, tmp_path, postgres):
    """A disk for alerts without room: heartbeats go on, polls wait, and all is stored as soon as there is room. It needs root."""
    async with small_disk("24m") as disk:
        space = disk / "space"
        space.mkdir(mode=0o700)
        tablespace = postgres.fresh_name()
        name = urlsplit(database_url).path[1:]
        await postgres.execute(f"CREATE TABLESPACE {tablespace} LOCATION '{space}'")
        admin = postgres.admin(name)
        try:
            for statement in (
                f"ALTER TABLE alertwell.alert SET TABLESPACE {tablespace}",
                "CREATE TABLE public.ballast (filling text)",
                f"ALTER TABLE public.ballast SET TABLESPACE {tablespace}",
                "ALTER TABLE public.ballast ALTER filling SET STORAGE EXTERNAL",
            ):
                await databases.on(admin, statement)
            async with databases.staged(database_url, tmp_path, rows=admin) as stage:
                await stage.enrol(CONTOSO, FABRIKAM)
                with structlog.testing.capture_logs() as logs:
                    async with stage.collecting() as running, databases.reading(stage):
                        file(stage, "before")
                        await databases.all_held(stage)
                        for rows in (100, 10, 1):  # megabytes first, then what is left of them
                            with contextlib.suppress(asyncpg.DiskFullError):
                                for _ in range(400):
                                    await databases.on(
                                        admin,
                                        f"INSERT INTO public.ballast SELECT repeat('x', 7000) FROM generate_series(1, {rows})",
                                    )
                        now = stage.shown.clock()
                        for tenant_id in (CONTOSO, FABRIKAM):
                            stage.shown.add_backlog(tenant_id, 600, since=now, until=now + ticks.SECOND)
                        await until(lambda: events(logs, "polls_wait_for_database"), 60)
                        assert "space" in str(events(logs, "polls_wait_for_database")[0]["error"])
                        await databases.on(admin, "DROP TABLE public.ballast")
                        await databases.all_held(stage, 120)
                        assert not running.failed.done()
                quiet(logs)
        finally:
            await databases.on(admin, "ALTER TABLE alertwell.alert SET TABLESPACE pg_default")
            await databases.on(admin, "DROP TABLE IF EXISTS public.ballast")
            await postgres.execute(f"DROP TABLESPACE {tablespace}")

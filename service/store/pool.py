"""The door to PostgreSQL: connections, codecs, and the translation of every driver error into one of ours.

asyncpg raises from four families when a server goes away (PostgresError, InterfaceError, InternalClientError, OSError):
they are told apart here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeAlias

import asyncpg
import msgspec
import structlog

from service import errors, model
from service.store import servers

Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

# What says "the server is not there or not able now": the connection (08, 57P), too many of them and no disk or memory (53),
# a disk that fails (58), read-only or in recovery (25006, 55: a primary that became a standby), cancelled, deadlocked, and a
# password or database that was changed under our feet (28, 3D; at the start those are a person's mistake).
_PASSING_STATES = ("08", "25006", "28", "3D", "40", "53", "55", "57014", "57P", "58", "XX")
_READ_ONLY = ("25006", "55000")
_NUL = b"\\u0000"
_JSONB = b"\x01"  # the version that its binary form begins with
_DIAL_SECONDS = 10.0
"""For one host: one that is switched off does not answer at all, and the next one wants its turn."""
_LONGEST_PAUSE = 15.0
_LONGEST_STATEMENT = 64 * 1024
"""Characters of a statement that is prepared once a connection: the driver's own 15 KB are too few for an update of alerts."""
_SESSION = {"application_name": "alertwell", "timezone": "UTC"}
"""What poolers take from a client, too; the rest is for a session that is ours alone."""
_OWN_SESSION = {
    **_SESSION,
    "jit": "off",
    "default_transaction_isolation": "read committed",
    # a replica that vanished in mid-transaction must not keep its leases locked until TCP gives up (2 hours)
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_EACH_TRANSACTION = "SET LOCAL jit = off; SET LOCAL idle_in_transaction_session_timeout = '60s'"
_log = structlog.get_logger(__name__)


if TYPE_CHECKING:
    _Driver: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:  # generic in the eyes of the type checker alone
    _Driver = asyncpg.Connection


class _Session(_Driver):
    """A connection that knows the life of the server at its other end; None behind a pooler, where that may change."""

    life: str | None = None

    def get_reset_query(self) -> str:
        """Nothing: no session of ours keeps anything beyond its transaction, and the usual query costs 0.3 ms a use."""
        return ""


class Database:
    """A pool of connections. Errors of the driver leave it as DatabaseUnavailable; mistakes in SQL stay what they are."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], place: str = "", pooler: model.Pooler = "none"
    ) -> None:
        """`place` is the server for people: host and port."""
        self._pool = pool
        self._place = place
        self._pooler = pooler

    @asynccontextmanager
    async def connection(self, *, of: str | None = None) -> AsyncIterator[Connection]:
        """A connection in autocommit: each statement is its own transaction.

        `of` is a life of a server (`servers.LIFE`) that what is read has to come from; another one is DatabaseUnavailable.
        """
        async with self._turned(), _translated(self._place), self._pool.acquire() as connection:
            if of is not None and of != (getattr(connection, "life", None) or await _life(connection)):
                await self._pool.expire_connections()
                raise errors.DatabaseUnavailable("another server answers than a moment ago")
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction (READ COMMITTED): committed at the end, undone by any exception."""
        async with (
            self._turned(),
            _translated(self._place),
            self._pool.acquire() as connection,
            connection.transaction(isolation="read_committed"),
        ):
            if self._pooler == "transaction":
                await connection.execute(_EACH_TRANSACTION)
            yield connection

    @asynccontextmanager
    async def _turned(self) -> AsyncIterator[None]:
        # After a failover the old primary may answer on as a standby: look for the new one.
        try:
            yield
        except errors.DatabaseUnavailable as error:
            if getattr(error.__cause__, "sqlstate", None) in _READ_ONLY:
                await self._pool.expire_connections()
            raise

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless the server answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1")


@asynccontextmanager
async def _translated(place: str) -> AsyncIterator[None]:
    try:
        yield
    except asyncpg.PostgresError as error:
        state = error.sqlstate or ""
        if state.startswith(_PASSING_STATES):
            raise errors.DatabaseUnavailable(
                f"{type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        raise
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        if isinstance(error, asyncpg.exceptions.DataError | ValueError):
            raise
        raise errors.DatabaseUnavailable(f"the connection was lost: {error}") from error
    except (OSError, TimeoutError) as error:
        raise errors.DatabaseUnavailable(
            f"cannot reach PostgreSQL{place and f' at {place}'}: {error or type(error).__name__}"
        ) from error


async def connect(dsn: str, *, pooler: model.Pooler | None = None) -> asyncpg.Connection[asyncpg.Record]:
    """One connection outside the pool, for migrations and one-off commands; with `pooler`, one as the pool opens them.

    Raises BadSetting where the address, the user, the password or the database is wrong, DatabaseUnavailable.
    """
    async with _translated(servers.place(dsn)):
        try:
            return await _dial(dsn, **_driver_options(pooler) if pooler else {})
        except asyncpg.ProtocolViolationError as error:
            if "startup parameter" not in str(error):
                raise
            raise errors.BadSetting(
                f"ALERTWELL_DATABASE_POOLER={pooler or 'none'!r}, but ALERTWELL_DATABASE_URL leads to a pooler ({error}): set it "
                "to transaction"
            ) from error
        except asyncpg.ClientConfigurationError as error:
            raise errors.BadSetting(f"ALERTWELL_DATABASE_URL: {error}") from error
        except ValueError:  # quotes what it stumbled over, which may be a part of the password
            raise errors.BadSetting(
                "ALERTWELL_DATABASE_URL cannot be read; expected postgresql://user:password@host:5432/database, with "
                "/ : @ ? # and % in the password percent-encoded"
            ) from None
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise errors.BadSetting(f"ALERTWELL_DATABASE_URL: PostgreSQL says: {error}") from error


@asynccontextmanager
async def open_database(
    dsn: str, *, size: int = 16, patient: bool = False, pooler: model.Pooler = "none"
) -> AsyncIterator[Database]:
    """A pool for as long as the context lasts. `patient` waits for a server that is not there yet, and says so.

    Where the address names several hosts, the one that takes writes is used. `pooler` says what stands between us and the
    server. Raises BadSetting, DatabaseUnavailable.
    """

    async def probe() -> None:
        await (await connect(dsn, pooler=pooler)).close()

    await (patiently(probe) if patient else probe())
    dial: Any = _dial
    pool = await asyncpg.create_pool(
        dsn,
        connect=dial,
        min_size=0,  # the pool would bring back what it lost by itself, with a stack trace where it cannot
        max_size=size,
        init=_prepare if pooler == "none" else _prepare_pooled,
        command_timeout=60,
        max_inactive_connection_lifetime=300,
        connection_class=_Session,
        **_driver_options(pooler),
    )
    try:
        yield Database(pool, servers.place(dsn), pooler)
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


async def patiently(attempt: Callable[[], Awaitable[None]]) -> None:
    """Try until the database is there: one line in the log for each step of the waiting."""
    delay = 0.5
    while True:
        try:
            await attempt()
        except errors.DatabaseUnavailable as error:
            _log.warning("database_unavailable", error=str(error), next_try_seconds=delay)
        else:
            return
        await asyncio.sleep(delay)
        delay = min(delay * 2, _LONGEST_PAUSE)


def _driver_options(pooler: model.Pooler) -> dict[str, Any]:
    if pooler == "none":
        return {"server_settings": _OWN_SESSION, "max_cacheable_statement_size": _LONGEST_STATEMENT}
    # a statement that one server prepared is unknown to the next one that the pooler hands out
    return {"server_settings": _SESSION, "statement_cache_size": 0}


async def _dial(dsn: str, **options: Any) -> asyncpg.Connection[asyncpg.Record]:
    """A connection to the first host of the address that can be used. The driver's own search ends at one that is silent."""
    failed: list[Exception] = []
    for candidate in servers.candidates(dsn):
        try:
            chosen: dict[str, Any] = {**options, "timeout": _DIAL_SECONDS, **candidate}
            return await asyncpg.connect(dsn, **chosen)
        except (OSError, asyncpg.PostgresError, asyncpg.exceptions.TargetServerAttributeNotMatched) as error:
            failed.append(error)
    # what a host said that answered tells more than one that did not
    raise next((error for error in failed if not isinstance(error, OSError)), failed[-1])


async def _life(connection: Connection) -> str:
    return str(await connection.fetchval(f"SELECT {servers.LIFE}"))


async def _prepare(connection: Connection) -> None:
    await _prepare_pooled(connection)
    if isinstance(connection, _Session):
        connection.life = await _life(connection)


async def _prepare_pooled(connection: Connection) -> None:
    # raw records travel as they are, other JSON (labels, parameters) is small; binary, for COPY takes nothing else
    await connection.set_type_codec(
        "jsonb", encoder=_as_jsonb, decoder=_of_jsonb, schema="pg_catalog", format="binary"
    )


def _as_jsonb(value: Any) -> bytes:
    if isinstance(value, bytes):
        return _JSONB + value
    return _JSONB + (value if isinstance(value, str) else json.dumps(value)).encode()


def _of_jsonb(value: bytes) -> Any:
    return json.loads(value[1:])


def texts(values: Sequence[str]) -> bytes:
    """A JSON array of these texts, for a jsonb parameter: a sixth of what an array of texts costs the driver.

    In the place of one that PostgreSQL cannot hold stands null.
    """
    try:
        made = msgspec.json.encode(values)
    except UnicodeEncodeError:
        made = _NUL
    if _NUL not in made:
        return made
    return msgspec.json.encode([value if is_text(value) else None for value in values])


def is_text(key: str) -> bool:
    """Whether a text column can hold it: no NUL, no lone surrogates."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return False
    return "\0" not in key

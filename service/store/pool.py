"""The door to PostgreSQL: connections, codecs, and the translation of every driver error into one of ours.

asyncpg raises from four families when a server goes away (PostgresError, InterfaceError, InternalClientError, OSError):
they are told apart here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

import asyncpg
import msgspec
import structlog

from service import errors

Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

# What says "the server is not there or not able now": the connection (08, 57P), too many of them and no disk or memory (53),
# read-only or in recovery (25006, 55: a primary that became a standby), cancelled, deadlocked, and a password or database
# that was changed under our feet (28, 3D; at the start those are a person's mistake).
_PASSING_STATES = ("08", "25006", "28", "3D", "40", "53", "55", "57014", "57P", "XX")
_READ_ONLY = ("25006", "55000")
_NUL = b"\\u0000"
_JSONB = b"\x01"  # the version that its binary form begins with
_SESSION = {
    "application_name": "alertwell",
    "timezone": "UTC",
    "jit": "off",
    "default_transaction_isolation": "read committed",
    # a replica that vanished in mid-transaction must not keep its leases locked until TCP gives up (2 hours)
    "idle_in_transaction_session_timeout": "60s",
    "tcp_keepalives_idle": "30",
    "tcp_keepalives_interval": "10",
    "tcp_keepalives_count": "3",
}
_log = structlog.get_logger(__name__)


class Database:
    """A pool of connections. Errors of the driver leave it as DatabaseUnavailable; mistakes in SQL stay what they are."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], place: str = "") -> None:
        """`place` is the server for people: host and port."""
        self._pool = pool
        self._place = place

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit: each statement is its own transaction."""
        async with self._turned(), _translated(self._place), self._pool.acquire() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction (READ COMMITTED): committed at the end, undone by any exception."""
        async with (
            self._turned(),
            _translated(self._place),
            self._pool.acquire() as connection,
            connection.transaction(),
        ):
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


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection outside the pool, for migrations and one-off commands.

    Raises BadSetting where the address, the user, the password or the database is wrong, DatabaseUnavailable.
    """
    async with _translated(_place(dsn)):
        try:
            return await asyncpg.connect(dsn, timeout=10, **_writable(dsn))
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
async def open_database(dsn: str, *, size: int = 16, patient: bool = False) -> AsyncIterator[Database]:
    """A pool for as long as the context lasts. `patient` waits for a server that is not there yet, and says so.

    Where the address names several hosts, the one that takes writes is used. Raises BadSetting, DatabaseUnavailable.
    """
    delay = 0.5
    while True:
        try:
            probe = await connect(dsn)
            await probe.close()
            pool = await _open_pool(dsn, size)
            break
        except errors.DatabaseUnavailable as error:
            if not patient:
                raise
            _log.warning("database_unavailable", error=str(error), next_try_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 15)
    try:
        yield Database(pool, _place(dsn))
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


async def _open_pool(dsn: str, size: int) -> asyncpg.Pool[asyncpg.Record]:
    async with _translated(_place(dsn)):
        return await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            init=_prepare,
            command_timeout=60,
            max_inactive_connection_lifetime=300,
            server_settings=_SESSION,
            **_writable(dsn),
        )


def _place(dsn: str) -> str:
    """Hosts and ports of an address, for people. Nothing where user or password may be in it: such as one with a bare slash."""
    address = re.fullmatch(r"\w+://(?:[^@/?]*@)?([\w.:,\[\]-]*)(?:/[^@?]*)?(?:\?([^@]*))?", dsn)
    if address is None:
        return ""
    return address[1] or dict(parse_qsl(address[2] or "")).get("host", "")


def _writable(dsn: str) -> dict[str, Any]:
    named, _, rest = dsn.partition("://")[2].partition("/")
    options = dict(parse_qsl(rest.partition("?")[2]))
    several = "," in named.rpartition("@")[2] or "," in options.get("host", "")
    return {"target_session_attrs": "read-write"} if several and "target_session_attrs" not in options else {}


async def _prepare(connection: Connection) -> None:
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

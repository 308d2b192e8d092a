"""The door to PostgreSQL: connections, codecs, and the translation of every driver error into one of ours.

asyncpg raises from four families when a server goes away (PostgresError, InterfaceError, InternalClientError, OSError):
they are told apart here and nowhere else.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import asyncpg
import structlog

from service import errors

Connection: TypeAlias = (
    "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
)

# What says "the server is not there or not able now", beside the connection classes (08, 57P): too many connections,
# out of disk or memory, read-only (a standby that was the primary), and its cousins of class 53.
_PASSING_STATES = ("08", "53", "57P", "25006", "57014", "40", "55P03", "XX")
_log = structlog.get_logger(__name__)


class Database:
    """A pool of connections. Errors of the driver leave it as DatabaseUnavailable; mistakes in SQL stay what they are."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record]) -> None:
        self._pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """A connection in autocommit: each statement is its own transaction."""
        async with _translated(), self._pool.acquire() as connection:
            yield connection

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """A connection inside one transaction (READ COMMITTED): committed at the end, undone by any exception."""
        async with _translated(), self._pool.acquire() as connection, connection.transaction():
            yield connection

    async def ping(self) -> None:
        """Raise DatabaseUnavailable unless the server answers."""
        async with self.connection() as connection:
            await connection.fetchval("SELECT 1")


@asynccontextmanager
async def _translated() -> AsyncIterator[None]:
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
            f"cannot reach PostgreSQL: {error or type(error).__name__}"
        ) from error


async def connect(dsn: str) -> asyncpg.Connection[asyncpg.Record]:
    """One connection outside the pool, for migrations and one-off commands."""
    async with _translated():
        try:
            return await asyncpg.connect(dsn, timeout=10)
        except (ValueError, asyncpg.ClientConfigurationError) as error:
            raise errors.BadSetting(
                f"ALERTWELL_DATABASE_URL: {error}; expected postgresql://user@host/database"
            ) from error
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise errors.BadSetting(f"ALERTWELL_DATABASE_URL: PostgreSQL says: {error}") from error


@asynccontextmanager
async def open_database(dsn: str, *, size: int = 16, patient: bool = False) -> AsyncIterator[Database]:
    """A pool for as long as the context lasts. `patient` waits for a server that is not there yet, and says so."""
    delay = 0.5
    while True:
        try:
            probe = await connect(dsn)
            await probe.close()
            break
        except errors.DatabaseUnavailable as error:
            if not patient:
                raise
            _log.warning("database_unavailable", error=str(error), next_try_seconds=delay)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 15)
    async with _translated():
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            init=_prepare,
            command_timeout=60,
            max_inactive_connection_lifetime=300,
            server_settings={"application_name": "alertwell", "timezone": "UTC", "jit": "off"},
        )
    try:
        yield Database(pool)
    finally:
        try:
            await asyncio.wait_for(pool.close(), 5)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()


async def _prepare(connection: Connection) -> None:
    # raw records travel as text; json of our own (labels, parameters) is small
    await connection.set_type_codec("jsonb", encoder=_as_json, decoder=json.loads, schema="pg_catalog")


def _as_json(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)

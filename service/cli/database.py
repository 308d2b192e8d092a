"""Which database a command works on, and one connection to it for as long as the command runs."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from service import errors
from service.cli import output

if TYPE_CHECKING:
    from service.settings import Settings
    from service.store import pool

T = TypeVar("T")
INSUFFICIENT_PRIVILEGE = "42501"


def address(settings: Settings) -> str:
    """DATABASE_URL, else the embedded server that `demo` or `run --embedded` keeps running in DATA_DIR.

    Raises errors.BadSetting where there is neither. It holds a password: for the driver alone.
    """
    if settings.dsn is not None:
        return settings.dsn
    from service.store.embedded import running

    found = running.servers(settings.data_dir)
    if not found:
        raise errors.BadSetting(
            "ALERTWELL_DATABASE_URL is not set (postgresql://user@host:5432/name), and no embedded database runs in "
            f"ALERTWELL_DATA_DIR={str(settings.data_dir)!r}"
        )
    if len(found) > 1:
        folders = " ".join(str(folder) for folder in found)
        raise errors.BadSetting(
            f"several embedded databases run in ALERTWELL_DATA_DIR={str(settings.data_dir)!r}; name one of them there: "
            f"{folders}"
        )
    [(folder, dsn)] = found.items()
    if sys.stderr.isatty():
        output.warn(f"this is the embedded database in {folder}")
    return dsn


def work(settings: Settings, task: Callable[[pool.Database], Awaitable[T]], *, check: bool = True) -> T:
    """Run a coroutine with the database open. `check` refuses a schema that does not fit this version."""
    import asyncio

    from service.store import pool, schema

    async def go() -> T:
        async with pool.open_database(address(settings), size=2, pooler=settings.database_pooler) as database:
            if check:
                await schema.check(database)
            return await task(database)

    try:
        return asyncio.run(go())
    except Exception as error:
        # Known by its SQLSTATE: the driver's classes do not leave store/.
        if getattr(error, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
            raise
        raise errors.BadInput(
            f"the database's role lacks a right: {error}; some commands are for the role that owns the schema (docs/security.md)"
        ) from None


def quiet(settings: Settings) -> None:
    """What is asked of Microsoft is logged nowhere: the command itself says what came of it, and stdout is for that."""
    from service import log

    log.configure("critical", settings.log_format, sys.stderr)

"""The database's schema: bringing it up to date (Alembic), and refusing to run on one that does not fit.

A running service never migrates by itself: `alertwell migrate` does, and so does `demo`. A service goes on under a newer
schema that says it still works with this version, so that a rolling upgrade needs no pause.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from service import errors

if TYPE_CHECKING:
    from service.store import pool

REVISION = 15
"""The schema revision that this version of the software needs."""

_LOCK = 0x616C6572  # one migration at a time, whoever starts it
_FOLDERS = (Path(__file__).parents[1] / "_migrations", Path(__file__).parents[2] / "migrations")


def folder() -> Path:
    """The migrations: inside the package when installed, beside it in a checkout."""
    return next(path for path in _FOLDERS if path.is_dir())


async def migrate(dsn: str) -> int:
    """Bring the database at `dsn` (postgresql://…) to the newest schema; its revision comes back. Safe to run twice.

    Lock and statement limits keep a migration from queueing in front of a running service for long. It needs to own the database
    (or the schemas, once they are there) and no more: the group roles of `roles` are made where it may, and granted what
    they need wherever they are. What a superuser migrates still belongs to the schema's owner.
    """
    import asyncpg
    from sqlalchemy import text
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import NullPool

    from service.store import pool, roles

    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=lambda: pool.connect(dsn), poolclass=NullPool
    )
    try:
        async with engine.connect() as connection:
            await connection.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
            await connection.execute(text("SET lock_timeout = '10s'"))
            # IF NOT EXISTS asks for the right to make one all the same, which who owns the schemas alone does not have
            if await connection.scalar(text("SELECT to_regnamespace('alertwell') IS NULL")):
                await connection.execute(text("CREATE SCHEMA alertwell"))
            await connection.commit()
            driver: Any = (await connection.get_raw_connection()).driver_connection
            await roles.create(driver)
            await _become_owner(driver)
            await connection.run_sync(_upgrade)
            await connection.commit()
            async with driver.transaction():
                await roles.grant(driver)
            found = await connection.execute(text("SELECT revision FROM alertwell.schema_version"))
            return int(found.scalar_one())
    except (DBAPIError, asyncpg.PostgresError) as error:
        said = str(error.orig if isinstance(error, DBAPIError) else error)
        raise errors.SchemaMismatch(f"the migration did not run: {said.splitlines()[0]}") from error
    finally:
        await engine.dispose()


async def _become_owner(connection: pool.Connection) -> None:
    """Go on as the role that owns the schema, so that whatever is made is its own, whoever migrates."""
    owner = await connection.fetchval(
        """
        SELECT nspowner::regrole::text FROM pg_namespace
        WHERE nspname = 'alertwell' AND nspowner <> (SELECT oid FROM pg_roles WHERE rolname = current_user)
        """
    )
    if owner is not None:
        await connection.execute(f"SET ROLE {owner}")


async def reset(dsn: str) -> None:
    """Drop everything of Alertwell in a database of ours (the demo's): the next `migrate` begins anew."""
    from service.store import pool

    connection = await pool.connect(dsn)
    try:
        await connection.execute("DROP SCHEMA IF EXISTS soc, alertwell CASCADE")
    finally:
        await connection.close()


def _upgrade(connection: Any) -> None:
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(folder()))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def run_sql_file(migration: str) -> None:
    """Run the .sql file beside a migration's .py file, as one script (called by the migration)."""
    from alembic import op
    from sqlalchemy.util import await_only

    script = Path(migration).with_suffix(".sql").read_text(encoding="utf-8")
    # several statements in one go: only the driver itself takes them
    driver: Any = op.get_bind().connection.driver_connection
    await_only(driver.execute(script))


async def check(database: pool.Database) -> None:
    """Raise SchemaMismatch, with the command to run, unless this version works on the database's schema."""
    async with database.connection() as connection:
        if await connection.fetchval("SELECT to_regclass('alertwell.schema_version')") is None:
            raise errors.SchemaMismatch("the database has no schema of Alertwell yet. Run: alertwell migrate")
        row = await connection.fetchrow("SELECT revision, works_with_from FROM alertwell.schema_version")
    if row is None or row["revision"] < REVISION:
        found = row["revision"] if row else "none"
        raise errors.SchemaMismatch(
            f"the database's schema is at revision {found}, this version needs {REVISION}. Run: alertwell migrate"
        )
    if row["works_with_from"] > REVISION:
        raise errors.SchemaMismatch(
            f"the database's schema (revision {row['revision']}) needs software that knows revision "
            f"{row['works_with_from']}; this version knows {REVISION}. Update Alertwell."
        )

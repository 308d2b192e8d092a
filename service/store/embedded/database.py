"""The role and the database of the service inside the embedded server."""

from __future__ import annotations

import asyncpg

from service.store import scram

NAME = "alertwell"
# All that talking to a server which comes or goes can raise.
DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def make(admin_dsn: str, role: str, password: str) -> None:
    """Make what is missing: the role, which is no superuser, and the database that it owns."""
    connection = await asyncpg.connect(admin_dsn, timeout=30)
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
            await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{scram.verifier(password)}'")
        # readers' roles are made by it; what it did not make, it cannot touch
        if not await connection.fetchval("SELECT rolcreaterole FROM pg_roles WHERE rolname = $1", role):
            await connection.execute(f"ALTER ROLE {role} CREATEROLE")
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", NAME):
            await connection.execute(f"CREATE DATABASE {NAME} OWNER {role}")
    finally:
        await connection.close()

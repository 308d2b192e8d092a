"""The role and the database of the service inside the embedded server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets

import asyncpg

NAME = "alertwell"
# All that talking to a server which comes or goes can raise.
DRIVER_ERRORS = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


async def make(admin_dsn: str, role: str, password: str) -> None:
    """Make what is missing: the role, which is no superuser, and the database that it owns."""
    connection = await asyncpg.connect(admin_dsn, timeout=30)
    try:
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", role):
            await connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{scram_verifier(password)}'")
        if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", NAME):
            await connection.execute(f"CREATE DATABASE {NAME} OWNER {role}")
    finally:
        await connection.close()


def scram_verifier(password: str) -> str:
    """What PostgreSQL keeps of a password (RFC 5803). Sent in its place, the password is in no log."""
    salt, rounds = secrets.token_bytes(16), 4096
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, rounds)
    stored = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, stored64, server64 = (base64.b64encode(part).decode() for part in (salt, stored, server))
    return f"SCRAM-SHA-256${rounds}:{salt64}${stored64}:{server64}"

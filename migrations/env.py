"""Alembic's environment: one asyncpg connection, handed over by service.store.schema. Forward only, plain SQL."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

connection: Connection = context.config.attributes["connection"]
context.configure(connection=connection, version_table_schema="alertwell", transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()

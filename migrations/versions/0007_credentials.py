"""Every kind of credential as a tenant's or a stream's own."""

from __future__ import annotations

from service.store import schema

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    schema.run_sql_file(__file__)

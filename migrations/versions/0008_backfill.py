"""How much of a quota a backfill may take."""

from __future__ import annotations

from service.store import schema

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    schema.run_sql_file(__file__)

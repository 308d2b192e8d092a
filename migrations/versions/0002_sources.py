"""More sources than one, and what takes the place of one that ends."""

from __future__ import annotations

from service.store import schema

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    schema.run_sql_file(__file__)

"""Merging alerts at a fraction of the cost."""

from __future__ import annotations

from service.store import schema

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    schema.run_sql_file(__file__)

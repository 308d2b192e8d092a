"""Reading the recent past a second time, and what is learned of lateness from it."""

from __future__ import annotations

from service.store import schema

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    schema.run_sql_file(__file__)

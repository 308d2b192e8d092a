"""Changes of incidents in the change feed."""

from __future__ import annotations

from service.store import schema

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    schema.run_sql_file(__file__)

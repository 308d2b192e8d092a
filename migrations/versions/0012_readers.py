"""Rules that say which tenants a reader sees, and the newest merged alerts of a few tenants from their indexes."""

from __future__ import annotations

from service.store import schema

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    schema.run_sql_file(__file__)

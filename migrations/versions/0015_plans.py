"""Merging alerts by one plan that is right however much there is."""

from __future__ import annotations

from service.store import schema

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    schema.run_sql_file(__file__)

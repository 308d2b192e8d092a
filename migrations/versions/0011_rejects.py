"""How many rejects of a stream a day keeps: what a source answers for ever must not fill the disk."""

from __future__ import annotations

from service.store import schema

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    schema.run_sql_file(__file__)

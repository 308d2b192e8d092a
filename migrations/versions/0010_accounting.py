"""What became of every item, on the stream; how often a stream is used to bring alerts, and that it does not any more."""

from __future__ import annotations

from service.store import schema

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    schema.run_sql_file(__file__)

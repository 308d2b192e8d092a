"""Why a stream needs a person, as a word beside the sentence."""

from __future__ import annotations

from service.store import schema

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    schema.run_sql_file(__file__)

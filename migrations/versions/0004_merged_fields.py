"""Fields of the work on an alert come from one record; indexes by which incidents and their redirects are found."""

from __future__ import annotations

from service.store import schema

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    schema.run_sql_file(__file__)

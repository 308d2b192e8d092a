"""What keeps its speed with millions of alerts: an order by time that outlives retention, alerts by device, earlier vacuums."""

from __future__ import annotations

from service.store import schema

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    schema.run_sql_file(__file__)

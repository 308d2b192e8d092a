"""The collector: tenants, streams, leases, alerts, the change feed, and the public schema soc."""

from __future__ import annotations

from service.store import schema

revision = "0001"
down_revision = None


def upgrade() -> None:
    schema.run_sql_file(__file__)

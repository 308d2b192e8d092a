"""Who did what to tenants, and invitations: a tenant's consent from the link to the proof."""

from __future__ import annotations

from service.store import schema

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    schema.run_sql_file(__file__)

"""The audit: who did what to which tenant, and when. Rows are only ever added, in the transaction of the act itself.

A detail says what was changed, never a secret: credentials appear by app id and kind.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal
from uuid import UUID

from service.store import pool

DAEMON: Final = "daemon"
"""The actor of what a replica does by itself."""
CALLBACK: Final = "consent callback"
"""The actor of what comes in over PUBLIC_PORT."""

Action = Literal[
    "tenant.added",
    "tenant.changed",
    "tenant.paused",
    "tenant.resumed",
    "tenant.removed",
    "tenant.purged",
    "tenant.invited",
    "tenant.withdrawn",
    "consent.given",
    "consent.refused",
    "consent.proven",
    "consent.unproven",
    "credential.set",
    "credential.cleared",
    "credential.signed_in",
    "credential.resealed",
    "stream.fallback",
    "stream.backfilled",
    "stream.rewound",
    "reader.added",
    "reader.removed",
]


@dataclass(frozen=True, slots=True)
class Entry:
    """One act. `name` is for a tenant that has no row, or none any more; else the row's name is taken."""

    action: Action
    tenant_id: UUID | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    name: str | None = None


async def record(
    connection: pool.Connection,
    *,
    actor: str,
    action: Action,
    tenant_id: UUID | None = None,
    detail: Mapping[str, Any] | None = None,
    name: str | None = None,
) -> None:
    """Add one act; `detail` can be JSON."""
    await record_all(connection, actor=actor, entries=[Entry(action, tenant_id, detail or {}, name)])


async def record_all(connection: pool.Connection, *, actor: str, entries: Sequence[Entry]) -> None:
    """Add acts, in their order."""
    await connection.execute(
        """
        INSERT INTO alertwell.audit (actor, action, tenant_id, tenant_name, detail)
        SELECT $1, i.action, i.tenant_id, coalesce(i.name, t.name), i.detail
        FROM unnest($2::text[], $3::uuid[], $4::text[], $5::jsonb[]) WITH ORDINALITY
             AS i (action, tenant_id, name, detail, n)
        LEFT JOIN alertwell.tenant t ON t.tenant_id = i.tenant_id
        ORDER BY i.n
        """,
        actor,
        [entry.action for entry in entries],
        [entry.tenant_id for entry in entries],
        [entry.name for entry in entries],
        [dict(entry.detail) for entry in entries],
    )

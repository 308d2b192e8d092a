"""Tenants' own credentials, for all sources or for one: the source's wins, then the tenant's, then the shared app counts.

Each change tells the owning replica at once and stands in the audit, by app id and kind. What another app has read is proven for
that app alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from service import errors, horizons, model
from service.store import audit, leases, pool, proofs

KINDS_KNOWN_FROM: Final = 6
"""The oldest schema revision whose software tells kinds apart: older software takes what is sealed for a secret, and would send a
certificate's key to Entra. The first credential that is no secret keeps such software from starting."""


@dataclass(frozen=True, slots=True)
class Own:
    """A credential to be stored; `sealed` as `auth.sealing` sealed it, empty where federated."""

    app_id: str
    kind: model.CredentialKind
    sealed: bytes = field(repr=False)
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A credential that is stored. `source` is '' where it is for all sources that have none of their own."""

    tenant_id: UUID
    tenant_name: str
    source: str
    credential: model.Credential
    expires_at: datetime | None
    updated_at: datetime

    def plain(self) -> dict[str, Any]:
        """What may be shown of it; `source` is None where it is for all."""
        own = self.credential
        return {
            "source": self.source or None,
            "app_id": own.app_id,
            "kind": own.kind,
            "expires_at": self.expires_at,
            "updated_at": self.updated_at,
        }


async def put(connection: pool.Connection, given: Mapping[tuple[UUID, str], Own]) -> None:
    """Store credentials by (tenant, source), as a part of a transaction that locks, audits and tells the owners."""
    await connection.execute(
        """
        INSERT INTO alertwell.credential AS c (tenant_id, source, app_id, kind, sealed, expires_at)
        SELECT tenant_id, source, app_id, kind, sealed, expires_at
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::bytea[], $6::timestamptz[])
             AS i (tenant_id, source, app_id, kind, sealed, expires_at)
        ON CONFLICT (tenant_id, source) DO UPDATE
        SET app_id = excluded.app_id, kind = excluded.kind, sealed = excluded.sealed, expires_at = excluded.expires_at,
            version = excluded.version, updated_at = now()
        """,
        [tenant_id for tenant_id, _ in given],
        [source for _, source in given],
        [own.app_id for own in given.values()],
        [own.kind for own in given.values()],
        [own.sealed for own in given.values()],
        [own.expires_at for own in given.values()],
    )
    if any(own.kind != "client_secret" for own in given.values()):
        await connection.execute(
            "UPDATE alertwell.schema_version SET works_with_from = $1 WHERE works_with_from < $1",
            KINDS_KNOWN_FROM,
        )


async def set_own(
    database: pool.Database,
    tenant_id: UUID,
    source: str,
    own: Own,
    *,
    actor: str,
    action: audit.Action = "credential.set",
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Store a credential for a source of a tenant, or for all of it (''); what its streams wait for a person is tried at once.

    `detail` joins what the audit says. Raises BadInput for a tenant that is not there, or was removed.
    """
    async with database.transaction() as connection:
        reached = await _hold(connection, tenant_id)
        await put(connection, {(tenant_id, source): own})
        facts = {"source": source or None, "app_id": own.app_id, "kind": own.kind, **(detail or {})}
        await _told(connection, tenant_id, reached, actor, action, facts)


async def clear(database: pool.Database, tenant_id: UUID, source: str, *, actor: str) -> bool:
    """Forget the credential of a source, or of the tenant (''): the next one in order counts. Says whether there was one.

    Raises BadInput for a tenant that is not there.
    """
    async with database.transaction() as connection:
        reached = await _hold(connection, tenant_id, removed=True)
        row = await connection.fetchrow(
            "DELETE FROM alertwell.credential WHERE tenant_id = $1 AND source = $2 RETURNING app_id, kind",
            tenant_id,
            source,
        )
        if row is None:
            return False
        facts = {"source": source or None, "app_id": row["app_id"], "kind": row["kind"]}
        await _told(connection, tenant_id, reached, actor, "credential.cleared", facts)
    return True


async def listed(database: pool.Database, tenant_ids: Sequence[UUID] | None = None) -> list[Stored]:
    """The credentials that are stored, of these tenants or of all, by tenant and source."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT c.tenant_id, t.name, c.source, c.app_id, c.kind, c.sealed, c.version, c.expires_at, c.updated_at
            FROM alertwell.credential c JOIN alertwell.tenant t ON t.tenant_id = c.tenant_id
            WHERE $1::uuid[] IS NULL OR c.tenant_id = ANY ($1)
            ORDER BY c.tenant_id, c.source
            """,
            tenant_ids,
        )
    return [
        Stored(
            row["tenant_id"],
            row["name"],
            row["source"],
            model.Credential(row["app_id"], row["kind"], row["sealed"], row["version"], row["source"]),
            row["expires_at"],
            row["updated_at"],
        )
        for row in rows
    ]


async def endings(database: pool.Database) -> list[horizons.Ending]:
    """Of each kind, the tenants' credential that ends first, and how many end within 60 days; of those whose end is known."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT DISTINCT ON (c.kind) c.kind, c.app_id, c.expires_at, t.tenant_id, t.name,
                   count(*) FILTER (WHERE c.expires_at <= now() + $1::interval) OVER (PARTITION BY c.kind) AS soon
            FROM alertwell.credential c JOIN alertwell.tenant t ON t.tenant_id = c.tenant_id AND t.state <> 'removed'
            WHERE c.expires_at IS NOT NULL
            ORDER BY c.kind, c.expires_at, t.tenant_id
            """,
            horizons.FAR,
        )
    return [
        horizons.Ending(
            "tenants",
            row["app_id"],
            row["kind"],
            row["expires_at"],
            first=f"{row['name']} ({str(row['tenant_id'])[:4]}…)",
            soon=row["soon"],
        )
        for row in rows
    ]


async def _hold(
    connection: pool.Connection, tenant_id: UUID, *, removed: bool = False
) -> dict[tuple[UUID, str], tuple[Any, ...]]:
    state = await connection.fetchval(
        "SELECT state FROM alertwell.tenant WHERE tenant_id = $1 FOR NO KEY UPDATE", tenant_id
    )
    if state is None:
        raise errors.BadInput(f"no tenant {tenant_id}; see: alertwell tenants list")
    if state == "removed" and not removed:
        raise errors.BadInput(f"tenant {tenant_id} was removed; enrol it again: alertwell tenants add")
    await leases.lock(connection, [tenant_id])
    return await proofs.scopes(connection, [tenant_id])


async def _told(
    connection: pool.Connection,
    tenant_id: UUID,
    reached: dict[tuple[UUID, str], tuple[Any, ...]],
    actor: str,
    action: audit.Action,
    facts: Mapping[str, Any],
) -> None:
    await proofs.take_back_moved(connection, reached)
    await audit.record(connection, actor=actor, action=action, tenant_id=tenant_id, detail=facts)
    await leases.changed(connection, [tenant_id])

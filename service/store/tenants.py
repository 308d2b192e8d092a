"""Tenants that are enrolled: found, paused, resumed, removed, purged. Each change tells the owning replica at once."""

from __future__ import annotations

from typing import Final
from uuid import UUID

from service import errors, model
from service.store import audit, leases, pool, retention

_PURGED = (
    "unnumbered",
    "feed",
    "alert_change",
    "alert_merged",
    "alert",
    "incident",
    "poll",
    "reject",
    "reader",
    "invitation",
    "tenant",
)
_PURGE_SECONDS = 3600.0  # a statement; millions of alerts take minutes
_ACTIONS: Final[dict[model.TenantState, audit.Action]] = {
    "pending": "tenant.changed",
    "active": "tenant.resumed",
    "paused": "tenant.paused",
    "removed": "tenant.removed",
}


async def find(database: pool.Database, text: str) -> list[UUID]:
    """Tenants by id, or by exact name without regard to case; more than one where a name is used twice."""
    try:
        wanted: UUID | None = UUID(text)
    except ValueError:
        wanted = None
    async with database.connection() as connection:
        rows = await connection.fetch(
            "SELECT tenant_id FROM alertwell.tenant WHERE tenant_id = $1 OR lower(name) = lower($2)",
            wanted,
            text,
        )
    return [row["tenant_id"] for row in rows]


async def get(database: pool.Database, tenant_id: UUID) -> model.Tenant:
    """One tenant. Raises BadInput where there is none."""
    async with database.connection() as connection:
        row = await connection.fetchrow(
            """
            SELECT tenant_id, name, cloud, region, state, labels, external_ref FROM alertwell.tenant WHERE tenant_id = $1
            """,
            tenant_id,
        )
    if row is None:
        raise errors.BadInput(f"no tenant {tenant_id}; see: alertwell tenants list")
    return model.Tenant(**dict(row))


async def set_state(
    database: pool.Database,
    tenant_id: UUID,
    state: model.TenantState,
    *,
    reason: str | None = None,
    actor: str = audit.DAEMON,
) -> None:
    """Pause, resume or remove; polls under way write nothing more. What is stored stays. Who is removed is invited no more."""
    async with database.transaction() as connection:
        if state == "removed":
            await connection.execute(
                """
                UPDATE alertwell.invitation
                SET state = 'withdrawn', state_reason = 'the tenant was removed', updated_at = now()
                WHERE tenant_id = $1 AND state IN ('open', 'given', 'refused')
                """,
                tenant_id,
            )
        done = await connection.execute(
            """
            UPDATE alertwell.tenant
            SET state = $2, state_reason = $3, updated_at = now(),
                consented_at = CASE WHEN $2 = 'active' THEN coalesce(consented_at, now()) ELSE consented_at END
            WHERE tenant_id = $1
            """,
            tenant_id,
            state,
            reason,
        )
        if done == "UPDATE 0":
            raise errors.BadInput(f"no tenant {tenant_id}; see: alertwell tenants list")
        detail = {"reason": reason} if reason else {}
        await audit.record(
            connection, actor=actor, action=_ACTIONS[state], tenant_id=tenant_id, detail=detail
        )
        await leases.changed(connection, [tenant_id])
        if state != "active":
            # nobody's any more: its owner does not wait for it when it gives its leases back
            await connection.execute(
                "UPDATE alertwell.lease SET owner = NULL WHERE tenant_id = $1", tenant_id
            )


async def purge(database: pool.Database, tenant_id: UUID, *, actor: str = audit.DAEMON) -> dict[str, int]:
    """Delete a tenant with all that it holds, and leave one `purged` change and its audit; rows deleted a table.

    It stops being polled at once; a purge that is broken off leaves it removed, and can be run again.
    """
    await set_state(database, tenant_id, "removed", reason="being purged", actor=actor)
    deleted = {}
    async with database.transaction() as connection:
        await retention.wait(connection)
        name = await connection.fetchval(
            "SELECT name FROM alertwell.tenant WHERE tenant_id = $1 FOR UPDATE", tenant_id
        )
        await leases.lock(connection, [tenant_id])
        # unnumbered first: waits for a sequencer under way, so that what it has numbered is seen in feed
        for table in _PURGED:
            done = await connection.execute(
                f"DELETE FROM alertwell.{table} WHERE tenant_id = $1",  # noqa: S608 - names from the list above
                tenant_id,
                timeout=_PURGE_SECONDS,
            )
            deleted[table] = int(done.removeprefix("DELETE "))
        if name is not None:  # else somebody else has just purged it
            await connection.execute(
                """
                WITH change AS (
                    INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, changed)
                    VALUES ($1, nextval('alertwell.change_batch'), 1, 0, 'purged',
                            jsonb_build_object('tenant_name', jsonb_build_array($2::text, NULL)))
                    RETURNING tenant_id, batch
                )
                INSERT INTO alertwell.unnumbered (tenant_id, batch, changes) SELECT tenant_id, batch, 1 FROM change
                """,
                tenant_id,
                name,
            )
            await audit.record(
                connection,
                actor=actor,
                action="tenant.purged",
                tenant_id=tenant_id,
                name=name,
                detail={"deleted": {table: count for table, count in deleted.items() if count}},
            )
    return deleted

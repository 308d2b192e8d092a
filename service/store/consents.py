"""The answers to invitations, as the callback brings them: what an administrator of some tenant is said to have done.

The callback's word decides which tenant is tried, nothing else: nothing is enrolled before it is proven (`provings`).
"""

from __future__ import annotations

from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from service.store import audit, invitations, pool

Outcome = Literal[
    "given", "replayed", "expired", "withdrawn", "wrong_tenant", "enrolled_elsewhere", "unknown", "too_often"
]
MOST_ANSWERS: Final = 50
"""To one link: beyond, nothing is written any more, so that a link that leaked fills no table."""


async def give(database: pool.Database, invitation_id: UUID, tenant_id: UUID) -> Outcome:
    """An administrator has consented, the callback says, in this tenant. `given` once, all else is refused."""
    async with database.transaction() as connection:
        row = await _answered(connection, invitation_id)
        if row is None:
            return "unknown"
        if row["answers"] > MOST_ANSWERS:
            return "too_often"
        invitation = invitations.of(row)
        other = await enrolled_as(connection, invitation, tenant_id)
        outcome: Outcome = "given"
        if row["state"] in ("given", "proven"):
            taken = (invitation.tenant_id, invitation.said_tenant)
            outcome = "replayed" if tenant_id in taken else "wrong_tenant"
        elif row["state"] == "withdrawn":
            outcome = "withdrawn"
        elif row["state"] == "expired" or row["late"]:
            outcome = "expired"
        elif invitation.tenant_id not in (None, tenant_id):
            outcome = "wrong_tenant"
        elif other is not None:
            outcome = "enrolled_elsewhere"
        else:
            await connection.execute(
                """
                UPDATE alertwell.invitation
                SET state = 'given', state_reason = NULL, said_tenant = $2, used_at = now(), next_proof_at = now(),
                    proofs = 0, updated_at = now()
                WHERE invitation_id = $1
                """,
                invitation_id,
                tenant_id,
            )
        detail = {"said": str(tenant_id)} | ({} if outcome == "given" else {"why": outcome})
        action: audit.Action = "consent.given" if outcome == "given" else "consent.refused"
        await record(connection, audit.CALLBACK, action, invitation, **detail)
    return outcome


async def refuse(
    database: pool.Database, invitation_id: UUID, reason: str, *, contradictory: bool
) -> Outcome | Literal["refused"]:
    """Entra brought an error in place of a consent. The link can be tried again until it expires.

    `contradictory`: the answer spoke of a consent too; it changes nothing.
    """
    async with database.transaction() as connection:
        row = await _answered(connection, invitation_id)
        if row is None:
            return "unknown"
        if row["answers"] > MOST_ANSWERS:
            return "too_often"
        if not contradictory:
            await connection.execute(
                """
                UPDATE alertwell.invitation SET state = 'refused', state_reason = $2, updated_at = now()
                WHERE invitation_id = $1 AND state IN ('open', 'refused') AND expires_at > now()
                """,
                invitation_id,
                reason,
            )
        invitation = invitations.of(row)
        await record(
            connection, audit.CALLBACK, "consent.refused", invitation, why=reason, contradictory=contradictory
        )
    return "refused"


async def _answered(connection: pool.Connection, invitation_id: UUID) -> asyncpg.Record | None:
    """Count an answer; the row as it is, locked."""
    return await connection.fetchrow(
        f"""
        UPDATE alertwell.invitation i SET answers = least(i.answers, {MOST_ANSWERS}) + 1
        WHERE i.invitation_id = $1
        RETURNING {invitations.COLUMNS}, i.answers, i.expires_at <= now() AS late
        """,  # noqa: S608 - made of constants
        invitation_id,
    )


async def enrolled_as(
    connection: pool.Connection, invitation: invitations.Invitation, tenant_id: UUID
) -> str | None:
    """The name under which a tenant is enrolled that was not invited by its id, where it is another one."""
    if invitation.tenant_id is not None:
        return None
    found: str | None = await connection.fetchval(
        "SELECT name FROM alertwell.tenant WHERE tenant_id = $1 AND state <> 'removed' AND lower(name) <> lower($2)",
        tenant_id,
        invitation.name,
    )
    return found


async def record(
    connection: pool.Connection,
    actor: str,
    action: audit.Action,
    invitation: invitations.Invitation,
    **detail: Any,
) -> None:
    """Add to the audit what happened to an invitation."""
    facts = {"invitation": str(invitation.invitation_id), **detail}
    await audit.record(
        connection,
        actor=actor,
        action=action,
        tenant_id=invitation.tenant_id,
        detail=facts,
        name=invitation.name,
    )

"""The proof of a consent: claimed by one replica at a time, and what it brings, in one transaction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

from service import model
from service.store import audit, consents, enrolments, invitations, leases, pool


@dataclass(frozen=True, slots=True)
class Settled:
    """What a proof brought: whether the tenant is active now, or the name that it is enrolled under elsewhere."""

    proven: bool
    enrolled_as: str | None = None


async def claim(
    database: pool.Database, replica_id: UUID, *, limit: int, ttl: float, busy: Iterable[UUID] = ()
) -> list[invitations.Invitation]:
    """Take given invitations whose proof is due; no other replica takes them while this one lives.

    `busy` are those that this replica proves already, `ttl` the seconds after which a silent replica counts as dead. A proof
    whose end could not be written is tried again after a minute.
    """
    async with database.transaction() as connection:
        rows = await connection.fetch(
            f"""
            WITH due AS MATERIALIZED (
                SELECT d.invitation_id
                FROM alertwell.invitation d
                WHERE d.state = 'given' AND d.invitation_id <> ALL ($4::uuid[])
                  AND CASE WHEN d.prover IS NULL OR d.prover = $1 THEN d.next_proof_at <= now()
                           ELSE NOT EXISTS (SELECT FROM alertwell.replica r WHERE r.replica_id = d.prover
                                            AND r.heartbeat_at > now() - make_interval(secs => $3)) END
                ORDER BY d.next_proof_at LIMIT $2
                FOR UPDATE SKIP LOCKED
            )
            UPDATE alertwell.invitation i
            SET prover = $1, proofs = i.proofs + 1, next_proof_at = now() + interval '1 minute', updated_at = now()
            FROM due WHERE i.invitation_id = due.invitation_id
            RETURNING {invitations.COLUMNS}
            """,  # noqa: S608 - made of constants
            replica_id,
            limit,
            ttl,
            list(busy),
        )
    return [invitations.of(row) for row in rows]


async def prove(
    database: pool.Database,
    invitation_id: UUID,
    tenant_id: UUID,
    *,
    prover: UUID | None,
    lookback: timedelta,
    actor: str,
    detail: Mapping[str, Any],
) -> Settled:
    """The tenant has been read with a token of its own: active from now on, its streams enrolled, its owner told.

    In one transaction. Without `prover` a person proves by hand, whatever has become of the link; else only whoever
    holds the claim does. A tenant that is enrolled under another name is refused.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(
            f"""
            SELECT {invitations.COLUMNS} FROM alertwell.invitation i
            WHERE i.invitation_id = $1
              AND CASE WHEN $2::uuid IS NULL THEN i.state = ANY ($3::text[]) ELSE i.state = 'given' AND i.prover = $2 END
            FOR UPDATE
            """,  # noqa: S608 - made of constants
            invitation_id,
            prover,
            invitations.UNSETTLED,
        )
        if row is None:
            return Settled(proven=False)
        invitation = invitations.of(row)
        # two invitations that the same tenant has answered: the second one sees the first one's row
        await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 4))", str(tenant_id))
        other = await consents.enrolled_as(connection, invitation, tenant_id)
        if other is not None:
            why = f"the tenant that consented, {tenant_id}, is enrolled as {other}"
            await _settle(connection, invitation_id, "refused", why, None)
            await consents.record(connection, actor, "consent.refused", invitation, why="enrolled_elsewhere")
            return Settled(proven=False, enrolled_as=other)
        wanted = await _enrolment(connection, invitation, tenant_id)
        await enrolments.within(connection, [wanted], lookback=lookback, actor=actor)
        await _settle(connection, invitation_id, "proven", None, tenant_id)
        facts = {"invitation": str(invitation_id), **detail}
        await audit.record(
            connection, actor=actor, action="consent.proven", tenant_id=tenant_id, detail=facts
        )
    return Settled(proven=True)


async def postpone(
    database: pool.Database,
    invitation: invitations.Invitation,
    *,
    prover: UUID,
    reason: str,
    code: str,
    delay: timedelta,
    patience: timedelta,
) -> bool:
    """Not proven yet: what is missing stands in state_reason, the next attempt comes after `delay`.

    `patience` after the answer it is given up, and False comes back. A reason is audited when it is a new one.
    """
    async with database.transaction() as connection:
        row = await connection.fetchrow(
            """
            UPDATE alertwell.invitation
            SET prover = NULL, next_proof_at = now() + $4::interval, state_reason = $3, updated_at = now(),
                state = CASE WHEN used_at < now() - $5::interval THEN 'expired' ELSE state END
            WHERE invitation_id = $1 AND state = 'given' AND prover = $2
            RETURNING state
            """,
            invitation.invitation_id,
            prover,
            reason,
            delay,
            patience,
        )
        if row is None:
            return True
        given_up = row["state"] == "expired"
        if given_up or reason != invitation.state_reason:
            await consents.record(
                connection,
                audit.DAEMON,
                "consent.unproven",
                invitation,
                why=reason,
                code=code,
                given_up=given_up,
            )
    return not given_up


async def heal(database: pool.Database, tenant_id: UUID, *, actor: str, detail: Mapping[str, Any]) -> bool:
    """An enrolled tenant has been read by hand: pending becomes active, and whoever waits for a person is polled at once.

    Whether there was anything to heal comes back.
    """
    async with database.transaction() as connection:
        activated = await connection.fetchval(
            """
            UPDATE alertwell.tenant
            SET state = 'active', state_reason = NULL, consented_at = coalesce(consented_at, now()), updated_at = now()
            WHERE tenant_id = $1 AND state = 'pending' RETURNING true
            """,
            tenant_id,
        )
        waits = await connection.fetchval(
            """
            SELECT true FROM alertwell.stream s JOIN alertwell.tenant t ON t.tenant_id = s.tenant_id AND t.state = 'active'
            WHERE s.tenant_id = $1 AND s.enabled AND s.state = 'needs_attention' LIMIT 1
            """,
            tenant_id,
        )
        if activated:
            await audit.record(
                connection, actor=actor, action="consent.proven", tenant_id=tenant_id, detail=detail
            )
        if activated or waits:
            await leases.changed(connection, [tenant_id])
    return bool(activated or waits)


async def _enrolment(
    connection: pool.Connection, invitation: invitations.Invitation, tenant_id: UUID
) -> enrolments.Enrolment:
    """The tenant with the sources of the invitation; what stands in its row by now is kept, parameters too."""
    tenant = invitation.tenant(tenant_id, "active")
    row = await connection.fetchrow(
        """
        SELECT name, cloud, region, labels, external_ref FROM alertwell.tenant
        WHERE tenant_id = $1 AND state <> 'removed' FOR UPDATE
        """,
        tenant_id,
    )
    if row is not None:
        tenant = model.Tenant(tenant_id, state="active", **dict(row))
    held = await connection.fetch(
        "SELECT source, parameters FROM alertwell.stream WHERE tenant_id = $1", tenant_id
    )
    parameters = {each["source"]: each["parameters"] for each in held}
    return enrolments.Enrolment(tenant, {source: parameters.get(source, {}) for source in invitation.sources})


async def _settle(
    connection: pool.Connection,
    invitation_id: UUID,
    state: invitations.State,
    reason: str | None,
    tenant_id: UUID | None,
) -> None:
    await connection.execute(
        """
        UPDATE alertwell.invitation
        SET state = $2, state_reason = $3, tenant_id = coalesce($4, tenant_id), prover = NULL, next_proof_at = NULL,
            updated_at = now()
        WHERE invitation_id = $1
        """,
        invitation_id,
        state,
        reason,
        tenant_id,
    )

"""Invitations: customers who are asked for consent. What comes of their answers is in `consents`.

One customer has one link that works: inviting again withdraws the links before it. An invitation is locked before its tenant.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any, Final, Literal
from uuid import UUID

import asyncpg

from service import model
from service.store import audit, enrolments, pool, reports

State = Literal["open", "given", "proven", "refused", "expired", "withdrawn"]
Form = Literal["v2", "v1", "plain", "legacy"]
"""How the link asks, as `auth.consent` makes it; `plain` and `legacy` do not lead back to the callback."""

UNSETTLED: Final = ("open", "given", "refused", "expired")
"""States from which a proof still makes the tenant active."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """A customer who is asked. `tenant_id` is None where whoever consents is taken, and then known once it is proven.

    `said_tenant` is who consented as the callback said, at `used_at`; `proofs` how often that was tried to be proven.
    """

    invitation_id: UUID
    tenant_id: UUID | None
    name: str
    cloud: str
    region: str | None
    sources: tuple[str, ...]
    form: Form
    expires_at: datetime
    state: State = "open"
    state_reason: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    external_ref: str | None = None
    said_tenant: UUID | None = None
    used_at: datetime | None = None
    proofs: int = 0

    def tenant(self, tenant_id: UUID, state: model.TenantState) -> model.Tenant:
        """The tenant that it asks for, where it is this one."""
        return model.Tenant(
            tenant_id, self.name, self.cloud, self.region, state, self.labels, self.external_ref
        )


@dataclass(frozen=True, slots=True)
class Wanted:
    """Whom to invite: as `Invitation`."""

    tenant_id: UUID | None
    name: str
    cloud: str
    region: str | None
    sources: tuple[str, ...]
    form: Form
    labels: Mapping[str, str] = field(default_factory=dict)
    external_ref: str | None = None


async def invite(
    database: pool.Database, wanted: Sequence[Wanted], *, valid: timedelta, actor: str
) -> tuple[list[Invitation], int]:
    """New invitations in the order given, and how many older ones have stopped for them; all in one transaction.

    A tenant that is named by its id has a row from now on: `pending`, unless it is active or paused already. Raises BadInput.
    """
    async with database.transaction() as connection:
        stopped = await connection.fetch(
            """
            UPDATE alertwell.invitation i
            SET state = 'withdrawn', state_reason = 'invited anew', prover = NULL, updated_at = now()
            FROM (SELECT DISTINCT o.invitation_id
                  FROM alertwell.invitation o
                  JOIN unnest($1::uuid[], $2::text[]) AS n (tenant_id, name)
                    ON o.tenant_id = n.tenant_id
                       OR lower(o.name) = lower(n.name) AND (o.tenant_id IS NULL OR n.tenant_id IS NULL)
                  WHERE o.state IN ('open', 'given', 'refused', 'expired')) old
            WHERE i.invitation_id = old.invitation_id
            RETURNING i.invitation_id
            """,
            [w.tenant_id for w in wanted],
            [w.name for w in wanted],
        )
        pending = [
            enrolments.Enrolment(
                model.Tenant(w.tenant_id, w.name, w.cloud, w.region, "pending", w.labels, w.external_ref), {}
            )
            for w in wanted
            if w.tenant_id is not None
        ]
        await enrolments.within(connection, pending, lookback=timedelta(), actor=actor)
        rows = await connection.fetch(
            f"""
            INSERT INTO alertwell.invitation AS i (tenant_id, name, cloud, region, sources, form, labels, external_ref,
                                                   created_by, expires_at)
            SELECT (w.one->>'tenant_id')::uuid, w.one->>'name', w.one->>'cloud', w.one->>'region',
                   ARRAY(SELECT jsonb_array_elements_text(w.one->'sources')), w.one->>'form', w.one->'labels',
                   w.one->>'external_ref', $2, now() + $3::interval
            FROM unnest($1::jsonb[]) WITH ORDINALITY AS w (one, n) ORDER BY w.n
            RETURNING {COLUMNS}
            """,  # noqa: S608 - made of constants
            [_plain(w) for w in wanted],
            actor,
            valid,
        )
        made = [of(row) for row in rows]
        await audit.record_all(
            connection, actor=actor, entries=[_entry("tenant.invited", i, form=i.form) for i in made]
        )
    return made, len(stopped)


async def withdraw(database: pool.Database, invitation_id: UUID, *, actor: str) -> bool:
    """Stop a link, or the proof of an answer to it; False where there is nothing to stop any more."""
    async with database.transaction() as connection:
        row = await connection.fetchrow(
            f"""
            UPDATE alertwell.invitation i
            SET state = 'withdrawn', state_reason = 'withdrawn by hand', prover = NULL, updated_at = now()
            WHERE i.invitation_id = $1 AND i.state IN ('open', 'given', 'refused', 'expired')
            RETURNING {COLUMNS}
            """,  # noqa: S608 - made of constants
            invitation_id,
        )
        if row is None:
            return False
        await audit.record_all(connection, actor=actor, entries=[_entry("tenant.withdrawn", of(row))])
    return True


async def get(database: pool.Database, invitation_id: UUID) -> Invitation | None:
    """One invitation as it is now, None where it was purged."""
    found = await _fetch(database, "i.invitation_id = $1", invitation_id)
    return found[0] if found else None


async def unsettled(database: pool.Database, text: str) -> list[Invitation]:
    """Invitations that a proof could still settle, by the customer's name or tenant id; the newest first."""
    try:
        tenant_id: UUID | None = UUID(text)
    except ValueError:
        tenant_id = None
    return await _fetch(
        database,
        "i.state = ANY ($3::text[]) AND (i.tenant_id = $1 OR i.said_tenant = $1 OR lower(i.name) = lower($2))",
        tenant_id,
        text,
        UNSETTLED,
    )


async def listed(database: pool.Database, invitation_id: UUID | None = None) -> list[dict[str, Any]]:
    """All invitations, or one of them, the newest first, as soc.invitations shows them."""
    return await reports.fetch(
        database,
        """
        SELECT s.*, i.updated_at FROM soc.invitations s JOIN alertwell.invitation i USING (invitation_id)
        WHERE $1::uuid IS NULL OR s.invitation_id = $1 ORDER BY s.created_at DESC, lower(s.name)
        """,
        invitation_id,
    )


async def first_windows(
    database: pool.Database, tenant_id: UUID, sources: Sequence[str]
) -> list[dict[str, Any]]:
    """Those of these streams that have read a live window, with the alerts that are held of each."""
    return await reports.fetch(
        database,
        """
        SELECT c.source,
               (SELECT count(*) FROM alertwell.alert a WHERE a.tenant_id = c.tenant_id AND a.source = c.source) AS alerts
        FROM soc.coverage c
        WHERE c.tenant_id = $1 AND c.source = ANY ($2::text[]) AND c.last_success_at IS NOT NULL ORDER BY c.source
        """,
        tenant_id,
        sources,
    )


async def _fetch(database: pool.Database, condition: str, *arguments: Any) -> list[Invitation]:
    async with database.connection() as connection:
        rows = await connection.fetch(
            f"""
            SELECT {COLUMNS} FROM alertwell.invitation i
            WHERE {condition} ORDER BY i.created_at DESC, i.invitation_id
            """,  # noqa: S608 - made of constants
            *arguments,
        )
    return [of(row) for row in rows]


COLUMNS: Final = ", ".join(f"i.{each.name}" for each in fields(Invitation))


def of(row: asyncpg.Record) -> Invitation:
    """From a row that has COLUMNS, whatever else it has."""
    values = {each.name: row[each.name] for each in fields(Invitation)}
    return Invitation(**{**values, "sources": tuple(values["sources"])})


def _plain(wanted: Wanted) -> dict[str, Any]:
    return {
        "tenant_id": str(wanted.tenant_id) if wanted.tenant_id else None,
        "name": wanted.name,
        "cloud": wanted.cloud,
        "region": wanted.region,
        "sources": list(wanted.sources),
        "form": wanted.form,
        "labels": dict(wanted.labels),
        "external_ref": wanted.external_ref,
    }


def _entry(action: audit.Action, invitation: Invitation, **detail: Any) -> audit.Entry:
    facts = {"invitation": str(invitation.invitation_id), "sources": list(invitation.sources)}
    return audit.Entry(action, invitation.tenant_id, facts | detail, invitation.name)

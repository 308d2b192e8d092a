"""Enrolling: tenants, their streams and credentials as somebody wants them, added or changed in one transaction.

Each change tells the owning replica at once, and stands in the audit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg

from service import errors, model
from service.store import audit, credentials, leases, pool, proofs


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A tenant to be collected from. `sources` maps a source's name to its parameters.

    `own` is a credential for all its sources; None leaves what is stored.
    """

    tenant: model.Tenant
    sources: Mapping[str, Mapping[str, Any]]
    own: credentials.Own | None = None


@dataclass(frozen=True, slots=True)
class Enrolled:
    """What an enrolment did, in tenants."""

    added: int
    changed: int
    unchanged: int


async def enrol(
    database: pool.Database,
    enrolments: Sequence[Enrolment],
    *,
    lookback: timedelta,
    actor: str = audit.DAEMON,
    dry_run: bool = False,
    revive: bool = True,
) -> Enrolled:
    """Add or change tenants, all in one transaction. Doing it twice changes nothing the second time.

    A new stream wants everything from `lookback` ago on, for ever. A source that is not named any more is not removed:
    what was collected stays proven; another cloud, region, app or parameters are another matter, and read anew. A tenant that is
    active stays so when it is named as pending. Raises BadInput where a tenant is named twice, and, unless `revive`, where one
    was removed.
    """
    async with database.transaction() as connection:
        done = await within(connection, enrolments, lookback=lookback, actor=actor, revive=revive)
        if dry_run:
            raise _DryRun(done)
    return done


async def within(
    connection: pool.Connection,
    enrolments: Sequence[Enrolment],
    *,
    lookback: timedelta,
    actor: str,
    revive: bool = True,
) -> Enrolled:
    """The same as a part of somebody's transaction."""
    # in one order for everybody, so that two enrolments do not wait for each other
    enrolments = sorted(enrolments, key=lambda e: e.tenant.tenant_id)
    for one, next_one in pairwise(enrolments):
        if one.tenant.tenant_id == next_one.tenant.tenant_id:
            raise errors.BadInput(f"tenant {one.tenant.tenant_id} is named twice")
    # a purge may hold a tenant of this list for long: say so, rather than wait and fail without a reason
    await connection.execute("SET LOCAL lock_timeout = '20s'")
    before = await _standing(connection, [e.tenant.tenant_id for e in enrolments])
    reached = await proofs.scopes(connection, list(before))
    if not revive:
        await _refuse_removed(connection, list(before))
    try:
        await _write(connection, enrolments, lookback)
    except asyncpg.LockNotAvailableError:
        raise errors.BadInput(
            "another command holds a tenant of this list (a purge takes a while): nothing was changed; try again later"
        ) from None
    await proofs.take_back_moved(connection, reached)
    after = await _standing(connection, [e.tenant.tenant_id for e in enrolments])
    touched = [tenant_id for tenant_id in after if after[tenant_id] != before.get(tenant_id)]
    if touched:
        entries = [entry for each in touched for entry in _told(each, before.get(each), after[each])]
        await audit.record_all(connection, actor=actor, entries=entries)
        await leases.changed(connection, touched)
    return Enrolled(
        added=sum(tenant_id not in before for tenant_id in after),
        changed=sum(tenant_id in before for tenant_id in touched),
        unchanged=len(after) - len(touched),
    )


class _DryRun(Exception):
    def __init__(self, done: Enrolled) -> None:
        super().__init__()
        self.done = done


async def rehearse(
    database: pool.Database,
    enrolments: Sequence[Enrolment],
    *,
    lookback: timedelta,
    actor: str = audit.DAEMON,
    revive: bool = True,
) -> Enrolled:
    """What `enrol` would do: it runs for real and is undone."""
    try:
        return await enrol(database, enrolments, lookback=lookback, actor=actor, dry_run=True, revive=revive)
    except _DryRun as rehearsed:
        return rehearsed.done


async def _refuse_removed(connection: pool.Connection, tenant_ids: Sequence[UUID]) -> None:
    rows = await connection.fetch(
        "SELECT tenant_id, name FROM alertwell.tenant WHERE tenant_id = ANY ($1::uuid[]) AND state = 'removed'",
        tenant_ids,
    )
    if rows:
        named = ", ".join(f"{row['name']} ({row['tenant_id']})" for row in rows[:10])
        raise errors.BadInput(
            f"{len(rows)} of these tenants were removed: {named}{', …' if len(rows) > 10 else ''}; nothing was imported. "
            "Take them out of the file, or take one back with: alertwell tenants add"
        )


async def _standing(connection: pool.Connection, tenant_ids: Sequence[UUID]) -> dict[UUID, dict[str, Any]]:
    """All that an enrolment can change of these tenants; a credential is known by its app and version."""
    rows = await connection.fetch(
        """
        SELECT t.tenant_id,
               jsonb_build_object(
                   'name', t.name, 'cloud', t.cloud, 'region', t.region, 'state', t.state, 'labels', t.labels,
                   'external_ref', t.external_ref,
                   'streams', (SELECT coalesce(jsonb_object_agg(s.source, jsonb_build_array(s.parameters, s.enabled)), '{}')
                               FROM alertwell.stream s WHERE s.tenant_id = t.tenant_id),
                   'credentials', (SELECT coalesce(jsonb_object_agg(c.source, jsonb_build_array(c.app_id, c.kind, c.version)),
                                                   '{}')
                                   FROM alertwell.credential c WHERE c.tenant_id = t.tenant_id)) AS standing
        FROM alertwell.tenant t WHERE t.tenant_id = ANY ($1::uuid[])
        """,
        tenant_ids,
    )
    return {row["tenant_id"]: row["standing"] for row in rows}


def _told(tenant_id: UUID, before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> list[audit.Entry]:
    """What the audit says of one tenant: the new values, and the old ones where there were any."""
    entries = []
    plain = [key for key in after if key not in ("streams", "credentials")]
    sources = {name: parameters for name, (parameters, _) in after["streams"].items()}
    if before is None:
        facts = {key: after[key] for key in plain} | {"sources": sources}
        entries.append(audit.Entry("tenant.added", tenant_id, facts))
    else:
        moved = {key: [before[key], after[key]] for key in plain if before[key] != after[key]}
        if before["streams"] != after["streams"]:
            moved["sources"] = [{name: told for name, (told, _) in before["streams"].items()}, sources]
        if moved:
            entries.append(audit.Entry("tenant.changed", tenant_id, moved))
    held = before["credentials"] if before else {}
    for source, (app_id, kind, version) in after["credentials"].items():
        if held.get(source) != [app_id, kind, version]:
            facts = {"source": source or None, "app_id": app_id, "kind": kind}
            entries.append(audit.Entry("credential.set", tenant_id, facts))
    return entries


async def _write(connection: pool.Connection, enrolments: Sequence[Enrolment], lookback: timedelta) -> None:
    tenants = [e.tenant for e in enrolments]
    await connection.execute(
        """
        INSERT INTO alertwell.tenant AS t (tenant_id, name, cloud, region, state, labels, external_ref, consented_at)
        SELECT tenant_id, name, cloud, region, state, labels, external_ref, CASE WHEN state = 'active' THEN now() END
        FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::jsonb[], $7::text[])
             AS i (tenant_id, name, cloud, region, state, labels, external_ref)
        ON CONFLICT (tenant_id) DO UPDATE
        SET name = excluded.name, cloud = excluded.cloud, region = excluded.region, labels = excluded.labels,
            external_ref = excluded.external_ref, updated_at = now(),
            -- enrolled again: a pause is a person's will and stays, as consent does; a removal or an open consent ends
            state = CASE WHEN t.state IN ('paused', 'active') THEN t.state ELSE excluded.state END,
            state_reason = CASE WHEN t.state = 'paused' THEN t.state_reason END,
            consented_at = coalesce(t.consented_at, excluded.consented_at)
        WHERE (t.name, t.cloud, t.region, t.labels, t.external_ref)
                  IS DISTINCT FROM (excluded.name, excluded.cloud, excluded.region, excluded.labels, excluded.external_ref)
           OR t.state NOT IN ('paused', 'active') AND t.state <> excluded.state
        """,
        [t.tenant_id for t in tenants],
        [t.name for t in tenants],
        [t.cloud for t in tenants],
        [t.region for t in tenants],
        [t.state for t in tenants],
        [dict(t.labels) for t in tenants],
        [t.external_ref for t in tenants],
    )
    await connection.execute(
        "INSERT INTO alertwell.lease (tenant_id) SELECT unnest($1::uuid[]) ON CONFLICT DO NOTHING",
        [t.tenant_id for t in tenants],
    )
    await leases.lock(connection, [t.tenant_id for t in tenants])
    streams = [
        (e.tenant.tenant_id, name, dict(parameters))
        for e in enrolments
        for name, parameters in e.sources.items()
    ]
    arrays = ([s[0] for s in streams], [s[1] for s in streams], [s[2] for s in streams])
    changed = await connection.fetch(
        """
        UPDATE alertwell.stream s SET parameters = i.parameters
        FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS i (tenant_id, source, parameters)
        WHERE s.tenant_id = i.tenant_id AND s.source = i.source AND s.parameters <> i.parameters
        RETURNING s.tenant_id, s.source
        """,
        *arrays,
    )
    await proofs.take_back(connection, [(row["tenant_id"], row["source"]) for row in changed])
    await connection.execute(
        """
        WITH stream AS (
            INSERT INTO alertwell.stream (tenant_id, source, parameters, wanted)
            SELECT tenant_id, source, parameters,
                   tstzmultirange(tstzrange(date_trunc('milliseconds', now() - $4::interval), NULL))
            FROM unnest($1::uuid[], $2::text[], $3::jsonb[]) AS i (tenant_id, source, parameters)
            ON CONFLICT (tenant_id, source) DO UPDATE SET enabled = true WHERE NOT stream.enabled
            RETURNING tenant_id, source
        )
        INSERT INTO alertwell.stream_progress (tenant_id, source) SELECT tenant_id, source FROM stream
        ON CONFLICT DO NOTHING
        """,
        *arrays,
        lookback,
    )
    await credentials.put(
        connection, {(e.tenant.tenant_id, ""): e.own for e in enrolments if e.own is not None}
    )

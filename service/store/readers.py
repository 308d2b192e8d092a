"""Readers: database roles that see the tenants which their rules name, through the views of schema soc.

A rule is all tenants, those with all of some labels, or one tenant; triggers keep `alertwell.reader`, which the wall asks, as the
rules and the tenants' labels have it. A role is made where this connection may; what it may not is for an administrator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import asyncpg

from service import errors
from service.store import audit, pool, roles, scram, wall

_ALL_RULES: Final = "SELECT role::text, everything, labels, tenant_id FROM alertwell.reader_rule"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which tenants are seen: all of them (nothing given), those with all of these labels, or one."""

    labels: Mapping[str, str] = field(default_factory=dict)
    tenant_id: UUID | None = None

    @property
    def everything(self) -> bool:
        """Whether it names all tenants, now and later."""
        return not self.labels and self.tenant_id is None

    def plain(self) -> dict[str, Any]:
        """For JSON and the audit."""
        if self.everything:
            return {"all": True}
        return {"tenant_id": str(self.tenant_id)} if self.tenant_id else {"labels": dict(self.labels)}


@dataclass(frozen=True, slots=True)
class Reader:
    """A role with rules or rows of its own in alertwell.reader. `tenants` is None where it sees all."""

    name: str
    rules: tuple[Rule, ...]
    tenants: int | None
    by_hand: int
    added_at: datetime | None
    added_by: str | None
    trouble: str | None


async def lock(connection: pool.Connection) -> None:
    """Nobody enrols or labels a tenant until the commit: a rule and the tenants are compared as they both will be."""
    await connection.execute("SET LOCAL lock_timeout = '20s'")
    try:
        await connection.execute("LOCK TABLE alertwell.tenant IN SHARE MODE")
    except asyncpg.LockNotAvailableError:
        raise errors.BadInput(
            "another command writes tenants (an import or a purge takes a while): nothing was changed; try again later"
        ) from None


async def add(
    database: pool.Database, name: str, rules: Sequence[Rule], *, password: str | None, actor: str
) -> list[str]:
    """Add rules for a role, and the role where it is missing; SQL statements that an administrator has still to run.

    What is there already stays as it is. Raises BadInput for a role that no wall stops.
    """
    async with database.transaction() as connection:
        trouble = await wall.unfit(connection, name)
        if trouble:
            raise errors.BadInput(f"{name!r} {trouble}")
        await lock(connection)
        undone = await _make(connection, name, password)
        added = []
        for rule in rules:
            done = await connection.execute(
                """
                INSERT INTO alertwell.reader_rule (role, everything, labels, tenant_id, added_by)
                VALUES ($1, $2, $3::jsonb, $4, $5) ON CONFLICT DO NOTHING
                """,
                name,
                rule.everything,
                json.dumps(dict(rule.labels)) if rule.labels else None,
                rule.tenant_id,
                actor,
            )
            if done == "INSERT 0 1":
                added.append(rule.plain())
        if added:
            detail = {"reader": name, "rules": added}
            await audit.record(connection, actor=actor, action="reader.added", detail=detail)
    return undone


async def remove(
    database: pool.Database, name: str, rules: Sequence[Rule] | None, *, actor: str
) -> tuple[int, list[str]]:
    """Take rules from a role, or (None) all that it sees; how many went, and statements that an administrator has to run."""
    async with database.transaction() as connection:
        await lock(connection)
        kept = await connection.fetch(
            _ALL_RULES + " WHERE role = $1 FOR UPDATE",
            name,
        )
        gone = [rule for rule in map(_rule, kept) if rules is None or rule in rules]
        for rule in gone:
            await connection.execute(
                """
                DELETE FROM alertwell.reader_rule
                WHERE role = $1 AND everything = $2 AND labels IS NOT DISTINCT FROM $3::jsonb
                  AND tenant_id IS NOT DISTINCT FROM $4
                """,
                name,
                rule.everything,
                json.dumps(dict(rule.labels)) if rule.labels else None,
                rule.tenant_id,
            )
        count, undone = len(gone), []
        if rules is None:
            done = await connection.execute("DELETE FROM alertwell.reader WHERE role = $1", name)
            count += int(done.removeprefix("DELETE "))
            if await connection.fetchval("SELECT to_regrole(quote_ident($1)) IS NOT NULL", name):
                revoke = f"REVOKE {roles.READER} FROM {await _quoted(connection, name)}"
                if await wall.is_let_in(connection, name) and not await _try(connection, revoke):
                    undone.append(revoke)
        if count:
            detail = {"reader": name, "rules": [rule.plain() for rule in gone]}
            await audit.record(connection, actor=actor, action="reader.removed", detail=detail)
    return count, undone


async def listed(database: pool.Database) -> list[Reader]:
    """All readers, by name."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT n.role::text AS role,
                   (SELECT count(r.tenant_id) FROM alertwell.reader r WHERE r.role = n.role) AS tenants,
                   (SELECT count(*) FROM alertwell.reader r WHERE r.role = n.role AND NOT r.by_rule) AS by_hand,
                   EXISTS (SELECT FROM alertwell.reader r WHERE r.role = n.role AND r.tenant_id IS NULL) AS everything,
                   (SELECT min(u.added_at) FROM alertwell.reader_rule u WHERE u.role = n.role) AS added_at,
                   (SELECT u.added_by FROM alertwell.reader_rule u WHERE u.role = n.role ORDER BY u.rule_id LIMIT 1) AS added_by
            FROM (SELECT role FROM alertwell.reader UNION SELECT role FROM alertwell.reader_rule) n
            ORDER BY 1
            """
        )
        rules = await connection.fetch(_ALL_RULES + " ORDER BY rule_id")
        found = []
        for row in rows:
            name = row["role"]
            found.append(
                Reader(
                    name=name,
                    rules=tuple(_rule(each) for each in rules if each["role"] == name),
                    tenants=None if row["everything"] else row["tenants"],
                    by_hand=row["by_hand"],
                    added_at=row["added_at"],
                    added_by=row["added_by"],
                    trouble=await wall.trouble(connection, name),
                )
            )
        return found


async def labels(database: pool.Database) -> dict[str, list[str]]:
    """The labels that tenants have: their values by key."""
    async with database.connection() as connection:
        rows = await connection.fetch(
            """
            SELECT l.key, array_agg(DISTINCT l.value ORDER BY l.value) AS values
            FROM alertwell.tenant t, jsonb_each_text(t.labels) l GROUP BY l.key ORDER BY l.key
            """
        )
    return {row["key"]: list(row["values"]) for row in rows}


async def matching(database: pool.Database, wanted: Mapping[str, str]) -> int:
    """How many tenants have all of these labels."""
    async with database.connection() as connection:
        return int(
            await connection.fetchval(
                "SELECT count(*) FROM alertwell.tenant WHERE labels @> $1::jsonb", json.dumps(dict(wanted))
            )
        )


async def _make(connection: pool.Connection, name: str, password: str | None) -> list[str]:
    quoted = await _quoted(connection, name)
    undone = []
    secret = f" PASSWORD '{scram.verifier(password)}'" if password else ""
    there = await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name)
    if not there:
        there = await _try(connection, f"CREATE ROLE {quoted} LOGIN{secret}")
        if not there:
            undone.append(f"CREATE ROLE {quoted} LOGIN")
    elif password and not await _try(connection, f"ALTER ROLE {quoted}{secret}"):
        raise errors.BadInput(
            f"--password-file: this database's role may not change the password of {name!r}, which an administrator made; "
            r"leave it out, and have it set with \password in psql"
        )
    grant = f"GRANT {roles.READER} TO {quoted}"
    if await roles.missing(connection):
        await roles.create(connection)
        await roles.grant(connection)
        undone[:0] = [roles.CREATE[each] for each in await roles.missing(connection)]
    if not (there and (await wall.is_let_in(connection, name) or await _try(connection, grant))):
        undone.append(grant)
    return undone


async def _try(connection: pool.Connection, statement: str) -> bool:
    """Run it inside a savepoint; whether this role might, and what it names was there."""
    try:
        async with connection.transaction():
            await connection.execute(statement)
    except (asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedObjectError):
        return False
    return True


async def _quoted(connection: pool.Connection, name: str) -> str:
    return str(await connection.fetchval("SELECT quote_ident($1)", name))


def _rule(row: asyncpg.Record) -> Rule:
    return Rule(labels=row["labels"] or {}, tenant_id=row["tenant_id"])

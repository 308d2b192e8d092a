"""The two group roles and what they may do: `alertwell_service` runs the collector, `soc_reader` reads schema soc.

Roles belong to the server, and only an administrator (CREATEROLE) makes them; what they may do in this database, the owner of
its schemas says. So a migration makes the roles where it may, says where it may not, and grants wherever they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import asyncpg

if TYPE_CHECKING:
    from service.store import pool

SERVICE: Final = "alertwell_service"
READER: Final = "soc_reader"

_ADD = ("INSERT",)
_KEEP = ("INSERT", "UPDATE")
_ALL = ("INSERT", "UPDATE", "DELETE")

WRITES: Final[dict[str, tuple[str, ...]]] = {
    # Deleted by retention, by numbering, or once their cause is gone.
    "alert": _ALL,
    "alert_change": ("INSERT", "DELETE"),
    "alert_merged": _ALL,
    "feed": ("INSERT", "DELETE"),
    "gap_reason": _ALL,
    "incident": _ALL,
    "poll": _ALL,
    "reject": _ALL,
    "replica": _ALL,
    "stream_volume": _ALL,
    "unnumbered": _ALL,
    # Kept for as long as the tenant is: purging it is its owner's business.
    "credential": _KEEP,
    "invitation": _KEEP,
    "lease": _KEEP,
    "stream": _KEEP,
    "stream_progress": _KEEP,
    "tenant": _KEEP,
    "audit": _ADD,
    "feed_head": ("UPDATE",),
    "roster": ("UPDATE",),
    # The wall and the schema are not the service's to move.
    "reader": (),
    "reader_rule": (),
    "schema_version": (),
}
"""What the service may do to each table of schema alertwell, beside reading it."""

HIDDEN: Final = ("alembic_version",)
"""Tables that the service does not even read."""

CREATE: Final = {name: f"CREATE ROLE {name} NOLOGIN" for name in (SERVICE, READER)}
_MAY_NOT = (asyncpg.InsufficientPrivilegeError,)
_THERE = (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError)

_HELD = """
    SELECT n.nspname || '.' || quote_ident(c.relname) AS name, c.relkind::text AS kind, c.relname::text AS relation,
           n.nspname::text AS schema,
           ARRAY(SELECT a.privilege_type FROM aclexplode(c.relacl) a WHERE a.grantee = $1::regrole) AS privileges
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname IN ('alertwell', 'soc') AND c.relkind IN ('r', 'p', 'v', 'S')
    ORDER BY 1
"""


async def for_administrator(dsn: str, *, whole: bool = False) -> list[str]:
    """Statements that an administrator of the server has to run, once, for the database at `dsn`: those that are missing, or
    (`whole`) all there are. None where all is there. Raises BadSetting, DatabaseUnavailable.
    """
    from service.store import pool

    connection = await pool.connect(dsn)
    try:
        absent = await missing(connection)
        owner = await connection.fetchval(
            """
            SELECT coalesce((SELECT nspowner FROM pg_namespace WHERE nspname = 'alertwell'),
                            (SELECT oid FROM pg_roles WHERE rolname = current_user))::regrole::text
            """
        )
    finally:
        await connection.close()
    if not absent and not whole:
        return []
    made = [CREATE[name] for name in (CREATE if whole else absent)]
    if whole or READER in absent:  # else its owner may not let a reader in
        made.append(f"GRANT {READER} TO {owner} WITH ADMIN OPTION")
    return made


async def missing(connection: pool.Connection) -> list[str]:
    """Those of the two that the server does not have."""
    rows = await connection.fetch("SELECT rolname::text FROM pg_roles WHERE rolname = ANY ($1)", list(CREATE))
    return [name for name in CREATE if name not in {row["rolname"] for row in rows}]


async def create(connection: pool.Connection) -> None:
    """Make those that are missing, as far as this connection's role may."""
    for name in await missing(connection):
        try:
            async with connection.transaction():
                await connection.execute(CREATE[name])
        except (*_MAY_NOT, *_THERE):
            continue  # an administrator's work; or another migration of this server was quicker


async def grant(connection: pool.Connection) -> None:
    """Bring the rights of those that are there to what they are to be, no more and no less; as the owner of the schemas."""
    absent = await missing(connection)
    for role in (SERVICE, READER):
        if role in absent:
            continue
        for schema in ("alertwell", "soc"):
            wanted = schema == "soc" or role == SERVICE
            if wanted != await connection.fetchval(
                """
                SELECT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) a
                               WHERE n.nspname = $1 AND a.grantee = $2::regrole AND a.privilege_type = 'USAGE')
                """,
                schema,
                role,
            ):
                verb, to = ("GRANT", "TO") if wanted else ("REVOKE", "FROM")
                await connection.execute(f"{verb} USAGE ON SCHEMA {schema} {to} {role}")
        for held in await connection.fetch(_HELD, role):
            wanted_here = _wanted(role, held["schema"], held["relation"], held["kind"])
            if set(held["privileges"]) == wanted_here:
                continue
            what = "SEQUENCE" if held["kind"] == "S" else "TABLE"
            await connection.execute(f"REVOKE ALL ON {what} {held['name']} FROM {role}")
            if wanted_here:
                listed = ", ".join(sorted(wanted_here))
                await connection.execute(f"GRANT {listed} ON {what} {held['name']} TO {role}")
        await connection.execute(f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA soc TO {role}")


def _wanted(role: str, schema: str, relation: str, kind: str) -> set[str]:
    if schema == "soc":
        return {"SELECT"}
    if role == READER or relation in HIDDEN:
        return set()
    if kind == "S":
        return {"USAGE"}
    return {"SELECT", *WRITES.get(relation, ())}

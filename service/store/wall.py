"""Whether the wall between readers holds for a role: it compares names, and stops nobody who can go round it."""

from __future__ import annotations

from typing import Final

from service.store import pool, roles

# Members of these read or run whatever they like on the server.
_MIGHTY: Final = (
    "pg_read_all_data",
    "pg_write_all_data",
    "pg_read_server_files",
    "pg_write_server_files",
    "pg_execute_server_program",
)


async def unfit(connection: pool.Connection, name: str) -> str | None:
    """Why no wall stops this role, or what else it is; None for one that is or can be a reader."""
    if name.lower().startswith("pg_") or name.lower() in (
        "public",
        "none",
        "current_user",
        "session_user",
        "user",
    ):
        return "is a word of PostgreSQL's own, not the name of a reader"
    if name in roles.CREATE:
        return "is the group that readers or services belong to: give the reader a login of its own"
    row = await connection.fetchrow(
        """
        SELECT r.rolsuper, r.rolcreaterole, r.rolbypassrls OR r.rolreplication AS special, n.nspowner::regrole::text AS owner,
               pg_has_role(r.oid, n.nspowner, 'MEMBER') AS owns,
               has_table_privilege(r.oid, 'alertwell.alert', 'SELECT') AS reads,
               has_schema_privilege(r.oid, 'soc', 'CREATE') OR has_schema_privilege(r.oid, 'alertwell', 'CREATE') AS makes,
               (SELECT min(m.rolname)::text FROM pg_roles m
                WHERE m.rolname = ANY ($2) AND pg_has_role(r.oid, m.oid, 'MEMBER')) AS mighty
        FROM pg_roles r, pg_namespace n WHERE r.rolname = $1 AND n.nspname = 'alertwell'
        """,
        name,
        [*_MIGHTY, roles.SERVICE],
    )
    if row is None:
        return None
    for found, why in (
        (row["rolsuper"], "is a superuser: it sees every tenant, whatever its rules say"),
        (
            row["owns"],
            f"owns the schema alertwell, or is a member of {row['owner']} which does: it sees every tenant",
        ),
        (row["mighty"], f"is a member of {row['mighty']}: it sees every tenant"),
        (row["reads"], "was granted the private table alertwell.alert: it sees every tenant"),
        (row["rolcreaterole"], "may make roles (CREATEROLE), and so give itself the rights of others"),
        (row["special"], "may replicate or pass by row security: it can read what the wall keeps from it"),
        (row["makes"], "may make objects in the schemas of Alertwell, which others would call"),
    ):
        if found:
            return f"{why}. Use a role that has no such right"
    return None


async def trouble(connection: pool.Connection, name: str) -> str | None:
    """What keeps a reader from reading, or the wall from stopping it; None where all is well."""
    why = await unfit(connection, name)
    if why:
        return why
    if not await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", name):
        return "no such role yet: an administrator has to make it"
    if not await connection.fetchval(
        """
        SELECT has_schema_privilege(r.oid, 'soc', 'USAGE') AND has_table_privilege(r.oid, 'soc.alerts', 'SELECT')
        FROM pg_roles r WHERE r.rolname = $1
        """,
        name,
    ):
        return f"cannot read schema soc: an administrator has to GRANT {roles.READER} to it"
    return None


async def is_let_in(connection: pool.Connection, name: str) -> bool:
    """Whether the role is a member of the readers' group, directly."""
    return bool(
        await connection.fetchval(
            """
            SELECT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid AND m.roleid = g.oid)
            FROM pg_roles r, pg_roles g WHERE r.rolname = $1 AND g.rolname = $2
            """,
            name,
            roles.READER,
        )
    )

"""The daemon and what goes with its operation: `run`, `migrate`, `healthcheck`, `seal-key`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service import errors
from service.cli import database, epilog, output

if TYPE_CHECKING:
    from service.settings import Settings

RUN_EPILOG: Final = epilog.lines(
    """
    Examples:
      ALERTWELL_DATABASE_URL=postgresql://alertwell@db:5432/alertwell \\
      ALERTWELL_CLIENT_ID=00001111-aaaa-2222-bbbb-3333cccc4444 \\
      ALERTWELL_CLIENT_SECRET_FILE=/etc/alertwell/client_secret \\
        alertwell run
      alertwell run --embedded

    SIGTERM or Ctrl-C ends it in peace: polls get ALERTWELL_SHUTDOWN_GRACE; a second one ends it at once.
    To see it work without any configuration: alertwell demo
    """
)
MIGRATE_EPILOG: Final = epilog.lines(
    """
    Examples:
      ALERTWELL_DATABASE_URL=postgresql://alertwell@db:5432/alertwell alertwell migrate
      alertwell migrate --roles | psql postgresql://postgres@db:5432/alertwell

    It needs a role that owns the database, no superuser. Two group roles belong to the server: alertwell_service, whose
    member the daemon is, with no more rights than it needs, and soc_reader, whose members read schema soc. They are made
    where that role may make roles; else --roles prints what an administrator has to run once, before the next migrate.
    """
)
HEALTHCHECK_EPILOG: Final = epilog.lines(
    """
    Example (Dockerfile):
      HEALTHCHECK CMD ["alertwell", "healthcheck"]
    """
)
SEAL_KEY_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell seal-key --into /etc/alertwell/sealing_keys
      ALERTWELL_SEALING_KEYS_FILE=/etc/alertwell/sealing_keys alertwell run

    To change keys, put a new one on top (the same command) and keep the old ones: what they sealed stays readable.
    Keep a copy of the file away from the database's backups: without it, the secrets in the database are lost.
    """
)


def run(
    embedded: Annotated[
        bool,
        typer.Option("--embedded", help="Keep the data in a PostgreSQL of our own, in ALERTWELL_DATA_DIR."),
    ] = False,
) -> None:
    """Collect from all active tenants until told to stop.

    Any number of processes on one database share the tenants; where one dies, the others go on with its tenants.
    """
    from service import settings

    loaded = settings.load()
    check(loaded, embedded=embedded)
    from service import app

    raise typer.Exit(app.run(loaded, embedded=embedded))


def check(loaded: Settings, *, embedded: bool) -> None:
    """Raise errors.BadSetting where `run` has no database, or no credential that it could ever use.

    Importing what reads credentials takes its time: it is done last.
    """
    if loaded.dsn is None and not embedded:
        raise errors.BadSetting(
            "ALERTWELL_DATABASE_URL is not set: give postgresql://user@host:5432/name, or start with --embedded, which keeps "
            "the data in ALERTWELL_DATA_DIR (in a container they die with it)"
        )
    if loaded.dsn is not None and embedded:
        raise errors.BadSetting(
            "ALERTWELL_DATABASE_URL is set, and --embedded asks for another database: leave one of them out"
        )
    from service import parts

    if parts.shared_app(loaded) is None and loaded.sealing_keys_file is None:
        raise errors.BadSetting(
            "no credential: set ALERTWELL_CLIENT_ID and ALERTWELL_CLIENT_SECRET_FILE (or a certificate, or a federated "
            "token; or ALERTWELL_SEALING_KEYS_FILE, for tenants with an app of their own); to see it work without any: "
            "alertwell demo"
        )


def migrate(
    roles: Annotated[
        bool, typer.Option("--roles", help="Only print the statements that make the group roles, as SQL.")
    ] = False,
) -> None:
    """Bring the database to this version's schema.

    Safe to run again, and while services run.
    """
    import asyncio

    from service import errors, settings
    from service.store import roles as groups
    from service.store import schema

    loaded = settings.load()
    if loaded.database_pooler != "none":
        raise errors.BadSetting(
            f"ALERTWELL_DATABASE_POOLER={loaded.database_pooler!r}: a migration needs a session of its own. Run it with "
            "ALERTWELL_DATABASE_POOLER=none and ALERTWELL_DATABASE_URL naming the server itself"
        )
    dsn = database.address(loaded)
    if roles:
        for statement in asyncio.run(groups.for_administrator(dsn, whole=True)):
            output.say(f"{statement};")
        return
    revision = asyncio.run(schema.migrate(dsn))
    output.say(f"the schema is at revision {revision}")
    if asyncio.run(groups.for_administrator(dsn)):
        output.warn(
            "the group roles alertwell_service and soc_reader are not all there, and this role may not make them: the daemon can "
            "run as this role meanwhile; see: alertwell migrate --roles"
        )


def healthcheck(
    ready: Annotated[
        bool, typer.Option("--ready", help="Ask whether it collects (/readyz), not only lives.")
    ] = False,
) -> None:
    """Ask the service on this machine whether it lives.

    Exit code 0 where it says so within three seconds, else 1.
    """
    from service import settings
    from service.web import healthcheck as asking

    loaded = settings.load()
    if loaded.http_port == 0:
        raise errors.BadSetting("ALERTWELL_HTTP_PORT='0' takes any free port: the check needs a fixed one")
    address = asking.url(loaded.http_host, loaded.http_port, "/readyz" if ready else "/livez")
    if not asking.check(address):
        output.warn(f"{address} does not answer 200")
        raise typer.Exit(1)
    output.say("ok")


def seal_key(
    into: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Put it on top of this file, made where it is missing."),
    ] = None,
) -> None:
    """Make a key that seals tenants' own secrets.

    They are stored in the database, sealed; ALERTWELL_SEALING_KEYS_FILE names the file with the keys, newest first.
    """
    from service.auth import sealing

    key = sealing.generate_key()
    if into is None:
        output.say(key)
        return
    try:
        before = into.read_text(encoding="utf-8") if into.exists() else ""
        if before:
            sealing.Sealer.from_file(into)  # a wrong path is not written over
        fresh = into.with_name(f".{into.name}.new")
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(f"{key}\n{before}")
            file.flush()
            os.fsync(file.fileno())
        if before:
            fresh.chmod(into.stat().st_mode & 0o777)
        fresh.replace(into)
    except (OSError, ValueError) as error:
        raise errors.BadInput(f"--into {str(into)!r}: {getattr(error, 'strerror', None) or error}") from None
    output.say(f"a new key is on top of {into}")

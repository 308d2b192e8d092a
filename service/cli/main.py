"""The command `alertwell`: its commands, and how errors leave it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from service import errors
from service.cli import (
    backfilling,
    doctor,
    epilog,
    login,
    output,
    readers,
    resealing,
    rewinding,
    running,
    sql,
    status,
    tenants,
    tracing,
    trying,
)

ORDER: Final = (
    "demo",
    "run",
    "migrate",
    "tenants",
    "login",
    "readers",
    "backfill",
    "rewind",
    "status",
    "doctor",
    "trace",
    "sql",
    "seal-key",
    "reseal",
    "healthcheck",
    "simulate",
    "version",
)


class Commands(TyperGroup):
    """Turns our errors into one line and an exit code: 2 for a person's mistake, 1 for what may pass by itself."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except errors.UserMistake as error:
            output.warn(str(error))
            raise typer.Exit(2) from None
        except errors.DatabaseUnavailable as error:
            output.warn(f"database: {error}")
            raise typer.Exit(1) from None
        except errors.AlertwellError as error:
            output.warn(str(error))
            raise typer.Exit(1) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which they are met."""
        return sorted(super().list_commands(ctx), key=ORDER.index)


app = typer.Typer(
    name="alertwell",
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Every Microsoft Defender alert of every customer tenant, once, in PostgreSQL, with the proof.",
    epilog=epilog.lines(
        """
        Start here:
          alertwell demo                                  see it work, without any configuration
          alertwell migrate && alertwell run              the daemon, on ALERTWELL_DATABASE_URL
          alertwell tenants add TENANT_ID NAME --region eu
          alertwell status

        Settings come from ALERTWELL_… variables, files named by ALERTWELL_…_FILE, and /run/secrets.
        Exit codes: 0 done, 1 not now (the database is away), 2 a mistake in what was given, 130 Ctrl-C.
        """
    ),
)


def _print_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _everything(
    asked: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and end."),
    ] = False,
) -> None:
    pass


def version() -> None:
    """Print the version."""
    from importlib import metadata

    output.say(f"alertwell {metadata.version('alertwell')}")


app.command(epilog=running.RUN_EPILOG)(running.run)
app.command(epilog=trying.DEMO_EPILOG)(trying.demo)
app.command(epilog=running.MIGRATE_EPILOG)(running.migrate)
app.add_typer(tenants.app, name="tenants")
app.command(epilog=login.EPILOG)(login.login)
app.add_typer(readers.app, name="readers")
app.command(epilog=backfilling.EPILOG)(backfilling.backfill)
app.command(epilog=rewinding.EPILOG)(rewinding.rewind)
app.command(epilog=status.EPILOG)(status.status)
app.command(epilog=doctor.EPILOG)(doctor.doctor)
app.command(epilog=tracing.EPILOG)(tracing.trace)
app.command(epilog=sql.EPILOG)(sql.sql)
app.command(epilog=running.HEALTHCHECK_EPILOG)(running.healthcheck)
app.command("seal-key", epilog=running.SEAL_KEY_EPILOG)(running.seal_key)
app.command(epilog=resealing.EPILOG)(resealing.reseal)
app.command(epilog=trying.SIMULATE_EPILOG)(trying.simulate)
app.command()(version)


def main() -> None:
    """The console script."""
    app(prog_name="alertwell")

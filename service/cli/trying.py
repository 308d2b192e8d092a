"""Trying it without any customer: `demo` and `simulate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from service.cli import epilog
from service.cli.status import duration

DEMO_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell demo
      alertwell demo --tenants 200 --chaos
      alertwell demo --for 30s

    Look into it from another terminal, in the same folder:
      alertwell status
      alertwell sql "SELECT tenant_name, severity, title FROM soc.alerts ORDER BY first_seen_at DESC LIMIT 10"
    """
)


def demo(
    tenants: Annotated[
        int, typer.Option(min=1, max=10_000, help="Customers of the simulated provider.")
    ] = 12,
    seconds: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End by itself, with a summary.")
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Let the simulated APIs fail as real ones do.")
    ] = False,
) -> None:
    """The real collector, against a bundled simulator of Entra and Defender, into a PostgreSQL of its own. Needs nothing."""
    from service import settings

    limit = None if seconds is None else duration("--for", seconds).total_seconds()
    loaded = settings.load()
    from service import demo as demonstration

    raise typer.Exit(demonstration.run(tenants=tenants, seconds=limit, chaos=chaos, settings=loaded))

"""Trying it without any customer: `demo` and `simulate`."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer

from service import errors
from service.cli import epilog, output
from service.cli.status import duration

if TYPE_CHECKING:
    import asyncio

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
SIMULATE_EPILOG: Final = epilog.lines(
    """
    Example, in three terminals of one folder:
      alertwell simulate --tenants 50 --rate 10 --directory sim
      set -a; . sim/settings.env; alertwell run --embedded
      set -a; . sim/settings.env; alertwell tenants import sim/tenants.csv
    """
)


def demo(
    tenants: Annotated[
        int, typer.Option(metavar="N", min=1, max=10_000, help="Customers of the simulated provider.")
    ] = 12,
    seconds: Annotated[
        str | None, typer.Option("--for", metavar="DURATION", help="End by itself, with a summary.")
    ] = None,
    chaos: Annotated[
        bool, typer.Option("--chaos", help="Let the simulated APIs fail as real ones do.")
    ] = False,
) -> None:
    """See it work: the real collector against a simulator.

    Needs no configuration: a bundled simulator of Entra and Defender over HTTPS, a PostgreSQL of its own in
    ALERTWELL_DATA_DIR, and between them the collector as it runs in production. Ctrl-C ends it.
    """
    from service import settings

    limit = None if seconds is None else duration("--for", seconds).total_seconds()
    loaded = settings.load()
    from service import demo as demonstration
    from service.store.embedded import binaries

    try:
        binaries.find()
        (loaded.data_dir / demonstration.FOLDER).mkdir(parents=True, exist_ok=True)
    except errors.EmbeddedUnavailable as error:
        raise errors.EmbeddedUnavailable(f"{error}; with Docker: docker compose --profile demo up") from None
    except OSError as error:
        raise errors.BadSetting(
            f"ALERTWELL_DATA_DIR={str(loaded.data_dir)!r} cannot be used: {error.strerror}"
        ) from None
    raise typer.Exit(demonstration.run(loaded, tenants=tenants, seconds=limit, chaos=chaos))


def simulate(
    tenants: Annotated[int, typer.Option(metavar="N", min=1, max=100_000, help="Customers' tenants.")] = 12,
    rate: Annotated[
        float,
        typer.Option(metavar="N", min=0, max=100_000, help="Alerts a minute of a tenant, in the middle."),
    ] = 1.0,
    history: Annotated[
        str, typer.Option(metavar="DURATION", help="Since when alerts have been arriving.")
    ] = "1d",
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same tenants and alerts.")
    ] = 1,
    chaos: Annotated[
        float, typer.Option(metavar="SHARE", min=0, max=1, help="Share of answers that go wrong, 0 to 1.")
    ] = 0.0,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes any free one.")] = 8443,
    host_name: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A name that clients use, for the certificate; may be repeated."),
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Where ca.pem, settings.env, tenants.csv go.  [default: simulator in ALERTWELL_DATA_DIR]",
        ),
    ] = None,
    control: Annotated[
        bool,
        typer.Option(
            "--control",
            help="Open /_sim/ to this machine: who consents and signs in, what fails (docs/operations.md).",
        ),
    ] = False,
) -> None:
    """Stand in for Entra and the Defender APIs.

    It answers over HTTPS as Microsoft's documents say, with tenants whose alerts keep arriving, and prints the settings
    that point a collector at it. Ctrl-C ends it.
    """
    import asyncio
    import sys

    from service import log, process, settings
    from service.simulator import chaos as faults
    from service.simulator import standalone, world

    span = duration("--history", history).total_seconds()
    loaded = settings.load()
    # Absolute: the files name each other, and whoever reads them has another working folder.
    folder = (directory or loaded.data_dir / "simulator").expanduser().absolute()
    shown = world.World(seed)
    shown.populate(tenants, rate=rate, history=span)
    log.configure(loaded.log_level, loaded.log_format, sys.stderr)

    async def until(stop: asyncio.Event) -> int:
        serving = asyncio.ensure_future(
            standalone.serve(
                shown,
                directory=folder,
                write=output.say,
                host=host,
                port=port,
                names=host_name or (),
                chaos=faults.Chaos.passing(chaos, seed) if chaos else None,
                control=control,
            )
        )
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            stopping.cancel()
            serving.result()
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)
        return 0

    try:
        raise typer.Exit(process.run_until_signalled(until))
    except OSError as error:
        raise errors.BadInput(f"cannot serve on {host}:{port} from {folder}: {_why(error)}") from None
    except ValueError as error:
        raise errors.BadInput(f"--host-name {' '.join(host_name or ())!r}: {error}") from None


def _why(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; take a free one with --port, or --port 0 for any"
    return error.strerror or str(error)

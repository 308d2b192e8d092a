"""The simulator for the command line, with the settings that point a collector at it."""

from __future__ import annotations

import asyncio
import csv
import pathlib
from collections.abc import Callable, Iterable

from service.simulator import certificates, chaos, server, world


async def serve(
    shown: world.World,
    *,
    directory: pathlib.Path,
    write: Callable[[str], None],
    host: str = "127.0.0.1",
    port: int = 8443,
    names: Iterable[str] = (),
    chaos: chaos.Chaos | None = None,
    control: bool = False,
) -> None:
    """Run until cancelled. `write` gets, line by line, what a collector must be told.

    Before the first connection the folder holds ca.pem, settings.env (the same lines), tenants.csv
    (`alertwell tenants import` reads it), client_id, client_secret and secrets of tenants with an app of
    their own, these 0600. Raises OSError where it cannot listen or write.
    """
    lines: list[str] = []

    def prepare(simulator: server.Simulator) -> None:
        lines.extend(f"{name}={value}" for name, value in describe(simulator, directory).items())
        (directory / "settings.env").write_text("\n".join(lines) + "\n", encoding="utf-8")

    async with server.Simulator(
        shown,
        directory=directory,
        host=host,
        port=port,
        names=names,
        chaos=chaos,
        control=control,
        prepare=prepare,
    ):
        for line in lines:
            write(line)
        write(f"# {len(shown.tenants)} tenants: {directory / 'tenants.csv'}")
        await asyncio.Event().wait()


def describe(simulator: server.Simulator, directory: pathlib.Path) -> dict[str, str]:
    """The settings that point a collector at the simulator; writes the files that they and tenants.csv
    name.
    """
    shown = simulator.world
    secret_file = directory / "client_secret"
    certificates.write_private(secret_file, shown.app.secret.encode())
    (directory / "client_id").write_text(f"{shown.app.app_id}\n", encoding="utf-8")
    with (directory / "tenants.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(("tenant_id", "name", "client_id", "secret_file", "region"))
        for tenant in shown.tenants.values():
            own: tuple[str, str] = ("", "")
            if tenant.app is not shown.app:
                path = directory / f"client_secret.{tenant.tenant_id}"
                certificates.write_private(path, tenant.app.secret.encode())
                own = tenant.app.app_id, str(path)
            rows.writerow((tenant.tenant_id, tenant.name, *own, tenant.region))
    return {
        "ALERTWELL_AUTHORITY_URL": simulator.authority_url,
        "ALERTWELL_SIEM_URL": simulator.siem_url,
        "ALERTWELL_MDE_URL": simulator.mde_url,
        "ALERTWELL_XDR_URL": simulator.xdr_url,
        "ALERTWELL_GRAPH_URL": simulator.graph_url,
        "ALERTWELL_CA_FILE": str(simulator.ca_file),
        "ALERTWELL_CLIENT_ID": shown.app.app_id,
        "ALERTWELL_CLIENT_SECRET_FILE": str(secret_file),
    }

"""Tenants with an app each, as the portal's SIEM integration makes them: from the CSV file to stored alerts."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service import app
from service.auth import sealing
from service.cli import main
from service.simulator import credentials as registered
from tests.auth.trust import CLUSTER, SUBJECT, issued
from tests.ingest import stages
from tests.simulator import keys as pairs

OWN = {
    name: f"44444444-4444-4444-4444-{number:012d}"
    for number, name in enumerate(("Adatum", "Litware", "Wingtip"), 1)
}


@pytest.fixture
def run(stage: stages.Stage, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """A command with the settings of the collector; what it printed."""
    keys = stage.folder / "keys"
    keys.write_text(sealing.generate_key())
    for name, value in stage.environment().items():
        if not name.startswith("ALERTWELL_CLIENT_"):  # there is no shared app
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("ALERTWELL_SEALING_KEYS_FILE", str(keys))
    monkeypatch.setenv("ALERTWELL_FEDERATED_TOKEN_FILE", str(stage.folder / "token"))

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(main.app, arguments, prog_name="alertwell")
        assert result.exit_code == 0, result.output
        return result.stdout

    return command


async def test_three_ways_from_one_file(stage: stages.Stage, run: Callable[..., str]) -> None:
    """A secret, a certificate and a federated token, imported at once, collected from; a key is changed meanwhile."""
    pair = pairs.pair("2026-01-01", "2036-01-01")
    stage.shown.issuers[CLUSTER] = {"k1": pair.key.public_key()}
    apps = {
        name: stage.shown.add_tenant(tenant_id, name, own_app=True).app for name, tenant_id in OWN.items()
    }
    stage.shown.register(dataclasses.replace(apps["Litware"], secrets=(), certificates=(pair.registered,)))
    federations = (registered.Federation(CLUSTER, SUBJECT),)
    stage.shown.register(dataclasses.replace(apps["Wingtip"], secrets=(), federations=federations))
    sheet = file_of(stage.folder / "customers", apps["Adatum"].secret, pair)
    (stage.folder / "token").write_text(issued(pair))
    proofs = {"Adatum": "secrets/adatum,,", "Litware": ",litware.pem,", "Wingtip": ",,yes"}
    lines = [f"{OWN[name]},{name},eu,{apps[name].app_id},{proof}" for name, proof in proofs.items()]
    header = "tenant_id,name,region,client_id,secret_file,certificate_file,federated"
    sheet.write_text("\n".join([header, *lines]) + "\n")
    assert (
        await asyncio.to_thread(run, "tenants", "import", str(sheet)) == "3 added, 0 changed, 0 unchanged\n"
    )
    assert (
        await asyncio.to_thread(run, "tenants", "import", str(sheet)) == "0 added, 0 changed, 3 unchanged\n"
    )
    assert await asyncio.to_thread(run, "status")
    for tenant_id in OWN.values():
        stages.file(stage.shown, tenant_id, f"of {tenant_id}", stage.shown.clock())
    keys = stage.folder / "keys"
    config = stage.config(sealing_keys_file=keys, federated_token_file=stage.folder / "token")
    bare = config.model_copy(update={"client_id": None, "client_secret": None, "client_secret_file": None})
    async with app.collector(bare, stage.dsn):
        for tenant_id in OWN.values():
            await stage.stored(tenant_id)
        asked = stage.simulator.token_requests.copy()
        await asyncio.to_thread(run, "seal-key", "--into", str(keys))
        # the collector of this process may log meanwhile
        resealed = await asyncio.to_thread(run, "reseal")
        assert resealed.endswith("2 sealed anew, 0 with the newest key already\n")
        keys.write_text(keys.read_text().splitlines()[0])
        for tenant_id in OWN.values():
            stages.file(stage.shown, tenant_id, f"later of {tenant_id}", stage.shown.clock())
            await stage.stored(tenant_id)
        assert stage.simulator.token_requests == asked  # nobody took it for another credential
    async with app.collector(bare, stage.dsn):
        for tenant_id in OWN.values():
            stages.file(stage.shown, tenant_id, f"last of {tenant_id}", stage.shown.clock())
            await stage.stored(tenant_id)


def file_of(folder: Path, secret: str, pair: pairs.Pair) -> Path:
    """A folder with the files that the sheet names; the sheet's own path."""
    (folder / "secrets").mkdir(parents=True)
    (folder / "secrets" / "adatum").write_text(secret + "\n")
    (folder / "litware.pem").write_text(pair.key_pem + pair.certificate_pem)
    return folder / "customers.csv"

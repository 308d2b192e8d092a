"""`alertwell tenants set-credential | clear-credential`, `tenants check --credential`, `reseal`, on a simulated Entra."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.serialization import pkcs12
from cryptography.x509 import load_pem_x509_certificate
from typer.testing import Result

from service import errors, model
from service.auth import sealing
from service.cli import given
from service.simulator import credentials, server, world
from service.store import enrolments, pool
from tests.auth.trust import CLUSTER, SUBJECT, issued
from tests.cli.conftest import Alertwell
from tests.simulator import keys as pairs

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
APP = "55555555-5555-5555-5555-555555555555"
Fetch = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def pair() -> pairs.Pair:
    """A certificate that lasts for years."""
    return pairs.pair("2026-01-01", "2036-01-01")


@pytest.fixture
async def shown(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[world.World]:
    """Contoso and Fabrikam with their simulator, named by the settings."""
    made = world.World()
    for tenant_id, name in ((CONTOSO, "Contoso"), (FABRIKAM, "Fabrikam")):
        made.add_tenant(tenant_id, name)
    async with pool.open_database(database_url, size=2) as database:
        wanted = [
            enrolments.Enrolment(model.Tenant(UUID(tenant_id), name, region="eu"), {"siem": {}})
            for tenant_id, name in ((CONTOSO, "Contoso"), (FABRIKAM, "Fabrikam"))
        ]
        await enrolments.enrol(database, wanted, lookback=timedelta(hours=1))
    async with server.Simulator(made, directory=tmp_path / "ca") as running:
        for name, value in {
            "CLIENT_ID": made.app.app_id,
            "CLIENT_SECRET": made.app.secret,
            "AUTHORITY_URL": running.authority_url,
            "SIEM_URL": running.siem_url,
            "CA_FILE": str(running.ca_file),
        }.items():
            monkeypatch.setenv(f"ALERTWELL_{name}", value)
        yield made


async def asked(alertwell: Alertwell, *arguments: str, exit_code: int = 0) -> Result:
    """The command in a thread: the simulator answers from this loop."""
    return await asyncio.to_thread(alertwell, *arguments, exit_code=exit_code)


def pfx(pair: pairs.Pair, password: bytes) -> bytes:
    """The pair as Windows exports it."""
    certificate = load_pem_x509_certificate(pair.certificate_pem.encode())
    return pkcs12.serialize_key_and_certificates(
        b"app", pair.key, certificate, None, serialization.BestAvailableEncryption(password)
    )


async def stored(fetch: Fetch) -> list[dict[str, Any]]:
    """What is stored."""
    return await asyncio.to_thread(fetch, "SELECT * FROM alertwell.credential ORDER BY source")


async def test_a_credential_is_tried_stored_shown_and_cleared(
    alertwell: Alertwell,
    keys: sealing.Sealer,
    fetch: Fetch,
    shown: world.World,
    pair: pairs.Pair,
    tmp_path: Path,
):
    """A secret for the tenant, a PFX for one source: each by a real token first, sealed, shown without what is secret."""
    app = dataclasses.replace(
        shown.app, app_id=APP, secrets=(credentials.Secret("its~own"),), certificates=(pair.registered,)
    )
    shown.register(app)
    shown.tenants[CONTOSO].consented.add(APP)
    (tmp_path / "secret").write_text("its~own\n")
    (tmp_path / "app.pfx").write_bytes(pfx(pair, b"pass word"))
    (tmp_path / "password").write_text("pass word\n")
    secret = ("--client-id", app.app_id, "--secret-file", "secret", "--expires-at", "2031-01-01")
    said = (await asked(alertwell, "tenants", "set-credential", "Contoso", *secret)).stdout
    assert (
        said.splitlines()[-1]
        == f"set: Contoso ({CONTOSO}), all sources: client secret of app {APP}, ends 2031-01-01"
    )
    certificate = (
        "--client-id",
        APP,
        "--certificate-file",
        "app.pfx",
        "--certificate-password-file",
        "password",
    )
    said = (
        await asked(alertwell, "tenants", "set-credential", CONTOSO, "--source", "siem", *certificate)
    ).stdout
    assert "siem: certificate of app" in said
    assert "ends 2036-01-01" in said
    of_tenant, of_siem = await stored(fetch)
    assert keys.unseal(of_tenant["sealed"]) == "its~own"
    assert "PRIVATE KEY" in keys.unseal(of_siem["sealed"])
    found = (await asked(alertwell, "tenants", "show", "Contoso")).stdout
    assert f"client_secret of app {APP}, ends 2031-01-01" in found
    assert f"certificate of app {APP}, ends 2036-01-01" in found
    assert "its~own" not in found
    for source in (["--source", "siem"], []):
        assert (await asked(alertwell, "tenants", "clear-credential", "Contoso", *source)).stdout.startswith(
            "cleared"
        )
    assert (await asked(alertwell, "tenants", "clear-credential", "Contoso")).stdout.startswith(
        "there was none"
    )
    assert await stored(fetch) == []


async def test_one_that_gives_no_token_is_not_stored(
    alertwell: Alertwell, keys: sealing.Sealer, fetch: Fetch, shown: world.World, tmp_path: Path
):
    """The sentence of Entra's refusal, exit code 1, and nothing changed; with --no-try it is stored."""
    (tmp_path / "secret").write_text("wrong~secret")
    arguments = (
        "tenants",
        "set-credential",
        "Contoso",
        "--client-id",
        shown.app.app_id,
        "--secret-file",
        "secret",
    )
    result = await asked(alertwell, *arguments, exit_code=1)
    assert "AADSTS7000215" in result.stdout
    assert "not stored: Contoso" in result.stderr
    assert "wrong~secret" not in result.output
    assert await stored(fetch) == []
    assert (await asked(alertwell, *arguments, "--no-try")).stdout.endswith("; not tried\n")
    [row] = await stored(fetch)
    assert keys.unseal(row["sealed"]) == "wrong~secret"


@pytest.mark.usefixtures("shown")
async def test_a_source_that_the_cloud_lacks(alertwell: Alertwell, fetch: Fetch, tmp_path: Path):
    """Is refused with the reason, before anything is tried."""
    await asyncio.to_thread(fetch, "UPDATE alertwell.tenant SET cloud = 'china', region = NULL")
    arguments = (
        "tenants",
        "set-credential",
        CONTOSO,
        "--source",
        "graph_alerts",
        "--client-id",
        APP,
        "--federated",
    )
    (tmp_path / "token").write_text(issued(pairs.pair()))
    env = {"ALERTWELL_FEDERATED_TOKEN_FILE": str(tmp_path / "token")}
    result = await asyncio.to_thread(alertwell, *arguments, exit_code=2, env=env)
    assert "the china cloud has no graph API; it exists in public gcc gcc-high dod" in result.stderr


@pytest.mark.usefixtures("keys")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--client-id is missing"),
        (["--client-id", APP], "needs one proof of its app"),
        (["--client-id", APP, "--secret-file", "secret", "--federated"], "needs one proof of its app"),
        (["--client-id", "my app", "--federated"], "--client-id must be the application"),
        (["--client-id", APP, "--federated"], "neither ALERTWELL_FEDERATED_TOKEN_FILE nor"),
        (["--client-id", APP, "--secret-file", "missing"], "missing: cannot be read (No such file or directory)"),
        (["--client-id", APP, "--secret-file", "empty"], "empty: is empty"),
        (["--client-id", APP, "--secret-file", "pem"], "pem: is a PEM file"),
        (["--client-id", APP, "--secret-file", "guid"], "guid: is a GUID, so it is the secret's id"),
        (["--client-id", APP, "--secret-file", "lines"], "lines: has several lines"),
        (["--client-id", APP, "--certificate-file", "secret"], "secret: is neither PEM nor a whole PFX file"),
        (["--client-id", APP, "--certificate-file", "pfx"], "pfx: it has a password; give --certificate-password-file"),
        (["--client-id", APP, "--certificate-file", "pfx", "--certificate-password-file", "secret"], "pfx: the password"),
        (["--client-id", APP, "--certificate-file", "old"], "old: its certificate has expired on 2026-10-01"),
        (["--client-id", APP, "--secret-file", "secret", "--expires-at", "soon"], "--expires-at 'soon' must be a date"),
        (["--client-id", APP, "--secret-file", "secret", "--expires-at", "2020-01-01"], "is over"),
        (["--client-id", APP, "--certificate-file", "pem", "--expires-at", "2031-01-01"], "a certificate says itself"),
        (["--client-id", APP, "--ask-secret"], "--ask-secret needs a terminal"),
        (["--client-id", APP, "--secret-file", "secret", "--ask-password"], "needs --certificate-file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(
    alertwell: Alertwell,
    pair: pairs.Pair,
    tmp_path: Path,
    arguments: list[str],
    said: str,
):
    """A file that is missing, empty, of the wrong kind or locked, and options that do not fit: one line, nothing stored."""
    old = pairs.pair("2026-09-01", "2026-10-01")
    for name, content in {
        "secret": b"s3cret",
        "empty": b"\n",
        "guid": APP.encode(),
        "lines": b"a\nb",
        "pem": (pair.key_pem + pair.certificate_pem).encode(),
        "old": (old.key_pem + old.certificate_pem).encode(),
        "pfx": pfx(pair, b"locked"),
    }.items():
        (tmp_path / name).write_bytes(content)
    alertwell("tenants", "add", CONTOSO, "Contoso", "--region", "eu")
    result = alertwell("tenants", "set-credential", "Contoso", *arguments, exit_code=2)
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert "s3cret" not in result.output


async def test_a_new_credential_is_rehearsed(
    alertwell: Alertwell, fetch: Fetch, shown: world.World, pair: pairs.Pair, tmp_path: Path
):
    """Secret, certificate and federated token of the shared app, with all its tenants: who would fail, why; nothing changes."""
    shown.issuers[CLUSTER] = {"k1": pair.key.public_key()}
    trusted = (credentials.Federation(CLUSTER, SUBJECT),)
    shown.app = shown.register(
        dataclasses.replace(shown.app, certificates=(pair.registered,), federations=trusted)
    )
    (tmp_path / "secret").write_text(shown.app.secret)
    (tmp_path / "pem").write_text(pair.key_pem + pair.certificate_pem)
    (tmp_path / "token").write_text(issued(pair))
    (tmp_path / "wrong").write_text("wrong~secret")
    before = await asyncio.to_thread(fetch, "SELECT * FROM alertwell.lease ORDER BY tenant_id")
    for name, kind in {"secret": "client secret", "pem": "certificate", "token": "federated"}.items():
        said = (await asked(alertwell, "tenants", "check", "--credential", name)).stdout
        assert (
            said
            == f"{kind} of app {shown.app.app_id}: 2 tenants tried, 0 would not be read; nothing was changed\n"
        )
    shown.tenants[FABRIKAM].consented.clear()
    said = (await asked(alertwell, "tenants", "check", "--credential", "pem", exit_code=1)).stdout
    assert "1 would not be read" in said
    assert "AADSTS700016" in said
    assert CONTOSO not in said
    found = json.loads(
        (await asked(alertwell, "tenants", "check", "--credential", "wrong", "--json", exit_code=1)).stdout
    )
    assert (found["ok"], found["kind"]) == (False, "client_secret")
    assert {trial["ok"] for trial in found["trials"]} == {False}
    assert "wrong~secret" not in json.dumps(found)
    assert await asyncio.to_thread(fetch, "SELECT * FROM alertwell.lease ORDER BY tenant_id") == before
    assert await stored(fetch) == []


@pytest.mark.usefixtures("keys")
async def test_a_tenants_own_credential_is_rehearsed_with_it_alone(
    alertwell: Alertwell, shown: world.World, tmp_path: Path
):
    """By the app that it has of its own; with all tenants of the shared app it is not tried."""
    app = shown.add_tenant("33333333-3333-3333-3333-333333333333", "Wingtip", own_app=True).app
    (tmp_path / "secret").write_text(app.secret)
    add = ("tenants", "add", "33333333-3333-3333-3333-333333333333", "Wingtip", "--region", "eu")
    await asked(alertwell, *add, "--client-id", app.app_id, "--secret-file", "secret")
    said = (await asked(alertwell, "tenants", "check", "Wingtip", "--credential", "secret")).stdout
    assert (
        said
        == f"client secret of app {app.app_id}: 1 tenant tried, 0 would not be read; nothing was changed\n"
    )
    (tmp_path / "shared").write_text(shown.app.secret)
    assert "2 tenants tried" in (await asked(alertwell, "tenants", "check", "--credential", "shared")).stdout


@pytest.mark.usefixtures("keys")
def test_reseal(alertwell: Alertwell, fetch: Fetch, tmp_path: Path):
    """All of it under the newest key, versions and leases as they were, the audit says how many; then the old key can go."""
    (tmp_path / "secret").write_text("s3cret")
    for number in range(1, 4):
        tenant_id = f"11111111-1111-1111-1111-{number:012d}"
        add = ("tenants", "add", tenant_id, f"Contoso {number}", "--region", "eu")
        alertwell(*add, "--client-id", APP, "--secret-file", "secret")
    lost = "11111111-1111-1111-1111-000000000003"
    fetch("UPDATE alertwell.credential SET sealed = 'of a key that is gone' WHERE tenant_id = $1", UUID(lost))
    facts = "SELECT tenant_id, version, epoch FROM alertwell.credential JOIN alertwell.lease USING (tenant_id) ORDER BY 1"
    before = fetch(facts)
    file = Path(os.environ["ALERTWELL_SEALING_KEYS_FILE"])
    alertwell("seal-key", "--into", str(file))
    result = alertwell("reseal", exit_code=1)
    assert result.stdout == "2 sealed anew, 0 with the newest key already\n"
    assert f"Contoso 3 ({lost}), all sources: no key of the file opens its credential" in result.stderr
    assert fetch(facts) == before
    file.write_text(file.read_text().splitlines()[0])
    newest = sealing.Sealer.from_file(file)
    for row in fetch("SELECT sealed FROM alertwell.credential WHERE tenant_id <> $1", UUID(lost)):
        assert newest.unseal(row["sealed"]) == "s3cret"
    assert alertwell("reseal", exit_code=1).stdout == "0 sealed anew, 2 with the newest key already\n"
    assert [row["detail"] for row in fetch(
        "SELECT detail ->> 'count' AS detail FROM alertwell.audit WHERE action = 'credential.resealed'"
    )] == ["2"]  # fmt: skip


def test_reseal_without_keys(alertwell: Alertwell):
    """Says which setting names them."""
    assert "ALERTWELL_SEALING_KEYS_FILE is not set" in alertwell("reseal", exit_code=2).stderr


def test_given_is_not_shown():
    """What a person gives has no repr that holds it, and without keys it is not stored."""
    one = given.Given(APP, "client_secret", "s3cret")
    assert "s3cret" not in repr(one)
    with pytest.raises(errors.BadSetting, match="SEALING_KEYS_FILE"):
        one.sealed(None)


@pytest.mark.usefixtures("keys")
def test_status_says_what_ends(alertwell: Alertwell, tmp_path: Path):
    """Within 60 days, of tenants' own and of the shared app's."""
    (tmp_path / "secret").write_text("s3cret")
    soon = f"{datetime.now(UTC) + timedelta(days=21):%Y-%m-%d}"
    add = (
        "tenants",
        "add",
        CONTOSO,
        "Contoso",
        "--region",
        "eu",
        "--client-id",
        APP,
        "--secret-file",
        "secret",
    )
    alertwell(*add, "--expires-at", soon)
    env = {
        "ALERTWELL_CLIENT_ID": FABRIKAM,
        "ALERTWELL_CLIENT_SECRET": "s",
        "ALERTWELL_CLIENT_SECRET_EXPIRES_AT": "2020-01-01",
    }
    said = alertwell("status", env=env).stdout
    assert f"ending    the client secret of app {FABRIKAM} ended on 2020-01-01" in said
    assert f"ending    the client secret of app {APP} of Contoso (1111…) ends on {soon}" in said
    assert len(json.loads(alertwell("status", "--json").stdout)["ending"]) == 1

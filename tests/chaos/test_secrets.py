"""Secrets stay where they belong: a run of real processes with faults, and then a search for every one of them everywhere."""

from __future__ import annotations

import asyncio
import secrets
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit
from uuid import uuid4

import aiohttp
import asyncpg
import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from typer.testing import CliRunner

from service.auth import sealing
from service.cli import main, signing
from service.simulator import chaos, credentials, tokens
from service.store import roles, scram
from tests import proxy as proxies
from tests.chaos import leaks
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until
from tests.simulator import keys as pairs

TAILSPIN = "33333333-3333-3333-3333-333333333333"
WINGTIP = "44444444-4444-4444-4444-444444444444"
FAULTS = {"siem": ("401", "html", "truncated", "strange"), "token": ("503-html",)}


def word(name: str) -> str:
    """A secret that nobody else has, with what addresses and forms would have to escape."""
    return f"c4nary~{name}/{secrets.token_urlsafe(18)}"


async def command(environment: dict[str, str], *words: str) -> str:
    """What a command says, whatever its exit code; in a thread, so one at a time."""
    result = await asyncio.to_thread(
        CliRunner().invoke, main.app, words, env=environment, prog_name="alertwell"
    )
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.output


@pytest.fixture
def issued(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every token that the simulator signs."""
    seen: dict[str, str] = {}
    encode = tokens.Signer._encode

    def keep(self: tokens.Signer, claims: dict[str, Any]) -> str:
        token = encode(self, claims)
        seen.update(leaks.of_token(f"token {len(seen) // 2 + 1}", token))
        return token

    monkeypatch.setattr(tokens.Signer, "_encode", keep)
    return seen


def kept(folder: Path, name: str, value: str) -> str:
    """A secret in a file; the file's path."""
    path = folder / name
    path.write_text(value + "\n")
    return str(path)


@pytest.mark.timeout(300)  # a machine that is busy
async def test_no_secret_is_left_anywhere(
    stage: stages.Stage, postgres: Any, admin_url: str, issued: dict[str, str]
):
    """Not in what `run` and commands wrote at debug level, nor in their command lines, nor on the HTTP port, nor in a column of
    the database, nor in the log of a PostgreSQL that logs every statement: neither after faults nor after a crash.
    """
    shown, folder = stage.shown, stage.folder
    pair = pairs.pair("2026-01-01", "2099-01-01")
    canaries = {
        "client secret": word("client"),
        "certificate password": word("certificate"),
        "a tenant's own secret": word("tenant"),
        "database password": word("database"),
        "sealing key": sealing.generate_key(),
        "proxy password": proxies.PASSWORD,
        **leaks.of_pem("certificate key", pair.key_pem),
    }
    sealed_key = pair.key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(canaries["certificate password"].encode()),
    ).decode()
    shown.register(
        replace(
            shown.app,
            secrets=(credentials.Secret(canaries["client secret"]),),
            certificates=(pair.registered,),
            redirect_uris=("https://alerts.example.com/consent",),
        )
    )
    stage.secret_file.write_text(canaries["client secret"])
    own = shown.add_tenant(TAILSPIN, "Tailspin", own_app=True).app
    shown.register(replace(own, secrets=(credentials.Secret(canaries["a tenant's own secret"]),)))
    shown.add_user(FABRIKAM)
    for tenant in (CONTOSO, TAILSPIN):
        stages.file(shown, tenant, f"of {tenant}", shown.clock())

    admin = await asyncpg.connect(admin_url)
    login, name = f"daemon_{uuid4().hex[:12]}", urlsplit(admin_url).path.removeprefix("/")
    verifier = scram.verifier(canaries["database password"])
    await admin.execute(f"CREATE ROLE {login} LOGIN PASSWORD '{verifier}' IN ROLE {roles.SERVICE}")
    await admin.execute(f"ALTER DATABASE {name} SET log_statement = 'all'")
    place = urlsplit(stage.dsn)
    database = place._replace(netloc=f"{login}@{place.netloc.rpartition('@')[2]}").geturl()
    try:
        async with proxies.serve(password=proxies.PASSWORD) as proxy:
            environment = {
                **stage.environment(),
                "ALERTWELL_LOG_LEVEL": "debug",
                "ALERTWELL_DATABASE_URL": database,
                "ALERTWELL_DATABASE_PASSWORD_FILE": kept(folder, "dbword", canaries["database password"]),
                "ALERTWELL_CLIENT_CERTIFICATE_FILE": kept(
                    folder, "app.pem", pair.certificate_pem + sealed_key
                ),
                "ALERTWELL_CLIENT_CERTIFICATE_PASSWORD_FILE": kept(
                    folder, "pemword", canaries["certificate password"]
                ),
                "ALERTWELL_SEALING_KEYS_FILE": kept(folder, "keys", canaries["sealing key"]),
                "ALERTWELL_PROXY_URL": proxy.url.replace("://", f"://{proxies.USER}@"),
                "ALERTWELL_PROXY_PASSWORD_FILE": kept(folder, "proxyword", proxies.PASSWORD),
                "ALERTWELL_PUBLIC_URL": "https://alerts.example.com",
                "ALERTWELL_PUBLIC_PORT": "0",
            }
            said = {
                "add": await command(environment, "tenants", "add", CONTOSO, "Contoso", "--region", "eu"),
                "add own": await command(
                    environment, "tenants", "add", TAILSPIN, "Tailspin", "--region", "eu", "--client-id", own.app_id,
                    "--secret-file", kept(folder, "own", canaries["a tenant's own secret"]),
                ),
                "add other": await command(environment, "tenants", "add", FABRIKAM, "Fabrikam", "--source", "graph_alerts"),
            }  # fmt: skip
            canaries["refresh token"] = await _sign_in(stage, folder)
            # the link is for the one who asked for it: its output is not searched
            invited = await command(environment, "tenants", "invite", "Wingtip")
            [link] = [each for each in invited.split() if "adminconsent" in each]
            [state] = parse_qs(urlsplit(link).query)["state"]
            canaries["consent state"] = state
            for surface, names in FAULTS.items():
                for fault in names:
                    stage.simulator.plan(surface, CONTOSO, chaos.FAULTS[fault])
            narrow = replace(stage, dsn=database)
            async with processes.running(narrow, **environment) as replica:
                await replica.logs("http_listening", 90)
                await until(lambda: [x for x in replica.lines if x.get("event") == "http_listening"][1:], 60)
                listening = [x for x in replica.lines if x.get("event") == "http_listening"]
                ports = {line["setting"]: line["port"] for line in listening}
                await stage.stored(CONTOSO, 40)
                await stage.stored(TAILSPIN, 40)
                await _call_back(ports["PUBLIC_PORT"], state)
                await replica.logs("consent_given", 60)
                own_port = f"http://127.0.0.1:{ports['HTTP_PORT']}"
                looked = (
                    "status",
                    "doctor",
                    "tenants list --json",
                    f"tenants show {TAILSPIN} --json",
                    "readers list",
                )
                said |= {each: await command(environment, *each.split()) for each in looked}
                said |= await _mistakes(environment, canaries)
                assert proxy.tunnels
                found = await leaks.hunt(
                    {**canaries, **issued},
                    leaks.Places(
                        urls=[f"{own_port}/{page}" for page in ("metrics", "livez", "readyz", "nowhere")],
                        processes=[replica.process.pid],
                        dsn=admin_url,
                    ),
                )
                replica.process.send_signal(signal.SIGABRT)
                await replica.ends()
        assert {"debug", "warning"} <= {line["level"] for line in replica.lines}
        written = "\n".join([*map(str, replica.lines), *replica.other])
        found += await leaks.hunt(
            {**canaries, **issued}, leaks.Places(texts={**said, "replica": written}, files=_log(postgres))
        )
        assert found == []
        for text in written.splitlines():
            assert len(text) < 65536
    finally:
        structlog.reset_defaults()
        await admin.execute(f"ALTER DATABASE {name} RESET log_statement")
        await admin.execute(f"DROP OWNED BY {login}")
        await admin.execute(f"DROP ROLE {login}")
        await admin.close()


async def _sign_in(stage: stages.Stage, folder: Path) -> str:
    """What `alertwell login Fabrikam` does; the refresh token that it stored, sealed."""

    async def at_once(_seconds: float) -> None:
        return None

    voice = signing.Voice(lambda _subject, _device: None, lambda _subject, _visit: None, at_once)
    config = stage.config(sealing_keys_file=str(folder / "keys"))
    assert (await signing.login(stage.database, config, signing.Wish("Fabrikam"), voice)).kept
    sealed = await stage.books.rows.fetchval(
        "SELECT sealed FROM alertwell.credential WHERE kind = 'delegated'"
    )
    return sealing.Sealer.from_file(folder / "keys").unseal(sealed)


async def _call_back(port: int, state: str) -> None:
    """The customer comes back, twice; the second time with a state that somebody has altered."""
    async with aiohttp.ClientSession() as session:
        for each in (state, state[:-4] + "AAAA"):
            query = f"admin_consent=True&tenant={WINGTIP}&state={quote(each)}"
            async with session.get(f"http://127.0.0.1:{port}/consent?{query}") as answer:
                assert (answer.status == 200) == (each == state), await answer.text()


async def _mistakes(environment: dict[str, str], canaries: dict[str, str]) -> dict[str, str]:
    """What is said where secrets are given wrongly: in an address that cannot be read, for another user, in a wrong file."""
    password = canaries["database password"]
    wrong = {
        "a bare slash": {"ALERTWELL_DATABASE_URL": f"postgresql://me:{password}@127.0.0.1/x"},
        "another user": {
            "ALERTWELL_DATABASE_URL": f"postgresql://nobody:{quote(password, safe='')}@127.0.0.1:1/x"
        },
        "no number": {"ALERTWELL_POLL_INTERVAL": "x", "ALERTWELL_CLIENT_SECRET": canaries["client secret"]},
        "wrong keys": {"ALERTWELL_SEALING_KEYS_FILE": environment["ALERTWELL_DATABASE_PASSWORD_FILE"]},
        "wrong certificate": {
            "ALERTWELL_CLIENT_CERTIFICATE_FILE": environment["ALERTWELL_CLIENT_CERTIFICATE_PASSWORD_FILE"]
        },
        "wrong proxy": {"ALERTWELL_PROXY_URL": f"http://alice:{proxies.PASSWORD}@127.0.0.1:1/path"},
    }
    said = {each: await command({**environment, **given}, "status") for each, given in wrong.items()}
    return said | {"run": await command({**environment, **wrong["wrong certificate"]}, "run")}


def _log(server: Any) -> list[Path]:
    """What the embedded server wrote; a server of somebody else keeps its log to itself."""
    [host] = parse_qs(urlsplit(server.admin_dsn).query).get("host", [""])
    log = Path(host).parent / "server.log"
    if not log.is_file():
        return []
    assert b"statement: " in log.read_bytes() or b"execute " in log.read_bytes()
    return [log]

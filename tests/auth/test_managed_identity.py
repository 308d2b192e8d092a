"""The managed identity of an Azure machine as the app's credential: real MSAL against the endpoint's two common forms."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import jwt
import pytest
from aiohttp import web

from service import errors, model
from service.auth import managed, modes, tokens
from tests.auth.trust import EXCHANGE, issued, reopen
from tests.simulator import keys

Make = Callable[..., tokens.Tokens]


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


class Machine:
    """An Azure machine's identity endpoint: the form of a VM and that of App Service."""

    def __init__(self, pair: keys.Pair) -> None:
        self.pair = pair
        self.asked: list[web.Request] = []
        self.answer: Callable[[], web.Response] = self.give

    def give(self) -> web.Response:
        token = issued(self.pair, jti=str(len(self.asked)))
        ends = str(int(time.time()) + 3600)
        return web.json_response(
            {"access_token": token, "expires_in": "3600", "expires_on": ends, "resource": EXCHANGE}
        )

    async def handle(self, request: web.Request) -> web.Response:
        self.asked.append(request)
        return self.answer()


@pytest.fixture
async def machine(pair: keys.Pair, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Machine]:
    """A machine with an identity, whose proxies must not be used."""
    made = Machine(pair)
    running = web.AppRunner(web_app := web.Application())
    web_app.router.add_get("/{path:.*}", made.handle)
    await running.setup()
    site = web.TCPSite(running, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{running.addresses[0][1]}"
    for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "IMDS_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    yield made
    await running.cleanup()


async def test_managed_identity_of_a_vm(
    make: Make, app: Any, machine: Machine, contoso: model.Access, fabrikam: model.Access
) -> None:
    """The machine's token stands in for a secret; it is asked for once and used for every tenant."""
    identity = str(uuid.UUID(int=5))
    made = make(shared=modes.SharedApp(app.app_id, federated=managed.ManagedIdentity(identity)))
    got = await asyncio.gather(*(made.token(each, "siem") for each in (contoso, fabrikam)))
    assert {claims(token)["appidacr"] for token in got} == {"2"}
    [asked] = machine.asked
    assert asked.path == "/metadata/identity/oauth2/token"
    assert (asked.query["resource"], asked.query["client_id"]) == (EXCHANGE, identity)
    assert asked.headers["Metadata"] == "true"
    assert [one.expires_at for one in made.horizons()] == [None]


async def test_managed_identity_of_app_service(
    make: Make, app: Any, machine: Machine, contoso: model.Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    """App Service and Container Apps name their endpoint and its password in the environment."""
    base = f"{os.environ['AZURE_POD_IDENTITY_AUTHORITY_HOST']}/msi/token"
    monkeypatch.setenv("IDENTITY_ENDPOINT", base)
    monkeypatch.setenv("IDENTITY_HEADER", "a-header")
    made = make(shared=modes.SharedApp(app.app_id, federated=managed.ManagedIdentity()), siem_form="v1")
    assert await made.token(contoso, "siem")
    [asked] = machine.asked
    assert (asked.path, asked.headers["X-IDENTITY-HEADER"]) == ("/msi/token", "a-header")
    assert "client_id" not in asked.query


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda: web.json_response(
                {"error": "invalid_request", "error_description": "hunter2"}, status=400
            ),
            r"no such identity is assigned to this machine \(invalid_request\)",
        ),
        (lambda: web.Response(text="<html>hunter2"), "gives no token that can be used"),
        (lambda: web.json_response(["hunter2"]), "gives no token that can be used"),
        (lambda: web.Response(body=b"x" * 100_000), "not in time"),
        (
            lambda: web.Response(status=302, headers={"Location": "http://hunter2"}),
            "no token that can be used",
        ),
    ],
)
async def test_managed_identity_refused(
    make: Make, app: Any, machine: Machine, contoso: model.Access, answer: Any, words: str
) -> None:
    """What the endpoint says becomes one sentence without its text; the secret takes over, and the identity again later."""
    machine.answer = answer
    alone = make(shared=modes.SharedApp(app.app_id, federated=managed.ManagedIdentity()))
    with pytest.raises(errors.CredentialRefused, match=words) as refused:
        await alone.token(contoso, "siem")
    assert "hunter2" not in str(refused.value)
    made = make(shared=modes.SharedApp(app.app_id, app.secret, federated=managed.ManagedIdentity()))
    assert await made.token(contoso, "siem")
    assert made._choice._used == "client_secret"
    machine.answer = machine.give
    reopen(made)
    assert await made.token(contoso, "siem")
    assert made._choice._used == "federated"


async def test_not_on_azure(
    make: Make, app: Any, contoso: model.Access, unused_tcp_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing answers, the sentence asks whether this is Azure at all."""
    monkeypatch.delenv("IDENTITY_ENDPOINT", raising=False)
    monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", f"http://127.0.0.1:{unused_tcp_port}")
    made = make(shared=modes.SharedApp(app.app_id, federated=managed.ManagedIdentity()))
    with pytest.raises(errors.CredentialRefused, match="is this machine on Azure") as refused:
        await made.token(contoso, "siem")
    assert refused.value.code == "managed_identity_unavailable"

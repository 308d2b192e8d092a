"""What MSAL speaks through, against servers that do what Entra never would; and that nothing secret gets out."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import ssl
import traceback
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import structlog
import trustme
from aiohttp import web

from service import clouds, errors, model
from service.auth import modes, tokens
from service.simulator import server
from service.transport import session as sessions

SECRET = "a-very-secret-value"
TENANT = uuid.UUID("11111111-1111-1111-1111-111111111111")
CONTOSO = model.Access(model.Tenant(TENANT, "Contoso"))

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Make = Callable[..., tokens.Tokens]


class Bad:
    """A token service that answers what a test says, over TLS."""

    def __init__(self) -> None:
        self.metadata: Handler = self.usual
        self.token: Handler = self.usual
        self.url = ""
        self.asked: list[str] = []

    async def usual(self, request: web.Request) -> web.Response:
        base = f"{self.url}/{TENANT}"
        return web.json_response(
            {
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "issuer": f"{base}/v2.0",
            }
            if request.method == "GET"
            else {"token_type": "Bearer", "expires_in": 3599, "access_token": "opaque-token"}
        )

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(f"{request.method} {request.path}")
        return await (self.metadata if request.method == "GET" else self.token)(request)


@pytest.fixture
async def bad(tmp_path: Path) -> AsyncIterator[Bad]:
    """A running bad token service."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    made = Bad()
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    made.url = f"https://localhost:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def asks(bad: Bad, tmp_path: Path) -> AsyncIterator[Make]:
    """Makes Tokens that ask the bad service."""
    async with sessions.open_session(tmp_path / "ca.pem") as session:
        made: list[tokens.Tokens] = []

        def build(**changes: Any) -> tokens.Tokens:
            endpoints = clouds.Endpoints({"authority": bad.url})
            arguments = {
                "shared": modes.SharedApp("an-app", SECRET),
                "ca_file": tmp_path / "ca.pem",
                "siem_form": "v2",
                **changes,
            }
            made.append(tokens.Tokens(endpoints, session, **arguments))
            return made[-1]

        yield build
        for each in made:
            await each.close()
            await asyncio.to_thread(each._places.threads.shutdown)


def answering(content: Any, status: int = 200) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return web.Response(status=status, body=body, content_type="application/json")

    return handle


async def test_opaque(asks: Make) -> None:
    """A token that cannot be read is used as it is."""
    assert await asks(roles={"siem": frozenset({"Alert.Read.All"})}).token(CONTOSO, "siem") == "opaque-token"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"null",
        b'"text"',
        b"{",
        b"[" * 100_000,
        b"\xff\xfe",
        {},
        {"token_endpoint": 7},
        {"token_endpoint": "x"},
    ],
)
async def test_hostile_metadata(asks: Make, bad: Bad, content: Any) -> None:
    """Metadata of any shape are a passing fault, never another exception."""
    bad.metadata = answering(content)
    with pytest.raises(errors.Transient):
        await asks().token(CONTOSO, "siem")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b'{"access_token": "t", "expires_in": 1e999, "token_type": "Bearer"}',
        {},
        {"access_token": None},
        {"access_token": "", "expires_in": 3599, "token_type": "Bearer"},
        {"access_token": "with blank", "expires_in": 3599, "token_type": "Bearer"},
        {"access_token": "line\nend", "expires_in": 3599, "token_type": "Bearer"},
        {"access_token": "x" * 100_000, "expires_in": 3599, "token_type": "Bearer"},
        {"access_token": "t", "expires_in": "soon", "token_type": "Bearer"},
        {"access_token": "t", "expires_in": -1, "token_type": "Bearer"},
        {"access_token": "t", "expires_in": 3599, "token_type": "mac"},
    ],
)
@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_hostile_token(asks: Make, bad: Bad, content: Any, form: str) -> None:
    """A success without a usable token is a passing fault."""
    bad.token = answering(content)
    with pytest.raises(errors.Transient):
        await asks(siem_form=form).token(CONTOSO, "siem")


@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_endless_answer(asks: Make, bad: Bad, form: str) -> None:
    """An answer that does not end is given up at its bound."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" " * 64 * 1024)
            await asyncio.sleep(0)  # or the end of the connection would never be seen
        return response

    bad.token = endless
    with pytest.raises(errors.Transient, match="over"):
        await asks(siem_form=form).token(CONTOSO, "siem")


async def test_dripping_answer(asks: Make, bad: Bad) -> None:
    """An answer that comes byte by byte ends at the deadline, in its thread too."""
    let_go = asyncio.Event()

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"{")
        await let_go.wait()
        return response

    bad.token = dripping
    made = asks(deadline=3.0)
    try:
        with pytest.raises(errors.Transient, match=r"in time|within"):
            await made.token(CONTOSO, "siem")
        await asyncio.to_thread(made._places.threads.shutdown)
    finally:
        let_go.set()


@pytest.mark.parametrize("sized", [False, True])
async def test_bytes_that_keep_coming(asks: Make, bad: Bad, sized: bool) -> None:
    """An answer of which a byte comes now and then ends at the deadline as well, however its length is said."""
    enough = asyncio.Event()

    async def dripping(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if sized:
            response.content_length = 10_000
        await response.prepare(request)
        with contextlib.suppress(OSError):
            while not enough.is_set():
                await response.write(b" ")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(enough.wait(), 0.2)
        return response

    bad.token = dripping
    made = asks(deadline=1.0)
    try:
        with pytest.raises(errors.Transient, match=r"in time|within"):
            await made.token(CONTOSO, "siem")
        # its thread is free again: else some of these, and nobody gets a token any more
        async with asyncio.timeout(5):
            await asyncio.to_thread(made._places.threads.shutdown)
    finally:
        enough.set()


async def test_other_host(asks: Make, bad: Bad) -> None:
    """The secret goes to no other host than the one configured; the message says what it means."""
    content = {
        "token_endpoint": f"https://login.microsoftonline.us/{TENANT}/oauth2/v2.0/token",
        "authorization_endpoint": f"https://login.microsoftonline.us/{TENANT}/oauth2/v2.0/authorize",
    }
    bad.metadata = answering(content)
    with pytest.raises(errors.Attention, match=r"login\.microsoftonline\.us") as refused:
        await asks().token(CONTOSO, "siem")
    assert refused.value.code == "wrong_cloud"
    assert not [each for each in bad.asked if each.startswith("POST")]


@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_redirect_with_secret(asks: Make, bad: Bad, form: str) -> None:
    """A redirect of the token request is not followed: it would carry the secret along."""

    async def away(_request: web.Request) -> web.Response:
        return web.Response(status=307, headers={"Location": f"{bad.url}/elsewhere"})

    bad.token = away
    with pytest.raises(errors.Transient, match="redirect"):
        await asks(siem_form=form).token(CONTOSO, "siem")
    assert not any("elsewhere" in each for each in bad.asked)


async def test_environment_ignored(asks: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxies, CA bundles and regions of the environment change nothing."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, "/nowhere")
    monkeypatch.setenv("MSAL_FORCE_REGION", "westeurope")
    assert await asks().token(CONTOSO, "siem") == "opaque-token"


def test_bad_ca_file(tmp_path: Path) -> None:
    """A CA file without certificates is named."""
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(errors.BadSetting, match="CA_FILE"):
        sessions.open_session(file)


@pytest.mark.parametrize("form", ["v2", "v1"])
@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<html>" + SECRET.encode(), 200),
        (b"<html>" + SECRET.encode(), 503),
        ({"error": SECRET, "error_description": f"AADSTS7000215: {SECRET}"}, 401),
        ({"access_token": SECRET + " ", "expires_in": 1}, 200),
        ({"access_token": SECRET, "expires_in": 3599, "token_type": "Bearer"}, 200),
        ({"error": "invalid_client", "error_codes": [7000215], "error_description": SECRET}, 401),
    ],
)
async def test_nothing_gets_out(
    asks: Make, bad: Bad, caplog: pytest.LogCaptureFixture, form: str, content: Any, status: int
) -> None:
    """Neither a log at its loudest nor an error with its whole chain and its locals' names holds a secret or a token."""
    caplog.set_level(logging.DEBUG)
    bad.token = answering(content, status)
    out = ""
    with structlog.testing.capture_logs() as lines:
        asked = await asyncio.gather(asks(siem_form=form).token(CONTOSO, "siem"), return_exceptions=True)
    for failure in asked:
        if isinstance(failure, BaseException):
            out = "".join(traceback.format_exception(failure)) + repr(failure) + repr(vars(failure))
            assert (failure.__cause__, failure.__context__) == (None, None)
    assert SECRET not in caplog.text
    assert SECRET not in repr(lines)
    assert SECRET not in out


async def test_reprs(make: Make, sim: server.Simulator) -> None:
    """Nothing that holds a secret or a token shows it."""
    made = make()
    token = await made.token(CONTOSO, "siem")
    secret = sim.world.app.secret
    shown = (
        repr(made._tenants)
        + repr(made._choice.shared.app)
        + repr(made._choice.shared.read())
        + repr(modes.ClientSecret(secret))
        + repr(vars(made))
    )
    assert token not in shown
    assert secret not in shown


async def test_session_has_no_cookies(asks: Make, bad: Bad, tmp_path: Path) -> None:
    """Cookies of one tenant's answers are never sent with another's requests."""
    seen = []

    async def baking(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Cookie"))
        response = await bad.usual(request)
        response.set_cookie("fpc", "a-tenant")
        return response

    bad.metadata = bad.token = baking
    made = asks()
    await made.token(CONTOSO, "siem")
    made.forget(TENANT)
    await made.token(CONTOSO, "siem")
    async with sessions.open_session(tmp_path / "ca.pem") as session:
        for _ in range(2):
            async with session.get(f"{bad.url}/x") as response:
                await response.read()
    assert seen == [None] * 6

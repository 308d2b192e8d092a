"""Through a proxy: MSAL, the v1 form and the API calls alike, and what is said where the proxy is the trouble."""

from __future__ import annotations

import contextlib
import logging
import socket
import traceback
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from service import clouds, errors, model, proxies
from service.auth import modes, tokens
from service.simulator import server
from service.transport import budget, client
from service.transport import session as sessions
from tests import proxy as standins

CONTOSO = model.Access(
    model.Tenant(uuid.UUID(int=0x11111111111111111111111111111111), "Contoso", region="eu")
)
ASKS = model.Request("siem", "/api/alerts")
FORMS = pytest.mark.parametrize("form", ["v2", "v1"])


@contextlib.asynccontextmanager
async def way(
    sim: server.Simulator, proxy: proxies.Proxy | None, *, ca_file: Path | None = None, form: Any = "v2"
) -> AsyncIterator[client.Client]:
    """A client with tokens of its own, through the proxy; `token` is for both forms."""
    hosts = clouds.Endpoints({"authority": sim.authority_url, "siem": sim.siem_url})
    trusted = ca_file or sim.ca_file
    async with sessions.open_session(trusted) as opened:
        provider = tokens.Tokens(
            hosts,
            opened,
            shared=modes.SharedApp(sim.world.app.app_id, sim.world.app.secret),
            ca_file=trusted,
            proxy=proxy,
            siem_form=form,
        )
        try:
            yield client.Client(opened, provider, hosts, budget.ByteBudget(2**24, 2**23), proxy=proxy)
        finally:
            await provider.close()


async def reads(sender: client.Client) -> bytes:
    """What one request brings."""
    async with sender.send(CONTOSO, ASKS) as answer:
        return answer.body


def named(url: str, password: str = "", bypass: str = "") -> proxies.Proxy:
    """A proxy as the settings make it; a user where there is a password."""
    user = f"{standins.USER}@" if password else ""
    return proxies.parse(url.replace("://", f"://{user}"), password, proxies.bypasses(bypass))


@FORMS
async def test_all_goes_through(sim: server.Simulator, form: str):
    """The proxy sees a tunnel for the token and one for the API; neither Entra nor the API see its credentials."""
    async with (
        standins.serve(password=standins.PASSWORD) as running,
        way(sim, named(running.url, standins.PASSWORD), form=form) as sender,
    ):
        assert (await reads(sender)).startswith(b"[")
    # the session of the v1 form is the API's, and so is its tunnel
    assert running.tunnels == (2 if form == "v2" else 1)
    assert set(running.asked) == {sim.url.removeprefix("https://")}
    assert sim.counters["token"] == sim.counters["siem"] == 1


@FORMS
async def test_no_proxy_goes_around(sim: server.Simulator, form: str):
    """A host of NO_PROXY is reached directly, also where the proxy is dead."""
    async with standins.serve() as running:
        async with way(sim, named(running.url, bypass="localhost"), form=form) as sender:
            await reads(sender)
        assert running.asked == []


@FORMS
async def test_an_inspecting_proxy(sim: server.Simulator, tmp_path: Path, form: str):
    """With its CA trusted it works, and no request that it reads holds its own credentials; without, the sentence says so."""
    ca_file = tmp_path / "proxy-ca.pem"
    async with standins.serve(password=standins.PASSWORD, inspect=(sim.ca_file, ca_file)) as running:
        through = named(running.url, standins.PASSWORD)
        async with way(sim, through, ca_file=ca_file, form=form) as sender:
            await reads(sender)
        assert b"Bearer " in running.inside
        assert b"roxy-" not in running.inside
        async with way(sim, through, form=form) as sender:
            with pytest.raises(
                errors.Transient, match=r"localhost is not trusted.*ALERTWELL_CA_FILE to the CA of your proxy"
            ):
                await reads(sender)


@FORMS
async def test_a_proxy_of_https(sim: server.Simulator, tmp_path: Path, form: str):
    """TLS inside of TLS; a proxy whose certificate is not trusted is named."""
    its_ca, both = tmp_path / "proxy-ca.pem", tmp_path / "both.pem"
    async with standins.serve(password=standins.PASSWORD, tls=its_ca) as running:
        both.write_text(its_ca.read_text() + sim.ca_file.read_text())
        async with way(sim, named(running.url, standins.PASSWORD), ca_file=both, form=form) as sender:
            await reads(sender)
        async with way(sim, named(running.url.replace("localhost", "127.0.0.1")), form=form) as sender:
            with pytest.raises(
                errors.Transient, match=r"certificate of the proxy 127\.0\.0\.1:\d+ is not trusted"
            ):
                await reads(sender)


@FORMS
@pytest.mark.parametrize("given", ["", "another-password"])
async def test_a_sign_in_that_the_proxy_refuses(
    sim: server.Simulator, caplog: pytest.LogCaptureFixture, form: str, given: str
):
    """It is the proxy's trouble, passing, in one sentence; neither errors nor logs at their loudest hold a password."""
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        async with (
            standins.serve(password=standins.PASSWORD) as running,
            way(sim, named(running.url, given), form=form) as sender,
        ):
            with pytest.raises(
                errors.Transient, match=r"proxy localhost:\d+ does not accept our sign-in \(407\)"
            ) as refused:
                await reads(sender)
    said = "".join(traceback.format_exception(refused.value)) + repr(lines) + caplog.text + repr(vars(sender))
    basic = named(running.url, "another-password").headers["Proxy-Authorization"]
    assert "another-password" not in said
    assert basic.removeprefix("Basic ") not in said
    assert (refused.value.__cause__, refused.value.__context__) == (None, None)


@FORMS
@pytest.mark.parametrize(
    ("status", "says"), [(403, "does not let us through to localhost"), (502, "cannot reach localhost")]
)
async def test_a_proxy_that_refuses_the_host(sim: server.Simulator, form: str, status: int, says: str):
    """The proxy and the host are named."""
    async with standins.serve(status=status) as running, way(sim, named(running.url), form=form) as sender:
        with pytest.raises(errors.Transient, match=rf"the proxy localhost:\d+ {says} \({status}\)"):
            await reads(sender)


@FORMS
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-proxy.invalid"])
async def test_a_proxy_that_is_away(sim: server.Simulator, form: str, host: str):
    """A proxy that nobody answers for is never taken for an API that is gone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        async with way(sim, named(f"http://{host}:{free.getsockname()[1]}"), form=form) as sender:
            with pytest.raises(errors.Transient, match=rf"the proxy {host}:\d+ cannot be reached"):
                await reads(sender)


async def test_the_api_call_says_the_same(sim: server.Simulator):
    """Where a token is there already, the API's own request meets the proxy."""
    async with standins.serve() as running, way(sim, named(running.url)) as sender:
        await sender._tokens.token(CONTOSO, "siem")
        running.status = 407
        with pytest.raises(errors.Transient, match="does not accept our sign-in"):
            await reads(sender)

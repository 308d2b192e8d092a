"""A simulated Entra over real TLS, and Tokens that speak to it."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from service import clouds, model
from service.auth import modes, tokens
from service.simulator import credentials, server, world
from service.transport import client
from tests.auth.trust import CLUSTER, SUBJECT
from tests.simulator import keys

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"

Make = Callable[..., tokens.Tokens]


@pytest.fixture
def shown() -> world.World:
    """Contoso and Fabrikam, both with the shared app."""
    made = world.World()
    made.add_tenant(CONTOSO, "Contoso")
    made.add_tenant(FABRIKAM, "Fabrikam")
    return made


@pytest.fixture
async def sim(shown: world.World, tmp_path: Path) -> AsyncIterator[server.Simulator]:
    """The simulator, running."""
    async with server.Simulator(shown, directory=tmp_path / "ca") as running:
        yield running


@pytest.fixture
async def session(sim: server.Simulator) -> AsyncIterator[aiohttp.ClientSession]:
    """The process's HTTP session, which trusts the simulator."""
    async with client.open_session(sim.ca_file) as opened:
        yield opened


@pytest.fixture
async def make(
    sim: server.Simulator, shown: world.World, session: aiohttp.ClientSession
) -> AsyncIterator[Make]:
    """Makes Tokens with the shared app unless told otherwise, and closes them."""
    made: list[tokens.Tokens] = []

    def build(**changes: Any) -> tokens.Tokens:
        arguments: dict[str, Any] = {
            "shared": modes.SharedApp(shown.app.app_id, shown.app.secret),
            "ca_file": sim.ca_file,
            "deadline": 10.0,
            **changes,
        }
        endpoints = arguments.pop("endpoints", None) or clouds.Endpoints(
            {"authority": sim.authority_url, "siem": sim.siem_url}
        )
        made.append(tokens.Tokens(endpoints, session, **arguments))
        return made[-1]

    yield build
    for each in made:
        await each.close()
        await asyncio.to_thread(each._places.threads.shutdown)  # what hung has ended by its own deadline


def access(tenant_id: str = CONTOSO, credential: model.Credential | None = None) -> model.Access:
    """Access to a tenant as the shared app, or with its own credential."""
    return model.Access(model.Tenant(uuid.UUID(tenant_id), "A tenant", region="eu"), credential)


@pytest.fixture
def contoso() -> model.Access:
    """Access to Contoso as the shared app."""
    return access()


@pytest.fixture
def fabrikam() -> model.Access:
    """Access to Fabrikam as the shared app."""
    return access(FABRIKAM)


@pytest.fixture
def new_secret(shown: world.World) -> Callable[[str], None]:
    """Gives the shared app another secret at Entra."""

    def change(value: str) -> None:
        shown.register(dataclasses.replace(shown.app, secrets=(credentials.Secret(value),)))

    return change


@pytest.fixture(scope="module")
def pair() -> keys.Pair:
    """The app's key and certificate, which sign the cluster's tokens too."""
    return keys.pair(begins="2026-01-01", ends="2099-01-01")


@pytest.fixture
def app(shown: world.World, pair: keys.Pair) -> Any:
    """The shared app with a secret, a certificate and a federated credential at Entra."""
    shown.issuers[CLUSTER] = {"k1": pair.key.public_key()}
    return shown.register(
        dataclasses.replace(
            shown.app,
            certificates=(pair.registered,),
            federations=(credentials.Federation(CLUSTER, SUBJECT),),
        )
    )

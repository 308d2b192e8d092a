"""A small world under a clock that stands still, served over real TLS, and a client that does as little as it can."""

from __future__ import annotations

import dataclasses
import json
import ssl
from collections.abc import Mapping

import aiohttp
import pytest

from service.simulator import filing, server, ticks, world

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
RESOURCES = {
    "mde": "https://api.securitycenter.microsoft.com",
    "xdr": "https://api.security.microsoft.com",
    "graph": "https://graph.microsoft.com",
}
PATHS = {"mde": "/mde/api/alerts", "xdr": "/xdr/api/incidents", "graph": "/graph/v1.0/security/alerts_v2"}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]
    content_type: str
    body: bytes

    def json(self):
        """The body, decoded."""
        return json.loads(self.body)


@dataclasses.dataclass
class Client:
    """Plain requests against a simulator; tokens come from its v1 endpoint."""

    simulator: server.Simulator
    session: aiohttp.ClientSession
    tokens: dict[tuple[str, str], str] = dataclasses.field(default_factory=dict)

    async def get(self, path, **options):
        """One GET, read to its end."""
        async with self.session.get(self.simulator.url + path, allow_redirects=False, **options) as response:
            return Answer(response.status, response.headers, response.content_type, await response.read())

    async def post(self, path, **options):
        """One POST, read to its end."""
        async with self.session.post(self.simulator.url + path, **options) as response:
            return Answer(response.status, response.headers, response.content_type, await response.read())

    async def form(self, tenant_id, version="v1", **changes):
        """A token request that is right but for `changes` (None takes a parameter out)."""
        app = self.simulator.world.app
        form = {"grant_type": "client_credentials", "client_id": app.app_id, "client_secret": app.secret}
        if version == "v1":
            form["resource"] = "https://graph.windows.net"
        else:
            form["scope"] = "https://graph.windows.net/.default"
        form = {key: value for key, value in (form | changes).items() if value is not None}
        path = "oauth2/token" if version == "v1" else "oauth2/v2.0/token"
        return await self.post(f"/{tenant_id}/{path}", data=form)

    async def bearer(self, tenant_id):
        """The header of an authorised request."""
        answer = (await self.form(tenant_id)).json()
        return {"Authorization": f"Bearer {answer['access_token']}"}

    async def alerts(self, tenant_id, query=(), **options):
        """GET /api/alerts with a fresh token; `query` is a mapping or pairs."""
        headers = await self.bearer(tenant_id) | options.pop("headers", {})
        return await self.get("/api/alerts", params=query, headers=headers, **options)

    async def read(self, surface, tenant_id=CONTOSO, query=(), *, path=None, **options):
        """GET an API of mutable records ("mde", "xdr", "graph") with a token of its own."""
        if (surface, tenant_id) not in self.tokens:
            answer = (await self.form(tenant_id, resource=RESOURCES[surface])).json()
            self.tokens[surface, tenant_id] = f"Bearer {answer['access_token']}"
        headers = {"Authorization": self.tokens[surface, tenant_id]} | options.pop("headers", {})
        return await self.get(path or PATHS[surface], params=query, headers=headers, **options)

    async def values(self, surface, tenant_id=CONTOSO, query=(), **options):
        """The records of a right answer."""
        response = await self.read(surface, tenant_id, query, **options)
        assert response.status == 200, response.body
        return response.json()["value"]

    async def ids(self, tenant_id, query=()):
        """The FullIds of an answer in its order."""
        response = await self.alerts(tenant_id, query)
        assert response.status == 200
        return [row["FullId"] for row in response.json()]


@pytest.fixture
def clock():
    """Noon of an October day."""
    return ticks.HandClock("2026-10-01T12:00:00Z")


@pytest.fixture
def shown(clock):
    """Contoso gets alerts, Fabrikam none but those a test files."""
    made = world.World(7, clock)
    made.add_tenant(CONTOSO, "Contoso", rate=2.0)
    made.add_tenant(FABRIKAM, "Fabrikam", region="us")
    return made


@pytest.fixture
async def simulator(shown, tmp_path):
    """The world over HTTPS, with the control surface."""
    async with server.Simulator(shown, directory=tmp_path / "simulator", control=True) as running:
        yield running


@pytest.fixture
async def client(simulator):
    """A client that trusts the simulator's CA and nothing else."""
    context = ssl.create_default_context(cafile=simulator.ca_file)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield Client(simulator, session)


@pytest.fixture
def desk(shown):
    """Where alerts and incidents of Fabrikam are filed one by one."""
    return filing.Desk(shown, FABRIKAM)


@pytest.fixture
def file(shown):
    """File a minimal record of Fabrikam at a time; its FullId is the time unless given."""

    def put(at, full_id=None, *, visible_at=None, **fields):
        full_id = full_id or f"da1_1:{at}"
        raw = json.dumps({"FullId": full_id, "LastProcessedTimeUtc": at, **fields}).encode()
        seen = None if visible_at is None else ticks.parse(visible_at)
        shown.add_record(FABRIKAM, raw, at=ticks.parse(at), full_id=full_id, visible_at=seen)
        return full_id

    return put

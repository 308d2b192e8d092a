"""Every credential with every source in every cloud: a real token, and a real call of a minute whose records come.

Addresses are the simulator's, by the settings; scopes and audiences are each cloud's own, and a simulated tenant's Entra and APIs
know no others. What is run is the table of docs/auth.md.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import jwt
import pytest

from service import clouds, errors, line, metrics, model, parts, settings
from service.auth import managed, sealing, sign_in
from service.simulator import credentials, directory, filing, identity, server, ticks, tokens, world
from service.sources import contract, registry
from tests.auth.trust import CLUSTER, SUBJECT, issued
from tests.ingest.stages import moment
from tests.simulator import keys

PAGE = Path(__file__).parents[2] / "docs" / "auth.md"
HOSTS = clouds.Endpoints()
REGIONS = {"public": "eu"}
SHARED = {
    "client secret": "CLIENT_SECRET",
    "certificate": "CLIENT_CERTIFICATE_FILE",
    "federated token file": "FEDERATED_TOKEN_FILE",
    "managed identity": "MANAGED_IDENTITY",
}
OWN: dict[str, model.CredentialKind] = {
    "tenant's own secret": "client_secret",
    "tenant's own certificate": "certificate",
    "user's sign-in": "delegated",
}
WAYS = (*SHARED, *OWN)


def proof(way: str) -> str:
    """What Entra says of how the app proved itself: not at all, by a secret, by an assertion."""
    return {"client secret": "1", "tenant's own secret": "1", "user's sign-in": "0"}.get(way, "2")


def exists(source: str, cloud: str) -> bool:
    """Whether the cloud has the source's API."""
    try:
        HOSTS.check(registry.get(source).service, cloud, REGIONS.get(cloud))
    except errors.BadInput:
        return False
    return True


def table() -> list[str]:
    """What is run, as docs/auth.md has it."""
    head = ["credential", "`appidacr`", *(f"`{source}`" for source in registry.SOURCES)]
    held = [
        " ".join(cloud for cloud in clouds.CLOUDS if exists(source, cloud)) for source in registry.SOURCES
    ]
    rows = [head, ["---"] * len(head), *([way, proof(way), *held] for way in WAYS)]
    return [f"| {' | '.join(row)} |".replace(" --- ", "---") for row in rows]


@dataclasses.dataclass
class Place:
    """A tenant in each cloud with two alerts at `at` and a user; an app for each that trusts an identity of our machine."""

    shown: world.World
    folder: Path
    pair: keys.Pair
    at: int
    tenants: dict[str, directory.Tenant] = dataclasses.field(default_factory=dict)
    homes: dict[str, directory.ManagedIdentity] = dataclasses.field(default_factory=dict)

    def add(self, cloud: str) -> None:
        """A tenant's app has every credential at once."""
        number = len(self.tenants) + 1
        tenant_id = f"{number}" * 8 + "-1111-1111-1111-111111111111"
        tenant = self.shown.add_tenant(tenant_id, f"Contoso {number}", cloud=cloud, own_app=True)
        home = directory.ManagedIdentity(str(UUID(int=number)), tenant_id)
        audience = managed.AUDIENCES[cloud]
        tenant.app = self.shown.register(
            dataclasses.replace(
                tenant.app,
                public=True,
                certificates=(self.pair.registered,),
                federations=(
                    credentials.Federation(CLUSTER, SUBJECT, audience),
                    credentials.Federation(home.issuer, home.object_id, audience),
                ),
            )
        )
        self.shown.add_user(tenant_id)
        desk = filing.Desk(self.shown, tenant_id)
        for _ in range(2):
            desk.add_alert(at=self.at, siem=True)
        self.tenants[cloud], self.homes[cloud] = tenant, home


@dataclasses.dataclass
class Hall:
    """The place, served; `seen` are the claims of each token that an API was shown."""

    place: Place
    sim: server.Simulator
    seen: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def app(self, cloud: str) -> directory.App:
        """The app that reads the cloud's tenant."""
        return self.place.tenants[cloud].app

    def settings(self, way: str, cloud: str) -> settings.Settings:
        """The simulator's addresses, and what the way needs."""
        named = {
            "AUTHORITY_URL": self.sim.authority_url,
            "SIEM_URL": self.sim.siem_url,
            "MDE_URL": self.sim.mde_url,
            "XDR_URL": self.sim.xdr_url,
            "GRAPH_URL": self.sim.graph_url,
            "CA_FILE": str(self.sim.ca_file),
            "SEALING_KEYS_FILE": str(self.place.folder / "sealing_keys"),
            "CLOUD": cloud,
        }
        if way in SHARED:
            app = self.app(cloud)
            token = self.place.folder / f"{cloud}.token"
            token.write_text(issued(self.place.pair, aud=managed.AUDIENCES[cloud]))
            given = {
                "client secret": app.secret,
                "certificate": str(self.place.folder / "app.pem"),
                "federated token file": str(token),
                "managed identity": self.place.homes[cloud].client_id,
            }
            named |= {"CLIENT_ID": app.app_id, SHARED[way]: given[way]}
        return settings.load(
            {f"ALERTWELL_{name}": value for name, value in named.items()},
            secrets_dir=self.place.folder / "none",
        )

    async def access(self, way: str, cloud: str) -> model.Access:
        """To the cloud's tenant; what is its own is sealed as the database holds it."""
        tenant = self.place.tenants[cloud]
        named = model.Tenant(UUID(tenant.tenant_id), tenant.name, cloud=cloud, region=REGIONS.get(cloud))
        if way in SHARED:
            return model.Access(named)
        given = {
            "client_secret": self.app(cloud).secret,
            "certificate": self.place.pair.key_pem + self.place.pair.certificate_pem,
            "delegated": "",
        }[OWN[way]]
        if OWN[way] == "delegated" and exists("graph_alerts", cloud):
            given = await self._signed_in(cloud)
        sealed = sealing.Sealer.from_file(self.place.folder / "sealing_keys").seal(given)
        return model.Access(named, model.Credential(self.app(cloud).app_id, OWN[way], sealed, 1))

    async def _signed_in(self, cloud: str) -> str:
        entrance = sign_in.Entrance(
            self.app(cloud).app_id,
            f"{self.sim.authority_url}/{self.place.tenants[cloud].tenant_id}",
            ca_file=self.sim.ca_file,
        )
        try:
            device = await entrance.device(f"{HOSTS.audience('graph', cloud)}/.default")
            return (await entrance.by_device(device, _at_once)).refresh_token
        finally:
            await entrance.close()

    @asynccontextmanager
    async def line(self, way: str, cloud: str) -> AsyncIterator[line.Line]:
        """What a replica polls through."""
        async with line.open_line(self.settings(way, cloud), metrics.Metrics("0")) as opened:
            yield opened

    async def read(self, opened: line.Line, access: model.Access, name: str) -> set[str]:
        """The keys of the records that the source brings of the minute."""
        source = registry.get(name)
        half = timedelta(seconds=30)
        window = model.Window(moment(self.place.at) - half, moment(self.place.at) + half)
        async with opened.sender.send(access, source.request(window, {})) as answer:
            page = contract.whole(source.read(answer.body, window, access.tenant.tenant_id))
        assert not page.rejects
        return {each.incident_id for each in page.incidents} or {each.full_id for each in page.alerts}

    def truth(self, cloud: str, name: str) -> set[str]:
        """What the source has to bring."""
        tenant_id = self.place.tenants[cloud].tenant_id
        if name == "siem":
            return self.place.shown.full_ids(tenant_id)
        api = "mde" if name == "mde_alerts" else "xdr" if name == "xdr_incidents" else "graph"
        shown = self.place.shown
        told = shown.truth_incidents if registry.get(name).incidents else shown.truth_alerts
        return set(told(tenant_id, api))


async def _at_once(_seconds: float) -> None:
    """Nobody needs time to enter a code."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, pair: keys.Pair) -> Place:
    """One world for all that is run."""
    folder = tmp_path_factory.mktemp("ways")
    (folder / "sealing_keys").write_text(sealing.generate_key())
    (folder / "app.pem").write_text(pair.key_pem + pair.certificate_pem)
    made = Place(world.World(7), folder, pair, ticks.now() - 30 * ticks.SECOND)
    made.shown.issuers[CLUSTER] = {"k1": pair.key.public_key()}
    for cloud in clouds.CLOUDS:
        made.add(cloud)
    return made


@pytest.fixture
async def hall(place: Place, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Hall]:
    """Entra, the APIs, and the endpoint of a machine's identities."""
    async with (
        server.Simulator(place.shown, directory=place.folder / "ca") as sim,
        identity.Endpoint(place.shown, sim.signer, place.homes.values()) as machine,
    ):
        for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER", "MSI_ENDPOINT", "IMDS_ENDPOINT"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", machine.url)
        made = Hall(place, sim)
        verified = sim.signer.verify

        def shown(token: str) -> tokens.Claims:
            made.seen.append(jwt.decode(token, options={"verify_signature": False}))
            return verified(token)

        monkeypatch.setattr(sim.signer, "verify", shown)
        yield made


@pytest.mark.parametrize("cloud", [cloud for cloud in clouds.CLOUDS if exists("siem", cloud)])
@pytest.mark.parametrize("way", WAYS)
async def test_every_way_in(hall: Hall, way: str, cloud: str):
    """The API of the cloud is shown its own token, of this tenant and app, proven by this credential, and all records come."""
    access = await hall.access(way, cloud)
    before = hall.sim.token_requests.total()
    async with hall.line(way, cloud) as opened:
        for name, source in registry.SOURCES.items():
            brought = await hall.read(opened, access, name)
            assert brought == hall.truth(cloud, name)
            assert brought
            held = hall.seen.pop()
            assert not hall.seen
            assert (held["tid"], held["appid"]) == (str(access.tenant.tenant_id), hall.app(cloud).app_id)
            assert held["aud"] == directory.APIS[cloud][source.service]
            assert held["appidacr"] == proof(way)
            if OWN.get(way) == "delegated":
                scopes = set(held["scp"].split())
                assert scopes & source.scopes if source.scopes else scopes == {"user_impersonation"}
                assert held["upn"].startswith("ada@")
                assert "roles" not in held
            else:
                assert set(held.get("roles", ())) & source.roles if source.roles else "roles" not in held
                assert "scp" not in held
    # one a service: both sources of Graph read with the same
    assert hall.sim.token_requests.total() == before + len(clouds.SERVICES)


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_cloud_does_not_have(hall: Hall, way: str):
    """A source without an API in the cloud is refused with a sentence, at enrolment and by a poll; nobody is asked."""
    nowhere = [pair for pair in itertools.product(registry.SOURCES, clouds.CLOUDS) if not exists(*pair)]
    assert nowhere == [(name, "china") for name in registry.SOURCES]
    access = await hall.access(way, "china")
    async with hall.line(way, "china") as opened:
        for name, source in registry.SOURCES.items():
            said = f"the china cloud has no {source.service} API; it exists in public gcc gcc-high dod"
            with pytest.raises(errors.BadInput, match=said):
                parts.endpoints(hall.settings(way, "china")).check(source.service, "china", None)
            with pytest.raises(errors.Attention, match=said) as refused:
                await hall.read(opened, access, name)
            assert refused.value.code == "setup_wrong"
    assert (hall.sim.counters.total(), hall.seen) == (0, [])


async def test_what_belongs_to_another_cloud(hall: Hall):
    """Entra refuses an API by the name that it has in another cloud, and an app that is registered there."""
    real = await hall.access("client secret", "dod")
    wrong = model.Access(dataclasses.replace(real.tenant, cloud="public", region="eu"))
    async with hall.line("client secret", "dod") as opened:
        for name in ("mde_alerts", "xdr_incidents", "graph_alerts"):
            with pytest.raises(errors.Attention, match="AADSTS500011") as absent:
                await hall.read(opened, wrong, name)
            assert absent.value.code == "resource_missing"
    async with hall.line("client secret", "public") as opened:
        with pytest.raises(errors.Attention, match="AADSTS700016") as missing:
            await hall.read(opened, real, "graph_alerts")
        assert missing.value.code == "app_not_in_tenant"
    assert hall.seen == []


def test_what_is_run_is_documented():
    """docs/auth.md has the table of the combinations above; the simulator's names of the APIs are those that are asked for."""
    written = PAGE.read_text("utf-8").partition("\n## What was run\n")[2].partition("\n## ")[0]
    assert [row for row in written.splitlines() if row.startswith("|")] == table()
    assert {
        cloud: {
            registry.get(name).service: HOSTS.audience(registry.get(name).service, cloud)
            for name in registry.SOURCES
            if exists(name, cloud)
        }
        for cloud in clouds.CLOUDS
    } == directory.APIS

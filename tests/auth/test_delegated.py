"""A user's sign-in as credential: tokens by its refresh token, another one kept each time, and every way in which it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import jwt
import pytest

from service import clouds, errors, model, parts, proxies
from service.auth import sealing, sign_in, tokens
from service.simulator import chaos, directory, server, world
from tests import proxy as standins
from tests.auth.conftest import CONTOSO, FABRIKAM, Make
from tests.ingest.waiting import until


@dataclass
class Desk:
    """Ada of Contoso, signed in; `kept` are the refresh tokens that were handed on, opened."""

    shown: world.World
    sim: server.Simulator
    make: Make
    user: directory.User
    keys: list[str]
    access: model.Access
    kept: list[str] = field(default_factory=list)

    @property
    def sealer(self) -> sealing.Sealer:
        return sealing.Sealer(self.keys)

    @property
    def first(self) -> str:
        """The refresh token of the sign-in itself."""
        assert self.access.credential is not None
        return self.sealer.unseal(self.access.credential.sealed)

    def tokens(self, **changes: Any) -> tokens.Tokens:
        """Tokens that hand what they are given to `kept`."""
        addresses = {
            "authority": self.sim.authority_url,
            "siem": self.sim.siem_url,
            "graph": self.sim.graph_url,
        }
        sealer = self.sealer
        return self.make(
            **{
                "endpoints": clouds.Endpoints(addresses),
                "sealer": sealer,
                "scopes": parts.scopes(),
                "on_rotated": lambda _access, sealed: self.kept.append(sealer.unseal(sealed)),
                **changes,
            }
        )


@pytest.fixture
async def desk(shown: world.World, sim: server.Simulator, make: Make) -> Desk:
    """Somebody has entered a code, for the shared app."""
    user = shown.add_user(CONTOSO)
    keys = [sealing.generate_key()]
    entrance = sign_in.Entrance(shown.app.app_id, f"{sim.authority_url}/{CONTOSO}", ca_file=sim.ca_file)
    signed = await entrance.by_device(
        await entrance.device(f"{directory.GRAPH_RESOURCE}/.default"), lambda _seconds: asyncio.sleep(0)
    )
    await entrance.close()
    sealed = sealing.Sealer(keys).seal(signed.refresh_token)
    credential = model.Credential(shown.app.app_id, "delegated", sealed, 7)
    tenant = model.Tenant(UUID(CONTOSO), "Contoso", region="eu")
    return Desk(shown, sim, make, user, keys, model.Access(tenant, credential))


def claims(token: str) -> dict[str, Any]:
    """The claims, unchecked."""
    found: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return found


async def refusal(desk: Desk, service: str = "graph", **changes: Any) -> errors.Attention:
    """Why there is no token."""
    with pytest.raises(errors.Attention) as refused:
        await desk.tokens(**changes).token(desk.access, service)
    return refused.value


async def test_one_sign_in_serves_every_api(desk: Desk):
    """Tokens of the user for each service, held like any other; no secret is sent, which the app would be refused for."""
    made = desk.tokens()
    for service, permission in (
        ("graph", "SecurityAlert.Read.All SecurityIncident.Read.All"),
        ("mde", "Alert.Read"),
        ("xdr", "Incident.Read"),
        ("siem", "user_impersonation"),
    ):
        token = await made.token(desk.access, service)
        held = claims(token)
        assert (held["scp"], held["upn"], held["tid"]) == (permission, desk.user.name, CONTOSO)
        assert held["appidacr"] == "0"
        assert await made.token(desk.access, service) is token


async def test_the_newest_refresh_token_is_used_and_handed_on(desk: Desk):
    """Each renewal brings another one; with the one before it the next token could still be had."""
    made = desk.tokens()
    token = await made.token(desk.access, "graph")
    made.discard(desk.access, "graph", token)
    await made.token(desk.access, "graph")
    assert len({desk.first, *desk.kept}) == 3
    restarted = desk.tokens()
    await restarted.token(desk.access, "graph")
    assert len({desk.first, *desk.kept}) == 4


async def test_a_forgotten_tenant_hands_nothing_on(desk: Desk):
    """A renewal that ends after the tenant went to another replica belongs to nobody."""
    made = desk.tokens()
    before = sum(desk.sim.token_requests.values())
    desk.sim.plan("token", CONTOSO, chaos.Fault("slow", seconds=0.5))
    asked = asyncio.create_task(made.token(desk.access, "graph"))
    await until(lambda: sum(desk.sim.token_requests.values()) > before)
    made.forget(desk.access.tenant.tenant_id)
    assert claims(await asked)["upn"] == desk.user.name
    assert desk.kept == []


async def test_through_a_proxy(desk: Desk):
    """The sign-in and its renewals take the proxy's tunnels, as all else does."""
    async with standins.serve() as running:
        proxy = proxies.parse(running.url, "", ())
        entrance = sign_in.Entrance(
            desk.shown.app.app_id,
            f"{desk.sim.authority_url}/{CONTOSO}",
            ca_file=desk.sim.ca_file,
            proxy=proxy,
        )
        visit = await entrance.visit(f"{directory.GRAPH_RESOURCE}/.default", "http://localhost:1")
        assert visit.address.startswith(desk.sim.authority_url)
        device = await entrance.device(f"{directory.GRAPH_RESOURCE}/.default")
        signed = await entrance.by_device(device, lambda _seconds: asyncio.sleep(0))
        await entrance.close()
        asked = running.tunnels
        assert asked >= 1
        assert await desk.tokens(proxy=proxy).token(desk.access, "graph")
    assert running.tunnels > asked
    assert signed.user == desk.user.name


async def test_the_v1_form(desk: Desk):
    """Where Entra refuses the v2 form of the SIEM audience, the refresh token goes by the v1 form, and rotates there too."""
    desk.shown.tenants[CONTOSO].v1_only = True
    held = claims(await desk.tokens().token(desk.access, "siem"))
    assert (held["aud"], held["upn"]) == (directory.SIEM_RESOURCE, desk.user.name)
    assert len(desk.kept) == 1


async def test_another_sealing_key(desk: Desk):
    """A key put before the old one: what was sealed by the old one opens, and what a renewal brings is sealed by the new one."""
    desk.keys.insert(0, sealing.generate_key())
    sealed: list[bytes] = []
    await desk.tokens(on_rotated=lambda _access, found: sealed.append(found)).token(desk.access, "graph")
    assert sealing.Sealer(desk.keys[:1]).unseal(sealed[0]) not in ("", desk.first)


async def test_a_sealing_key_that_is_gone(desk: Desk):
    """What no key opens, or nobody has keys for, is said; Entra is not asked."""
    before = sum(desk.sim.token_requests.values())
    lost = await refusal(desk, sealer=sealing.Sealer([sealing.generate_key()]))
    assert (lost.code, "does not hold" in str(lost)) == ("setup_wrong", True)
    assert "SEALING_KEYS_FILE is not set" in str(await refusal(desk, sealer=None))
    assert sum(desk.sim.token_requests.values()) == before


async def test_a_permission_is_missing(desk: Desk):
    """`scp` has to hold one of what the service's sources need; what it has is said."""
    desk.shown.register(
        replace(desk.shown.app, delegated={**directory.DELEGATED, directory.GRAPH_RESOURCE: ("User.Read",)})
    )
    desk.user.may_grant[directory.GRAPH_RESOURCE] = ("User.Read",)
    missing = await refusal(desk)
    assert missing.code == "scope_missing"
    assert "lacks the scope SecurityAlert.Read.All or" in str(missing)
    assert "(has: User.Read)" in str(missing)
    assert desk.kept == []


async def test_a_token_of_another_tenant(desk: Desk):
    """It is not used, and what came with it is not kept."""
    desk.sim.plan("token", CONTOSO, chaos.Fault("token", tid=FABRIKAM))
    assert (await refusal(desk)).code == "wrong_tenant"
    assert desk.kept == []


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda desk: desk.user.revoke(), "sign_in_again", "(AADSTS50173): it was revoked"),
        (lambda desk: setattr(desk.user, "mfa", True), "sign_in_again", "(AADSTS50076): the customer's policy asks for a second"),
        (lambda desk: setattr(desk.user, "disabled", True), "user_refused", "the user account is disabled (AADSTS50057)"),
        (lambda desk: desk.shown.tenants[CONTOSO].withdraw(), "consent_missing", "(AADSTS65001)"),
        (lambda desk: desk.sim.plan("token", CONTOSO, chaos.Fault("aadsts", code=700082)), "sign_in_again", "90 days"),
        (lambda desk: desk.sim.plan("token", CONTOSO, chaos.Fault("aadsts", code=70043)), "sign_in_again", "limits how long"),
    ],
)  # fmt: skip
async def test_the_end_of_a_sign_in(desk: Desk, spoil: Callable[[Desk], None], code: str, said: str):
    """Each has its word and its sentence; none opens a breaker that another sign-in would wait behind."""
    spoil(desk)
    ended = await refusal(desk)
    assert (ended.code, said in str(ended)) == (code, True), str(ended)
    assert not isinstance(ended, errors.CredentialRefused)


async def test_public_client_flows_were_switched_off(desk: Desk):
    """Entra asks for a secret then: the switch is named, and it is not the app's credential that is at fault."""
    desk.shown.register(replace(desk.shown.app, public=False))
    refused = await refusal(desk)
    assert (refused.code, isinstance(refused, errors.CredentialRefused)) == ("public_client_off", False)


async def test_a_refresh_token_is_not_shown(desk: Desk):
    """Nothing that holds one shows it."""
    assert desk.first not in repr(desk.access)
    assert repr(sign_in.SignedIn("ada", "", "token", "refresh")) == "SignedIn(user='ada', object_id='')"

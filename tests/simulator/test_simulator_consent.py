"""Admin consent as a browser meets it, what it makes of the tenant, and how it ends."""

from __future__ import annotations

import asyncio
import dataclasses
import urllib.parse

import jwt
import pytest

from service.simulator import directory

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
CALLBACK = "https://alertwell.example/consent"
GRAPH = f"{directory.GRAPH_RESOURCE}/.default"
ROLES = directory.ROLES[directory.GRAPH_RESOURCE]


@pytest.fixture
def tenant(simulator):
    """Contoso before anybody consented, and the shared app with its callback."""
    shown = simulator.world
    shown.register(dataclasses.replace(shown.app, redirect_uris=(*shown.app.redirect_uris, CALLBACK)))
    contoso = shown.tenants[CONTOSO]
    contoso.withdraw()
    return contoso


async def opened(client, path, **changes):
    """Where the link sends the browser: the callback's parameters; None in a change takes a parameter out."""
    query = {
        "client_id": client.simulator.world.app.app_id,
        "redirect_uri": CALLBACK,
        "state": "once & only",
        "scope": GRAPH,
    }
    query = {name: value for name, value in (query | changes).items() if value is not None}
    answer = await client.get(path, params=query)
    assert answer.status == 302, answer.body
    where = urllib.parse.urlsplit(answer.headers["Location"])
    return dict(urllib.parse.parse_qsl(where.query))


async def roles(client, scope=GRAPH):
    """The roles of a fresh token, or the codes of the refusal."""
    answer = (await client.form(CONTOSO, "v2", scope=scope)).json()
    if "access_token" not in answer:
        return answer["error_codes"]
    return jwt.decode(answer["access_token"], options={"verify_signature": False}).get("roles")


@pytest.mark.parametrize("name", [CONTOSO, "organizations", "contoso.onmicrosoft.com"])
@pytest.mark.usefixtures("tenant")
async def test_consent_makes_the_app_part_of_the_tenant(client, name):
    """Before it the app is not found; after it tokens carry the roles of the API that was asked for, and of no other."""
    assert await roles(client) == [700016]
    assert await opened(client, f"/{name}/v2.0/adminconsent") == {
        "admin_consent": "True",
        "tenant": CONTOSO,
        "scope": " ".join(f"{directory.GRAPH_RESOURCE}/{role}" for role in ROLES),
        "state": "once & only",
    }
    assert await roles(client) == [*ROLES]
    assert await roles(client, f"{directory.MDE_RESOURCE}/.default") is None


@pytest.mark.parametrize("name", [CONTOSO, "common", "organizations"])
@pytest.mark.usefixtures("tenant")
async def test_the_v1_form_grants_all_that_is_registered(client, name):
    """Without a scope every registered role of every API comes with one consent."""
    found = await opened(client, f"/{name}/adminconsent", scope=None)
    assert found == {"admin_consent": "True", "tenant": CONTOSO, "state": "once & only"}
    for resource, granted in directory.ROLES.items():
        assert await roles(client, f"{resource}/.default") == [*granted]


@pytest.mark.parametrize("prompt", ["consent", "admin_consent"])
@pytest.mark.usefixtures("tenant")
async def test_the_legacy_link(client, prompt):
    """The documents' old link grants, too, and needs neither address nor state; it answers with a code."""
    query = {"prompt": prompt, "redirect_uri": None, "state": None, "scope": None, "response_type": "code"}
    found = await opened(client, "/common/oauth2/authorize", sso_reload="true", **query)
    assert ("code" in found, found.get("admin_consent")) == (
        True,
        "True" if prompt == "admin_consent" else None,
    )
    assert await roles(client) == [*ROLES]


@pytest.mark.usefixtures("tenant")
async def test_only_default_grants_roles(client):
    """A scope of single permissions is delegated consent: the app is found and has no role."""
    await opened(client, f"/{CONTOSO}/v2.0/adminconsent", scope=f"{directory.GRAPH_RESOURCE}/{ROLES[0]}")
    assert await roles(client) is None


@pytest.mark.parametrize("path", ["v2.0/adminconsent", "adminconsent"])
@pytest.mark.usefixtures("tenant")
async def test_a_declined_consent(client, path):
    """Who declines is sent back with AADSTS65004 and the state, and nothing changes."""
    client.simulator.world.admin = directory.Admin(decides="declines")
    found = await opened(client, f"/organizations/{path}")
    assert (found["error"], found["state"], "admin_consent" in found) == (
        "access_denied",
        "once & only",
        False,
    )
    assert found["error_description"].startswith("AADSTS65004: ")
    assert await roles(client) == [700016]


@pytest.mark.usefixtures("tenant")
async def test_hostile_and_partial_answers(client):
    """An error beside success, another tenant than the one that signed in, a part of the roles: all can be planned."""
    shown = client.simulator.world
    shown.admin = directory.Admin(error_beside=True)
    found = await opened(client, f"/{CONTOSO}/v2.0/adminconsent")
    assert (found["error"], found["admin_consent"], found["tenant"]) == ("access_denied", "True", CONTOSO)
    assert await roles(client) == [700016]
    shown.admin = directory.Admin(tenant_id=FABRIKAM)
    assert (await opened(client, "/organizations/v2.0/adminconsent"))["tenant"] == FABRIKAM
    assert await roles(client) == [700016]
    shown.admin = directory.Admin(says=FABRIKAM, roles=ROLES[:1])
    found = await opened(client, f"/{CONTOSO}/v2.0/adminconsent")
    assert (found["tenant"], found["scope"]) == (FABRIKAM, f"{directory.GRAPH_RESOURCE}/{ROLES[0]}")
    assert await roles(client) == [ROLES[0]]


@pytest.mark.parametrize(
    ("path", "changes", "code"),
    [
        (f"/{CONTOSO}/v2.0/adminconsent", {"redirect_uri": f"{CALLBACK}/"}, "AADSTS50011"),
        (f"/{CONTOSO}/v2.0/adminconsent", {"redirect_uri": "http://localhost:8080"}, "AADSTS50011"),
        (f"/{CONTOSO}/v2.0/adminconsent", {"client_id": FABRIKAM}, "AADSTS700016"),
        (f"/{CONTOSO}/v2.0/adminconsent", {"scope": ""}, "AADSTS900144"),
        ("/common/v2.0/adminconsent", {}, "AADSTS900023"),
        ("/99999999-9999-9999-9999-999999999999/adminconsent", {}, "AADSTS90002"),
    ],
)
@pytest.mark.usefixtures("tenant")
async def test_links_that_are_wrong_show_a_page(client, path, changes, code):
    """Nobody is sent to an address that is not the app's: the page says what is wrong with the link."""
    query = {"client_id": client.simulator.world.app.app_id, "redirect_uri": CALLBACK, "scope": GRAPH}
    answer = await client.get(path, params=query | changes)
    assert (answer.status, answer.content_type) == (400, "text/html")
    assert code in answer.body.decode()


async def test_an_api_that_the_tenant_lacks(client, tenant):
    """Consent to an API that the organisation has not subscribed to comes back as AADSTS650052."""
    tenant.resources.discard(directory.GRAPH_RESOURCE)
    found = await opened(client, f"/{CONTOSO}/v2.0/adminconsent")
    assert found["error_description"].startswith("AADSTS650052: ")


async def act(client, **body):
    """An act through the control surface."""
    answer = await client.post("/_sim/entra", json=body)
    assert answer.status == 200, answer.body
    return answer.json()


async def test_consent_ends_by_control(client):
    """A role taken back is 403 at the API, all of it 700016, no licence 650052, no API 500011, no tenant 90002; each heals."""
    role, kept = ROLES
    assert await roles(client) == [role, kept]
    await act(client, tenant=CONTOSO, withdraw=[role])
    assert await roles(client) == [kept]
    await act(client, tenant=CONTOSO, withdraw=[kept])
    assert await roles(client) is None
    refused = await client.read("graph")
    assert (refused.status, "Missing application roles" in refused.json()["error"]["message"]) == (403, True)
    for change, code in (
        ({"consent": False}, 700016),
        ({"unlicensed": [directory.GRAPH_RESOURCE]}, 650052),
        ({"absent": [directory.GRAPH_RESOURCE]}, 500011),
        ({"gone": True}, 90002),
    ):
        await act(client, tenant=CONTOSO, **change)
        assert await roles(client) == [code]
        told = await act(client, tenant=CONTOSO, consent=True, unlicensed=[], absent=[], gone=False)
        assert told["roles"][directory.GRAPH_RESOURCE] == [*ROLES]
        assert await roles(client) == [*ROLES]


async def test_people_and_links_by_control(client):
    """Users, the administrator and the callback's address can be given from another process; nonsense is refused."""
    shown = client.simulator.world
    await act(client, tenant=CONTOSO, users=[{"name": "ada", "decides": "waits", "mfa": True}])
    user = shown.users["ada@contoso.onmicrosoft.com"]
    assert (user.decides, user.mfa, user.reads, user.session) == ("waits", True, True, 0)
    await act(client, tenant=CONTOSO, users=[{"name": user.name, "revoke": True}])
    assert (user.decides, user.session) == ("waits", 1)
    await act(client, admin={"decides": "declines"}, redirect_uris=[CALLBACK])
    assert (await opened(client, f"/{CONTOSO}/adminconsent"))["error"] == "access_denied"
    for body in (
        {"tenant": "nobody", "gone": True},
        {"users": [{"name": "ada"}]},
        {"admin": {"decides": "?"}},
    ):
        assert (await client.post("/_sim/entra", json=body)).status == 400


async def test_a_slow_token_service(client):
    """Only the token endpoint lingers, and each request for itself."""
    assert (await act(client, token_latency=3600))["token_latency"] == 3600
    waiting = [asyncio.create_task(client.form(CONTOSO)) for _ in range(2)]
    await client.simulator.reached("token", 2)
    assert (await client.get(f"/{CONTOSO}/v2.0/.well-known/openid-configuration")).status == 200
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await act(client, token_latency=0.001)
    assert (await client.form(CONTOSO)).status == 200

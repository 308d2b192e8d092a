"""People sign in: device codes, authorization codes with PKCE and refresh tokens, played by the real MSAL and by hand."""

from __future__ import annotations

import asyncio
import dataclasses
import urllib.parse

import jwt
import msal
import pytest
import requests

from service.simulator import chaos, directory, ticks

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
GRAPH = ["https://graph.microsoft.com/SecurityAlert.Read.All"]
LOOPBACK = "http://localhost:51234"


@pytest.fixture
def user(simulator):
    """Somebody in Contoso."""
    return simulator.world.add_user(CONTOSO)


@pytest.fixture
def session(simulator):
    """What MSAL speaks through: trusts the simulator alone and follows no redirect."""
    with requests.Session() as opened:
        opened.trust_env = False
        opened.verify = str(simulator.ca_file)
        yield opened


@pytest.fixture
async def public(simulator, session):
    """MSAL as a public client of Contoso."""
    return await asyncio.to_thread(
        msal.PublicClientApplication,
        simulator.world.app.app_id,
        authority=f"{simulator.authority_url}/{CONTOSO}",
        instance_discovery=False,
        http_client=session,
    )


def claims(token):
    """The claims, unchecked."""
    return jwt.decode(token, options={"verify_signature": False})


def once(public, flow):
    """One poll of a device flow, however soon after the last one."""
    flow.pop("latest_attempt_at", None)
    return public.acquire_token_by_device_flow(flow, exit_condition=lambda _flow: True)


async def signed_in(public, scopes=GRAPH):
    """A device flow that somebody takes up at once."""
    flow = await asyncio.to_thread(public.initiate_device_flow, scopes)
    return await asyncio.to_thread(once, public, flow)


def query_of(answer):
    """The parameters that a redirect carries."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(answer.headers["Location"]).query))


async def test_msal_plays_the_device_flow(simulator, client, public, user):
    """The poll waits for the user and then holds a delegated token that the API takes."""
    user.decides = "waits"
    flow = await asyncio.to_thread(public.initiate_device_flow, GRAPH)
    assert (flow["interval"], flow["expires_in"]) == (5, 900)
    assert flow["user_code"] in flow["message"]
    assert (await asyncio.to_thread(once, public, flow))["error"] == "authorization_pending"
    simulator.plan("token", CONTOSO, "slow-down")
    assert (await asyncio.to_thread(once, public, flow))["error"] == "slow_down"
    user.decides = "accepts"
    result = await asyncio.to_thread(once, public, flow)
    held = claims(result["access_token"])
    assert (held["scp"], held["idtyp"], held["appidacr"], held["tid"]) == (
        "SecurityAlert.Read.All",
        "user",
        "0",
        CONTOSO,
    )
    assert "roles" not in held
    assert (held["upn"], held["oid"]) == (user.name, user.object_id)
    assert held["oid"] != held["sub"]
    assert result["id_token_claims"]["preferred_username"] == user.name
    assert public.get_accounts()[0]["home_account_id"] == f"{user.object_id}.{CONTOSO}"
    bearer = {"Authorization": f"Bearer {result['access_token']}"}
    assert (await client.get("/graph/v1.0/security/alerts_v2", headers=bearer)).status == 200
    assert (await client.get("/graph/v1.0/security/incidents", headers=bearer)).status == 403
    again = await asyncio.to_thread(once, public, flow)
    assert again["error"] == "bad_verification_code"


async def test_a_device_code_is_declined_or_expires(public, user, clock):
    """Who declines ends the flow, and so does time."""
    user.decides = "declines"
    assert (await signed_in(public))["error"] == "authorization_declined"
    user.decides = "waits"
    flow = await asyncio.to_thread(public.initiate_device_flow, GRAPH)
    clock.advance(901)
    refused = await asyncio.to_thread(once, public, flow)
    assert (refused["error"], refused["error_codes"]) == ("expired_token", [70019])


@pytest.mark.parametrize(
    ("surface", "resource", "permission"),
    [
        ("mde", directory.MDE_RESOURCE, "Alert.Read"),
        ("xdr", directory.XDR_RESOURCE, "Incident.Read"),
        ("siem", directory.SIEM_RESOURCE, "user_impersonation"),
    ],
)
@pytest.mark.usefixtures("user")
async def test_every_api_takes_its_delegated_token(client, public, surface, resource, permission):
    """`.default` gives what the app registers for an API, and the API takes it."""
    result = await signed_in(public, [f"{resource}/.default"])
    assert claims(result["access_token"])["scp"] == permission
    path = {"mde": "/mde/api/alerts", "xdr": "/xdr/api/incidents", "siem": "/api/alerts"}[surface]
    bearer = {"Authorization": f"Bearer {result['access_token']}"}
    assert (await client.get(path, headers=bearer)).status == 200


async def test_apis_refuse_users_who_may_not_read(client, public, simulator, user):
    """A token without the scope, or of a user without a reader's role, is 403 with the reason."""
    simulator.plan("token", CONTOSO, chaos.Fault("token", roles=("User.Read",)))
    bearer = {"Authorization": f"Bearer {(await signed_in(public))['access_token']}"}
    refused = await client.get("/graph/v1.0/security/alerts_v2", headers=bearer)
    assert refused.status == 403
    assert "Missing user scopes" in refused.json()["error"]["message"]
    bearer = {"Authorization": f"Bearer {(await signed_in(public))['access_token']}"}
    user.reads = False
    refused = await client.get("/graph/v1.0/security/alerts_v2", headers=bearer)
    assert refused.status == 403
    assert "not authorized" in refused.json()["error"]["message"]


@pytest.mark.parametrize("mode", ["query", "form_post"])
async def test_msal_plays_the_code_flow_with_pkce(public, session, user, mode):
    """The redirect to any loopback port carries code and state, and the code is good once, with its verifier."""
    flow = public.initiate_auth_code_flow(
        [f"{directory.XDR_RESOURCE}/Incident.Read"], redirect_uri=LOOPBACK, response_mode="form_post"
    )
    address = flow["auth_uri"].replace("form_post", mode)
    answer = await asyncio.to_thread(session.get, address, allow_redirects=False)
    if mode == "query":
        assert answer.status_code == 302
        assert answer.headers["Location"].startswith(f"{LOOPBACK}?code=")
        values = query_of(answer)
    else:
        assert f'action="{LOOPBACK}"' in answer.text
        parts = answer.text.split('name="')[1:]
        values = {part.split('"')[0]: part.split('value="')[1].split('"')[0] for part in parts}
    result = await asyncio.to_thread(public.acquire_token_by_auth_code_flow, flow, values)
    assert claims(result["access_token"])["scp"] == "Incident.Read"
    assert result["id_token_claims"]["oid"] == user.object_id
    again = await asyncio.to_thread(public.acquire_token_by_auth_code_flow, flow, values)
    assert (again["error"], again["error_codes"]) == ("invalid_grant", [54005])


@pytest.mark.usefixtures("user")
async def test_a_code_needs_its_verifier_its_address_and_its_time(public, session, client, clock):
    """Another verifier, address or hour than the code's own is refused, and a public client shows no secret."""
    app = client.simulator.world.app
    right = {"grant_type": "authorization_code", "redirect_uri": LOOPBACK, "client_id": app.app_id}
    for changes, wait, code in (
        ({"code_verifier": "x" * 43}, 0, 501481),
        ({}, 0, 900144),
        ({"redirect_uri": "http://localhost:9"}, 0, 500112),
        ({"client_secret": app.secret}, 0, 700025),
        ({}, 601, 70008),
    ):
        flow = public.initiate_auth_code_flow(GRAPH, redirect_uri=LOOPBACK, response_mode="form_post")
        address = flow["auth_uri"].replace("form_post", "query")
        answer = await asyncio.to_thread(session.get, address, allow_redirects=False)
        clock.advance(wait)
        form = right | {"code": query_of(answer)["code"]} | changes
        refused = await client.post(f"/{CONTOSO}/oauth2/v2.0/token", data=form)
        assert refused.json()["error_codes"] == [code]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"redirect_uri": "https://evil.example/"}, "AADSTS50011"),
        ({"redirect_uri": "http://localhost.evil.example:80"}, "AADSTS50011"),
        ({"redirect_uri": "http://localhost:99999999"}, "AADSTS50011"),
        ({"redirect_uri": "http://localhost@evil.example"}, "AADSTS50011"),
        ({"redirect_uri": "http://localhost:1/elsewhere"}, "AADSTS50011"),
        ({"redirect_uri": ""}, "AADSTS900144"),
        ({"client_id": FABRIKAM}, "AADSTS700016"),
    ],
)
@pytest.mark.usefixtures("user")
async def test_nobody_is_sent_to_an_address_that_is_not_the_apps(client, changes, code):
    """What cannot be sent back is a page that says why, not a redirect."""
    query = {
        "client_id": client.simulator.world.app.app_id,
        "response_type": "code",
        "redirect_uri": LOOPBACK,
    }
    answer = await client.get(
        f"/{CONTOSO}/oauth2/v2.0/authorize", params=query | {"scope": GRAPH[0]} | changes
    )
    assert (answer.status, answer.content_type) == (400, "text/html")
    assert code in answer.body.decode()


async def test_what_a_user_refuses_or_may_not_grant_comes_back_with_the_state(client, user):
    """Declined, beyond the user's rights, and disabled: each an error by redirect."""
    query = {
        "client_id": client.simulator.world.app.app_id,
        "response_type": "code",
        "redirect_uri": LOOPBACK,
        "scope": GRAPH[0],
        "state": "s&1",
    }

    async def ask():
        found = query_of(await client.get(f"/{CONTOSO}/oauth2/v2.0/authorize", params=query))
        return found["error"], found["error_description"].partition(":")[0], found["state"]

    user.decides = "declines"
    assert await ask() == ("access_denied", "AADSTS65004", "s&1")
    user.decides = "accepts"
    user.may_grant.clear()
    assert await ask() == ("access_denied", "AADSTS90094", "s&1")
    user.disabled = True
    assert await ask() == ("invalid_grant", "AADSTS50057", "s&1")


async def test_refresh_tokens_renew_and_stay(public, user):
    """Each use gives another one, the old one stays valid, and one serves every API that the user granted."""
    first = (await signed_in(public))["refresh_token"]
    renewed = await asyncio.to_thread(public.acquire_token_by_refresh_token, first, GRAPH)
    assert renewed["refresh_token"] != first
    for token in (first, renewed["refresh_token"]):
        other = await asyncio.to_thread(
            public.acquire_token_by_refresh_token, token, [f"{directory.MDE_RESOURCE}/Alert.Read"]
        )
        held = claims(other["access_token"])
        assert (held["aud"], held["scp"], held["upn"]) == (directory.MDE_RESOURCE, "Alert.Read", user.name)


@pytest.mark.parametrize(
    ("spoil", "error", "code"),
    [
        (lambda user, _clock: user.revoke(), "invalid_grant", 50173),
        (lambda _user, clock: clock.advance(90 * 86_400), "invalid_grant", 700082),
        (lambda user, _clock: setattr(user, "mfa", True), "interaction_required", 50076),
        (lambda user, _clock: setattr(user, "disabled", True), "invalid_grant", 50057),
        (lambda user, _clock: user.may_grant.clear(), "invalid_grant", 65001),
    ],
)
async def test_the_end_of_a_sign_in(public, user, clock, spoil, error, code):
    """Revoked, unused for 90 days, a second factor, a disabled account, consent gone: each has its code."""
    token = (await signed_in(public))["refresh_token"]
    spoil(user, clock)
    refused = await asyncio.to_thread(public.acquire_token_by_refresh_token, token, GRAPH)
    assert (refused["error"], refused["error_codes"]) == (error, [code])


async def test_refresh_tokens_belong_to_an_app_and_a_tenant(public, client, user):
    """Another app, another tenant, or no such token at all is refused; consent taken back ends it."""
    token = (await signed_in(public))["refresh_token"]
    shown = client.simulator.world
    other = shown.register(dataclasses.replace(shown.app, app_id="33333333-3333-3333-3333-333333333333"))

    async def renew(tenant_id=CONTOSO, app=shown.app, given=token):
        form = {
            "grant_type": "refresh_token",
            "refresh_token": given,
            "client_id": app.app_id,
            "scope": f"{GRAPH[0]} offline_access",
        }
        answer = await client.post(f"/{tenant_id}/oauth2/v2.0/token", data=form)
        return answer.json().get("error_codes", [answer.status])[0]

    assert await renew("organizations") == 200
    assert await renew(app=other) == 70000
    assert await renew(given="nothing") == 70000
    assert await renew(FABRIKAM) == 50034
    shown.tenants[user.tenant_id].withdraw()
    assert await renew() == 65001


async def test_only_a_public_app_signs_users_in_without_a_credential(client, public):
    """A confidential app must prove itself for a user's token, too, and then the token says how."""
    shown = client.simulator.world
    shown.add_user(CONTOSO)
    shown.register(dataclasses.replace(shown.app, public=False))
    refused = await signed_in(public)
    assert (refused["error"], refused["error_codes"]) == ("invalid_client", [7000218])
    flow = await asyncio.to_thread(public.initiate_device_flow, GRAPH)
    form = {
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
        "device_code": flow["device_code"],
        "client_id": shown.app.app_id,
        "client_secret": shown.app.secret,
    }
    answer = (await client.post(f"/{CONTOSO}/oauth2/v2.0/token", data=form)).json()
    assert claims(answer["access_token"])["appidacr"] == "1"


@pytest.mark.usefixtures("user")
async def test_the_v1_form_of_the_code_flow(client):
    """The MSSP page's form: resource in place of scope, numbers as strings, a refresh token for the SIEM API."""
    app = client.simulator.world.app
    query = {
        "client_id": app.app_id,
        "response_type": "code",
        "redirect_uri": LOOPBACK,
        "resource": directory.SIEM_RESOURCE,
    }
    code = query_of(await client.get("/common/oauth2/authorize", params=query))["code"]
    form = {"grant_type": "authorization_code", "code": code, "client_id": app.app_id}
    form |= {"redirect_uri": LOOPBACK, "resource": directory.SIEM_RESOURCE}
    answer = (await client.post(f"/{CONTOSO}/oauth2/token", data=form)).json()
    noon = ticks.parse("2026-10-01T12:00:00Z") // ticks.SECOND
    assert (answer["expires_on"], answer["resource"]) == (str(noon + 3599), directory.SIEM_RESOURCE)
    bearer = {"Authorization": f"Bearer {answer['access_token']}"}
    assert (await client.get("/api/alerts", headers=bearer)).status == 200
    form = {"grant_type": "refresh_token", "refresh_token": answer["refresh_token"], "client_id": app.app_id}
    assert (await client.post(f"/{CONTOSO}/oauth2/token", data=form)).status == 200

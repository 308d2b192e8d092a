"""The token service, spoken to by the real MSAL and by hand."""

from __future__ import annotations

import asyncio
import re

import jwt
import msal
import pytest
import requests

from service.simulator import chaos, credentials, directory, ticks

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
NOBODY = "99999999-9999-9999-9999-999999999999"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SCOPE = ["https://graph.windows.net/.default"]


def with_msal(simulator, tenant_id, secret=None, app=None):
    """What MSAL makes of the simulator, its CA trusted by the session alone."""
    app = app or simulator.world.app
    with requests.Session() as session:
        session.trust_env = False
        session.verify = str(simulator.ca_file)
        confidential = msal.ConfidentialClientApplication(
            app.app_id,
            client_credential=secret or app.secret,
            authority=f"{simulator.authority_url}/{tenant_id}",
            instance_discovery=False,
            http_client=session,
        )
        first = confidential.acquire_token_for_client(SCOPE)
        return first, confidential.acquire_token_for_client(SCOPE)


async def test_msal_gets_a_token_and_keeps_it(simulator):
    """MSAL takes a token from the network once and from its cache after that."""
    first, second = await asyncio.to_thread(with_msal, simulator, CONTOSO)
    assert (first["token_type"], first["expires_in"], first["token_source"]) == (
        "Bearer",
        3599,
        "identity_provider",
    )
    assert second["token_source"] == "cache"
    assert simulator.token_requests == {CONTOSO: 1}


async def test_the_token_says_whose_it_is_and_is_signed_by_the_published_key(simulator, client):
    """Claims are those of an app-only token for this tenant, without roles, verifiable by JWKS."""
    token = ((await client.form(CONTOSO, "v2")).json())["access_token"]
    keys = (await client.get(f"/{CONTOSO}/discovery/v2.0/keys")).json()
    assert jwt.get_unverified_header(token)["kid"] == keys["keys"][0]["kid"]
    claims = jwt.decode(
        token,
        jwt.PyJWK(keys["keys"][0]).key,
        algorithms=["RS256"],
        audience="https://graph.windows.net",
        options={"verify_exp": False, "verify_nbf": False, "verify_iat": False},
    )
    noon = ticks.parse("2026-10-01T12:00:00Z") // ticks.SECOND
    assert (claims["iat"], claims["nbf"], claims["exp"]) == (noon, noon, noon + 3599)
    assert (claims["tid"], claims["appid"]) == (CONTOSO, simulator.world.app.app_id)
    assert (claims["iss"], claims["ver"], claims["idtyp"]) == (
        f"https://sts.windows.net/{CONTOSO}/",
        "1.0",
        "app",
    )
    assert "roles" not in claims


async def test_granted_roles_are_in_the_token_of_their_resource(simulator, client):
    """A tenant's roles for another API come with a token for that API."""
    simulator.world.tenants[CONTOSO].roles["https://graph.microsoft.com"] = ("SecurityAlert.Read.All",)
    answer = await client.form(CONTOSO, "v2", scope="https://graph.microsoft.com/.default")
    claims = jwt.decode(answer.json()["access_token"], options={"verify_signature": False})
    assert claims["roles"] == ["SecurityAlert.Read.All"]


async def test_v1_answers_numbers_as_strings(client):
    """The v1 endpoint gives every number as a string and names the resource; v2 gives numbers."""
    old = (await client.form(CONTOSO)).json()
    noon = ticks.parse("2026-10-01T12:00:00Z") // ticks.SECOND
    assert {key: value for key, value in old.items() if key != "access_token"} == {
        "token_type": "Bearer",
        "expires_in": "3599",
        "ext_expires_in": "3599",
        "expires_on": str(noon + 3599),
        "not_before": str(noon),
        "resource": "https://graph.windows.net",
    }
    new = (await client.form(CONTOSO, "v2")).json()
    assert {key: value for key, value in new.items() if key != "access_token"} == {
        "token_type": "Bearer",
        "expires_in": 3599,
        "ext_expires_in": 3599,
    }


async def test_metadata_has_the_tenant_first_and_https(simulator, client):
    """Endpoints of the metadata are https on the host asked, the tenant their first segment; domains work too."""
    for name in (CONTOSO.upper(), "contoso.onmicrosoft.com"):
        found = (await client.get(f"/{name}/v2.0/.well-known/openid-configuration")).json()
        assert found["token_endpoint"] == f"{simulator.url}/{CONTOSO}/oauth2/v2.0/token"
        assert found["issuer"] == f"{simulator.url}/{CONTOSO}/v2.0"
        assert found["authorization_endpoint"].startswith(f"{simulator.url}/{CONTOSO}/")
    discovered = (
        await client.get(
            "/common/discovery/instance",
            params={"authorization_endpoint": f"{simulator.url}/{CONTOSO}/oauth2/v2.0/authorize"},
        )
    ).json()
    assert discovered["metadata"] == []
    assert (
        discovered["tenant_discovery_endpoint"]
        == f"{simulator.url}/{CONTOSO}/v2.0/.well-known/openid-configuration"
    )


async def test_metadata_of_an_unknown_tenant(simulator, client):
    """An unknown tenant is 400 invalid_tenant with 90002, and a ValueError in MSAL's constructor."""
    response = await client.get(f"/{NOBODY}/v2.0/.well-known/openid-configuration")
    body = response.json()
    assert (response.status, body["error"], body["error_codes"]) == (400, "invalid_tenant", [90002])
    with pytest.raises(ValueError, match="Unable to get authority configuration"):
        await asyncio.to_thread(with_msal, simulator, NOBODY)


@pytest.mark.parametrize(
    ("tenant_id", "version", "changes", "status", "error", "code"),
    [
        (CONTOSO, "v2", {"client_secret": "wrong"}, 401, "invalid_client", 7000215),
        (CONTOSO, "v1", {"client_secret": None}, 401, "invalid_client", 7000218),
        (
            CONTOSO,
            "v2",
            {"client_assertion": "e30.e30.e30", "client_assertion_type": ASSERTION},
            401,
            "invalid_client",
            700027,
        ),
        (CONTOSO, "v2", {"client_id": NOBODY}, 400, "unauthorized_client", 700016),
        (NOBODY, "v2", {}, 400, "invalid_request", 90002),
        ("not a tenant", "v2", {}, 400, "invalid_request", 900023),
        (CONTOSO, "v1", {"resource": "https://nothing.example"}, 400, "invalid_resource", 500011),
        (CONTOSO, "v2", {"scope": "https://nothing.example/.default"}, 400, "invalid_resource", 500011),
        (CONTOSO, "v2", {"scope": "https://graph.windows.net/Read"}, 400, "invalid_scope", 1002012),
        (CONTOSO, "v2", {"scope": "a/.default b/.default"}, 400, "invalid_scope", 70011),
        (CONTOSO, "v2", {"scope": None}, 400, "invalid_request", 900144),
        (CONTOSO, "v1", {"resource": None}, 400, "invalid_request", 900144),
        (CONTOSO, "v1", {"client_id": None}, 400, "invalid_request", 900144),
        (CONTOSO, "v1", {"grant_type": None}, 400, "invalid_request", 900144),
        (CONTOSO, "v1", {"grant_type": "password"}, 400, "unsupported_grant_type", 70003),
        (CONTOSO, "v2", {"resource": "https://graph.windows.net"}, 400, "invalid_request", 901002),
    ],
)
async def test_refusals(client, tenant_id, version, changes, status, error, code):
    """Each mistake has its status, OAuth error and code, in the body that Entra writes."""
    response = await client.form(tenant_id, version, **changes)
    body = response.json()
    assert (response.status, body["error"], body["error_codes"]) == (status, error, [code])
    assert sorted(body) == [
        "correlation_id",
        "error",
        "error_codes",
        "error_description",
        "error_uri",
        "timestamp",
        "trace_id",
    ]
    assert body["timestamp"] == "2026-10-01 12:00:00Z"
    assert body["error_uri"].endswith(f"/error?code={code}")
    assert re.fullmatch(
        rf"AADSTS{code}: [^\r\n]+\r\nTrace ID: {body['trace_id']}\r\n"
        rf"Correlation ID: {body['correlation_id']}\r\nTimestamp: 2026-10-01 12:00:00Z",
        body["error_description"],
    )


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\xff=\xfe", "application/x-www-form-urlencoded; charset=nonsense"),
        (b"&".join(b"a=b" for _ in range(500)), "application/x-www-form-urlencoded"),
        (b'{"grant_type":"client_credentials"}', "application/json"),
        (b"", "multipart/form-data"),
    ],
)
async def test_bodies_that_are_no_form(client, body, kind):
    """Whatever is posted, the answer is that a parameter is missing."""
    response = await client.post(f"/{CONTOSO}/oauth2/token", data=body, headers={"Content-Type": kind})
    assert (response.status, response.json()["error_codes"]) == (400, [900144])


async def test_the_correlation_id_is_the_callers(client):
    """The id that the client sends comes back, so that a request can be followed."""
    given = "12345678-1234-4234-8234-123456789abc"
    response = await client.post(f"/{CONTOSO}/oauth2/token", headers={"client-request-id": given})
    assert response.json()["correlation_id"] == given


async def test_expired_secrets_and_rotation(simulator, clock, client):
    """A right but expired secret is 7000222; a second one works beside it."""
    app = simulator.world.app
    dated = credentials.Secret("old", expires_at=clock() + 60 * ticks.SECOND)
    simulator.world.register(directory.App(app.app_id, (dated, credentials.Secret("new"))))
    assert (await client.form(CONTOSO, client_secret="old")).status == 200
    clock.advance(60)
    response = await client.form(CONTOSO, client_secret="old")
    assert (response.status, response.json()["error_codes"]) == (401, [7000222])
    assert (await client.form(CONTOSO, client_secret="new")).status == 200


async def test_consent_can_be_missing_and_come(simulator, client):
    """Without consent the app is not found in the tenant; with it the next request succeeds."""
    tenant = simulator.world.tenants[CONTOSO]
    tenant.consented.clear()
    assert ((await client.form(CONTOSO)).json())["error_codes"] == [700016]
    tenant.consented.add(simulator.world.app.app_id)
    assert (await client.form(CONTOSO)).status == 200


async def test_a_tenant_with_its_own_app(simulator, client):
    """The app made for one tenant works there alone, and the shared one does not work there."""
    own = simulator.world.add_tenant("33333333-3333-3333-3333-333333333333", "Adatum", own_app=True)
    first, _ = await asyncio.to_thread(with_msal, simulator, own.tenant_id, None, own.app)
    assert "access_token" in first
    assert ((await client.form(own.tenant_id)).json())["error_codes"] == [700016]
    elsewhere = await client.form(CONTOSO, client_id=own.app.app_id, client_secret=own.app.secret)
    assert elsewhere.json()["error_codes"] == [700016]


async def test_only_v1_may_work(simulator, client):
    """A tenant can refuse the v2 scope of the SIEM audience and still serve the v1 form."""
    simulator.world.tenants[CONTOSO].v1_only = True
    refused = await client.form(CONTOSO, "v2")
    assert (refused.status, refused.json()["error"]) == (400, "invalid_scope")
    assert (await client.form(CONTOSO, "v1")).status == 200
    assert (await client.form(CONTOSO, "v2", scope="https://graph.microsoft.com/.default")).status == 200


@pytest.mark.parametrize(
    ("fault", "claim", "value"),
    [
        (chaos.Fault("token", roles=("Alert.Read.All",)), "roles", ["Alert.Read.All"]),
        (chaos.Fault("token", tid=FABRIKAM), "tid", FABRIKAM),
        (chaos.Fault("token", audience="https://other.example"), "aud", "https://other.example"),
        (
            chaos.Fault("token", lifetime=301),
            "exp",
            ticks.parse("2026-10-01T12:05:01Z") // ticks.SECOND,
        ),
    ],
)
async def test_planned_tokens(simulator, client, fault, claim, value):
    """A token can be planned with other roles, tenant, audience or lifetime; the next one is right again."""
    simulator.plan("token", CONTOSO, fault)
    claims = [
        jwt.decode(((await client.form(CONTOSO)).json())["access_token"], options={"verify_signature": False})
        for _ in range(2)
    ]
    assert claims[0][claim] == value
    assert claims[1].get(claim) != value


async def test_planned_refusals_in_order(simulator, client):
    """Plans of one tenant are answered in order, each as often as planned, and other tenants see none of them."""
    simulator.plan("token", CONTOSO, "429", times=2)
    simulator.plan("token", CONTOSO, "429-date")
    simulator.plan("token", CONTOSO, "503-html")
    simulator.plan("token", CONTOSO, chaos.Fault("aadsts", code=65001))
    simulator.plan("metadata", CONTOSO, chaos.Fault("aadsts", code=90002))
    assert (await client.form(FABRIKAM)).status == 200
    seen = []
    for _ in range(6):
        response = await client.form(CONTOSO)
        seen.append((response.status, response.headers.get("Retry-After"), response.content_type))
    assert seen[:3] == [
        (429, "7", "application/json"),
        (429, "7", "application/json"),
        (429, "Thu, 01 Oct 2026 12:00:07 GMT", "application/json"),
    ]
    assert [status for status, _, _ in seen[3:]] == [503, 400, 200]
    assert seen[3][2] == "text/html"
    simulator.plan("token", CONTOSO, "503")
    busy = (await client.form(CONTOSO)).json()
    assert (busy["error"], busy["error_codes"]) == ("temporarily_unavailable", [90033])
    assert (await client.get(f"/{CONTOSO}/v2.0/.well-known/openid-configuration")).status == 400

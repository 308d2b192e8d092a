"""The managed identity endpoint, asked by the real MSAL, and its token as an app's federated credential."""

from __future__ import annotations

import asyncio
import dataclasses

import jwt
import msal
import pytest
import requests

from service.simulator import credentials, directory, identity

CONTOSO = "11111111-1111-1111-1111-111111111111"
HOME = "88888888-8888-8888-8888-888888888888"
SYSTEM = directory.ManagedIdentity("aaaaaaaa-aaaa-4aaa-8aaa-aaaaaaaaaaaa", HOME, system=True)
OWN = directory.ManagedIdentity("bbbbbbbb-bbbb-4bbb-8bbb-bbbbbbbbbbbb", HOME)
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture
async def endpoint(simulator):
    """A machine with an identity of its own and one that was assigned to it."""
    async with identity.Endpoint(simulator.world, simulator.signer, (SYSTEM, OWN)) as running:
        yield running


def acquire(wanted):
    """What MSAL gets for the exchange audience."""
    with requests.Session() as session:
        session.trust_env = False
        client = msal.ManagedIdentityClient(wanted, http_client=session)
        return client.acquire_token_for_client(resource=credentials.EXCHANGE_AUDIENCE)


@pytest.mark.parametrize("place", ["virtual machine", "app service"])
async def test_msal_gets_the_identitys_token(endpoint, monkeypatch, place):
    """Both endpoints serve the system's identity and an assigned one, and no other."""
    if place == "app service":
        for name, value in endpoint.app_service.items():
            monkeypatch.setenv(name, value)
    else:
        monkeypatch.setenv("AZURE_POD_IDENTITY_AUTHORITY_HOST", endpoint.url)
    for wanted, meant in (
        (msal.SystemAssignedManagedIdentity(), SYSTEM),
        (msal.UserAssignedManagedIdentity(client_id=OWN.client_id), OWN),
    ):
        result = await asyncio.to_thread(acquire, wanted)
        claims = jwt.decode(result["access_token"], options={"verify_signature": False})
        assert (claims["iss"], claims["sub"], claims["aud"]) == (
            meant.issuer,
            meant.object_id,
            credentials.EXCHANGE_AUDIENCE,
        )
    unknown = msal.UserAssignedManagedIdentity(client_id=CONTOSO)
    assert "error" in await asyncio.to_thread(acquire, unknown)


async def test_the_identitys_token_proves_an_app_with_a_matching_record(client, endpoint):
    """The token is a client assertion where the record fits, and none where the record names another subject."""
    shown = client.simulator.world
    query = {"api-version": "2018-02-01", "resource": credentials.EXCHANGE_AUDIENCE}
    async with client.session.get(
        f"{endpoint.url}/metadata/identity/oauth2/token", params=query, headers={"Metadata": "true"}
    ) as answer:
        body = await answer.json()
    assert (body["token_type"], body["resource"], body["expires_in"]) == (
        "Bearer",
        credentials.EXCHANGE_AUDIENCE,
        "86400",
    )
    for meant, status in ((SYSTEM, 200), (OWN, 401)):
        record = credentials.Federation(meant.issuer, meant.object_id)
        shown.register(dataclasses.replace(shown.app, federations=(record,)))
        answer = await client.form(
            CONTOSO,
            "v2",
            client_secret=None,
            client_assertion=body["access_token"],
            client_assertion_type=ASSERTION,
        )
        assert answer.status == status


async def test_a_users_token_is_no_federated_credential(client):
    """A token of Entra's that is not app-only proves nothing, though its record fits."""
    shown = client.simulator.world
    user = shown.add_user(CONTOSO)
    issuer = f"https://login.microsoftonline.com/{CONTOSO}/v2.0"
    token = client.simulator.signer.sign_id(
        user, app_id=credentials.EXCHANGE_AUDIENCE, issuer=issuer, nonce="", now=shown.clock()
    )
    subject = jwt.decode(token, options={"verify_signature": False})["sub"]
    shown.register(dataclasses.replace(shown.app, federations=(credentials.Federation(issuer, subject),)))
    answer = await client.form(
        CONTOSO, "v2", client_secret=None, client_assertion=token, client_assertion_type=ASSERTION
    )
    assert answer.json()["error_codes"] == [700229]


@pytest.mark.parametrize(
    ("path", "query", "headers", "status"),
    [
        ("/metadata/identity/oauth2/token", {}, {}, 400),
        ("/metadata/identity/oauth2/token", {}, {"Metadata": "true", "X-Forwarded-For": "10.0.0.1"}, 400),
        ("/metadata/identity/oauth2/token", {"resource": ""}, {"Metadata": "true"}, 400),
        ("/metadata/identity/oauth2/token", {"api-version": ""}, {"Metadata": "true"}, 400),
        ("/metadata/identity/oauth2/token", {"client_id": CONTOSO}, {"Metadata": "true"}, 400),
        ("/msi/token", {}, {"X-IDENTITY-HEADER": "wrong"}, 401),
        ("/elsewhere", {}, {"Metadata": "true"}, 404),
    ],
)
async def test_refused_requests(client, endpoint, path, query, headers, status):
    """Without its header, a parameter or an identity that it has, the endpoint gives nothing."""
    query = {"api-version": "2018-02-01", "resource": credentials.EXCHANGE_AUDIENCE} | query
    async with client.session.get(endpoint.url + path, params=query, headers=headers) as answer:
        assert answer.status == status


async def test_the_endpoint_can_be_down(client, endpoint):
    """A fault of the endpoint is a 500, and the next request can be right again."""
    query = {"api-version": "2018-02-01", "resource": credentials.EXCHANGE_AUDIENCE}
    for down, status in ((True, 500), (False, 200)):
        endpoint.down = down
        async with client.session.get(
            f"{endpoint.url}/metadata/identity/oauth2/token", params=query, headers={"Metadata": "true"}
        ) as answer:
            assert answer.status == status
    assert endpoint.requests == 2

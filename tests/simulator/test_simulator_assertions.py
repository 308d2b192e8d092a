"""Apps that prove themselves without a secret: certificates and federated credentials, verified for real."""

from __future__ import annotations

import asyncio
import dataclasses

import jwt
import msal
import pytest
import requests

from service.simulator import credentials, server, ticks, world
from tests.simulator import keys

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
CLUSTER = "https://oidc.example/cluster"
SUBJECT = "system:serviceaccount:soc:alertwell"


@pytest.fixture(scope="module")
def owner():
    """The key pair of the shared app."""
    return keys.pair()


@pytest.fixture
def app(simulator, owner):
    """The shared app, with a certificate and a federated credential beside its secret."""
    shown = simulator.world
    shown.issuers[CLUSTER] = {"k1": owner.key.public_key()}
    return shown.register(
        dataclasses.replace(
            shown.app,
            certificates=(owner.registered,),
            federations=(credentials.Federation(CLUSTER, SUBJECT),),
        )
    )


def claims(answer):
    """The claims of an answer's access token."""
    return jwt.decode(answer.json()["access_token"], options={"verify_signature": False})


async def send(client, assertion, version="v2", tenant_id=CONTOSO):
    """A token request with an assertion in place of the secret."""
    return await client.form(
        tenant_id, version, client_secret=None, client_assertion=assertion, client_assertion_type=ASSERTION
    )


@pytest.mark.parametrize(
    ("version", "path", "algorithm", "thumbprint"),
    [
        ("v2", "oauth2/v2.0/token", "PS256", "x5t#S256"),
        ("v1", "oauth2/token", "PS256", "x5t#S256"),
        ("v2", "oauth2/v2.0/token", "RS256", "x5t"),
    ],
)
async def test_a_certificate_proves_the_app(
    simulator, client, app, owner, version, path, algorithm, thumbprint
):
    """Both endpoints take both kinds of assertion, as often as it is sent, and the token says how the app proved itself."""
    given = {"x5t#S256": owner.registered.sha256, "x5t": owner.registered.sha1}[thumbprint]
    made = keys.assertion(
        owner,
        app.app_id,
        f"{simulator.url}/{CONTOSO}/{path}",
        header={thumbprint: given},
        algorithm=algorithm,
    )
    for _ in range(2):
        answer = await send(client, made, version)
        assert (answer.status, claims(answer)["appidacr"]) == (200, "2")
    assert claims(await client.form(CONTOSO, version))["appidacr"] == "1"


@pytest.mark.parametrize(
    ("header", "changes", "code"),
    [
        ({}, {}, 700027),
        ({"x5t#S256": "AAAA"}, {}, 700027),
        (None, {"exp": keys.NOON - 301}, 700024),
        (None, {"nbf": keys.NOON + 301}, 700024),
        (None, {"exp": "soon"}, 50027),
        (None, {"exp": None}, 50027),
        (None, {"aud": "https://login.microsoftonline.com/common/oauth2/v2.0/token"}, 700023),
        (None, {"sub": FABRIKAM}, 700021),
    ],
)
async def test_refused_assertions(simulator, client, app, owner, header, changes, code):
    """Another key, time, audience or subject than the registered one has its own code, all of them invalid_client."""
    wanted = f"{simulator.url}/{CONTOSO}/oauth2/v2.0/token"
    made = keys.assertion(owner, app.app_id, changes.get("aud", wanted), header=header, **changes)
    answer = await send(client, made)
    assert (answer.status, answer.json()["error"], answer.json()["error_codes"]) == (
        401,
        "invalid_client",
        [code],
    )


async def test_a_forged_signature_and_an_old_certificate(simulator, client, app, owner, clock):
    """Who names a registered certificate without its key is refused, and so is one whose validity is over."""
    audience = f"{simulator.url}/{CONTOSO}/oauth2/v2.0/token"
    forger = dataclasses.replace(keys.pair(), registered=owner.registered)
    answer = await send(client, keys.assertion(forger, app.app_id, audience))
    assert answer.json()["error_codes"] == [700027]
    assert "signature value did not match" in answer.json()["error_description"]
    clock.at = ticks.parse("2026-11-01T00:00:00Z")
    late = clock() // ticks.SECOND
    answer = await send(client, keys.assertion(owner, app.app_id, audience, nbf=late, exp=late + 600))
    assert answer.json()["error_codes"] == [700027]
    assert "key used is expired" in answer.json()["error_description"]


@pytest.mark.usefixtures("app")
async def test_a_federated_token_proves_the_app(client, owner):
    """A token of the registered issuer, subject and audience is the app, and rotates freely."""
    for moment in (0, 60):
        made = keys.assertion(
            owner,
            SUBJECT,
            credentials.EXCHANGE_AUDIENCE,
            header={"kid": "k1"},
            algorithm="RS256",
            iss=CLUSTER,
            iat=keys.NOON + moment,
        )
        answer = await send(client, made)
        assert (answer.status, claims(answer)["appidacr"]) == (200, "2")


@pytest.mark.parametrize(
    ("changes", "kid", "code"),
    [
        ({"iss": CLUSTER.upper()}, "k1", 700211),
        ({"sub": SUBJECT.title()}, "k1", 700213),
        ({"aud": "api://azureadtokenexchange"}, "k1", 700212),
        ({}, "k2", 700027),
        ({"exp": keys.NOON - 301}, "k1", 700024),
    ],
)
@pytest.mark.usefixtures("app")
async def test_refused_federated_tokens(client, owner, changes, kid, code):
    """What differs in a single letter matches no record, and the refusal says which part it was."""
    wanted = {"iss": CLUSTER, "sub": SUBJECT, "aud": credentials.EXCHANGE_AUDIENCE} | changes
    audience = wanted.pop("aud")
    made = keys.assertion(owner, SUBJECT, audience, header={"kid": kid}, algorithm="RS256", **wanted)
    answer = await send(client, made)
    assert (answer.status, answer.json()["error_codes"]) == (401, [code])


async def test_an_app_without_federated_credentials(client, app, owner):
    """An app that has no record at all says so."""
    client.simulator.world.register(dataclasses.replace(app, federations=()))
    made = keys.assertion(
        owner, SUBJECT, credentials.EXCHANGE_AUDIENCE, header={"kid": "k1"}, algorithm="RS256", iss=CLUSTER
    )
    assert (await send(client, made)).json()["error_codes"] == [70025]


async def test_msal_with_certificates(tmp_path, owner):
    """MSAL's own assertions, with SHA-256 and with SHA-1 thumbprints, are accepted."""
    shown = world.World()
    shown.add_tenant(CONTOSO, "Contoso")
    now = ticks.now()
    valid = dataclasses.replace(owner.registered, valid_from=now - ticks.DAY, valid_until=now + ticks.DAY)
    app = shown.register(dataclasses.replace(shown.app, certificates=(valid,)))

    def acquire(simulator, credential):
        with requests.Session() as session:
            session.trust_env = False
            session.verify = str(simulator.ca_file)
            made = msal.ConfidentialClientApplication(
                app.app_id,
                client_credential=credential,
                authority=f"{simulator.authority_url}/{CONTOSO}",
                instance_discovery=False,
                http_client=session,
            )
            return made.acquire_token_for_client(["https://graph.microsoft.com/.default"])

    old = jwt.utils.base64url_decode(owner.registered.sha1).hex()
    async with server.Simulator(shown, directory=tmp_path) as simulator:
        for credential in (
            {"private_key": owner.key_pem, "public_certificate": owner.certificate_pem},
            {"private_key": owner.key_pem, "thumbprint": old},
        ):
            result = await asyncio.to_thread(acquire, simulator, credential)
            assert "access_token" in result, result

"""How an app proves itself at the token endpoint: with a secret, or with a signed client assertion.

An assertion whose issuer is the app itself is checked against the app's certificates (PS256 with `x5t#S256`, RS256
with `x5t`, either thumbprint in either); any other against its federated credentials. `jti` is not looked at: MSAL
sends an assertion several times. Both may be off by five minutes.

Choices where the documents are silent: the app is named by `client_id`, and an assertion of another app is 700021
(`sub`, or `iss` with a `sub` that is the app); the audience is one of the tenant's token endpoints, as the client wrote
the tenant or as a GUID, or the issuer, else 700023 (older texts: 50012); what is no JWT at all is 700027, as is a
certificate out of its validity. A federated assertion is matched by issuer (700211), subject (700213), audience
(700212), in this order, each exactly; then its signature (700027) and time (700024). An app without any record says
70025. Entra's own tokens are signed with the simulator's key.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import jwt
import jwt.types
from cryptography.hazmat.primitives.asymmetric import rsa

from service.simulator import credentials, directory, ticks, tokens, world
from service.simulator.entra import aadsts

ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
TOLERANCE = 5 * ticks.MINUTE
_OURS = re.compile(r"https://login\.microsoftonline\.com/[0-9a-f-]{36}/v2\.0")
_UNCHECKED: jwt.types.Options = {
    "verify_aud": False,
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}


class Prover:
    """Checks the credentials of apps against a world."""

    def __init__(self, shown: world.World, signer: tokens.Signer) -> None:
        self._world = shown
        self._signer = signer

    def prove(self, app: directory.App, form: Mapping[str, str], audiences: Collection[str]) -> str:
        """How the app proved itself, as a token's `appidacr` says: "1" by secret, "2" by assertion.

        audiences: what an assertion may be made for. Raises Problem.
        """
        assertion = form.get("client_assertion")
        if assertion:
            if not form.get("client_assertion_type"):
                raise aadsts.Problem(900144, parameter="client_assertion_type")
            if form["client_assertion_type"] != ASSERTION:
                raise aadsts.Problem(50027)
            self._assertion(app, assertion, audiences)
            return "2"
        given = form.get("client_secret")
        if not given:
            raise aadsts.Problem(7000218)
        self._secret(app, given)
        return "1"

    def _secret(self, app: directory.App, given: str) -> None:
        fitting = [secret for secret in app.secrets if secret.value == given]
        if not fitting:
            raise aadsts.Problem(7000215, app=app.app_id)
        now = self._world.clock()
        if all(secret.expires_at is not None and secret.expires_at <= now for secret in fitting):
            raise aadsts.Problem(7000222, app=app.app_id)

    def _assertion(self, app: directory.App, assertion: str, audiences: Collection[str]) -> None:
        try:
            header = jwt.get_unverified_header(assertion)
            claims = jwt.decode(assertion, options={"verify_signature": False})
        except jwt.InvalidTokenError:
            raise _unsigned(app, "The assertion is no signed JWT.") from None
        if {claims.get("iss"), claims.get("sub")} & {app.app_id, None}:
            self._certificate(app, assertion, header, claims, audiences)
        else:
            self._federation(app, assertion, header, claims)

    def _certificate(
        self,
        app: directory.App,
        assertion: str,
        header: Mapping[str, Any],
        claims: Mapping[str, Any],
        audiences: Collection[str],
    ) -> None:
        found = _registered(app.certificates, header)
        if found is None:
            raise _unsigned(app, "The key was not found.")
        if not found.valid_from <= self._world.clock() < found.valid_until:
            raise _unsigned(app, "The key used is expired.")
        _check(app, assertion, found.public, ("RS256", "PS256"))
        if claims.get("iss") != app.app_id or claims.get("sub") != app.app_id:
            raise aadsts.Problem(700021)
        if claims.get("aud") not in audiences:
            raise aadsts.Problem(700023)
        self._time(claims)

    def _federation(
        self, app: directory.App, assertion: str, header: Mapping[str, Any], claims: Mapping[str, Any]
    ) -> None:
        if not app.federations:
            raise aadsts.Problem(70025, app=app.app_id)
        issuer, subject, audience = (claims.get(name) for name in ("iss", "sub", "aud"))
        records = [record for record in app.federations if record.issuer == issuer]
        if not records:
            raise aadsts.Problem(700211, value=str(issuer))
        records = [record for record in records if record.subject == subject]
        if not records:
            raise aadsts.Problem(700213, value=str(subject))
        meant = audience if isinstance(audience, list) else [audience]
        if not any(record.audience in meant for record in records):
            raise aadsts.Problem(700212, value=str(audience))
        key = self._key(str(issuer), str(header.get("kid", "")))
        if key is None:
            raise _unsigned(app, "The key was not found.")
        _check(app, assertion, key, ("RS256",))
        self._time(claims)
        if _OURS.fullmatch(str(issuer)) and claims.get("idtyp") != "app":
            raise aadsts.Problem(700229)

    def _key(self, issuer: str, key_id: str) -> rsa.RSAPublicKey | None:
        if _OURS.fullmatch(issuer):
            return self._signer.public if key_id == self._signer.key_id else None
        return self._world.issuers.get(issuer, {}).get(key_id)

    def _time(self, claims: Mapping[str, Any]) -> None:
        now = self._world.clock()
        since, until = claims.get("nbf", claims.get("iat", 0)), claims.get("exp")
        if not all(isinstance(each, int | float) and abs(each) < 2**40 for each in (since, until)):
            raise aadsts.Problem(50027)
        begins, ends = (round(float(each) * ticks.SECOND) for each in (since or 0, until or 0))
        if not begins - TOLERANCE <= now < ends + TOLERANCE:
            raise aadsts.Problem(
                700024,
                now=ticks.text(now),
                since=ticks.entra(begins),
                until=ticks.entra(ends),
            )


def _registered(
    certificates: Collection[credentials.Certificate], header: Mapping[str, Any]
) -> credentials.Certificate | None:
    """The certificate that a header's thumbprint names."""
    # MSAL pads the thumbprint with "=", as Entra takes it.
    sha256, sha1 = (str(header.get(name, "")).rstrip("=") for name in ("x5t#S256", "x5t"))
    if sha256:
        return next((each for each in certificates if each.sha256 == sha256), None)
    return next((each for each in certificates if each.sha1 == sha1), None)


def _check(app: directory.App, assertion: str, key: rsa.RSAPublicKey, algorithms: Collection[str]) -> None:
    try:
        jwt.decode(assertion, key, algorithms=[*algorithms], options=_UNCHECKED)
    except jwt.InvalidTokenError:
        reason = "The provided signature value did not match the expected signature value."
        raise _unsigned(app, reason) from None


def _unsigned(app: directory.App, reason: str) -> aadsts.Problem:
    return aadsts.Problem(700027, app=app.app_id, reason=reason)

"""Tokens as Entra signs them (RS256), and the check that an API makes of them.

Signing costs about a millisecond of CPU each (RSA, 2048 bits): 10,000 tenants that all start cold are some ten
seconds of one core.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.simulator import directory, ticks

LIFETIME = 3599


@dataclasses.dataclass(frozen=True, slots=True)
class Claims:
    """What the APIs look at; times in ticks. A delegated token has scopes and the user's name, an app's roles."""

    tenant_id: str
    audience: str
    app_id: str
    roles: frozenset[str]
    not_before: int
    expires_at: int
    scopes: frozenset[str] = frozenset()
    user: str = ""


class Invalid(Exception):
    """A token that no API accepts: malformed, not signed by us, or without a claim that every token has."""


@functools.cache
def _key() -> rsa.RSAPrivateKey:
    """One a process: making it takes longer than all else that a simulator starts with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


class Signer:
    """The token service's key pair: a new one for each process, as nobody may forge tokens between two of
    them, or one that is given.
    """

    def __init__(self, key: rsa.RSAPrivateKey | None = None) -> None:
        self._key = key or _key()
        public = self._key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der)
        self.key_id = base64.urlsafe_b64encode(digest.finalize()[:20]).rstrip(b"=").decode()
        self.public = public
        # A token is checked once, not on each of the thousands of polls that carry it.
        self.verify = functools.lru_cache(maxsize=8192)(self._verify)

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self.public, as_dict=True)
        return {"keys": [{**key, "kid": self.key_id, "x5t": self.key_id, "use": "sig", "alg": "RS256"}]}

    def sign(
        self,
        *,
        tenant_id: str,
        audience: str,
        app_id: str,
        roles: tuple[str, ...],
        now: int,
        lifetime: int = LIFETIME,
        version: str = "1.0",
        proof: str = "1",
        object_id: str | None = None,
    ) -> str:
        """An app-only token. `now` in ticks, `lifetime` in seconds. `roles` is left out where there are
        none, as Entra does. proof: how the app proved itself ("1" secret, "2" certificate or federation).

        The version is the API's choice, not the endpoint's: Microsoft's own APIs get 1.0 tokens from both.
        """
        principal = object_id or str(uuid.uuid5(uuid.UUID(tenant_id), app_id))
        claims = _claims(tenant_id, audience, now, lifetime, version)
        claims |= {"idtyp": "app", "oid": principal, "sub": principal} | _party(version, app_id, proof)
        if version == "1.0":
            claims["idp"] = claims["iss"]
        if roles:
            claims["roles"] = list(roles)
        return self._encode(claims)

    def sign_delegated(
        self,
        user: directory.User,
        *,
        audience: str,
        app_id: str,
        scopes: tuple[str, ...],
        now: int,
        lifetime: int = LIFETIME,
        proof: str = "0",
        tenant_id: str | None = None,
    ) -> str:
        """A token with which an app acts for a user; never with roles. `tenant_id` replaces the user's."""
        claims = _claims(tenant_id or user.tenant_id, audience, now, lifetime, "1.0")
        claims |= {"idtyp": "user", "scp": " ".join(scopes), **_who(user, app_id)} | _party(
            "1.0", app_id, proof
        )
        return self._encode(claims | {"upn": user.name, "unique_name": user.name})

    def sign_id(self, user: directory.User, *, app_id: str, issuer: str, nonce: str, now: int) -> str:
        """An id_token for the app."""
        claims = _claims(user.tenant_id, app_id, now, LIFETIME, "2.0")
        claims |= {"iss": issuer, "preferred_username": user.name, **_who(user, app_id)}
        return self._encode(claims | ({"nonce": nonce} if nonce else {}))

    def _encode(self, claims: dict[str, Any]) -> str:
        headers = {"kid": self.key_id, "x5t": self.key_id}
        return jwt.encode(claims, self._key, algorithm="RS256", headers=headers)

    def _verify(self, token: str) -> Claims:
        """The claims of a token that we signed. Raises Invalid; times are left to the caller, who has the
        clock.
        """
        try:
            claims = jwt.decode(
                token,
                self.public,
                algorithms=["RS256"],
                options={"verify_aud": False, "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
            return Claims(
                str(claims["tid"]),
                str(claims["aud"]),
                str(claims.get("appid") or claims["azp"]),
                frozenset(claims.get("roles", ())),
                int(claims["nbf"]) * ticks.SECOND,
                int(claims["exp"]) * ticks.SECOND,
                frozenset(str(claims.get("scp", "")).split()),
                str(claims.get("upn", "")),
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as problem:
            raise Invalid(str(problem)) from problem


def _claims(tenant_id: str, audience: str, now: int, lifetime: int, version: str) -> dict[str, Any]:
    issued = now // ticks.SECOND
    old, new = f"https://sts.windows.net/{tenant_id}/", f"https://login.microsoftonline.com/{tenant_id}/v2.0"
    return {
        "aud": audience,
        "iss": old if version == "1.0" else new,
        "iat": issued,
        "nbf": issued,
        "exp": issued + lifetime,
        "tid": tenant_id,
        "uti": base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode(),
        "ver": version,
    }


def _party(version: str, app_id: str, proof: str) -> dict[str, str]:
    names = ("appid", "appidacr") if version == "1.0" else ("azp", "azpacr")
    return dict(zip(names, (app_id, proof), strict=True))


def _who(user: directory.User, app_id: str) -> dict[str, str]:
    # `sub` is pairwise: another one for each app.
    subject = str(uuid.uuid5(uuid.UUID(user.object_id), app_id))
    return {"oid": user.object_id, "sub": subject, "name": user.name.partition("@")[0].title()}

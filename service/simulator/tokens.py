"""Access tokens as Entra signs them (RS256), and the check that an API makes of them."""

from __future__ import annotations

import base64
import dataclasses
import functools
import uuid
from typing import Any

import jwt
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.simulator import ticks

LIFETIME = 3599


@dataclasses.dataclass(frozen=True, slots=True)
class Claims:
    """What the APIs look at; times in ticks."""

    tenant_id: str
    audience: str
    app_id: str
    roles: frozenset[str]
    not_before: int
    expires_at: int


class Invalid(Exception):
    """A token that no API accepts: malformed, not signed by us, or without a claim that every token has."""


class Signer:
    """The token service's key pair; a new one for each simulator, as nobody may forge tokens between two of
    them.
    """

    def __init__(self) -> None:
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        public = self._key.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        digest = hashes.Hash(hashes.SHA256())
        digest.update(der)
        self.key_id = base64.urlsafe_b64encode(digest.finalize()[:20]).rstrip(b"=").decode()
        self._public = public
        # A token is checked once, not on each of the thousands of polls that carry it.
        self.verify = functools.lru_cache(maxsize=8192)(self._verify)

    def jwks(self) -> dict[str, Any]:
        """The public key as a JSON Web Key Set."""
        key = jwt.algorithms.RSAAlgorithm.to_jwk(self._public, as_dict=True)
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
    ) -> str:
        """An app-only token. `now` in ticks, `lifetime` in seconds. `roles` is left out where there are
        none, as Entra does.

        The version is the API's choice, not the endpoint's: Microsoft's own APIs get 1.0 tokens from both.
        """
        issued = now // ticks.SECOND
        principal = str(uuid.uuid5(uuid.UUID(tenant_id), app_id))
        claims: dict[str, Any] = {
            "aud": audience,
            "iss": f"https://sts.windows.net/{tenant_id}/",
            "iat": issued,
            "nbf": issued,
            "exp": issued + lifetime,
            "idtyp": "app",
            "oid": principal,
            "sub": principal,
            "tid": tenant_id,
            "uti": base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode(),
            "ver": version,
        }
        if version == "1.0":
            claims |= {"appid": app_id, "appidacr": "1", "idp": claims["iss"]}
        else:
            claims |= {
                "azp": app_id,
                "azpacr": "1",
                "iss": f"https://login.microsoftonline.com/{tenant_id}/v2.0",
            }
        if roles:
            claims["roles"] = list(roles)
        headers = {"kid": self.key_id, "x5t": self.key_id}
        return jwt.encode(claims, self._key, algorithm="RS256", headers=headers)

    def _verify(self, token: str) -> Claims:
        """The claims of a token that we signed. Raises Invalid; times are left to the caller, who has the
        clock.
        """
        try:
            claims = jwt.decode(
                token,
                self._public,
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
            )
        except (jwt.InvalidTokenError, KeyError, TypeError, ValueError) as problem:
            raise Invalid(str(problem)) from problem

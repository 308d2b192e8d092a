"""What an app registration can prove itself by: secrets, certificates, records of federated credentials."""

from __future__ import annotations

import base64
import dataclasses
import hashlib

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from service.simulator import ticks

EXCHANGE_AUDIENCE = "api://AzureADTokenExchange"


@dataclasses.dataclass(frozen=True, slots=True)
class Secret:
    """A client secret; `expires_at` in ticks, None for never."""

    value: str = dataclasses.field(repr=False)
    expires_at: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate as it is uploaded to an app registration; validity in ticks.

    sha1 and sha256: its thumbprints as an assertion's header carries them (base64url, without padding).
    """

    public: rsa.RSAPublicKey
    sha1: str
    sha256: str
    valid_from: int
    valid_until: int

    @classmethod
    def of(cls, pem: bytes) -> Certificate:
        """Read a PEM text's first certificate. Raises ValueError where there is none, TypeError for a key
        that is not RSA.
        """
        read = x509.load_pem_x509_certificate(pem)
        public = read.public_key()
        if not isinstance(public, rsa.RSAPublicKey):
            raise TypeError("only certificates with an RSA key can be registered")
        begins, ends = (
            round(moment.timestamp()) * ticks.SECOND
            for moment in (read.not_valid_before_utc, read.not_valid_after_utc)
        )
        der = read.public_bytes(serialization.Encoding.DER)
        sha1, sha256 = (
            base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()
            for digest in (hashlib.sha1(der, usedforsecurity=False), hashlib.sha256(der))
        )
        return cls(public, sha1, sha256, begins, ends)


@dataclasses.dataclass(frozen=True, slots=True)
class Federation:
    """A federated credential: whoever holds a token with exactly this issuer, subject and audience is the
    app.
    """

    issuer: str
    subject: str
    audience: str = EXCHANGE_AUDIENCE

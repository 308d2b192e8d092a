"""Keys, certificates and assertions, as an operator's own tools would make them."""

from __future__ import annotations

import dataclasses
import datetime as dt

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from service.simulator import credentials, ticks

NOON = ticks.parse("2026-10-01T12:00:00Z") // ticks.SECOND


@dataclasses.dataclass(frozen=True)
class Pair:
    """A private key and its certificate."""

    key: rsa.RSAPrivateKey
    key_pem: str
    certificate_pem: str
    registered: credentials.Certificate


def pair(begins="2026-09-01", ends="2026-11-01"):
    """A self-signed certificate that is valid between two days."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "alertwell")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(dt.datetime.fromisoformat(begins))
        .not_valid_after(dt.datetime.fromisoformat(ends))
        .sign(key, hashes.SHA256())
    )
    pem = made.public_bytes(serialization.Encoding.PEM)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return Pair(key, key_pem.decode(), pem.decode(), credentials.Certificate.of(pem))


def assertion(owner, app_id, audience, *, header=None, algorithm="PS256", **claims):
    """An assertion for an app that is right but for the claims given (None takes one out)."""
    wanted = {
        "iss": app_id,
        "sub": app_id,
        "aud": audience,
        "jti": "once",
        "iat": NOON,
        "nbf": NOON,
        "exp": NOON + 600,
    } | claims
    header = {"x5t#S256": owner.registered.sha256} if header is None else header
    held = {name: value for name, value in wanted.items() if value is not None}
    return jwt.encode(held, owner.key, algorithm=algorithm, headers=header)

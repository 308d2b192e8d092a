"""A certificate with its private key, read from PEM or PFX, and the assertion that it signs.

Source: Entra's "Certificate credentials for application authentication": PS256 with the SHA-256 thumbprint of the certificate
(`x5t#S256`). No `x5c`: the chain serves only apps that are trusted by subject name and issuer, and makes each request larger.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from service import errors
from service.auth import rounds

_LEAST_BITS: Final = 2048
_LIFE: Final = 600
"""Seconds; Entra wants assertions to be short-lived."""
_BACK: Final = 60
"""Seconds that the assertion's life starts before now, since clocks differ."""
_KEY: Final = re.compile(rb"-----BEGIN ((?:[A-Z]+ )*PRIVATE KEY)-----.{1,32768}?-----END \1-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Certificate:
    """An app's certificate and key. Equal where the certificate is, since that names the key."""

    thumbprint: bytes
    """SHA-256 of the certificate."""
    expires_at: datetime
    key: rsa.RSAPrivateKey = field(repr=False, compare=False)
    chain: tuple[x509.Certificate, ...] = field(repr=False, compare=False)
    """The certificate itself, then what else the file held."""

    def assertion(self, app_id: str, audience: str, now: float) -> str:
        """A signed statement to the token endpoint `audience` that we are this app; `now` is Entra's time."""
        issued = int(now) - _BACK
        claims = {
            "aud": audience,
            "iss": app_id,
            "sub": app_id,
            "jti": str(uuid.uuid4()),
            "iat": issued,
            "nbf": issued,
            "exp": issued + _LIFE,
        }
        thumbprint = base64.urlsafe_b64encode(self.thumbprint).rstrip(b"=").decode()
        return jwt.encode(claims, self.key, algorithm="PS256", headers={"x5t#S256": thumbprint})

    def pem(self) -> str:
        """Key and certificates as one text without a password, to be sealed: it is a secret."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        parts = [key, *(one.public_bytes(serialization.Encoding.PEM) for one in self.chain)]
        return b"".join(parts).decode()


def read(
    content: bytes,
    password: str | None,
    name: str,
    *,
    how: str = "set ALERTWELL_CLIENT_CERTIFICATE_PASSWORD_FILE",
) -> Certificate:
    """Read PEM (key and certificates in one file) or PFX. Raises errors.BadSetting, whose message starts with `name`.

    `how` says what to do for a password, for where it is missing.
    """
    try:
        if b"-----BEGIN " in content:
            key, certificates = _pem(content, password, name, how)
        else:
            key, certificates = _pfx(content, password, name, how)
    except UnsupportedAlgorithm:
        raise errors.BadSetting(
            f"{name}: is encrypted in a way that is not supported any more; export it again with AES-256"
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise errors.BadSetting(f"{name}: its key is not an RSA key; Entra takes RSA keys alone")
    if key.key_size < _LEAST_BITS:
        raise errors.BadSetting(
            f"{name}: its RSA key has {key.key_size} bits; Entra wants at least {_LEAST_BITS}"
        )
    public = key.public_key()
    chain = sorted(certificates, key=lambda one: one.public_key() != public)
    if not chain or chain[0].public_key() != public:
        raise errors.BadSetting(f"{name}: holds no certificate that belongs to its key")
    return Certificate(chain[0].fingerprint(hashes.SHA256()), chain[0].not_valid_after_utc, key, tuple(chain))


def _pem(content: bytes, password: str | None, name: str, how: str) -> tuple[Any, list[x509.Certificate]]:
    blocks = list(_KEY.finditer(content))
    if not blocks:
        raise errors.BadSetting(
            f"{name}: holds no whole private key; it needs key and certificate in one PEM file"
        )
    if len(blocks) > 1:
        raise errors.BadSetting(f"{name}: holds {len(blocks)} private keys; it needs one")
    block = blocks[0].group()
    sealed = b"ENCRYPTED" in block
    if sealed and password is None:
        raise errors.BadSetting(f"{name}: its key has a password; {how}")
    if sealed:
        with contextlib.suppress(binascii.Error):  # the old form has lines of text in it, and no rounds
            _derivable(base64.b64decode(b"".join(block.splitlines()[1:-1])), name)
    try:
        key = serialization.load_pem_private_key(block, password.encode() if sealed and password else None)
    except (ValueError, TypeError):
        wrong = "the password is wrong, or the key is damaged" if sealed else "its private key is damaged"
        raise errors.BadSetting(f"{name}: {wrong}") from None
    if b"-----BEGIN CERTIFICATE-----" not in content:
        raise errors.BadSetting(f"{name}: holds a key without its certificate; put both into one file")
    try:
        return key, x509.load_pem_x509_certificates(content)
    except ValueError:
        raise errors.BadSetting(f"{name}: its certificate is damaged") from None


def _pfx(content: bytes, password: str | None, name: str, how: str) -> tuple[Any, list[x509.Certificate]]:
    if _whole_der(content):
        _derivable(content, name)
        # Some tools write an empty password where others write none.
        for tried in (b"", None) if password is None else (password.encode(),):
            try:
                key, certificate, others = pkcs12.load_key_and_certificates(content, tried)
            except ValueError:
                continue
            if key is None:
                raise errors.BadSetting(f"{name}: holds no private key; export it with its key")
            return key, [one for one in (certificate, *others) if one is not None]
        if not _bare(content):
            wrong = (
                f"it has a password; {how}" if password is None else "the password is wrong, or it is damaged"
            )
            raise errors.BadSetting(f"{name}: {wrong}")
        raise errors.BadSetting(f"{name}: holds a certificate without its private key")
    raise errors.BadSetting(f"{name}: is neither PEM nor a whole PFX file")


def _derivable(der: bytes, name: str) -> None:
    wanted = rounds.count(der)
    if wanted > rounds.MOST:
        raise errors.BadSetting(
            f"{name}: asks for {wanted} rounds to derive its keys, and at most {rounds.MOST} are done; "
            "export it again with fewer, such as 100000"
        )


def _whole_der(content: bytes) -> bool:
    """Whether this is one DER sequence of the length that it says of itself, which half a file is not."""
    if len(content) < 4 or content[0] != 0x30:
        return False
    if content[1] < 0x80:
        return len(content) == 2 + content[1]
    size = content[1] & 0x7F
    if size == 0:
        return True  # of indefinite length, as old tools write it
    return len(content) == 2 + size + int.from_bytes(content[2 : 2 + size])


def _bare(content: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(content)
    except ValueError:
        return False
    return True

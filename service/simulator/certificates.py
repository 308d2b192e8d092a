"""A throw-away CA and one server certificate, so that clients speak real TLS with real verification."""

from __future__ import annotations

import dataclasses
import datetime as dt
import ipaddress
import os
import pathlib
import ssl
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME = dt.timedelta(days=30)


@dataclasses.dataclass(frozen=True, slots=True)
class Certificates:
    """Files of one folder: `ca_file` is what a client trusts; chain and key are the server's own."""

    ca_file: pathlib.Path
    chain_file: pathlib.Path
    key_file: pathlib.Path

    def server_context(self) -> ssl.SSLContext:
        """TLS context of the server (TLS 1.2 and newer)."""
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.chain_file, self.key_file)
        return context


def issue(directory: pathlib.Path, names: Iterable[str] = ()) -> Certificates:
    """Write ca.pem, server.pem and server-key.pem (0600) into the folder.

    The certificate covers localhost, 127.0.0.1, ::1 and the further host names or addresses given. The CA's
    key is thrown away: nothing else can ever be signed with it. Files of an earlier call stay as they are
    where they still serve, so that a simulator can be started again without its clients noticing. Raises
    OSError where the folder cannot be written.
    """
    files = Certificates(directory / "ca.pem", directory / "server.pem", directory / "server-key.pem")
    alternatives = [_general_name(name) for name in dict.fromkeys(("localhost", "127.0.0.1", "::1", *names))]
    if _still_serves(files, alternatives):
        return files
    directory.mkdir(parents=True, exist_ok=True)
    ca_key = ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Alertwell simulator CA")])
    ca = (
        _builder(ca_name, ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key()), critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    certificate = (
        _builder(subject, ca_name, key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    files.ca_file.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.chain_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    write_private(
        files.key_file,
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    return files


def write_private(path: pathlib.Path, content: bytes) -> None:
    """Write a file that only its owner may read (0600), whatever was there before."""
    path.unlink(missing_ok=True)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(content)


def _still_serves(files: Certificates, alternatives: list[x509.GeneralName]) -> bool:
    """Whether the files are there, belong together, cover these names and live for a day more."""
    try:
        ca = x509.load_pem_x509_certificate(files.ca_file.read_bytes())
        certificate = x509.load_pem_x509_certificate(files.chain_file.read_bytes())
        key = serialization.load_pem_private_key(files.key_file.read_bytes(), None)
        certificate.verify_directly_issued_by(ca)
        covered = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return False
    tomorrow = dt.datetime.now(dt.UTC) + dt.timedelta(days=1)
    return (
        key.public_key() == certificate.public_key()
        and certificate.not_valid_after_utc > tomorrow
        and set(alternatives) <= set(covered)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        # A day back: the reader's clock may be behind ours.
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + LIFETIME)
    )


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)

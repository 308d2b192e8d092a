"""Certificates as operators have them: PEM and PFX, with and without a password, and everything that is none."""

from __future__ import annotations

import base64
import datetime as dt
from pathlib import Path

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs12

from service import errors
from service.auth import certificates, credentials, modes, rounds
from tests.simulator import keys

APP = "55555555-5555-5555-5555-555555555555"
ENDPOINT = "https://login.microsoftonline.com/x/oauth2/v2.0/token"
PASSWORD = "pässword"


@pytest.fixture(scope="module")
def pair() -> keys.Pair:
    """A key and its certificate."""
    return keys.pair(begins="2026-01-01", ends="2099-01-01")


def pem(pair: keys.Pair, password: str | None = None, form: str = "PKCS8") -> bytes:
    sealing = (
        serialization.BestAvailableEncryption(password.encode()) if password else serialization.NoEncryption()
    )
    key = pair.key.private_bytes(
        serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), sealing
    )
    return key + pair.certificate_pem.encode()


def pfx(pair: keys.Pair, password: str | None = None) -> bytes:
    sealing = (
        serialization.BestAvailableEncryption(password.encode())
        if password is not None
        else serialization.NoEncryption()
    )
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem.encode())
    return pkcs12.serialize_key_and_certificates(b"alertwell", pair.key, certificate, None, sealing)


def self_signed(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = x509.Name([])
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
        .sign(key, hashes.SHA256())
    )


def bundle(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    sealed = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return sealed + self_signed(key).public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("password", [None, PASSWORD])
@pytest.mark.parametrize("form", ["PKCS8", "TraditionalOpenSSL", "PFX"])
def test_every_form_is_read(pair: keys.Pair, form: str, password: str | None) -> None:
    """PEM in both forms of keys and PFX give the same credential, which can be sealed and opened again."""
    content = pfx(pair, password) if form == "PFX" else pem(pair, password, form)
    got = certificates.read(content, password, "a file")
    assert got.expires_at == dt.datetime(2099, 1, 1, tzinfo=dt.UTC)
    assert (
        got
        == certificates.read(got.pem().encode(), None, "sealed")
        == certificates.read(pem(pair), PASSWORD, "b")
    )
    assert "key=" not in repr(got)


def test_assertion(pair: keys.Pair) -> None:
    """PS256 with the SHA-256 thumbprint alone; short-lived, begun a minute ago, another `jti` each time."""
    got = certificates.read(pem(pair), None, "a file")
    first, second = (got.assertion(APP, ENDPOINT, 1_000_000.7) for _ in range(2))
    assert jwt.get_unverified_header(first) == {
        "alg": "PS256",
        "typ": "JWT",
        "x5t#S256": pair.registered.sha256,
    }
    claims = jwt.decode(
        first, pair.key.public_key(), ["PS256"], options={"verify_exp": False}, audience=ENDPOINT
    )
    other = jwt.decode(second, options={"verify_signature": False})
    assert (claims["iss"], claims["sub"]) == (APP, APP)
    assert (claims["nbf"], claims["exp"]) == (999_940, 1_000_540)
    assert claims["jti"] != other["jti"]


def test_the_chain_may_stand_in_any_order(pair: keys.Pair) -> None:
    """The certificate is the one that belongs to the key, wherever it stands."""
    stranger = keys.pair(ends="2030-01-01").certificate_pem.encode()
    got = certificates.read(stranger + pem(pair), None, "a file")
    assert got.expires_at.year == 2099
    assert len(got.chain) == 2


def test_an_empty_password_is_none(pair: keys.Pair) -> None:
    """A PFX without encryption, with or without its empty password."""
    assert certificates.read(pfx(pair), None, "a file").expires_at.year == 2099


def slow(pair: keys.Pair, rounds: int) -> bytes:
    """A PFX whose keys take so many rounds, each of them."""
    sealing = (
        serialization.PrivateFormat.PKCS12.encryption_builder()
        .kdf_rounds(rounds)
        .hmac_hash(hashes.SHA256())
        .build(PASSWORD.encode())
    )
    certificate = x509.load_pem_x509_certificate(pair.certificate_pem.encode())
    return pkcs12.serialize_key_and_certificates(b"alertwell", pair.key, certificate, None, sealing)


def test_rounds_are_read_before_any_is_done(pair: keys.Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that asks for hours is refused in one sentence without a key being derived, and what is common is taken."""
    held = slow(pair, 0x60000)
    assert certificates.read(held, PASSWORD, "a file").expires_at.year == 2099
    many = slow(pair, 3_000_000)

    def derived(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(pkcs12, "load_key_and_certificates", derived)
    with pytest.raises(errors.BadSetting, match=r"^the file: asks for \d+ rounds .*fewer") as failed:
        certificates.read(many, PASSWORD, "the file")
    assert "\n" not in str(failed.value)
    body = base64.encodebytes(b"\x30\x0a\x04\x02ab\x02\x04\x7f\xff\xff\xff").decode()
    key = f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{body}-----END ENCRYPTED PRIVATE KEY-----\n"
    with pytest.raises(errors.BadSetting, match="asks for 2147483647 rounds"):
        certificates.read(key.encode(), PASSWORD, "the file")


def test_rounds_in_the_form_of_old_tools() -> None:
    """Lengths that are not said, and octet strings in pieces, hide nothing; salts and what is cut off cost nothing."""
    huge = b"\x30\x80\x04\x02ab\x02\x04\x7f\xff\xff\xff\x00\x00"
    assert rounds.count(huge) == 2**31 - 1
    pieces = b"\x30\x80\x24\x80\x04\x05" + huge[:5] + b"\x04\x07" + huge[5:] + b"\x00" * 4
    assert rounds.count(pieces) == 2**31 - 1
    assert rounds.count(b"\x30\x04\x04\x02\x30\x30") == 0
    assert [rounds.count(huge[:end]) for end in range(7)] == [0] * 7


def unusable(pair: keys.Pair) -> dict[str, tuple[bytes, str | None, str]]:
    elliptic = ec.generate_private_key(ec.SECP256R1())
    small = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    other = keys.pair()
    key = pair.key_pem.encode()
    certificate = pair.certificate_pem.encode()
    der = self_signed(pair.key).public_bytes(serialization.Encoding.DER)
    pfx_of_ec = pkcs12.serialize_key_and_certificates(
        b"", elliptic, self_signed(elliptic), None, serialization.NoEncryption()
    )
    return {
        "wrong password": (pem(pair, PASSWORD), "wrong", "password is wrong"),
        "no password": (pem(pair, PASSWORD), None, "CLIENT_CERTIFICATE_PASSWORD"),
        "wrong password of a PFX": (pfx(pair, PASSWORD), "wrong", "password is wrong"),
        "no password of a PFX": (pfx(pair, PASSWORD), None, "CLIENT_CERTIFICATE_PASSWORD"),
        "EC": (bundle(elliptic), None, "RSA keys alone"),
        "EC in a PFX": (pfx_of_ec, None, "RSA keys alone"),
        "1024 bits": (bundle(small), None, "at least 2048"),
        "key alone": (key, None, "without its certificate"),
        "certificate alone": (certificate, None, "no whole private key"),
        "certificate alone, DER": (der, None, "without its private key"),
        "another's certificate": (key + other.certificate_pem.encode(), None, "belongs to its key"),
        "two keys": (key + other.key_pem.encode() + certificate, None, "2 private keys"),
        "half a PEM": (pem(pair)[:900], None, "no whole private key"),
        "half a certificate": (pem(pair)[:-200], None, "damaged"),
        "half a PFX": (pfx(pair)[:-100], None, "neither PEM nor a whole PFX"),
        "a damaged key": (key.replace(b"\nM", b"\nx", 1) + certificate, None, "damaged"),
        "a secret": (b"hunter2~hunter2", None, "neither PEM"),
        "noise": (bytes(range(256)), None, "neither PEM"),
        "DER of something": (b"\x30\x03\x02\x01\x05", None, "password"),
    }


def test_what_is_no_certificate_is_one_sentence(pair: keys.Pair) -> None:
    """Each way to be wrong is named with the file, and nothing of its content or password is repeated."""
    for case, (content, password, words) in unusable(pair).items():
        with pytest.raises(errors.BadSetting) as refused:
            certificates.read(content, password, "the file")
        message = str(refused.value)
        assert message.startswith("the file: "), case
        assert words in message, (case, message)
        assert "hunter2" not in message
        assert "\n" not in message


def test_a_changed_file_is_another_version(pair: keys.Pair, tmp_path: Path) -> None:
    """A certificate and its password may change one after the other; what is half written keeps the old one."""
    file, password = tmp_path / "app.pfx", tmp_path / "password"
    file.write_bytes(pfx(pair, "one"))
    password.write_text("one\n")
    shared = credentials.Shared(modes.SharedApp(APP, certificate=file, certificate_password=password))
    [(first, held)] = shared.read()
    newer = keys.pair(begins="2026-01-01", ends="2098-01-01")
    for content in (pfx(newer, "two")[:300], b"", pfx(newer, "two")):
        file.write_bytes(content)
        assert shared.read() == [(first, held)]
    password.write_text("two\n")
    [(second, mode)] = shared.read()
    assert (second.version, first.version) == (1, 0)
    assert isinstance(mode, certificates.Certificate)
    assert mode.thumbprint != held.thumbprint
    assert [one.expires_at for one in shared.horizons()] == [dt.datetime(2098, 1, 1, tzinfo=dt.UTC)]


def test_a_bad_file_ends_the_start(pair: keys.Pair, tmp_path: Path) -> None:
    """At the start there is no old one to keep: the sentence names the setting and the file."""
    file = tmp_path / "app.pem"
    for content in (None, pem(pair, PASSWORD)):
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(errors.BadSetting, match=r"app\.pem"):
            credentials.Shared(modes.SharedApp(APP, certificate=file))

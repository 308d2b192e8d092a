"""Secrets at rest, secret files, and what Entra's refusals mean."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

import jwt
import pytest

from service import errors
from service.auth import aadsts, claims, clock, credentials, modes, replies, sealing

TENANT = uuid.UUID("11111111-1111-1111-1111-111111111111")
GRAPH = "https://graph.windows.net"


def test_sealed_and_opened() -> None:
    """A sealed secret opens again and does not show."""
    sealer = sealing.Sealer([sealing.generate_key()])
    sealed = sealer.seal("pässword")
    assert b"ssword" not in sealed
    assert sealer.unseal(sealed) == "pässword"


def test_rotated_keys(tmp_path: Path) -> None:
    """A new key on top seals from then on, while the old one still opens what it sealed."""
    file = tmp_path / "keys"
    old, new = sealing.generate_key(), sealing.generate_key()
    file.write_text(f"# the first key\n{old}\n")
    sealed = sealing.Sealer.from_file(file).seal("secret")
    file.write_text(f"{new}  # newest first\n\n{old}\n")
    both = sealing.Sealer.from_file(file)
    assert both.unseal(sealed) == "secret"
    assert sealing.Sealer([new]).unseal(both.seal("next")) == "next"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "empty"),
        ("# only words\n", "no sealing key"),
        ("not-a-key\n", "line 1"),
        (f"{sealing.generate_key()}\nhalf-a-key=\n", "line 2"),
        ("k\u00e9y\n", "line 1"),
    ],
)
def test_bad_keys(tmp_path: Path, content: str, words: str) -> None:
    """A keys file that cannot be used is named with the line, never with the key."""
    file = tmp_path / "keys"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(errors.BadSetting, match=words) as failed:
        sealing.Sealer.from_file(file)
    assert "half-a-key" not in str(failed.value)
    assert "not-a-key" not in str(failed.value)


def test_keys_are_read_again(tmp_path: Path) -> None:
    """A key that was added seals from now on; one that was taken out still opens what this process has read."""
    file = tmp_path / "keys"
    file.write_text(sealing.generate_key())
    sealer = sealing.Sealer.from_file(file)
    before = sealer.seal("secret")
    newest = sealing.generate_key()
    file.write_text(f"{newest}\n{file.read_text()}")
    anew = sealer.resealed(before)
    assert anew is not None
    assert (sealing.Sealer([newest]).unseal(anew), sealer.resealed(anew)) == ("secret", None)
    file.write_text(newest)
    assert (sealer.unseal(before), sealer.unseal(anew)) == ("secret", "secret")
    with pytest.raises(errors.BadSetting, match="SEALING_KEYS_FILE"):
        sealing.Sealer.from_file(file).resealed(before)
    file.write_text("half a k")
    assert sealer.unseal(sealer.seal("next")) == "next"


def test_foreign_seal() -> None:
    """What was sealed with a key that is gone names the setting."""
    sealed = sealing.Sealer([sealing.generate_key()]).seal("secret")
    with pytest.raises(errors.BadSetting, match="SEALING_KEYS_FILE"):
        sealing.Sealer([sealing.generate_key()]).unseal(sealed)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"secret\n", "secret"),
        (b"secret\r\n", "secret"),
        (b" secret \n\n", " secret \n"),
        (b"\xef\xbb\xbfsecret", "secret"),
    ],
)
def test_secret_file(tmp_path: Path, content: bytes, text: str) -> None:
    """One line end is dropped, for editors put it there; nothing else is."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    assert sealing.read_secret_file(file) == text


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"\n", "empty"), (b"\xff\xfe\x00", "UTF-8"), (b"a\0b", "UTF-8"), (b"x" * 70_000, "over")],
)
def test_bad_secret_file(tmp_path: Path, content: bytes, words: str) -> None:
    """A file that is no secret is named with what is wrong."""
    file = tmp_path / "secret"
    file.write_bytes(content)
    with pytest.raises(errors.BadSetting, match=words):
        sealing.read_secret_file(file)


def test_missing_secret_file(tmp_path: Path) -> None:
    """A missing file or a folder is named with what the system says."""
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(errors.BadSetting, match="cannot be read"):
            sealing.read_secret_file(path)


def test_shared_secret(tmp_path: Path) -> None:
    """A changed file is another version; one that is away, empty or rewritten with the same text is not."""
    file = tmp_path / "secret"
    file.write_text("one")
    shared = credentials.Shared(modes.SharedApp("an-app", file))
    [first] = shared.read()
    assert first[1] == modes.ClientSecret("one")
    file.unlink()
    assert shared.read() == [first]
    file.write_text("")
    assert shared.read() == [first]
    file.write_text("one")
    os.utime(file, (1, 1))
    assert shared.read() == [first]
    file.write_text("two")
    [(second, mode)] = shared.read()
    assert mode == modes.ClientSecret("two")
    assert second != first[0]


def test_shared_secret_never_there(tmp_path: Path) -> None:
    """A file that never could be read says why."""
    with pytest.raises(errors.BadSetting, match="cannot be read"):
        credentials.Shared(modes.SharedApp("an-app", tmp_path / "missing"))


@pytest.mark.parametrize(
    ("body", "who", "code"),
    [
        ({"error": "invalid_client", "error_codes": [7000222]}, "O", "secret_expired"),
        ({"error": "invalid_client", "error_codes": [999999]}, "O", "credential_refused"),
        ({"error": "invalid_client"}, "O", "credential_refused"),
        ({"error": "unauthorized_client", "error_codes": [1]}, "C", "app_not_in_tenant"),
        ({"error": "invalid_grant", "error_description": "AADSTS65001: no"}, "C", "consent_missing"),
        ({"error": "temporarily_unavailable", "error_codes": [7000222]}, "R", "entra_unavailable"),
        ({"error": "server_error", "error_codes": [90055]}, "R", "entra_throttles"),
        ({"error": "brand_new", "error_codes": [424242]}, "O", "entra_refuses"),
        ({"error": "<script>", "error_codes": ["7000222", True, -1, 10**12, None]}, "O", "entra_refuses"),
        (
            {"error": "invalid_request", "error_codes": {"a": 1}, "error_description": 7},
            "B",
            "request_refused",
        ),
    ],
)
def test_verdicts(body: dict[str, Any], who: str, code: str) -> None:
    """Known numbers refine, `error` decides where they are unknown, and everything unknown goes to the operator."""
    refusal = aadsts.refusal(body)
    assert refusal is not None
    assert (refusal.verdict.who, refusal.verdict.code) == (who, code)


def test_table() -> None:
    """Every sentence is one line that a person can act on, every word is stable in form."""
    for verdict in [*aadsts.BY_NUMBER.values(), *aadsts.BY_ERROR.values(), aadsts.UNKNOWN]:
        assert verdict.code.replace("_", "").isalpha()
        sentence = verdict.sentence("AADSTS1")
        assert "\n" not in sentence
        assert not sentence.endswith(".")


@pytest.mark.parametrize("body", [{}, {"error": 7}, {"error": None}, {"error": ["x"]}])
def test_no_refusal(body: dict[str, Any]) -> None:
    """Where there is no `error` there is no refusal."""
    assert aadsts.refusal(body) is None


@pytest.mark.parametrize(
    ("content", "life"),
    [({"expires_in": 3599}, 3599), ({"expires_in": "3599"}, 3599), ({"expires_in": 10**9}, 86_400)],
)
def test_grant(content: dict[str, Any], life: float) -> None:
    """Numbers come as numbers (v2) or as texts (v1), and no token is kept for longer than a day."""
    grant = replies.grant({"access_token": "t", "token_type": "Bearer", **content})
    assert grant.seconds == life
    assert "'t'" not in repr(grant)


def token(**content: Any) -> str:
    return jwt.encode(content, "k" * 32, algorithm="HS256")


@pytest.mark.parametrize(
    "content",
    [
        {"tid": str(TENANT), "aud": GRAPH},
        {"tid": str(TENANT).upper(), "aud": f"{GRAPH}/"},
        {"tid": str(TENANT), "aud": "00000002-0000-0000-c000-000000000000"},
        {"tid": str(TENANT), "aud": ["other", GRAPH]},
        {},
    ],
)
def test_sane_claims(content: dict[str, Any]) -> None:
    """The tenant in any casing, the audience as URI or as GUID, and what is not there, are all fine."""
    claims.check(token(**content), tenant_id=TENANT, audience=GRAPH)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ({"tid": str(uuid.UUID(int=1)), "aud": GRAPH}, "wrong_tenant"),
        ({"tid": 7, "aud": GRAPH}, "wrong_tenant"),
        ({"tid": str(TENANT), "aud": "https://vault.azure.net"}, "wrong_audience"),
        ({"tid": str(TENANT), "aud": []}, "wrong_audience"),
        ({"tid": str(TENANT), "aud": 7}, "wrong_audience"),
        ({"tid": str(TENANT), "aud": GRAPH}, "role_missing"),
        ({"tid": str(TENANT), "aud": GRAPH, "roles": "Alert.Read.All"}, "role_missing"),
        ({"tid": str(TENANT), "aud": GRAPH, "roles": ["Machine.Read.All", 7]}, "role_missing"),
    ],
)
def test_bad_claims(content: dict[str, Any], code: str) -> None:
    """Another tenant, another API or a missing role each have their word."""
    with pytest.raises(errors.Attention) as refused:
        claims.check(token(**content), tenant_id=TENANT, audience=GRAPH, roles=["Alert.Read.All"])
    assert refused.value.code == code


@pytest.mark.parametrize(
    ("content", "has"),
    [
        ({}, "none"),
        ({"roles": []}, "none"),
        (
            {"roles": ["Machine.Read.All", 7, "a b", "\x1b[31m", "User.Read.All"]},
            "Machine.Read.All User.Read.All",
        ),
        ({"roles": [f"R{n}" for n in range(12)]}, "R0 R1 R2 R3 R4 R5 R6 R7 R8 R9 …"),
    ],
)
def test_what_the_token_has(content: dict[str, Any], has: str) -> None:
    """The sentence names the role that is missing and what there is, at most ten names, printable ones alone."""
    with pytest.raises(errors.Attention) as refused:
        claims.check(
            token(tid=str(TENANT), **content), tenant_id=TENANT, audience=GRAPH, roles=["Alert.Read.All"]
        )
    assert f"lacks the role Alert.Read.All (has: {has})" in str(refused.value)


def test_scopes() -> None:
    """A signed-in user's permissions are one text, separated by blanks; they are no roles."""
    wanted = {"tenant_id": TENANT, "audience": GRAPH, "scopes": ["Incident.Read"]}
    claims.check(token(scp="openid Incident.Read"), **wanted)
    with pytest.raises(
        errors.Attention, match=r"scope Incident\.Read \(has: openid Incident\.Readonly\)"
    ) as refused:
        claims.check(token(scp="openid Incident.Readonly"), **wanted)
    assert refused.value.code == "scope_missing"
    with pytest.raises(errors.Attention, match="has: none"):
        claims.check(token(roles=["Incident.Read"], scp=["Incident.Read"]), **wanted)


def test_one_token_for_two_sources() -> None:
    """An app's token is held against the roles, a user's against the scopes; what cannot be read lacks nothing."""
    roles, scopes = {"Alert.Read.All"}, {"Alert.Read"}
    assert not claims.lacks(token(roles=["Alert.Read.All"]), roles, scopes)
    assert claims.lacks(token(roles=["Alert.Read"]), roles, scopes)
    assert claims.lacks(token(), roles, scopes)
    assert not claims.lacks(token(scp="openid Alert.Read"), roles, scopes)
    assert claims.lacks(token(scp="Alert.Read.All", roles=["Alert.Read.All"]), roles, scopes)
    assert claims.lacks(token(scp=7), roles, scopes)
    assert not claims.lacks(token(scp="Incident.Read"), roles)
    assert not claims.lacks("opaque", roles, scopes)


def test_ended_on_arrival() -> None:
    """A token that has ended by Entra's own clock is not used, whatever our clock says; the skew is named."""
    ours = clock.Clock(lambda: 1_000_000.0)
    ours.learn("Mon, 12 Jan 1970 13:56:40 GMT")  # 1,000,600
    with pytest.raises(errors.Transient, match=r"ended 100 s ago.*clock is 600 s behind"):
        claims.check(token(exp=1_000_500), tenant_id=TENANT, audience=GRAPH, now=ours)
    claims.check(token(exp=1_000_700), tenant_id=TENANT, audience=GRAPH, now=ours)
    for strange in ("1", True, None, [], 1e400):
        claims.check(token(exp=strange), tenant_id=TENANT, audience=GRAPH, now=ours)


@pytest.mark.parametrize(
    "date", ["", "yesterday", "Mon, 99 Jan 1970", "\x00", "Mon, 12 Jan 999999 13:56:40 GMT", None]
)
def test_dates_that_say_nothing(date: str | None) -> None:
    """A Date header that cannot be read changes no clock."""
    ours = clock.Clock()
    ours.learn(date)
    assert ours.skew == 0


@pytest.mark.parametrize(
    "text", ["opaque", "a.b.c", "..", f"{'W1tb' * 5000}.e30.x", "e30.bnVsbA.x", "e30.W10.x"]
)
def test_opaque(text: str) -> None:
    """What cannot be read as a token's claims is left to the API."""
    claims.check(text, tenant_id=TENANT, audience=GRAPH, roles=["Alert.Read.All"])

"""Consent links and the state in them: one form for each need, and no text is a state but ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import pytest

from service.auth import consent, sealing

CONTOSO = UUID("11111111-1111-1111-1111-111111111111")
APP = "55555555-5555-5555-5555-555555555555"
GRAPH, XDR = "https://graph.microsoft.com", "https://api.security.microsoft.com"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def sealer() -> sealing.Sealer:
    return sealing.Sealer([sealing.generate_key()])


@pytest.mark.parametrize(
    ("audiences", "answers", "legacy", "form"),
    [
        ([GRAPH], True, False, "v2"),
        ([GRAPH, GRAPH], True, False, "v2"),
        ([GRAPH, XDR], True, False, "v1"),
        ([GRAPH], False, False, "plain"),
        ([GRAPH, XDR], True, True, "legacy"),
    ],
)
def test_the_form_follows_from_what_is_asked(audiences, answers, legacy, form):
    """One API: v2; several: v1, which grants all that is registered; no callback: the plain form."""
    assert consent.form(audiences, answers=answers, legacy=legacy) == form


@pytest.mark.parametrize(
    ("form", "tenant", "path", "fields"),
    [
        ("v2", None, "/organizations/v2.0/adminconsent", {"client_id", "scope", "redirect_uri", "state"}),
        ("v2", CONTOSO, f"/{CONTOSO}/v2.0/adminconsent", {"client_id", "scope", "redirect_uri", "state"}),
        ("v1", None, "/common/adminconsent", {"client_id", "redirect_uri", "state"}),
        ("plain", CONTOSO, f"/{CONTOSO}/adminconsent", {"client_id"}),
        ("legacy", None, "/common/oauth2/authorize", {"client_id", "prompt", "response_type", "sso_reload"}),
    ],
)
def test_each_form_is_the_documents(form, tenant, path, fields):
    """Host, path and parameters are those of the documents, and nothing in them is left unquoted."""
    link = consent.link(
        form, authority="https://login.microsoftonline.us", tenant_id=tenant, client_id=APP, audience=GRAPH,
        callback="https://alerts.example.com/consent", state="a=b&c",
    )  # fmt: skip
    parts = urlsplit(link)
    query = {name: values[0] for name, values in parse_qs(parts.query, strict_parsing=True).items()}
    assert (parts.netloc, parts.path, set(query)) == ("login.microsoftonline.us", path, fields)
    assert query.get("scope", f"{GRAPH}/.default") == f"{GRAPH}/.default"
    assert query.get("state", "a=b&c") == "a=b&c"
    assert query.get("prompt", "consent") == "consent"


def test_a_state_comes_back_as_it_was_signed():
    """Any key of the file opens it, so that keys can be changed while links are out."""
    old, new = sealing.generate_key(), sealing.generate_key()
    state = consent.State(CONTOSO, NOON)
    signed = state.signed(sealing.Sealer([old]))
    assert consent.genuine(signed, sealing.Sealer([new, old])) == state
    assert consent.genuine(signed, sealing.Sealer([new])) is None
    assert str(CONTOSO) not in signed


def test_nothing_else_is_a_state():
    """Another key, a changed letter, a secret sealed with our own key, and texts of any kind are none."""
    keys = sealer()
    signed = consent.State(CONTOSO, NOON + timedelta(days=1)).signed(keys)
    middle = len(signed) // 2
    changed = signed[:middle] + ("A" if signed[middle] != "A" else "B") + signed[middle + 1 :]
    others = [
        "", "a", "a" * 200, "a" * 5000, changed, signed + " ", signed[:-4], "\0" + signed, "é" * 200,
        keys.seal("sup3r~s3cret.value" * 4).decode(), keys.seal(f"consent {CONTOSO} never").decode(),
        keys.seal("consent nobody 1").decode(), keys.seal(f"consent {CONTOSO} {10**30}").decode(),
    ]  # fmt: skip
    assert [consent.genuine(each, keys) for each in others] == [None] * len(others)
    assert consent.genuine(signed, keys) is not None

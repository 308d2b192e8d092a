"""Every word that an error can carry has somebody who acts on it, in the code and in the documents."""

from __future__ import annotations

import ast
import shlex
from pathlib import Path
from uuid import UUID

import pytest

from service import causes, model
from service.auth import aadsts

ROOT = Path(__file__).parents[2]


def raised() -> set[str]:
    """The `code="…"` of every call in service/."""
    return {
        keyword.value.value
        for path in (ROOT / "service").rglob("*.py")
        if "simulator" not in path.parts
        for call in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "code"
        and isinstance(keyword.value, ast.Constant)
        and isinstance(keyword.value.value, str)
    }


def test_every_word_has_a_cause():
    """What the code raises, what Entra's answers become, and nothing else."""
    verdicts = {*aadsts.BY_NUMBER.values(), *aadsts.BY_ERROR.values(), aadsts.UNKNOWN}
    of_entra = {verdict.code for verdict in verdicts if verdict.who != "R"}
    assert raised() | of_entra | {causes.SOURCE_GONE, causes.SILENT, causes.NOT_RETURNED} == set(
        causes.CAUSES
    )


@pytest.mark.parametrize("word", causes.CAUSES)
def test_causes_read_well(word: str):
    """One line each; what to do is a sentence to which nothing has to be added."""
    cause = causes.CAUSES[word]
    assert word.replace("_", "").isalpha()
    for text in (cause.meaning, cause.remedy, cause.own, cause.user):
        if text is None:
            continue
        assert text
        assert "\n" not in text
        assert not text.endswith(".")
    assert cause.remedy[0].isupper()


NAME = "Contoso {own} {tenant}"
APP = "55555555-5555-5555-5555-555555555555"


@pytest.mark.parametrize("kind", ["client_secret", "certificate", "federated"])
@pytest.mark.parametrize("word", causes.CAUSES)
def test_an_app_of_the_tenants_own_is_mended_there(word: str, kind: model.CredentialKind):
    """Neither a file of the settings nor an invitation to the shared app helps against it."""
    said = causes.said("x", word, access(kind))
    assert "SECRET_FILE" not in said
    assert "CERTIFICATE_FILE" not in said
    assert "tenants invite" not in said
    assert "{" not in said.replace(shlex.quote(NAME), "")


@pytest.mark.parametrize("word", ["app_not_in_tenant", "consent_missing", "consent_declined"])
def test_a_user_needs_an_administrators_consent_and_signs_in(word: str):
    """An invitation is for the app's own roles."""
    assert causes.said("x", word, access("delegated")) == (
        "x. An administrator must consent to the app's delegated permissions, then the user signs in: "
        "alertwell login 'Contoso {own} {tenant}'"
    )


def test_a_credential_of_ones_own_is_set_with_its_app_and_source():
    """The command names what `set-credential` needs to change this one and no other."""
    assert causes.said("x", "secret_expired", access("client_secret", "siem")) == (
        "x. Make a new one in that app's registration, then: alertwell tenants set-credential 'Contoso {own} {tenant}' "
        f"--client-id {APP} --source siem --secret-file FILE"
    )


def access(kind: model.CredentialKind, source: str = "") -> model.Access:
    """By a credential of the tenant's own; its name is one that a template could trip over."""
    tenant = model.Tenant(UUID("11111111-1111-1111-1111-111111111111"), NAME)
    return model.Access(tenant, model.Credential(APP, kind, b"", 1, source))


def test_the_documents_say_the_same():
    """docs/operations.md has a row for each cause: the word, what it means, who acts, what to do."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]
    for word, cause in causes.CAUSES.items():
        doing = cause.remedy.replace("{tenant}", "NAME")
        assert f"| `{word}` | {cause.meaning} | {cause.who} | {doing} |" in table

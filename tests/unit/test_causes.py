"""Every word that an error can carry has somebody who acts on it, in the code and in the documents."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from service import causes
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
    assert raised() | of_entra | {causes.SOURCE_GONE} == set(causes.CAUSES)


@pytest.mark.parametrize("word", causes.CAUSES)
def test_causes_read_well(word: str):
    """One line each; what to do is a sentence to which nothing has to be added."""
    cause = causes.CAUSES[word]
    assert word.replace("_", "").isalpha()
    for text in (cause.meaning, cause.remedy):
        assert text
        assert "\n" not in text
        assert not text.endswith(".")
    assert cause.remedy[0].isupper()


def test_the_documents_say_the_same():
    """docs/operations.md has a row for each cause: the word, what it means, who acts, what to do."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    table = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 5]
    for word, cause in causes.CAUSES.items():
        doing = cause.remedy.replace("{tenant}", "NAME")
        assert f"| `{word}` | {cause.meaning} | {cause.who} | {doing} |" in table

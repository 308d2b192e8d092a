"""The table of faults says what is there: every test that it names exists, and every fault of the simulator is in it."""

from __future__ import annotations

import ast
from pathlib import Path

from service.simulator import chaos
from tests.chaos import matrix

TESTS = Path(__file__).parent.parent


def test_every_row_names_a_test_that_exists():
    """A file under tests/, and a function in it where one is named."""
    for row in matrix.rows():
        name, _, function = row.test.partition("::")
        found = {
            node.name
            for node in ast.parse((TESTS / name).read_text()).body
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not function or function in found, row


def test_no_fault_of_the_simulator_is_left_out():
    """Each kind is drilled, but for those that a row of its own covers."""
    drilled = {
        (chaos.FAULTS[each.planned] if isinstance(each.planned, str) else each.planned).kind
        for each in (*matrix.API, *matrix.ENTRA)
    }
    covered = {"empty", "expand"}
    assert {fault.kind for fault in chaos.FAULTS.values()} - drilled == covered


def test_tables_are_markdown():
    """Every part has rows, and each row three cells."""
    for part in matrix.TITLES:
        head, rule, *lines = matrix.table(part).splitlines()
        assert lines
        assert {line.count(" | ") for line in (head, *lines)} == {2}, part
        assert rule == "|---|---|---|"


def test_the_page_has_every_table():
    """docs/faults.md is what `matrix` says, part by part."""
    page = (TESTS.parent / "docs" / "faults.md").read_text("utf-8")
    for part, title in matrix.TITLES.items():
        assert f"## {title}\n\n{matrix.table(part)}\n" in page, part

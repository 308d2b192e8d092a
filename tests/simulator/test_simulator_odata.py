"""The $filter expressions that are read, what they mean, and those that are refused."""

from __future__ import annotations

import pytest

from service.simulator import odata, ticks

PROPERTIES = {"at": "time", "made": "time", "status": "text", "owner": "text", "number": "number"}
NOON = ticks.parse("2026-10-01T12:00:00Z")
RECORD = {"at": "2026-10-01T12:00:00Z", "status": "New", "owner": None, "number": 7}


def read(text):
    """The expression as a filter that watches `at`."""
    return odata.read(text, PROPERTIES, "at")


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("at ge 2026-10-01T12:00:00Z", True),
        ("at gt 2026-10-01T12:00:00Z", False),
        ("at le 2026-10-01T12:00:00.0000000Z", True),
        ("at lt 2026-10-01T12:00:00.0000001Z", True),
        ("at eq 2026-10-01T14:00:00+02:00", True),
        ("status eq 'New'", True),
        ("status eq 'new'", False),
        ("owner eq null", True),
        ("status eq null", False),
        ("owner eq 'o''neill'", False),
        ("number eq 7 and status eq 'Old'", False),
        ("number gt 7 or status eq 'New'", True),
        ("status eq 'Old' and number eq 7 or number ge 7", True),
        ("status eq 'Old' and (number eq 7 or number ge 7)", False),
        ("made ge 2026-10-01T12:00:00Z", False),
    ],
)
def test_what_an_expression_means(text, fits):
    """Comparisons, null, quotes and precedence, and after binding before or."""
    assert read(text).fits(RECORD) is fits


@pytest.mark.parametrize(
    ("text", "since", "until", "exact"),
    [
        ("at ge 2026-10-01T12:00:00Z", NOON, odata.FOREVER, True),
        (
            "at gt 2026-10-01T12:00:00Z and at lt 2026-10-01T12:00:01Z",
            NOON + 1,
            NOON + ticks.SECOND - 1,
            True,
        ),
        ("at eq 2026-10-01T12:00:00Z and status eq 'New'", NOON, NOON, False),
        ("at eq 2026-10-01T12:00:00Z or at eq 2026-10-01T12:00:01Z", NOON, NOON + ticks.SECOND, False),
        ("status eq 'New'", 0, odata.FOREVER, False),
        ("at ge 2026-10-01T12:00:00Z or status eq 'New'", 0, odata.FOREVER, False),
    ],
)
def test_bounds_of_the_watched_time(text, since, until, exact):
    """What an expression says at least about the update time, and whether it says no more."""
    assert read(text)[1:] == (since, until, exact)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "at",
        "at ge",
        "at ge '2026-10-01T12:00:00Z'",
        "at ge 2026-10-01",
        "at ge 2026-10-01T12:00:00",
        "at ge 2026-10-01T12:00:00 00:00",
        "at ge 2026-13-01T12:00:00Z",
        "at ne 2026-10-01T12:00:00Z",
        "at GE 2026-10-01T12:00:00Z",
        "at ge null",
        "title eq 'x'",
        "status eq New",
        "status gt 'New'",
        "number eq '7'",
        "number eq 7 and",
        "(number eq 7",
        "number eq 7)",
        "not number eq 7",
        "contains(status, 'N')",
        "status eq 'New' status eq 'New'",
        "status eq 'New",
        "status eq 'New'; drop",
        "(" * 60 + "number eq 7" + ")" * 60,
        "number eq 7 or " * 900 + "number eq 7",
    ],
)
def test_what_is_refused(text):
    """Anything that is not documented, too deep or too long is Bad, and nothing else is raised."""
    with pytest.raises(odata.Bad):
        read(text)

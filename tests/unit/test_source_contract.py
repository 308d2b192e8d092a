"""What every source has to do, run on each one of the registry with its fixtures under tests/fixtures/<name>/.

well_formed.json, empty.json and malformed.json are answers; expected.json says how many alerts, rejects and duplicates
each holds; every file of hostile/ is a body that no source may take for an answer.
"""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import clouds, errors, model, timestamps
from service.sources import registry

FIXTURES = Path(__file__).parents[1] / "fixtures"
TENANT = UUID("11111111-1111-1111-1111-111111111111")
START = datetime(2026, 10, 1, tzinfo=UTC)
WINDOW = model.Window(START, START + timedelta(days=1))
NAMES = sorted(registry.SOURCES)
ANSWERS = ("well_formed.json", "empty.json", "malformed.json")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[.\d]*Z?")

every_source = pytest.mark.parametrize("name", NAMES)


def fixture(name, file):
    return (FIXTURES / name / file).read_bytes()


def check(page):
    """Everything that a page promises, whatever it was read from."""
    assert page.items == len(page.alerts) + len(page.rejects) + page.duplicates
    assert len({alert.full_id for alert in page.alerts}) == len(page.alerts)
    for alert in page.alerts:
        assert 0 < len(alert.full_id.encode()) <= 512
        assert -(2**63) <= alert.content_hash < 2**63
        assert alert.last_processed_at.tzinfo is UTC
        assert 0 <= alert.severity_rank < len(model.SEVERITIES)
        assert timestamps.parse(alert.source_updated_text, zoneless_is_utc=True) == alert.last_processed_at
        assert isinstance(json.loads(alert.raw), dict)
        texts = [value for value in vars_of(alert) if isinstance(value, str)]
        assert "" not in texts
        assert not any("\0" in text for text in texts)
        "".join(texts).encode()  # no lone surrogate
    for reject in page.rejects:
        assert reject.reason
        assert isinstance(reject.raw, bytes)


def vars_of(alert):
    return [getattr(alert, field) for field in alert.__struct_fields__]


def read_or_refuse(name, body):
    """Read, or BadBody with a sample and a message that repeats nothing of the body; any other end fails the test."""
    try:
        page = registry.get(name).read(body, WINDOW, TENANT)
    except errors.BadBody as bad:
        failure = bad
    else:
        check(page)
        return page
    assert failure.sample == body[: 64 * 1024]
    assert str(failure).startswith("the answer ")
    return None


@every_source
def test_a_source_describes_itself(name):
    """Name, service, quota, reach and roles are what the rest of the service relies on."""
    source = registry.get(name)
    assert source.name == name
    assert source.service in clouds.SERVICES
    assert source.quota is None or source.quota > 0
    assert source.reach is None or source.reach > timedelta()
    assert all(isinstance(role, str) for role in source.roles)
    assert isinstance(source.mutable, bool)


@every_source
@given(
    st.datetimes(datetime(2001, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(timestamps.floor_ms),  # noqa: DTZ001
    st.integers(1, 10**12),
)
def test_every_request_names_both_ends_and_a_margin(name, since, milliseconds):
    """No window is asked for without a start and an end, and the request reaches a little beyond both."""
    window = model.Window(since, since + timedelta(milliseconds=milliseconds))
    source = registry.get(name)
    request = source.request(window, source.check_parameters({}))
    times = [
        timestamps.parse(found, zoneless_is_utc=True) for _, v in request.query for found in TIME.findall(v)
    ]
    assert window.since - timedelta(seconds=1) <= min(times) < window.since
    assert window.until < max(times) <= window.until + timedelta(seconds=1)
    assert request.service == source.service
    assert request.path.startswith("/")


@every_source
def test_parameters_are_checked(name):
    """None are needed, unknown ones are refused by name, and what was checked stays as it is when checked again."""
    source = registry.get(name)
    assert source.check_parameters({}) == {}
    with pytest.raises(errors.BadInput, match="no_such_thing"):
        source.check_parameters({"no_such_thing": 1})


@every_source
@pytest.mark.parametrize("file", ANSWERS)
def test_answers_are_read_as_expected(name, file):
    """A good answer has alerts alone, an empty one nothing, and a malformed record costs itself and no other."""
    page = read_or_refuse(name, fixture(name, file))
    expected = json.loads(fixture(name, "expected.json"))[file]
    found = {"alerts": len(page.alerts), "rejects": len(page.rejects), "duplicates": page.duplicates}
    assert found == expected
    assert not page.full


@every_source
def test_rejects_hold_all_of_the_record(name):
    """Each reject's bytes stand in the answer, as they came."""
    body = fixture(name, "malformed.json")
    page = read_or_refuse(name, body)
    assert page.rejects
    assert all(reject.raw and reject.raw in body for reject in page.rejects)
    assert all((alert.raw_exact or alert.raw.encode()) in body for alert in page.alerts)


@every_source
def test_hostile_bodies_are_refused(name):
    """What is no answer at all raises BadBody, however it is broken."""
    files = sorted((FIXTURES / name / "hostile").iterdir())
    assert files
    for file in files:
        assert read_or_refuse(name, file.read_bytes()) is None, file.name


edits = st.lists(
    st.tuples(
        st.floats(0, 1, exclude_max=True),
        st.integers(0, 40),
        st.one_of(
            st.binary(max_size=6),
            st.sampled_from(
                [b'"', b"\\", b"{", b"}", b"[", b"]", b",", rb"\u0000", rb"\ud800", b"1e999999", b"null"]
            ),
        ),
    ),
    min_size=1,
    max_size=4,
)


@every_source
@given(st.sampled_from(ANSWERS), edits)
def test_any_mutation_is_read_or_refused(name, file, changes):
    """Whatever bytes are cut out, put in or changed, the answer is read with balanced items or refused."""
    body = fixture(name, file)
    for place, length, new in changes:
        start = int(place * len(body))
        body = body[:start] + new + body[start + length :]
    read_or_refuse(name, body)


@every_source
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(name, body):
    """Arbitrary bytes, alone or within an array, end in a page or in BadBody."""
    read_or_refuse(name, body)
    read_or_refuse(name, b"[" + body + b"]")


@every_source
def test_every_cut_is_refused(name):
    """An answer cut off anywhere is never taken for a whole one."""
    body = fixture(name, "well_formed.json").rstrip()
    for length in range(0, len(body), 7):
        assert read_or_refuse(name, body[:length]) is None


def test_an_unknown_source_is_a_mistake():
    """A source that does not exist is refused with the list of those that do."""
    with pytest.raises(errors.BadInput, match="siem"):
        registry.get("splunk")

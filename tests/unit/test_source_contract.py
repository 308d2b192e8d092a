"""What every source has to do, run on each one of the registry with its fixtures under tests/fixtures/<name>/.

well_formed.json, empty.json and malformed.json are answers; expected.json says how many records of which kind each holds
(what it leaves out is 0); every file of hostile/ is a body that the source may not take for an answer.
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
from service.sources import contract, registry

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


def check(source, page):
    """Everything that a page promises, whatever it was read from."""
    if source.incidents:
        assert page.items == len(page.incidents) + len(page.rejects) - page.nested_rejects + page.duplicates
        assert page.nested == len(page.alerts) + page.nested_rejects + page.nested_duplicates
        assert len(page.times) == len(page.incidents)
    else:
        assert page.items == len(page.alerts) + len(page.rejects) + page.duplicates
        assert (page.incidents, page.nested, page.nested_rejects, page.nested_duplicates) == ((), 0, 0, 0)
        assert len(page.times) == len(page.alerts)
    assert page.next is None or page.full
    assert all(warning and warning.isprintable() for warning in page.warnings)
    check_incidents(page)
    assert len({alert.full_id for alert in page.alerts}) == len(page.alerts)
    for alert in page.alerts:
        assert 0 < len(alert.full_id.encode()) <= 512
        assert -(2**63) <= alert.content_hash < 2**63
        assert alert.last_processed_at.tzinfo is UTC
        assert 0 <= alert.severity_rank < len(model.SEVERITIES)
        assert timestamps.parse(alert.source_updated_text, zoneless_is_utc=True) == alert.last_processed_at
        assert isinstance(json.loads(alert.raw), dict)
        assert alert.status in ((*model.ALERT_STATUSES,) if source.mutable else (None,))
        assert alert.alert_id is None or len(alert.alert_id) <= 512 or not source.mutable
        assert alert.incident_id or not source.incidents
        assert alert.mitre_techniques is None or all(alert.mitre_techniques)
        check_texts(alert)
    for reject in page.rejects:
        assert reject.reason
        assert isinstance(reject.raw, bytes)


def check_incidents(page):
    """What a page promises of its incidents."""
    assert len({incident.incident_id for incident in page.incidents}) == len(page.incidents)
    for incident in page.incidents:
        assert 0 < len(incident.incident_id.encode()) <= 512
        assert -(2**63) <= incident.content_hash < 2**63
        assert incident.last_update.tzinfo is UTC
        assert 0 <= incident.severity_rank < len(model.SEVERITIES)
        assert timestamps.parse(incident.source_updated_text, zoneless_is_utc=True) == incident.last_update
        assert incident.status in model.INCIDENT_STATUSES
        assert incident.redirect_incident_id != incident.incident_id
        assert not json.loads(incident.raw).get("alerts")
        assert incident.alert_ids is None or len(set(incident.alert_ids)) == len(incident.alert_ids)
        check_texts(incident)


def check_texts(record):
    """No text of a record is empty, and PostgreSQL can hold all of them."""
    texts = [value for value in vars_of(record) if isinstance(value, str)]
    texts += [item for value in vars_of(record) if isinstance(value, list) for item in value]
    assert "" not in texts
    assert not any("\0" in text for text in texts)
    "".join(texts).encode()  # no lone surrogate


def vars_of(record):
    return [getattr(record, field) for field in record.__struct_fields__]


def read_or_refuse(name, body):
    """Read, or BadBody with a sample and a message that repeats nothing of the body; any other end fails the test."""
    source = registry.get(name)
    asked = source.request(WINDOW, {})
    try:
        page = contract.whole(source.read(body, WINDOW, TENANT, asked=asked, base_url="https://api.example"))
    except errors.BadBody as bad:
        failure = bad
    else:
        check(source, page)
        return page
    assert failure.sample == body[: 64 * 1024]
    assert str(failure).startswith("the answer ")
    return None


@every_source
def test_a_source_describes_itself(name):
    """Name, service, quota, reach, roles and scopes are what the rest of the service relies on."""
    source = registry.get(name)
    assert source.name == name
    assert source.service in clouds.SERVICES
    assert all(calls > 0 and seconds > 0 for calls, seconds in source.quota)
    assert not source.quota or source.request(WINDOW, {}).quota_group == source.service
    assert source.reach is None or source.reach > timedelta()
    assert all(isinstance(role, str) for role in source.roles)
    # what an app may, a user may: by the same name, or without its last part, and never by one that only the other API has
    assert {role.removesuffix(".All") for role in source.roles} == {
        scope.removesuffix(".All") for scope in source.scopes
    }
    assert isinstance(source.mutable, bool)
    assert isinstance(source.incidents, bool)


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
    found = {
        "alerts": len(page.alerts),
        "incidents": len(page.incidents),
        "rejects": len(page.rejects),
        "duplicates": page.duplicates,
        "nested": page.nested,
        "nested_rejects": page.nested_rejects,
        "nested_duplicates": page.nested_duplicates,
    }
    assert found == dict.fromkeys(found, 0) | expected
    assert (page.full, page.next, page.warnings) == (False, None, ())


@every_source
def test_rejects_hold_all_of_the_record(name):
    """Each reject's bytes stand in the answer, as they came."""
    body = fixture(name, "malformed.json")
    page = read_or_refuse(name, body)
    assert page.rejects
    assert all(reject.raw and reject.raw in body for reject in page.rejects)
    assert all((alert.raw_exact or alert.raw) in body for alert in page.alerts)


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
    """Arbitrary bytes, alone, within an array or within an OData object, end in a page or in BadBody."""
    read_or_refuse(name, body)
    read_or_refuse(name, b"[" + body + b"]")
    read_or_refuse(name, b'{"value": [' + body + b"]}")
    read_or_refuse(name, b'{"@odata.nextLink": ' + body + b', "value": []}')


@every_source
def test_a_record_is_kept_word_for_word(name):
    """The raw of every alert and incident has all that came, an incident's alerts aside, which are alerts themselves."""
    answer = json.loads(fixture(name, "well_formed.json"))
    came = answer if isinstance(answer, list) else answer["value"]
    page = read_or_refuse(name, fixture(name, "well_formed.json"))
    if registry.get(name).incidents:
        assert [json.loads(alert.raw) for alert in page.alerts] == [
            alert for record in came for alert in record.get("alerts", ())
        ]
        came = [{key: value for key, value in record.items() if key != "alerts"} for record in came]
        assert [json.loads(incident.raw) for incident in page.incidents] == came
    else:
        assert [json.loads(alert.raw) for alert in page.alerts] == came


@every_source
def test_a_record_of_another_tenant_is_never_an_alert(name):
    """Whatever the spelling of the field, at the top or inside: it is a reject that says so."""
    for field in ("tenantId", "aadTenantId", "TenantId", "AadTenantId"):
        answer = json.loads(fixture(name, "well_formed.json"))
        for record in answer if isinstance(answer, list) else answer["value"]:
            for each in record.get("alerts") or [record]:
                each[field] = "22222222-2222-2222-2222-222222222222"
        page = read_or_refuse(name, json.dumps(answer).encode())
        assert not page.alerts
        assert page.rejects
        assert all(reject.reason.startswith("names another tenant: ") for reject in page.rejects)


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

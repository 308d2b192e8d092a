"""The SIEM API's request and its records, field by field."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors, model
from service.sources import bodies, contract, records, siem

SIEM = siem.Siem()
FIXTURES = Path(__file__).parents[1] / "fixtures" / "siem"
TENANT = UUID("11111111-1111-1111-1111-111111111111")
WINDOW = model.Window(datetime(2016, 9, 12, tzinfo=UTC), datetime(2016, 9, 12, 1, tzinfo=UTC))


def record(**changed):
    return {
        "FullId": "da638950001421283751_-1022334455:R6z1uD0dQyV7zF0zZb5b8Q==",
        "LastProcessedTimeUtc": "2026-10-01T08:17:03.35743Z",
        **changed,
    }


def read(*values):
    return read_raw(json.dumps(values).encode())


def read_raw(body):
    return contract.whole(SIEM.read(body, WINDOW, TENANT))


def only(page):
    (alert,) = page.alerts
    assert not page.rejects
    return alert


def reason(page):
    (reject,) = page.rejects
    assert not page.alerts
    return reject.reason


def test_the_request():
    """Both times in the form of the samples, a millisecond outside of the window; never a limit."""
    request = SIEM.request(WINDOW, {})
    assert request == model.Request(
        service="siem",
        path="/api/alerts",
        query=(("sinceTimeUtc", "2016-09-11T23:59:59.999"), ("untilTimeUtc", "2016-09-12T01:00:00.001")),
    )


def test_parameters_reach_the_query():
    """Groups are repeated in one order whatever their order was; the two tags are sent once."""
    parameters = SIEM.check_parameters(
        {
            "machinegroups": ["Servers", " Clients ", "Servers"],
            "DeviceCreatedMachineTags": "a",
            "CloudCreatedMachineTags": "b",
        }
    )
    assert parameters["machinegroups"] == ["Clients", "Servers"]
    assert SIEM.check_parameters(parameters) == parameters
    assert SIEM.request(WINDOW, parameters).query[2:] == (
        ("machinegroups", "Clients"),
        ("machinegroups", "Servers"),
        ("DeviceCreatedMachineTags", "a"),
        ("CloudCreatedMachineTags", "b"),
    )


@pytest.mark.parametrize(
    ("parameters", "names"),
    [
        ({"limit": 10}, "limit"),
        ({"ago": "PT10M"}, "ago"),
        ({"sinceTimeUtc": "2016-09-12T00:00:00.000"}, "sinceTimeUtc"),
        ({"machinegroups": "Servers"}, "machinegroups 'Servers': must be a list"),
        ({"machinegroups": []}, "machinegroups"),
        ({"machinegroups": ["Servers", 5]}, "machinegroups 5"),
        ({"CloudCreatedMachineTags": "  "}, "CloudCreatedMachineTags"),
        ({"DeviceCreatedMachineTags": "a\nb"}, "DeviceCreatedMachineTags"),
        ({"DeviceCreatedMachineTags": "x" * 257}, "DeviceCreatedMachineTags"),
        ({"machineGroups": ["Servers"]}, "machineGroups"),
    ],
)
def test_parameters_that_cannot_be_used(parameters, names):
    """Each mistake is refused with the parameter's name and what would be right."""
    with pytest.raises(errors.BadInput, match=names):
        SIEM.check_parameters(parameters)


def test_every_column_of_a_documented_record():
    """The sample of the field tables becomes this alert."""
    alert = read_raw((FIXTURES / "well_formed.json").read_bytes()).alerts[0]
    assert alert.full_id == "da638950001421283751_-1022334455:R6z1uD0dQyV7zF0zZb5b8Q=="
    assert alert.last_processed_at == datetime(2026, 10, 1, 8, 17, 3, 357_430, tzinfo=UTC)
    assert alert.source_updated_text == "2026-10-01T08:17:03.35743Z"
    assert alert.event_time == datetime(2026, 10, 1, 8, 15, 42, 128_375, tzinfo=UTC)
    assert alert.created_at == alert.event_time
    found = (alert.alert_id, alert.title, alert.category, alert.detection_source, alert.service_source)
    assert found == (
        "da638950001421283751_-1022334455",
        "Suspicious PowerShell command line",
        "Execution",
        "EDR",
        "microsoftDefenderForEndpoint",
    )
    assert model.SEVERITIES[alert.severity_rank] == "medium"
    assert (alert.device_name, alert.device_group, alert.user_name) == (
        "ws-014.contoso.example",
        "Servers",
        "CONTOSO\\kim",
    )
    assert alert.device_id == "11a22b33c44d55e66f7788990011aabbccddeeff"
    assert (alert.file_sha256, alert.threat_name, alert.remediation_action) == (None, None, None)
    assert (alert.status, alert.incident_id, alert.resolved_at, alert.raw_exact) == (None, None, None, None)


def test_an_antivirus_record_and_one_of_2017():
    """Digest, threat and action where there are some; nulls, the old spelling and a time without a zone are read too."""
    _, antivirus, old = read_raw((FIXTURES / "well_formed.json").read_bytes()).alerts
    assert antivirus.file_sha256 == "abcdef0123456789" * 4
    assert antivirus.threat_name == "Trojan:Win32/Wacatac.B!ml"
    assert antivirus.remediation_action == "Quarantine"
    assert antivirus.device_name == "srv-002"
    assert antivirus.user_name is None
    assert antivirus.last_processed_at.microsecond == 123_456
    assert "räksmörgås 😀.exe" in antivirus.raw.decode()
    assert old.last_processed_at == datetime(2017, 5, 22, 9, 7, 25, tzinfo=UTC)
    assert old.user_name == "corp\\kim"
    assert old.threat_name is None


def test_both_ways_of_reading_agree():
    """An unknown field sends a record the slow way, with the same alert as result."""
    documented = json.loads((FIXTURES / "well_formed.json").read_bytes())
    fast = read(*documented).alerts
    slow = read(*({**value, "Unheard": {"of": [1.5]}} for value in documented)).alerts
    for one, other in zip(fast, slow, strict=True):
        for field in set(one.__struct_fields__) - {"raw", "content_hash"}:
            assert getattr(one, field) == getattr(other, field), field


def test_wrong_types_in_optional_fields_cost_nothing():
    """Numbers become text, what cannot be text is None, an unreadable event time is None: the alert stays."""
    alert = only(
        read(
            record(
                AlertTitle=5, AlertId=7, MachineGroup={"a": 1}, Category=["x"], UserName=True, Source=1.5,
                Severity=3, AlertTime="yesterday", Sha256=12, AlertPart="0", ReportID=1e5,
            )
        )
    )  # fmt: skip
    assert (alert.title, alert.alert_id, alert.detection_source) == ("5", "7", "1.5")
    assert (alert.device_group, alert.category, alert.user_name) == (None, None, None)
    assert (alert.severity_rank, alert.event_time, alert.file_sha256) == (0, None, None)


@pytest.mark.parametrize(
    ("written", "rank"),
    [
        ("High", 4),
        ("medium", 3),
        (" LOW ", 2),
        ("Informational", 1),
        ("UnSpecified", 0),
        ("Critical", 0),
        ("", 0),
        (None, 0),
    ],
)
def test_severities(written, rank):
    """Words in any case have their rank; words that nobody documented have 0 and stay in raw."""
    alert = only(read(record(Severity=written)))
    assert alert.severity_rank == rank
    assert json.loads(alert.raw)["Severity"] == written


@pytest.mark.parametrize(
    ("written", "digest"),
    [("AB" * 32, "ab" * 32), ("ab" * 20, None), ("zz" * 32, None), ("ab" * 31 + " a", None), ("", None)],
)
def test_digests(written, digest):
    """Only 64 hexadecimal digits are a SHA-256, in lower case."""
    assert only(read(record(Sha256=written))).file_sha256 == digest


def test_alert_id_from_the_key():
    """A record without AlertId has it in FullId; year 1 is no event time."""
    alert = only(read(record(AlertTime="0001-01-01T00:00:00Z")))
    assert alert.alert_id == "da638950001421283751_-1022334455"
    assert alert.event_time is None


@pytest.mark.parametrize(
    ("value", "phrase"),
    [
        (5, "not an object: number"),
        ("x", "not an object: text"),
        (None, "not an object: null"),
        (True, "not an object: boolean"),
        ([], "not an object: array"),
        ({}, "FullId missing"),
        (record(FullId=""), "FullId empty"),
        (record(FullId={}), "FullId not text: object"),
        (record(FullId="é" * 257), "FullId too long: 514 bytes"),
        (record(LastProcessedTimeUtc=None), "LastProcessedTimeUtc missing"),
        (record(LastProcessedTimeUtc=""), "LastProcessedTimeUtc unreadable"),
        (record(LastProcessedTimeUtc=5, New=1), "LastProcessedTimeUtc not text: number"),
        (
            record(LastProcessedTimeUtc="2026-02-30T00:00:00Z"),
            "LastProcessedTimeUtc unreadable: '2026-02-30T00:00:00Z'",
        ),
        (record(TenantId="22222222-2222-2222-2222-222222222222"), "names another tenant: TenantId is '2222"),
        (record(aadTenantId="contoso.example"), "names another tenant: aadTenantId"),
        (record(tenantId=["x"]), "names another tenant: tenantId"),
    ],
)
def test_rejects(value, phrase):
    """Each reject says in a stable phrase what was wrong, then the detail."""
    page = read(value)
    assert reason(page).startswith(phrase)
    assert page.rejects[0].raw == json.dumps(value).encode()


@pytest.mark.parametrize("named", [str(TENANT), str(TENANT).upper(), "", None])
def test_the_tenant_itself_may_be_named(named):
    """A record that names the polled tenant, or none, is an alert."""
    assert only(read(record(TenantId=named)))


def test_a_key_of_512_bytes_is_kept():
    """The limit is on bytes of UTF-8 and includes 512."""
    assert only(read(record(FullId="é" * 256))).full_id == "é" * 256


@pytest.mark.parametrize(
    ("number", "kept"),
    [
        ("1e131071", True), ("1e131072", False), ("10e131071", False), ("1.5E+131071", True), ("1e-16383", True),
        ("1e-16384", False), ("0.1e-16383", False), ("0e99999", True), ("0e-99999", False), ("1e999999999999", False),
        ("-1e131072", False),
        ("1e400", True), ("9" * 4000, True), ("9" * 5000, False), ("0." + "1" * 16_383, True), ("0." + "1" * 16_384, False),
    ],
)  # fmt: skip
def test_numbers_that_jsonb_can_hold(number, kept):
    """The limits of PostgreSQL's numeric, tried on a server, decide, wherever the number stands."""
    for field in ("AlertPart", "Unheard"):
        page = read_raw(json.dumps([record()]).replace("}", f', "{field}": {number}}}').encode())
        assert len(page.alerts) == kept
        if not kept:
            assert reason(page).startswith("number out of range: ")


@pytest.mark.parametrize(
    ("depth", "kept"), [(199, True), (200, False), (900, False), (5000, False), (100_000, False)]
)
def test_depth(depth, kept):
    """200 levels are kept, the record being the first; deeper ones are rejects, even beyond the interpreter's stack."""
    nested = "[" * depth + "]" * depth
    other = record(FullId="other")
    body = json.dumps([record(), other]).replace("}", f', "Deep": {nested}}}', 1).encode()
    page = read_raw(body)
    assert "other" in {alert.full_id for alert in page.alerts}
    assert len(page.alerts) == 1 + kept
    if not kept:
        assert page.rejects[0].reason == "nested too deep: over 200 levels"


@pytest.mark.parametrize(
    ("escaped", "stored"),
    [
        (r"a\u0000b", "a\ufffdb"),
        (r"\ud83d", "\ufffd"),
        (r"\uDE00\uD83D", "\ufffd\ufffd"),
        (r"\ud83d\ud83d\ude00", "\ufffd😀"),
        (r"\ud83dx\ude00", "\ufffdx\ufffd"),
        (r"\u0000\ud83d\ude00\u0000", "\ufffd😀\ufffd"),
        (r"\\\u0000", "\\\ufffd"),
        (r"\"\u0000\/", '"\ufffd/'),
    ],
)
def test_escapes_that_jsonb_refuses(escaped, stored):
    """NUL and lone surrogates become U+FFFD in text and raw; the exact bytes and their hash are kept."""
    first, last = record(FullId="first"), record(FullId="last")
    middle = json.dumps(record(AlertTitle="@")).replace("@", escaped)
    body = f"[{json.dumps(first)}\n,\t{middle} , {json.dumps(last)}]".encode()
    page = read_raw(body)
    one, two, three = page.alerts
    assert two.title == stored
    assert json.loads(two.raw)["AlertTitle"] == stored
    assert two.raw_exact == middle.encode()
    assert two.content_hash == records.content_hash(middle.encode())
    assert (one.raw_exact, three.raw_exact) == (None, None)
    assert (one.raw, three.raw) == (json.dumps(first).encode(), json.dumps(last).encode())


@pytest.mark.parametrize(
    "escaped", [r"\\u0000", r"\\ud800", r"\\\\u0000", r"\ud83d\ude00", r"\uD83D\uDE00", r"\ufffd"]
)
def test_escapes_that_only_look_like_it(escaped):
    """An escaped backslash before u0000, or a whole pair, stays byte for byte, even beside a real NUL."""
    for other in ("", r"\u0000"):
        page = read_raw(
            json.dumps([record(AlertTitle="@"), record(FullId="x", Actor="#")])
            .replace("@", escaped)
            .replace("#", other)
            .encode()
        )
        alert = page.alerts[0]
        assert escaped.encode() in alert.raw
        assert alert.raw_exact is None
        assert alert.title == json.loads(f'"{escaped}"')


@given(
    st.lists(
        st.sampled_from(["\\\\", r"\u0000", r"\ud83d", r"\ude00", r"\n", "u0000", "ud83d", "x", r"\""]),
        max_size=12,
    )
)
def test_escapes_in_any_order(parts):
    """Python's own reading of the text, with NUL and lone surrogates replaced, is what is stored."""
    body = json.dumps([record(AlertTitle="@")]).replace("@", "".join(parts)).encode()
    expected = (
        json.loads(body)[0]["AlertTitle"].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    )
    alert = only(read_raw(body))
    assert (alert.title or "") == expected.replace("\0", "\ufffd")
    assert alert.raw_exact in (None, body[1:-1])


@pytest.mark.parametrize(
    "broken",
    [
        b'{"FullId": \xff}',
        b'{"FullId": "\xff"}',
        b'{"a": 01}',
        b'{"a": NaN}',
        b'{"a" 1}',
        b'{"a": "\x01"}',
        rb'{"a": "\x"}',
        b"{a}",
        b"{}{}",
    ],
)
def test_a_malformed_record_costs_only_itself(broken):
    """The records around one that is not JSON or not UTF-8 are alerts, and it is kept whole."""
    first, last = json.dumps(record(FullId="first")).encode(), json.dumps(record(FullId="last]")).encode()
    page = read_raw(b"[" + first + b"," + broken + b", " + last + b"]")
    assert [alert.full_id for alert in page.alerts] == ["first", "last]"]
    (reject,) = page.rejects
    assert reject.raw == broken
    assert reject.reason.startswith(("not JSON: ", "not UTF-8: "))


@pytest.mark.parametrize(("count", "steps"), [(0, 0), (99, 0), (100, 1), (1000, 10)])
def test_a_large_answer_is_read_in_steps(count, steps):
    """Whoever reads it can let others have their turn after each hundred records."""
    body = json.dumps([record(FullId=str(n)) for n in range(count)]).encode()
    assert len([*SIEM.read(body, WINDOW, TENANT)]) == steps
    assert read_raw(body).items == count


def test_the_newest_of_equal_keys_counts():
    """Of one key the newest record is the alert, the last of equally new ones; the others are duplicates."""
    page = read(
        record(AlertTitle="old", LastProcessedTimeUtc="2026-10-01T08:00:00Z"),
        record(AlertTitle="new", LastProcessedTimeUtc="2026-10-01T09:00:00Z"),
        record(AlertTitle="newer", LastProcessedTimeUtc="2026-10-01T09:00:00.0000009Z"),
        record(AlertTitle="a moment older", LastProcessedTimeUtc="2026-10-01T09:00:00.0000008Z"),
        record(AlertTitle="older", LastProcessedTimeUtc="2026-10-01T08:30:00Z"),
    )
    assert (page.items, page.duplicates) == (5, 4)
    assert only(page).title == "newer"


@pytest.mark.parametrize(
    ("count", "full"), [(999, False), (1000, True), (1001, False), (5000, True), (10_000, True)]
)
def test_round_counts_are_taken_for_cut(count, full):
    """Exactly 1,000, 5,000 or 10,000 records may be a limit that no page documents."""
    page = read(*(record(FullId=f"key:{number}") for number in range(count)))
    assert page.full is full
    assert page.items == len(page.alerts) == count


def test_the_hash_is_of_the_bytes():
    """The same record in other bytes has another hash, the same bytes the same, and all fit a bigint."""
    plain, spaced = json.dumps([record()]).encode(), json.dumps([record()], indent=1).encode()
    assert only(read_raw(plain)).content_hash == only(read_raw(plain)).content_hash
    assert only(read_raw(plain)).content_hash != only(read_raw(spaced)).content_hash
    assert records.content_hash(b"alertwell") == -3_965_440_402_830_660_650


@pytest.mark.parametrize(
    ("body", "looked_like"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"<html></html>", "HTML"),
        (b'{"value": []}', "JSON object"),
        (b'[{"FullId": "a', "cut off after 14 bytes"),
        (b"[{}", "cut off"),
        (b"3", "JSON, but not an array"),
        (b"oops", "not JSON"),
        (b"[{}]]", "more text after"),
        (b"[oops]", "malformed"),
    ],
)
def test_bodies_that_are_no_answer(body, looked_like):
    """The message says what it looked like, and the sample has its first 64 KiB."""
    with pytest.raises(errors.BadBody, match=looked_like) as caught:
        read_raw(body)
    assert caught.value.sample == body


def test_a_long_body_has_a_short_sample():
    """Of a long body that is no answer, 64 KiB are kept."""
    with pytest.raises(errors.BadBody) as caught:
        read_raw(b"<" * 200_000)
    assert caught.value.sample == b"<" * bodies.SAMPLE_BYTES


def test_arrays_of_tiny_values_are_no_answer():
    """Millions of values a few bytes each would cost many times the body's memory: refused, before decoding if large."""
    for count in (2_000, bodies.SAMPLE_BYTES * 40):
        with pytest.raises(errors.BadBody, match="tiny values"):
            read_raw(b"[" + b"1," * count + b"1]")


def test_a_byte_order_mark_is_no_fault():
    """A BOM before the array is left out."""
    assert only(read_raw(b"\xef\xbb\xbf" + json.dumps([record()]).encode()))


def test_all_reading_is_of_one_second():
    """Times that differ only below the microsecond are one time; their text is kept."""
    alert = only(read(record(LastProcessedTimeUtc="2026-10-01T08:17:03.9999999Z")))
    assert alert.last_processed_at == datetime(2026, 10, 1, 8, 17, 4, tzinfo=UTC) - timedelta(microseconds=1)
    assert alert.source_updated_text == "2026-10-01T08:17:03.9999999Z"

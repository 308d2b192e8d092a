"""Times are floored, never rounded, and nothing but the documented forms is read."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import timestamps

BASE = "2026-10-01T08:17:03"
STRICT = re.compile(
    r"\d{4}-\d\d-\d\dT(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?(?:Z|[+-]\d\d:\d\d)", re.ASCII
)


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [
        (f"{BASE}Z", 0),
        (f"{BASE}.3Z", 300_000),
        (f"{BASE}.35743Z", 357_430),
        (f"{BASE}.357439Z", 357_439),
        (f"{BASE}.3574395Z", 357_439),
        (f"{BASE}.9999999Z", 999_999),
        (f"{BASE}.999999999Z", 999_999),
        (f"{BASE}.0000009Z", 0),
    ],
)
def test_a_fraction_is_floored_to_microseconds(text, microsecond):
    """Seven digits never become the next microsecond, and never the next second."""
    assert timestamps.parse(text) == datetime(2026, 10, 1, 8, 17, 3, microsecond, tzinfo=UTC)


@given(st.datetimes(), st.integers(0, 9), st.integers(0, 999_999_999))
def test_parse_is_the_floor_of_every_written_fraction(moment, digits, nanoseconds):
    """Whatever the digits, the result is the exact value cut below the microsecond, in UTC."""
    fraction = f"{nanoseconds:09d}"[:digits]
    text = moment.isoformat(timespec="seconds") + (f".{fraction}" if fraction else "") + "Z"
    expected = moment.replace(microsecond=int((fraction + "000000")[:6]), tzinfo=UTC)
    parsed = timestamps.parse(text)
    assert parsed == expected
    assert parsed.tzinfo is UTC


@given(st.integers(0, 999_999_999), st.integers(0, 9), st.sampled_from(["Z", "", "+05:30"]))
def test_beyond_is_what_the_floor_cuts_off(nanoseconds, digits, zone):
    """What is parsed and what is beyond it are the whole of the text."""
    fraction = f"{nanoseconds:09d}"[:digits]
    text = BASE + (f".{fraction}" if fraction else "") + zone
    parsed = timestamps.parse(text, zoneless_is_utc=True)
    assert parsed.microsecond * 1000 + timestamps.beyond(text) == int(fraction.ljust(9, "0"))


@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 12, 31)),  # noqa: DTZ001 - text without a zone
    st.integers(-14 * 60, 14 * 60),
    st.integers(0, 9),
)
def test_an_offset_is_taken_off(moment, minutes, digits):
    """An offset changes the zone and never the digits."""
    fraction = "987654321"[:digits]
    zone = timezone(timedelta(minutes=minutes))
    written = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}"
    text = moment.isoformat(timespec="seconds") + (f".{fraction}" if fraction else "") + written
    expected = moment.replace(microsecond=int((fraction + "000000")[:6]), tzinfo=zone)
    assert timestamps.parse(text) == expected
    assert timestamps.parse(text).tzinfo is UTC


def test_text_without_a_zone_needs_leave():
    """A time without a zone is read as UTC only where the caller says so."""
    with pytest.raises(ValueError, match="without a zone"):
        timestamps.parse(f"{BASE}.1234567")
    parsed = timestamps.parse(f"{BASE}.1234567", zoneless_is_utc=True)
    assert parsed == datetime(2026, 10, 1, 8, 17, 3, 123_456, tzinfo=UTC)
    assert timestamps.parse(BASE, zoneless_is_utc=True) == datetime(2026, 10, 1, 8, 17, 3, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "", "Z", "2026-10-01", "2026-10-01Z", "20261001T081703Z", "2026-10-01 08:17:03Z",
        "2026-10-01t08:17:03z",
        "2026-W40-4T08:17:03Z", "2026-10-01T08:17Z", f"{BASE}.Z", f"{BASE},5Z", f"{BASE} Z", f" {BASE}Z",
        f"{BASE}Z\n",
        f"{BASE}.1234567890Z", f"{BASE}+0530", f"{BASE}+05", f"{BASE}+05:30:10", f"{BASE}+24:00",
        f"{BASE}.1234567xZ",
        "2026-10-01T24:00:00Z", "2026-10-01T08:60:03Z", "2016-12-31T23:59:60Z", "2026-02-29T08:17:03Z",
        "2026-00-01T08:17:03Z",
        "0000-01-01T00:00:00Z", "10000-01-01T00:00:00Z", "-2026-10-01T08:17:03Z",
        "0001-01-01T00:00:00+00:01",
        "9999-12-31T23:59:59-00:01", "2026-10-01T08:17:0٣Z", "２026-10-01T08:17:03Z",
        "2026-10-01T08:17:03\ud800",
        "/Date(1790842623000)/", "1790842623", "null", f"{BASE}" + "0" * 100_000,
    ],
)  # fmt: skip
def test_anything_else_is_refused(text):
    """Forms that no API documents are refused with ValueError, with and without leave to lack a zone."""
    with pytest.raises(ValueError):
        timestamps.parse(text)
    with pytest.raises(ValueError):
        timestamps.parse(text, zoneless_is_utc=True)


@given(st.one_of(st.text(), st.from_regex(STRICT, fullmatch=True), st.text("0123456789-T:.Z+ ", max_size=32)))
def test_parse_reads_only_the_strict_form(text):
    """Any text is read if and only if it is of the strict form and names a real time."""
    try:
        parsed = timestamps.parse(text)
    except ValueError:
        return
    assert STRICT.fullmatch(text)
    assert timestamps.parse(parsed.isoformat()) == parsed


def test_the_ends_of_time_are_read():
    """What .NET writes for its least and greatest time is read, and rounds nowhere."""
    assert timestamps.parse("0001-01-01T00:00:00Z") == datetime.min.replace(tzinfo=UTC)
    assert timestamps.parse("9999-12-31T23:59:59.9999999Z") == datetime.max.replace(tzinfo=UTC)
    assert timestamps.ceil_ms(datetime.max.replace(tzinfo=UTC)) == timestamps.LAST_MS


@given(st.datetimes(timezones=st.just(UTC)))
def test_milliseconds_enclose_the_moment(moment):
    """floor_ms and ceil_ms are the whole milliseconds around a moment, the same where it is one."""
    floor, ceil = timestamps.floor_ms(moment), timestamps.ceil_ms(moment)
    assert floor.microsecond % 1000 == ceil.microsecond % 1000 == 0
    assert floor <= moment < floor + timedelta(milliseconds=1) if floor < timestamps.LAST_MS else True
    assert ceil - floor == (
        timedelta(milliseconds=1) if floor != moment and floor < timestamps.LAST_MS else timedelta()
    )
    assert timestamps.parse(timestamps.iso_ms(moment), zoneless_is_utc=True) == floor


def test_iso_ms_is_the_form_of_the_samples():
    """Milliseconds always, no zone, converted to UTC; a naive datetime is refused."""
    assert timestamps.iso_ms(datetime(2016, 9, 12, tzinfo=UTC)) == "2016-09-12T00:00:00.000"
    east = datetime(2016, 9, 12, 2, 0, 0, 999_999, tzinfo=timezone(timedelta(hours=2)))
    assert timestamps.iso_ms(east) == "2016-09-12T00:00:00.999"
    with pytest.raises(ValueError, match="without a zone"):
        timestamps.iso_ms(datetime(2016, 9, 12))  # noqa: DTZ001 - the mistake under test


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0), ("90", 90), ("0.5", 0.5), (" 60 ", 60), ("30s", 30), ("5m", 300), ("2h", 7200),
        ("7d", 604_800), ("1.5h", 5400),
        ("1h30m", 5400), ("1d 2h 3m 4s", 93_784), ("PT10M", 600), ("P1D", 86_400), ("PT1H30M", 5400),
        ("P1DT12H", 129_600),
        ("PT0.25S", 0.25), ("pt10m", 600), ("5M", 300),
    ],
)  # fmt: skip
def test_durations_as_people_write_them(text, seconds):
    """Plain seconds, units, and ISO 8601 all mean what they say."""
    assert timestamps.duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    "text",
    ["", " ", "P", "PT", "P1DT", "P1M", "P1Y", "P1W", "-5", "-PT5M", "+5m", "5 minutes", "5min", "m", "30m1h",
     "1h1h", "1:30", "nan", "inf", "1e3", "0x10", "٣", "9" * 30, "9" * 400, "P99999999999D"],
)  # fmt: skip
def test_other_durations_are_refused(text):
    """What is not a duration is refused with a sentence that shows one."""
    with pytest.raises(ValueError, match="duration"):
        timestamps.duration(text)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"), (0.0004, "0 s"), (0.35, "350 ms"), (1, "1 s"), (59.9, "59 s"), (60, "1 min"),
        (200, "3 min 20 s"),
        (7_500, "2 h 5 min"), (7_559, "2 h 5 min"), (3_605, "1 h"), (86_400, "1 d"), (93_784, "1 d 2 h"),
        (-300, "-5 min"),
    ],
)  # fmt: skip
def test_a_span_in_words(seconds, text):
    """The two largest units, cut and never rounded up."""
    assert timestamps.human(timedelta(seconds=seconds)) == text

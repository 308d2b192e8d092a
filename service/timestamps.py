"""Exact time: text in, aware UTC datetimes out, floored to microseconds; durations as people write them.

Microsoft's APIs write 0 to 7 fraction digits. PostgreSQL rounds the seventh half to even, msgspec half up,
`fromisoformat` truncates: three answers for one text, and .9999999 could become the next second. So every
time goes through `parse`, which cuts before anything can round, and callers keep the text where it matters.

Years 1 to 9999 are what `datetime` holds; PostgreSQL's timestamptz (4713 BC to 294276 AD) holds all of them.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

LAST_MS: Final = datetime.max.replace(microsecond=999_000, tzinfo=UTC)
"""The last whole millisecond that a datetime can hold."""

_TO_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_ZONES: Final = (b"Z", b"", b"+00:00", b"-00:00")
_SHAPES: Final = {
    b"0000-00-00T00:00:00" + (b"." + b"0" * digits if digits else b"") + zone: (digits, zone)
    for digits in range(10)
    for zone in _ZONES
}
_CUT: Final = len("2016-09-12T00:00:00.123456")
_BEYOND: Final = re.compile(r"\.[0-9]{6}([0-9]{1,3})")


def parse(text: str, *, zoneless_is_utc: bool = False) -> datetime:
    """The point in time that `text` names, in UTC, floored to microseconds.

    Takes `2016-09-12T00:00:00`, a fraction of 1 to 9 digits or none, then `Z` or an offset `+05:30`. Text
    without a zone is taken, as UTC, only where the caller says so. Raises ValueError for anything else: other
    ISO forms, a leap second, hour 24, a result outside the years 1 to 9999.
    """
    # The shape tells strict from lax: `fromisoformat` alone also takes week dates, commas and "00:00:00 Z".
    shape = _SHAPES.get(text.encode().translate(_TO_ZEROS))
    if shape is None:
        raise ValueError(f"not a time such as 2016-09-12T00:00:00.1234567Z: {text[:40]!r}")
    digits, zone = shape
    if text[11] == "2" and text[12] == "4":
        raise ValueError(f"hour must be in 0..23: {text!r}")  # Python 3.14 reads 24:00 as the next midnight
    if zone == b"Z":
        return datetime.fromisoformat(text if digits < 7 else text[:_CUT] + "Z")
    if zone == b"":
        if not zoneless_is_utc:
            raise ValueError(f"a time without a zone: {text!r}; add Z for UTC")
        return datetime.fromisoformat(text[:_CUT] + "Z")
    try:
        return datetime.fromisoformat(text[: min(_CUT, len(text) - 6)] + text[-6:]).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"outside the years 1 to 9999 in UTC: {text!r}") from None


def beyond(text: str) -> int:
    """Nanoseconds of `text` that its datetime does not hold: 0 to 999. For two times that are equal as far as datetimes go."""
    found = _BEYOND.search(text)
    return int(found[1].ljust(3, "0")) if found else 0


def floor_ms(moment: datetime) -> datetime:
    """`moment` without what is below its millisecond."""
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def ceil_ms(moment: datetime) -> datetime:
    """The first whole millisecond at or after `moment`; LAST_MS within the last millisecond there is."""
    floor = floor_ms(moment)
    if floor == moment or floor >= LAST_MS:
        return floor
    return floor + timedelta(milliseconds=1)


def iso_ms(moment: datetime) -> str:
    """`2016-09-12T00:00:00.000`: UTC, floored to milliseconds, no zone; the form of the SIEM API's samples.

    Raises ValueError for a datetime without a zone.
    """
    if moment.tzinfo is None:
        raise ValueError(f"a datetime without a zone: {moment}")
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="milliseconds")


_UNITS: Final = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_NUMBER: Final = r"(\d+(?:\.\d+)?)"
_PLAIN: Final = re.compile(_NUMBER, re.ASCII)
_SHORT: Final = re.compile("".join(rf"(?:{_NUMBER}{unit}\s*)?" for unit in "dhms"), re.ASCII | re.IGNORECASE)
_ISO: Final = re.compile(
    rf"P(?:{_NUMBER}D)?(?:T(?=\d)(?:{_NUMBER}H)?(?:{_NUMBER}M)?(?:{_NUMBER}S)?)?", re.ASCII | re.IGNORECASE
)


def duration(text: str) -> timedelta:
    """`90` (seconds), `30s`, `5m`, `2h`, `7d`, `1h30m`, or ISO 8601 as in `PT10M`, `P1D`, `PT1H30M`.

    Raises ValueError for anything else: months and years, whose length depends on where one starts; a sign.
    """
    written = text.strip()
    try:
        if _PLAIN.fullmatch(written):
            return timedelta(seconds=float(written))
        match = (_ISO if written[:1] in ("P", "p") else _SHORT).fullmatch(written)
        if match and any(match.groups()):
            numbers = zip(match.groups(), _UNITS.values(), strict=True)
            return timedelta(seconds=sum(float(number) * unit for number, unit in numbers if number))
    except OverflowError:
        raise ValueError(f"{text!r} is too long for a duration (at most 999999999d)") from None
    raise ValueError(
        f"{text[:40]!r} is not a duration: write seconds (90), 30s, 5m, 2h, 7d, 1h30m or ISO 8601 (PT10M)"
    )


def human(span: timedelta) -> str:
    """`2 h 5 min`: the two largest units, what is below them cut; below a second `350 ms`."""
    if span < timedelta():
        return "-" + human(-span)
    if span < timedelta(seconds=1):
        milliseconds = span // timedelta(milliseconds=1)
        return f"{milliseconds} ms" if milliseconds else "0 s"
    minutes, seconds = divmod(span // timedelta(seconds=1), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    largest = next(place for place, (count, _) in enumerate(parts) if count)
    return " ".join(f"{count} {unit}" for count, unit in parts[largest : largest + 2] if count)

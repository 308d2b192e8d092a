"""Time as the Defender backend holds it: whole ticks of 100 ns since 1970-01-01T00:00:00Z, never floats.

The API writes times with 0 to 7 fraction digits and drops trailing zeros (`…35743Z`); an integer count of
ticks keeps every digit, so that two versions of a record compare exactly and a text comes back as it was.
"""

from __future__ import annotations

import calendar
import datetime as dt
import email.utils
import functools
import re
import time

SECOND = 10_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR

# .NET counts from year 1; alert ids carry that count ("da638950001421283751_…").
DOTNET_EPOCH = 621_355_968_000_000_000

_ZERO = ord("0")

_TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,7})\d*)?)?)?(Z|[+-]\d\d:\d\d)?",
    re.IGNORECASE | re.ASCII,
)
_DURATION = re.compile(
    r"P(?:(\d+)W)?(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.(\d{1,7}))?S)?)?",
    re.IGNORECASE | re.ASCII,
)


def now() -> int:
    """The wall clock in ticks."""
    return time.time_ns() // 100


class HandClock:
    """A clock that stands still until it is moved: `clock()` gives ticks, `advance(seconds)` moves it."""

    def __init__(self, at: int | str) -> None:
        self.at = parse(at) if isinstance(at, str) else at

    def __call__(self) -> int:
        return self.at

    def advance(self, seconds: float) -> int:
        """Move by so many seconds (backwards if negative); returns the new time in ticks."""
        self.at += round(seconds * SECOND)
        return self.at


def parse(text: str) -> int:
    """Ticks of an ISO 8601 time; without a zone it is UTC. Digits beyond the seventh are dropped.

    Raises ValueError where the text is no time.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"not a time: {text[:60]!r}")
    year, month, day, hour, minute, second = (int(part or 0) for part in found.groups()[:6])
    moment = dt.datetime(year, month, day, hour, minute, second, tzinfo=dt.UTC)  # refuses 31 February
    ticks = calendar.timegm(moment.timetuple()) * SECOND + int((found[7] or "").ljust(7, "0"))
    zone = found[8] or "Z"
    if zone not in "Zz":
        offset = (int(zone[1:3]) * 60 + int(zone[4:6])) * MINUTE
        ticks += -offset if zone[0] == "+" else offset
    return ticks


def duration(text: str) -> int:
    """Ticks of an ISO 8601 duration such as PT10M or P1D; months and years have no length and are refused.

    Raises ValueError where the text is no such duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None or not any(found.groups()[:5]):
        raise ValueError(f"not a duration: {text[:60]!r}")
    weeks, days, hours, minutes, seconds = (int(part or 0) for part in found.groups()[:5])
    return (
        (weeks * 7 + days) * DAY
        + hours * HOUR
        + minutes * MINUTE
        + seconds * SECOND
        + int((found[6] or "").ljust(7, "0"))
    )


@functools.lru_cache(maxsize=65_536)
def _minute(minute: int) -> bytes:
    moment = dt.datetime(1970, 1, 1, tzinfo=dt.UTC) + dt.timedelta(minutes=minute)
    return moment.strftime("%Y-%m-%dT%H:%M:").rjust(17, "0").encode()


def raw(ticks: int) -> bytes:
    """The API's form, as bytes: UTC, `Z`, up to 7 fraction digits, trailing zeros dropped, no bare point."""
    minute, rest = divmod(ticks, MINUTE)
    written = b"%b%02d.%07dZ" % (_minute(minute), rest // SECOND, rest % SECOND)
    return written if written[-2] != _ZERO else written[:-1].rstrip(b"0").rstrip(b".") + b"Z"


def text(ticks: int) -> str:
    """The API's form: `2026-10-01T08:17:03.35743Z`."""
    return raw(ticks).decode()


def http_date(ticks: int) -> str:
    """The form of the `Date` and `Retry-After` headers (whole seconds, floored)."""
    return email.utils.formatdate(ticks // SECOND, usegmt=True)


def entra(ticks: int) -> str:
    """The form of Entra's error bodies: `2026-10-01 08:30:00Z`."""
    return text(ticks - ticks % SECOND).replace("T", " ")

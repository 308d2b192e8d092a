"""Between `Intervals` and PostgreSQL's tstzrange and tstzmultirange, whose missing upper bound is FOREVER here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import asyncpg

from service.intervals import FOREVER, Intervals


def encode(intervals: Intervals) -> list[asyncpg.Range[datetime]]:
    """As a tstzmultirange."""
    return [encode_pair(start, end) for start, end in intervals]


def text(intervals: Intervals) -> str:
    """As the text of a tstzmultirange: asyncpg would ask each new connection what that type is, for 20 ms of the server."""
    spans = (f"[{start.isoformat()},{'' if end == FOREVER else end.isoformat()})" for start, end in intervals)
    return "{" + ",".join(spans) + "}"


def encode_pair(start: datetime, end: datetime) -> asyncpg.Range[datetime]:
    """As a tstzrange."""
    return asyncpg.Range(start, None if end == FOREVER else end)


def decode(ranges: Iterable[Any]) -> Intervals:
    """From a tstzmultirange, or a list of tstzranges."""
    return Intervals.of(*((r.lower, r.upper) for r in ranges if not r.isempty))

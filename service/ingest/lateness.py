"""How late records come: which of an answer are late, how late, and the overlap that follows. Arithmetic only, no I/O.

A record is late where it appears in what was read before: it was not there then, though its update time was. How late is the
`Date` of the answer that brought it less its update time. What is read for the first time says nothing of lateness.

A stream's lateness is counted in classes about a fifth apart, each named by its upper end in seconds: a hundred numbers at most,
however many records.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from math import ceil
from typing import Final

from service import model
from service.intervals import Intervals

CLASSES: Final = tuple(sorted({ceil(2 ** (n / 4)) for n in range(81)}))
"""Upper ends in seconds, up to twelve days; what is later counts in the last one. They stand in rows: never change them."""
_SHARE: Final = (999, 1000)
"""Of the late ones, so many are to be found by the overlap."""


def late(
    records: Iterable[model.Alert | model.Incident], window: model.Window, known: Intervals
) -> dict[str, datetime]:
    """Update times by key of those records inside the window that lie in what was read before."""
    found = {}
    for record in records:
        if isinstance(record, model.Incident):
            key, moment = record.incident_id, record.last_update
        else:
            key, moment = record.full_id, record.last_processed_at
        if window.since <= moment < window.until and known.contains(moment):
            found[key] = moment
    return found


def learned(
    stream: model.Stream, moments: Sequence[datetime], date: datetime | None, *, sweeping: bool
) -> model.Learned | None:
    """What update times of records that came late teach; None where there are none. An answer without a date that can be
    believed says that they are late, and not how late.
    """
    if not moments:
        return None
    proven = [moment for moment in moments if stream.coverage.contains(moment)]
    counts, greatest = stream.lateness, timedelta()
    if date is not None:
        counts = counted(counts, (date - moment for moment in moments))
        greatest = max((date - moment for moment in proven), default=greatest)
    sweep = stream.sweep
    if sweeping and sweep is not None:
        sweep = replace(sweep, late=sweep.late + len(proven), greatest=max(sweep.greatest, greatest))
    return model.Learned(len(proven), greatest, counts, observed(counts), sweep)


def counted(counts: Mapping[int, int], latenesses: Iterable[timedelta]) -> dict[int, int]:
    """The counts with these added."""
    added = dict(counts)
    for lateness in latenesses:
        place = bisect_left(CLASSES, lateness.total_seconds())
        end = CLASSES[min(place, len(CLASSES) - 1)]
        added[end] = added.get(end, 0) + 1
    return added


def observed(counts: Mapping[int, int]) -> timedelta | None:
    """The 99.9th percentile, as the upper end of its class; None where nothing came late."""
    share, whole = _SHARE
    total = sum(counts.values())
    seen = 0
    for end in sorted(counts):
        seen += counts[end]
        if seen * whole >= total * share:
            return timedelta(seconds=end)
    return None


def overlap(counts: Mapping[int, int], now: timedelta, most: timedelta) -> timedelta:
    """The overlap from now on: it grows to the 99.9th percentile, within `most` (OVERLAP_MAX), and never shrinks by itself.

    A source that was late once may be again, and a longer overlap costs little; a shorter one would prove too early.
    """
    return max(now, min(observed(counts) or now, most))

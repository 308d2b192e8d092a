"""Which window next, what an answer proves, and when to come back: arithmetic only, no I/O, no clock of its own.

Windows lie on whole milliseconds. A live window reaches from the newest end down to where coverage is sure to be joined;
what lies behind it, wanted and not covered, is a gap, read newest first in windows as wide as the density seen allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final

from service import model, timestamps
from service.ingest import pacing
from service.intervals import FOREVER, Intervals

NARROWEST: Final = timedelta(milliseconds=1)
FIRST_WIDTH: Final = timedelta(hours=6)
WIDEST: Final = timedelta(days=4)
TARGET_ITEMS: Final = 4_000
"""Where an API has no largest page: small enough for one transaction of about a second."""
TARGET_BYTES: Final = 20 * 1024 * 1024
"""Enough for the fewest requests that matter. Alerts of Defender for Endpoint weigh 4 KB, 10,000 a page."""
_BODY_SHARE: Final = 0.6
"""Of MAX_BODY_BYTES at most, so that few answers are too large."""
TARGET_SHARE: Final = 0.7
"""Of what one answer can hold: fuller ones are too often cut, emptier ones too many."""
MOST_RANGES: Final = 200
_DAY: Final = timedelta(days=1)
_OUTSIDE: Final = timedelta(seconds=1)
_STRAYS: Final = 3
"""So many records of an answer may have been updated while it was made, whatever their share of it."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The settings that planning needs; all durations as in docs/settings.md."""

    poll_interval: timedelta
    live_span: timedelta
    overlap: timedelta
    overlap_max: timedelta = timedelta(minutes=30)
    sweep_span: timedelta = timedelta(hours=24)
    sweep_interval: timedelta = timedelta(hours=6)
    gone_for_good: timedelta = pacing.GONE_FOR_GOOD
    target_bytes: int = TARGET_BYTES


def target_bytes(max_body_bytes: int) -> int:
    """How large the answer to a gap's window should be, where the largest that is read has so many bytes."""
    return min(TARGET_BYTES, int(max_body_bytes * _BODY_SHARE))


def overlap_of(stream: model.Stream, rules: Rules) -> timedelta:
    """What the stream learned within OVERLAP_MAX, and no less than OVERLAP: these may have been changed since."""
    return max(rules.overlap, min(stream.overlap or rules.overlap, rules.overlap_max))


def live_window(stream: model.Stream, now: datetime, rules: Rules) -> model.Window:
    """The newest window: [min(max(watermark − overlap, now − LIVE_SPAN), now − overlap), now).

    It starts no later than coverage ends, where LIVE_SPAN reaches that far: answers are dated in whole seconds, so a
    watermark may be ahead of what its own answer proved. It never starts before what is wanted.
    """
    until = timestamps.floor_ms(now)
    overlap = overlap_of(stream, rules)
    start = until - overlap
    if stream.watermark is None or stream.coverage.upper is None:
        start = until - rules.live_span
    else:
        start = max(min(stream.watermark - overlap, stream.coverage.upper, start), until - rules.live_span)
    wanted_from = stream.wanted.lower
    if wanted_from is not None:
        start = max(start, wanted_from)
    return model.Window(min(timestamps.floor_ms(start), until - NARROWEST), until, "live")


def gaps(stream: model.Stream) -> Intervals:
    """Wanted, below the upper end of coverage, and not covered. Before the first live window there are none."""
    top = stream.coverage.upper
    return Intervals() if top is None else stream.wanted.below(top) - stream.coverage


def first(open_gaps: Intervals, stream: model.Stream) -> Intervals:
    """The gaps that are read before all others: those that nobody asked for, then what a backfill added."""
    return open_gaps - stream.backfill or open_gaps


def backfills(stream: model.Stream, window: model.Window) -> bool:
    """Whether a window is read because a person asked for it later."""
    return window.kind == "gap" and bool(Intervals.window(window) & stream.backfill)


def gap_window(open_gaps: Intervals, width: timedelta, kind: model.WindowKind = "gap") -> model.Window | None:
    """The newest end of the newest gap (or of what a sweep has left), at most `width` wide."""
    for start, end in reversed(open_gaps):
        until = timestamps.ceil_ms(end)
        since = timestamps.floor_ms(max(start, until - max(width, NARROWEST)))
        return model.Window(since, until, kind)
    return None


def next_width(
    span: timedelta, items: int, size: int, most: int | None = None, *, target_bytes: int = TARGET_BYTES
) -> timedelta:
    """How wide the next gap window may be, from what one of `span` brought: aims at `target_bytes`, and at TARGET_SHARE of the
    `most` records that an answer can hold, or TARGET_ITEMS where that is not known.
    """
    if not items:
        return min(span * 4, WIDEST)
    target = TARGET_ITEMS if most is None else most * TARGET_SHARE
    factor = min(target / items, target_bytes / max(size, 1), 4.0)
    return max(min(span * factor, WIDEST), NARROWEST)


def windows(spans: Intervals, items: int, most: int | None = None) -> int:
    """About how many windows reading these gaps takes, with so many records spread evenly over them."""
    total = spans.total().total_seconds()
    count, width = 0, FIRST_WIDTH
    for start, end in spans:
        left = end - start
        while left > timedelta():
            span = min(width, left)
            left -= span
            count += 1
            width = next_width(span, round(items * span.total_seconds() / total), 0, most)
    return count


def split(
    window: model.Window, times: Sequence[datetime] = (), *, mutable: bool = False
) -> tuple[model.Window, model.Window] | None:
    """(older, newer) parts of a window whose answer may have been cut, or None where it cannot be narrowed.

    Just above the oldest time of a full answer if that lies inside: what is missing is most likely older. Above it by so
    much that the newer part, which is asked for with a millisecond around it, does not bring that record again and with it
    just as many. Else at the median, else in the middle (also for answers that were too large, whose times nobody saw).

    Records that change are cut by their making and not by their update: among the newer ones there are others, made long
    ago, that the answer does not show. So there the newer part gets some of the times only.
    """
    candidates = []
    if times:
        ordered = sorted(times)
        candidates = [ordered[0] + 2 * NARROWEST, ordered[len(ordered) // 2]]
        if mutable:
            candidates.insert(0, ordered[round(len(ordered) * (1 - TARGET_SHARE))])
    candidates.append(window.since + window.span / 2)
    for candidate in candidates:
        border = timestamps.floor_ms(candidate)
        if window.since < border < window.until:
            return (
                model.Window(window.since, border, window.kind),
                model.Window(border, window.until, window.kind),
            )
    return None


def newest(window: model.Window, width: timedelta) -> tuple[model.Window, model.Window] | None:
    """(rest, newest part of about this width) of a window, or None where it is no wider."""
    border = timestamps.floor_ms(window.until - width)
    if not window.since < border < window.until:
        return None
    return (
        model.Window(window.since, border, window.kind),
        model.Window(border, window.until, window.kind),
    )


def prefix(
    window: model.Window, times: Sequence[datetime], *, spare: timedelta = timedelta()
) -> tuple[model.Window, model.Window] | None:
    """(whole, rest) of a window whose cut answer is in the order of its update times, oldest first: all but the last
    millisecond that it reaches is whole. None where the order is another one, or nothing is whole.

    With `spare` the whole part ends so much earlier: asked for again, with a millisecond around it, it is not full as well.
    """
    if not times or any(later < earlier for earlier, later in pairwise(times)):
        return None
    border = timestamps.floor_ms(times[-1]) - spare
    if not window.since < border < window.until:
        return None
    return (
        model.Window(window.since, border, window.kind),
        model.Window(border, window.until, window.kind),
    )


def proof(window: model.Window, date: datetime | None, ours: datetime, overlap: timedelta) -> Intervals:
    """What a whole answer proves read: the window below (Date of the answer − overlap).

    `ours` is our own clock: an answer without a date, or dated more than a day away from it, proves nothing.
    """
    if date is None or not credible(date, ours):
        return Intervals()
    return Intervals.of((window.since, window.until)).below(date - overlap)


def read(window: model.Window, date: datetime | None, ours: datetime) -> Intervals:
    """What a whole answer has shown, whatever may come late to it: the window below its Date; None or a wrong one: nothing."""
    return proof(window, date, ours, timedelta())


def credible(date: datetime | None, ours: datetime) -> bool:
    """Whether an answer's date can prove anything: there is one, and it is less than a day away from our clock."""
    return date is not None and abs(date - ours) <= _DAY


def outside(window: model.Window, times: Sequence[datetime], *, mutable: bool = False) -> bool:
    """Whether an answer holds records of another window than asked for (by more than a second).

    A record that changes may be updated after the index named it and before the answer was written: it is newer than the
    window then, will be found at its new time, and is no reason for distrust. Most of an answer is, and what is older.
    """
    older = any(moment < window.since - _OUTSIDE for moment in times)
    newer = sum(moment >= window.until + _OUTSIDE for moment in times)
    return older or (newer > max(_STRAYS, len(times) / 2) if mutable else newer > 0)


def watermark(stream: model.Stream, window: model.Window, times: Sequence[datetime]) -> datetime | None:
    """The stream's watermark after these times are stored: never back, never beyond the window (a record dated 2099)."""
    if not times:
        return stream.watermark
    seen = min(max(times), window.until)
    return seen if stream.watermark is None else max(stream.watermark, seen)


def arrival(stream: model.Stream, kind: model.WindowKind, moment: datetime) -> model.Arrival:
    """How a record came: a SOC opens tickets for `live` and `catch_up`, and looks at `sweep`."""
    if kind == "sweep" and stream.coverage.contains(moment):
        return "sweep"
    if stream.backfill.contains(moment):
        return "backfill"
    start = stream.wanted.lower
    if moment < stream.enrolled_at or (start is not None and moment < start):
        return stream.history  # old alerts come with an incident of today
    return "live" if kind == "live" else "catch_up"


def too_early(coverage: Intervals, growth: timedelta) -> Intervals:
    """What a grown overlap takes back: the last of what is proven, for it was read too soon after its time.

    The newest answer proved up to its Date less the old overlap; with the new one it would have proved so much less.
    """
    top = coverage.upper
    return Intervals() if top is None else coverage.above(top - growth)


def fallback_from(stream: model.Stream, rules: Rules) -> datetime | None:
    """From where on another source has to stand in for a stream that is retired: the start of its oldest gap, else the end of
    what it proved, or the start of what it wanted.

    All that is newer than a gap is wanted too, and not the gap alone: another API dates an alert of it by its latest update.
    Less the overlap, for two APIs do not date one alert alike.
    """
    start = stream.wanted.lower
    if start is None:
        return None
    proven = gaps(stream).lower or stream.coverage.upper
    if proven is not None:
        start = max(start, proven - overlap_of(stream, rules))
    return timestamps.floor_ms(start)


def news_from(stream: model.Stream) -> datetime:
    """From where on what another source brings is news, when a stream is retired: the end of what this one proved. What
    happened before the stream was enrolled itself is history in any case.
    """
    proven = stream.coverage.upper
    return stream.enrolled_at if proven is None else max(proven, stream.enrolled_at)


def excess(coverage: Intervals) -> Intervals:
    """What coverage has to give up where it has more ranges than a row should hold: the shortest ones, to be read again."""
    surplus = len(coverage) - MOST_RANGES
    if surplus <= 0:
        return Intervals()
    shortest = sorted(coverage, key=lambda pair: pair[1] - pair[0] if pair[1] != FOREVER else timedelta.max)
    return Intervals.of(*shortest[:surplus])

"""Whether a stream is silent: what is usual of it, and when a silence is beyond chance. Arithmetic only, no I/O.

What counts is hours of update time with at least one record, not records: one attack brings fifty alerts in an hour, and says no
more of the next hour than one alert does. A stream's hours with records are learned by the hour of the week, from the eight weeks
before its newest record. So a silence teaches nothing, and nothing is forgotten in it.

A stream is silent where all of this holds of the hours that were proven since its newest record:

- two weeks are learned at least, with records in twelve hours: who has hardly any alerts is quiet, and never silent;
- the chance of no record in all of them is under one in a million, with the rates at the lower end of what was learned;
- the silence is three times as long as the longest one learned, both measured by what was to be expected in them: nights and
  weekends weigh little, and a customer whose alerts come in clusters was silent before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from math import log, log1p, sqrt
from typing import Final

from service import model
from service.intervals import FOREVER, Intervals

WEEK: Final = 168
SPAN: Final = 8 * WEEK
"""Hours that are learned from."""
LEARNED: Final = 2 * WEEK
"""Proven hours among them that it takes."""
LEAST: Final = 12
"""Hours with records among them that it takes."""
CHANCE: Final = 1e-6
LONGER: Final = 3.0
RECHECK: Final = timedelta(hours=1)
"""How often an interval is asked for again whose records were not returned."""
GIVEN_UP: Final = timedelta(days=7)
"""Records that old may have been taken away at the API: nobody says how long each one keeps them."""

_ALL: Final = (1 << SPAN) - 1
_WEEKLY: Final = sum(1 << n for n in range(0, SPAN, WEEK))
_PRIOR: Final = 2.0
_MOST: Final = 0.98
_UNSURE: Final = 2.0


def seen(volume: model.Volume, moments: Iterable[datetime]) -> model.Volume:
    """With the hours of these update times; the same value where they are known. In any order, and as often as one likes."""
    last, hours = volume.last, volume.hours
    for hour in {_hour(moment) for moment in moments}:
        if not hours:
            last, hours = hour, 1
        elif hour > last:
            hours = (hours << min(hour - last, SPAN) | 1) & _ALL
            last = hour
        elif last - hour < SPAN:
            hours |= 1 << (last - hour)
    return volume if (last, hours) == (volume.last, volume.hours) else replace(volume, last=last, hours=hours)


def judged(stream: model.Stream) -> model.Volume:
    """The stream's volume with what is usual, and since when it is silent."""
    volume = stream.volume
    usual = _learned(volume, stream.coverage)
    if usual is None:
        return replace(volume, weekly=None, silent_since=None)
    since = datetime.fromtimestamp(volume.last * 3600, UTC)
    if stream.watermark is not None:
        since = max(since, stream.watermark)
    return replace(
        volume,
        weekly=usual.weekly,
        silent_since=since if _silent(usual, _lasted(stream.coverage, since)) else None,
    )


def rechecked(volume: model.Volume, sweep: model.Sweep, *, whole: bool) -> model.Volume:
    """After a sweep: whether its answers had what is held of its span. It takes two of them in a row to say that they do not, for
    a record that is updated leaves its old time before its new version is here. Of single records nothing is said.
    """
    if doubtful(sweep):
        confirmed = volume.missing_since is not None
        return replace(
            volume,
            missing=sweep.missing if confirmed else 0,
            held=sweep.held if confirmed else 0,
            missing_since=volume.missing_since or sweep.started_at,
            missing_span=volume.missing_span or sweep.span,
        )
    if whole and volume.missing_since is not None:
        return replace(volume, missing=0, held=0, missing_since=None, missing_span=None)
    return volume


def given_up(volume: model.Volume, now: datetime) -> model.Volume:
    """Without what has not been returned for so long that the API may have taken it away."""
    if volume.missing_span is None or now - volume.missing_span[1] < GIVEN_UP:
        return volume
    return replace(volume, missing=0, held=0, missing_since=None, missing_span=None)


def doubtful(sweep: model.Sweep) -> bool:
    """Whether half of what is held, or more, was not returned."""
    return sweep.missing > 0 and 2 * sweep.missing >= sweep.held


def silence(volume: model.Volume) -> str:
    """What is said of a silent stream; the same as long as it lasts."""
    return (
        f"no records since {volume.silent_since:%Y-%m-%d %H:%M} UTC, where some {volume.weekly or 0.0:.0f} hours of a week "
        "bring them; the API answers, and has nothing. The chance of that is under one in a million"
    )


def lacking(volume: model.Volume) -> str:
    """What is said where an API does not return what it returned before."""
    return (
        f"the API does not return {volume.missing} of {volume.held} records that it returned before; while that is so, "
        "an empty answer proves nothing"
    )


@dataclass(frozen=True, slots=True)
class _Usual:
    """What was learned: which hours are proven and which have records; bit n is n hours before `last`."""

    last: int
    proven: int
    active: int

    @property
    def weekly(self) -> float:
        """In how many hours of a week there are records."""
        return WEEK * self.active.bit_count() / self.proven.bit_count()

    def weights(self) -> list[float]:
        """By hour of the week, what one without records says: the negative logarithm of its chance."""
        mean = self.active.bit_count() / self.proven.bit_count()
        weights = []
        for bucket in range(WEEK):
            these = _WEEKLY << ((self.last - bucket) % WEEK)
            count, of = (self.active & these).bit_count(), (self.proven & these).bit_count()
            weights.append(-log1p(-min((count + _PRIOR * mean) / (of + _PRIOR), _MOST)))
        return weights

    def longest(self, weights: Sequence[float]) -> float:
        """The longest silence, in what the hours of it say."""
        longest = run = 0.0
        active, proven = (format(bits, f"0{SPAN}b") for bits in (self.active, self.proven))
        for n, one in enumerate(active, self.last - SPAN + 1):
            if one == "1":
                run = 0.0
            elif proven[n - self.last - 1] == "1":
                run += weights[n % WEEK]
                longest = max(longest, run)
        return longest


def _learned(volume: model.Volume, coverage: Intervals) -> _Usual | None:
    last, proven = volume.last, _proven(coverage, volume.last)
    active = volume.hours & proven
    if proven.bit_count() < LEARNED or active.bit_count() < LEAST:
        return None
    return _Usual(last, proven, active)


def _lasted(coverage: Intervals, since: datetime) -> tuple[int, int]:
    """(last, proven): the proven hours after `since`, as in _Usual; at most eight weeks of them, which is enough for anybody."""
    if coverage.upper is None:
        return 0, 0
    last = _hour(coverage.upper)
    return last, _proven(coverage.above(datetime.fromtimestamp((_hour(since) + 1) * 3600, UTC)), last)


def _silent(usual: _Usual, lasted: tuple[int, int]) -> bool:
    last, proven = lasted
    if proven.bit_count() * -log1p(-_MOST) < -log(CHANCE):
        return False  # whatever is usual: most streams, most of the time
    weights = usual.weights()
    expected = sum(
        (proven & _WEEKLY << ((last - bucket) % WEEK)).bit_count() * weight
        for bucket, weight in enumerate(weights)
    )
    doubted = expected * max(0.0, 1 - _UNSURE / sqrt(usual.active.bit_count()))
    return doubted >= -log(CHANCE) and expected >= LONGER * usual.longest(weights)


def _proven(coverage: Intervals, last: int) -> int:
    """Which hours are proven as a whole: bit n is the hour n before `last`."""
    bits = 0
    for start, end in coverage:
        first = -(-int(start.timestamp() * 1000) // 3_600_000)
        stop = last + 1 if end == FOREVER else min(_hour(end), last + 1)
        first = max(first, last - SPAN + 1)
        if first < stop:
            bits |= ((1 << (stop - first)) - 1) << (last + 1 - stop)
    return bits


def _hour(moment: datetime) -> int:
    return int(moment.timestamp()) // 3600

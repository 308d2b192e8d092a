"""Alerts of one tenant in order of time: generated as time passes, in bulk, or given one by one.

Every run is sorted by the time the API filters on, so that a window is two bisections away, and says when
each alert becomes visible: never before that time, and later for late arrivals. Nothing is rendered before
it is asked for.
"""

from __future__ import annotations

import array
import bisect
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

from service.simulator import dice, lives, stories, ticks

BUCKET_TARGET = 256  # detections a generated bucket holds at most, roughly


@dataclasses.dataclass(frozen=True, slots=True)
class Quirks:
    """Oddities of the data itself; shares are of detections (late, revised) or of stories (tied), 0 to 1.

    late_share, late_seconds: that many detections become visible only after their LastProcessedTimeUtc, up
    to so many seconds. tied_share: stories whose detections all carry one LastProcessedTimeUtc with seven
    fraction digits. revised_share: detections that come again a little later as a newer version of the same
    FullId.
    """

    late_share: float = 0.0
    late_seconds: float = 300.0
    tied_share: float = 0.0
    revised_share: float = 0.0

    def lateness(self, story: int, part: int) -> int:
        """Ticks from the detection's processed time until it can be seen."""
        if not self.late_share:
            return 0
        chance = (story * 0x9E3779B97F4A7C15 + part * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        if (chance >> 40) >= self.late_share * 2**24:
            return 0
        return round((chance & 0xFFFFFF) / 2**24 * self.late_seconds * ticks.SECOND)

    @property
    def latest(self) -> int:
        """The greatest lateness in ticks."""
        return round(self.late_seconds * ticks.SECOND) if self.late_share else 0


class Run(Protocol):
    """Alerts sorted by `times` (ticks); `slack` is the greatest time any of them is visible after its own."""

    @property
    def times(self) -> Sequence[int]: ...
    @property
    def slack(self) -> int: ...
    def visible_at(self, index: int) -> int: ...
    def full_id(self, index: int) -> str | None: ...
    def render(self, index: int) -> bytes: ...


def pick(run: Run, since: int, until: int, now: int) -> Sequence[int]:
    """Indices, oldest first, of what lies in since..until (both inclusive) and is visible at `now`."""
    low = bisect.bisect_left(run.times, since)
    high = bisect.bisect_right(run.times, min(until, now))
    # Only what is younger than the slack can still be hidden.
    settled = bisect.bisect_right(run.times, now - run.slack, low, high)
    if settled == high:
        return range(low, high)
    fresh = [index for index in range(settled, high) if run.visible_at(index) <= now]
    return range(low, high) if len(fresh) == high - settled else [*range(low, settled), *fresh]


class Generated:
    """A run of story detections in arrays: 25 bytes each, whatever their JSON weighs."""

    def __init__(
        self,
        estate: stories.Estate,
        quirks: Quirks,
        detections: Sequence[stories.Detection],
        *,
        longest: int = 0,
        per_incident: int | None = None,
    ) -> None:
        self.longest = longest
        self.per_incident = per_incident
        ordered = sorted(detections, key=lambda each: each.processed)
        self._estate = estate
        self._quirks = quirks
        self._stories = array.array("Q", [each.story for each in ordered])
        self._begins = array.array("q", [each.begin for each in ordered])
        self._places = array.array("B", [each.place for each in ordered])
        self.times: Sequence[int] = array.array("q", [each.processed for each in ordered])
        self.slack = quirks.latest
        self._encoded: list[bytes] | None = None

    def detections(self) -> Iterator[stories.Detection]:
        """The detections in numbers, oldest first."""
        return map(stories.Detection, self._stories, self._begins, self.times, self._places)

    def encode(self) -> None:
        """Render everything now and keep it: 2 KB a detection, for the greatest speed later."""
        self._encoded = [self.render(index) for index in range(len(self.times))]

    def visible_at(self, index: int) -> int:
        """The processed time and its lateness; a newer version is never visible before the version it
        replaces.
        """
        return self.times[index] + self._quirks.lateness(
            self._stories[index], self._places[index] & stories.PART
        )

    def full_id(self, index: int) -> str:
        """The detection's FullId without rendering it."""
        return stories.full_id(self._stories[index], self._begins[index], self._places[index])

    def render(self, index: int) -> bytes:
        """The detection's JSON."""
        if self._encoded is not None:
            return self._encoded[index]
        return stories.render(
            self._estate,
            self._stories[index],
            self._begins[index],
            self.times[index],
            self._places[index],
        )


class Given:
    """A run of records handed in as bytes, which need be neither JSON nor well-formed."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.slack = 0
        self._rows: list[tuple[int, bytes, str | None]] = []

    def add(self, at: int, visible_at: int, raw: bytes, full_id: str | None) -> None:
        """Put in after all that have the same time, so that the last one given counts as the newest."""
        if visible_at < at:
            raise ValueError("an alert cannot be visible before the time it is filed under")
        index = bisect.bisect_right(self.times, at)
        self.times.insert(index, at)
        self._rows.insert(index, (visible_at, raw, full_id))
        self.slack = max(self.slack, visible_at - at)

    def visible_at(self, index: int) -> int:
        """When the record can first be seen."""
        return self._rows[index][0]

    def full_id(self, index: int) -> str | None:
        """The FullId given with it; None for a record that no collector could store."""
        return self._rows[index][2]

    def render(self, index: int) -> bytes:
        """The bytes as given."""
        return self._rows[index][1]


def backlog(
    estate: stories.Estate, quirks: Quirks, rng: dice.Dice, count: int, *, span: tuple[int, int]
) -> Generated:
    """Exactly `count` detections processed from the span's first time up to, not including, its second.

    All at one instant where the two are equal; then nothing ever changes.
    """
    detections: list[stories.Detection] = []
    since, until = span
    width = max(until - since, 1)
    while len(detections) < count:
        begin = since + int(rng.random() * width)
        detections += _unfold(quirks, rng, begin, since + width)
    longest = lives.LONGEST if until > since else 0
    return Generated(estate, quirks, detections[:count], longest=longest)


def alert_backlog(
    estate: stories.Estate,
    quirks: Quirks,
    rng: dice.Dice,
    alerts: int,
    *,
    span: tuple[int, int],
    per_incident: int,
    longest: int,
) -> Generated:
    """Exactly so many alerts with all their detections, raised within the span as `backlog` has it.

    Each `per_incident` of them in a row make an incident. They change for `longest` ticks after they were
    raised.
    """
    since, until = span
    width = max(until - since, 1)
    detections: list[stories.Detection] = []
    taken: set[tuple[int, int]] = set()
    while len(taken) < alerts:
        begin = since + int(rng.random() * width)
        unfolded = [*_unfold(quirks, rng, begin, since + width)]
        name = (
            begin,
            unfolded[0].story >> 32,
        )  # what an alert id is made of: at one instant two might share it
        if name not in taken:
            taken.add(name)
            detections += unfolded
    return Generated(estate, quirks, detections, longest=longest, per_incident=per_incident)


class Live:
    """Alerts that keep arriving: each bucket of time has its own random numbers, so any window can be made
    at any time.
    """

    def __init__(self, estate: stories.Estate, quirks: Quirks, seed: str, rate: float, begins: int) -> None:
        self._estate = estate
        self._quirks = quirks
        self._seed = seed
        self._begins = begins
        self._rate = rate
        widths = (ticks.HOUR, 10 * ticks.MINUTE, ticks.MINUTE, 10 * ticks.SECOND)
        fitting = (width for width in widths if rate * width / ticks.MINUTE <= BUCKET_TARGET)
        self.width = next(fitting, ticks.SECOND)
        # Of a flooded tenant the alerts live shorter, so that a window never needs more than some thousands.
        self.longest = max(10 * ticks.MINUTE, min(lives.LONGEST, round(1200 / rate * ticks.MINUTE)))

    def buckets(self, since: int, until: int) -> range:
        """Numbers of the buckets that the window touches, oldest first; each lies wholly after the one
        before.
        """
        return range(max(since, self._begins) // self.width, until // self.width + 1)

    def bucket(self, number: int) -> Generated | None:
        """The bucket's alerts; None where there are none (most buckets of a quiet tenant)."""
        rng = dice.Dice(f"{self._seed}/{number}")
        begin, end = number * self.width, (number + 1) * self.width
        expected = (
            self._rate * self.width / ticks.MINUTE / stories.MEAN_PARTS / (1 + self._quirks.revised_share)
        )
        detections: list[stories.Detection] = []
        for _ in range(int(expected + rng.random())):
            detections += _unfold(self._quirks, rng, begin + int(rng.random() * self.width), end)
        kept = [each for each in detections if each.processed >= self._begins]
        return Generated(self._estate, self._quirks, kept, longest=self.longest) if kept else None


def _unfold(quirks: Quirks, rng: dice.Dice, begin: int, end: int) -> Iterator[stories.Detection]:
    """One story's detections, each 2 seconds to 4 minutes after the one before, squeezed in before `end` if
    need be.
    """
    story = rng.getrandbits(64)
    count = stories.parts(story)
    tied = rng.random() < quirks.tied_share
    processed = _rounded(begin, story, tied)
    processed = processed if processed < end else begin
    longest = min(240 * ticks.SECOND, (end - 1 - processed) // count)
    shortest = min(2 * ticks.SECOND, longest)
    for part in range(count):
        yield stories.Detection(story, begin, processed, part)
        step = shortest + int(rng.random() * (longest - shortest))
        if step > 1 and rng.random() < quirks.revised_share:
            yield stories.Detection(story, begin, processed + step // 2, part | stories.REVISED)
        processed += 0 if tied else step


def _rounded(begin: int, story: int, tied: bool) -> int:
    """Most times have seven digits; some stories start on a whole second or millisecond, tied ones never."""
    if tied:
        return begin | 1
    grain = ticks.SECOND if story % 32 == 0 else 10_000 if story % 8 == 0 else 1
    return begin + -begin % grain

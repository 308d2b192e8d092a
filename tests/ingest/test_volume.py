"""What is usual of a stream, and when its silence is beyond chance: by arithmetic, and by many customers drawn by lot."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import model
from service.ingest import volume
from service.intervals import Intervals

HOUR = timedelta(hours=1)
START = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
FIRST = int(START.timestamp()) // 3600


def stream(usual: model.Volume, hours: int, watermark: datetime | None = None) -> model.Stream:
    """Proven from the start on, for so many hours."""
    span = Intervals.of((START, START + hours * HOUR))
    return model.Stream(
        UUID(int=1), "siem", {}, START, span, coverage=span, watermark=watermark, volume=usual
    )


def after(hours: int, active: Callable[[int], bool], usual: model.Volume | None = None) -> model.Volume:
    """What is learned where these hours have records."""
    moments = (START + n * HOUR + HOUR / 2 for n in range(hours) if active(n))
    return volume.seen(usual or model.Volume(), moments)


def office(n: int) -> bool:
    """Working hours of working days."""
    return n % 168 < 120 and 8 <= n % 24 < 18


@given(st.lists(st.integers(0, 3 * volume.SPAN), max_size=60), st.randoms(use_true_random=False))
def test_any_order_and_any_number_of_times_teach_the_same(found: list[int], dice: random.Random):
    """Overlaps, sweeps and backlogs, newest first or oldest: what is known is a set of hours."""
    moments = [START + n * HOUR for n in found]
    straight = volume.seen(model.Volume(), moments)
    one_by_one = model.Volume()
    dice.shuffle(moments)
    for moment in moments + moments[:5]:
        one_by_one = volume.seen(one_by_one, [moment])
    assert straight == one_by_one
    known = {straight.last - n for n in range(volume.SPAN) if straight.hours >> n & 1}
    assert known == {FIRST + n for n in found if n > max(found) - volume.SPAN}
    assert volume.seen(straight, moments) is straight


@pytest.mark.parametrize("pattern", [office, lambda n: n % 3 == 0, lambda n: n > -1, lambda n: n % 24 == 9])
def test_silence_is_seen_and_ends(pattern: Callable[[int], bool]):
    """A steady customer is silent within days, never before, and the next record ends it."""
    learned = 6 * 168
    known = after(learned, pattern)
    silent = [n for n in range(0, 21 * 24, 3) if volume.judged(stream(known, learned + n)).silent_since]
    assert silent
    assert silent == [*range(silent[0], 21 * 24, 3)]
    assert silent[0] >= 3
    usual = volume.judged(stream(known, learned + silent[0]))
    assert usual.weekly == pytest.approx(sum(map(pattern, range(168))), abs=3)
    assert f"{usual.silent_since:%Y-%m-%d}" in volume.silence(usual)
    again = volume.seen(usual, [START + (learned + silent[0]) * HOUR])
    assert volume.judged(stream(again, learned + silent[0] + 1)).silent_since is None


def test_nights_and_weekends_are_no_silence():
    """Nobody cries wolf on Monday morning, nor after a long weekend."""
    known = after(4 * 168 - 48, office)  # up to Friday evening
    friday = 4 * 168 - 48
    for n in range(friday, 4 * 168 + 24 + 9):
        assert volume.judged(stream(known, n)).silent_since is None


def test_a_silence_teaches_nothing():
    """However long it lasts: what was usual before it stays known, and it stays a silence."""
    known = after(8 * 168, office)
    before = volume.judged(stream(known, 8 * 168))
    for weeks in (2, 9, 60):
        usual = volume.judged(stream(known, (8 + weeks) * 168))
        assert usual.silent_since
        assert usual.weekly == before.weekly


def test_what_was_not_read_says_nothing():
    """Hours that are not proven are neither silence nor quiet: an API that cannot be read is another state."""
    known = after(6 * 168, lambda n: n % 2 == 0)
    held = stream(known, 6 * 168)
    assert volume.judged(held).silent_since is None
    hole = Intervals.of((START + 6 * 168 * HOUR, START + 12 * 168 * HOUR))
    later = replace(held, coverage=stream(known, 12 * 168).coverage - hole)
    assert volume.judged(later).silent_since is None
    assert volume.judged(replace(held, coverage=Intervals())).weekly is None
    assert volume.judged(stream(known, 7 * 168)).silent_since == known_end(known)
    newer = START + 166 * HOUR + 6 * 168 * HOUR
    assert volume.judged(stream(known, 7 * 168, watermark=newer)).silent_since is None


def known_end(known: model.Volume) -> datetime:
    return datetime.fromtimestamp(known.last * 3600, UTC)


def test_who_is_new_or_quiet_is_never_silent():
    """Less than two weeks, or fewer than twelve hours with records in eight: nothing can be said, however long it lasts."""
    young = after(13 * 24, office)
    assert volume.judged(replace(stream(young, 13 * 24))).weekly is None
    quiet = after(8 * 168, lambda n: n % 140 == 0)
    for weeks in range(1, 60):
        assert volume.judged(stream(quiet, (8 + weeks) * 168)).silent_since is None


QUIET: dict[str, tuple[float, float]] = {  # alerts an hour: in working hours, and else
    "some a week": (0.02, 0.02),
    "one a day": (1 / 24, 1 / 24),
    "office hours": (0.25, 0.004),
    "five a day": (5 / 24, 5 / 24),
    "busy": (1.5, 1.5),
}
YEARS = 2


def lives(rates: tuple[float, float], dice: random.Random) -> Iterator[tuple[int, model.Volume]]:
    """A customer's year by the hour, records by a Poisson process of these rates: what is known at the end of each silence."""
    known = model.Volume()
    for n in range(52 * 168):
        if dice.random() < -math.expm1(-rates[not office(n)]):
            yield n, known
            known = volume.seen(known, [START + n * HOUR])


@pytest.mark.parametrize("kind", QUIET)
def test_quiet_customers_do_not_cry_wolf(kind: str):
    """Years of each kind: no false alarm. A silence that is judged at its end would have been one at any time before."""
    alarms = judged = 0
    for seed in range(YEARS):
        for n, known in lives(QUIET[kind], random.Random(f"{kind} {seed}")):
            if known.hours and n - (known.last - FIRST) > 4:
                judged += 1
                alarms += volume.judged(stream(known, n)).silent_since is not None
    assert judged
    assert alarms == 0


def test_clusters_do_not_cry_wolf_either():
    """Alerts that come in attacks of some hours, a week apart by chance: twenty years, and hardly an alarm."""
    alarms = 0
    for seed in range(20):
        dice, known, n = random.Random(seed), model.Volume(), 0
        while n < 52 * 168:
            gap = 1 + int(dice.expovariate(1 / 168))
            n += gap
            if known.hours:
                alarms += volume.judged(stream(known, n)).silent_since is not None
            known = volume.seen(known, (START + (n + k) * HOUR for k in range(dice.randint(1, 8))))
            n = known.last - FIRST + 1
    assert alarms <= 2


def test_two_sweeps_in_a_row_have_to_lack_it():
    """A record that was just updated is missing once; half of what is held, twice, is said; a whole sweep takes it back."""
    span = (START, START + 24 * HOUR)
    few = model.Sweep(START + 25 * HOUR, span, held=10, missing=4)
    many = replace(few, missing=5)
    fresh = model.Volume(began_at=START)
    assert volume.rechecked(fresh, few, whole=True) is fresh
    once = volume.rechecked(fresh, many, whole=True)
    assert (once.missing, once.missing_since, once.missing_span) == (0, many.started_at, span)
    twice = volume.rechecked(once, replace(many, started_at=START + 26 * HOUR), whole=True)
    assert (twice.missing, twice.held, twice.missing_since) == (5, 10, many.started_at)
    assert "5 of 10 records" in volume.lacking(twice)
    assert volume.rechecked(twice, replace(few, missing=0), whole=False) is twice
    assert volume.rechecked(twice, few, whole=True) == fresh
    assert volume.given_up(twice, span[1] + volume.GIVEN_UP / 2) is twice
    assert volume.given_up(twice, span[1] + volume.GIVEN_UP) == fresh

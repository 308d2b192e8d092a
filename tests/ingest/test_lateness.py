"""Lateness, the overlap that follows from it, and when sweeps are due: properties of the arithmetic."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import ceil
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from service import model
from service.ingest import lateness, plan, sweep
from service.intervals import Intervals

EPOCH = datetime(2026, 10, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
RULES = plan.Rules(MINUTE, 2 * HOUR, 10 * MINUTE)

latenesses = st.lists(st.timedeltas(timedelta(), timedelta(days=11)), min_size=1, max_size=300)
moments = st.timedeltas(timedelta(days=-3), timedelta(days=3)).map(lambda each: EPOCH + each)
pieces = st.lists(st.tuples(moments, moments).map(sorted).map(tuple), max_size=6).map(
    lambda pairs: Intervals.of(*pairs)
)


def stream(**fields) -> model.Stream:
    """A stream that wants all from a week before EPOCH on."""
    wanted = Intervals.of((EPOCH - timedelta(days=7), None))
    return replace(model.Stream(UUID(int=7), "siem", {}, EPOCH, wanted), **fields)


def alert(key: str, moment: datetime) -> model.Alert:
    """A record with this update time."""
    return model.Alert(
        full_id=key, last_processed_at=moment, source_updated_text="", content_hash=0, raw=b"{}"
    )


@given(latenesses)
def test_the_percentile_is_of_what_was_seen(seen):
    """The class's end is at least the 99.9th percentile (nearest rank), and no more than a quarter and a second above it."""
    counts = lateness.counted({}, seen)
    exact = sorted(seen)[ceil(len(seen) * 0.999) - 1]
    observed = lateness.observed(counts)
    assert exact <= observed <= exact * 1.25 + timedelta(seconds=1)
    assert sum(counts.values()) == len(seen)


@given(st.lists(latenesses, min_size=1, max_size=4))
def test_counting_in_parts_is_counting_at_once(parts):
    """However records are spread over answers, the counts are the same, and few."""
    counts: dict[int, int] = {}
    for part in parts:
        counts = lateness.counted(counts, part)
    assert counts == lateness.counted({}, [each for part in parts for each in part])
    assert counts.keys() <= set(lateness.CLASSES)
    assert len(lateness.CLASSES) < 100


def test_one_in_a_thousand_does_not_count():
    """A thousand at a minute and one at an hour: the overlap of ten minutes stays; with one more it grows."""
    counts = lateness.counted({}, [MINUTE] * 1000 + [HOUR])
    assert lateness.overlap(counts, 10 * MINUTE, 30 * MINUTE) == 10 * MINUTE
    counts = lateness.counted(counts, [HOUR])
    assert lateness.overlap(counts, 10 * MINUTE, 30 * MINUTE) == 30 * MINUTE


@given(
    latenesses,
    latenesses,
    st.timedeltas(MINUTE, 30 * MINUTE),
)
def test_the_overlap_never_shrinks_and_stays_within_its_bound(first, second, overlap):
    """Whatever is seen, in whatever order: no less than before, no more than OVERLAP_MAX."""
    counts = lateness.counted({}, first)
    grown = lateness.overlap(counts, overlap, 30 * MINUTE)
    assert overlap <= grown <= 30 * MINUTE
    assert grown <= lateness.overlap(lateness.counted(counts, second), grown, 30 * MINUTE) <= 30 * MINUTE
    assert lateness.overlap({}, overlap, 30 * MINUTE) == overlap


@given(st.lists(moments, max_size=20, unique=True), pieces, pieces, moments, st.timedeltas(MINUTE, 48 * HOUR))
def test_only_what_was_read_before_is_late(times, coverage, seen, since, span):
    """First reads, and what an answer holds beside its window, are never late; all else in what was read is."""
    window = model.Window(since, since + span, "sweep")
    found = lateness.late([alert(str(n), moment) for n, moment in enumerate(times)], window, coverage | seen)
    assert found == {
        str(n): moment
        for n, moment in enumerate(times)
        if since <= moment < since + span and (coverage.contains(moment) or seen.contains(moment))
    }
    date = EPOCH + timedelta(days=9)
    held = stream(coverage=coverage, sweep=model.Sweep(EPOCH))
    learned = lateness.learned(held, list(found.values()), date, sweeping=True)
    if not found:
        assert learned is None
        return
    proven = [moment for moment in found.values() if coverage.contains(moment)]
    assert learned.late == learned.sweep.late == len(proven)
    assert learned.greatest == max((date - moment for moment in proven), default=timedelta())
    assert sum(learned.lateness.values()) == len(found)
    assert lateness.learned(held, list(found.values()), None, sweeping=False).lateness == {}


@given(pieces, st.timedeltas(timedelta(seconds=1), 20 * MINUTE))
def test_a_grown_overlap_takes_back_the_last_of_the_proof(coverage, growth):
    """Nothing within the growth below the proven end stays proven, and everything older does."""
    left = coverage - plan.too_early(coverage, growth)
    if coverage.upper is None:
        assert not left
        return
    assert left == coverage.below(coverage.upper - growth)


def test_learned_overlaps_stay_within_the_settings():
    """OVERLAP is the least, OVERLAP_MAX the most, whatever was learned under other settings."""
    for known, expected in ((None, 10), (5, 10), (20, 20), (45, 30)):
        held = stream(overlap=known and known * MINUTE)
        assert plan.overlap_of(held, RULES) == expected * MINUTE


@given(
    st.uuids(),
    st.timedeltas(MINUTE, timedelta(days=2)),
    st.lists(st.timedeltas(MINUTE, 3 * HOUR), min_size=5, max_size=40),
)
def test_sweeps_are_an_interval_apart(tenant_id, interval, steps):
    """Looked at now and then, a sweep begins once between two points in time of the stream, which are its own."""
    held = stream(tenant_id=tenant_id)
    now, begun = EPOCH, []
    for step in steps:
        now += step
        if sweep.due(held, now, interval):
            begun.append(now)
            held = replace(held, sweep=model.Sweep(now))
            assert not sweep.due(held, now, interval)
    passed = (now - EPOCH) / interval
    assert len(begun) <= passed + 1
    if max(steps) <= interval:
        assert len(begun) >= int(passed)


def test_streams_are_spread():
    """Of a thousand streams enrolled at once, each hour of the interval has its share."""
    hours = [0] * 6
    for n in range(1000):
        held = stream(tenant_id=UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128))
        hour = next(h for h in range(6) if sweep.due(held, EPOCH + (h + 1) * HOUR, 6 * HOUR))
        hours[hour] += 1
    assert min(hours) > 100


@given(pieces, pieces)
def test_a_sweep_reads_what_is_proven(coverage, shown):
    """What is left is in the span, proven and not shown yet; when nothing is, all of the span's proof is verified."""
    held = stream(coverage=coverage)
    begun = sweep.begun(held, EPOCH, RULES, None)
    span = Intervals.of((EPOCH - timedelta(hours=24), EPOCH))
    if not coverage & span:
        assert begun is None
        return
    held = replace(held, sweep=begun)
    held = replace(held, sweep=sweep.after(held, shown))
    assert sweep.left(held) == (coverage & span) - shown
    assert sweep.verified(held) == coverage & span


def test_a_sweep_reaches_no_further_than_its_source():
    """Where the source shows five hours, five hours are swept."""
    held = stream(coverage=Intervals.of((EPOCH - 48 * HOUR, EPOCH)))
    assert sweep.begun(held, EPOCH, RULES, 5 * HOUR).span == (EPOCH - 5 * HOUR, EPOCH)

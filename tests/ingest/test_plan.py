"""Windows, proofs and gaps: properties of the arithmetic."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service import model
from service.ingest import plan
from service.intervals import FOREVER, Intervals

EPOCH = datetime(2026, 10, 1, tzinfo=UTC)
RULES = plan.Rules(timedelta(seconds=60), timedelta(hours=2), timedelta(minutes=10))
MS = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)


def at(seconds: float) -> datetime:
    """So many seconds after an arbitrary hour."""
    return EPOCH + timedelta(seconds=seconds)


def stream(**fields) -> model.Stream:
    """A stream that wants everything from a week before EPOCH on."""
    base = model.Stream(
        tenant_id=UUID(int=1),
        source="siem",
        parameters={},
        enrolled_at=EPOCH,
        wanted=Intervals.of((EPOCH - timedelta(days=7), None)),
    )
    return replace(base, **fields)


moments = st.timedeltas(timedelta(days=-11), timedelta(days=19)).map(lambda each: EPOCH + each)
pieces = st.lists(st.tuples(moments, moments).map(sorted).map(tuple), max_size=12).map(
    lambda pairs: Intervals.of(*pairs)
)
streams_ = st.builds(
    lambda wanted, coverage, watermark, overlap: stream(
        wanted=wanted | Intervals.of((EPOCH, None)), coverage=coverage, watermark=watermark, overlap=overlap
    ),
    pieces,
    pieces,
    st.none() | moments,
    st.none() | st.timedeltas(timedelta(seconds=1), timedelta(minutes=30)),
)
spans = st.timedeltas(MS, timedelta(days=9)).map(lambda span: span // MS * MS)
windows = st.builds(
    lambda since, span: model.Window(
        since.replace(microsecond=0), since.replace(microsecond=0) + span, "gap"
    ),
    moments,
    spans,
)


def whole_ms(window: model.Window) -> bool:
    """Whether both borders lie on whole milliseconds, and in order."""
    return (
        window.since < window.until
        and window.since.microsecond % 1000 == window.until.microsecond % 1000 == 0
    )


@given(streams_, moments)
def test_live_windows_are_whole_milliseconds_and_in_order(shown, now):
    """Whatever the stream's past, the live window is on whole milliseconds, not inverted, and no longer than LIVE_SPAN."""
    window = plan.live_window(shown, now, RULES)
    assert whole_ms(window)
    assert window.until <= now < window.until + MS
    assert window.span <= RULES.live_span
    assert window.kind == "live"


@given(streams_, moments)
def test_live_windows_cover_the_overlap(shown, now):
    """The live window always reaches back over the overlap, unless nothing of that is wanted."""
    window = plan.live_window(shown, now, RULES)
    wanted_from = shown.wanted.lower
    assert window.since <= max(window.until - plan.overlap_of(shown, RULES), wanted_from) or (
        window.span == MS and wanted_from >= window.since
    )


def test_a_quiet_tenants_window_does_not_grow_for_ever():
    """With an old watermark the window is bounded by LIVE_SPAN, and with a fresh one by the overlap alone."""
    quiet = stream(watermark=at(-90_000), coverage=Intervals.of((at(-100_000), at(-610))))
    assert plan.live_window(quiet, at(0), RULES).span == RULES.live_span
    busy = stream(watermark=at(-1), coverage=Intervals.of((at(-100_000), at(-660))))
    assert plan.live_window(busy, at(0), RULES) == model.Window(at(-660), at(0), "live")


def test_a_first_live_window_does_not_reach_before_what_is_wanted():
    """A stream that wants ten minutes reads ten minutes, not LIVE_SPAN."""
    new = stream(wanted=Intervals.of((at(-600), None)))
    assert plan.live_window(new, at(0), RULES) == model.Window(at(-600), at(0), "live")


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.floats(0.2, 90),  # seconds until the next poll
            st.floats(0, 5),  # latency until the answer is dated
            st.floats(-1.5, 1.5),  # our clock against theirs, what the noise allows
            st.booleans(),  # whether an alert came, which moves the watermark
        ),
        min_size=2,
        max_size=30,
    )
)
def test_consecutive_proofs_leave_no_hole(polls):
    """With Dates cut to seconds, latencies and a watermark ahead of its proof, coverage stays one interval and grows."""
    shown, theirs, upper = stream(wanted=Intervals.of((at(-3600), None))), at(0), None
    for pause, latency, skew, alert in polls:
        theirs += timedelta(seconds=pause)
        window = plan.live_window(shown, theirs + timedelta(seconds=skew), RULES)
        date = (theirs + timedelta(seconds=latency)).replace(microsecond=0)
        times = [min(theirs, window.until)] if alert else []
        proof = plan.proof(window, date, date, RULES.overlap) & shown.wanted
        shown = replace(
            shown, coverage=shown.coverage | proof, watermark=plan.watermark(shown, window, times)
        )
        assert len(shown.coverage) <= 1
        if upper is not None:
            assert shown.coverage.upper >= upper
        upper = shown.coverage.upper
        theirs += timedelta(seconds=latency)
    assert plan.gaps(shown) == Intervals()
    assert shown.coverage.lower == at(-3600)


@given(windows, st.none() | moments, moments, st.timedeltas(timedelta(seconds=1), timedelta(minutes=30)))
def test_a_proof_stays_inside_its_window_and_behind_the_overlap(window, date, ours, overlap):
    """Proven is what lies in the window and before Date − overlap; nothing without a Date or with one a day away."""
    proof = plan.proof(window, date, ours, overlap)
    if date is None or abs(date - ours) > timedelta(days=1):
        assert proof == Intervals()
    else:
        assert proof == Intervals.window(window) & Intervals.of(
            (datetime.min.replace(tzinfo=UTC), date - overlap)
        )


def test_a_skew_of_exactly_a_day_still_proves():
    """The border is over a day."""
    window = model.Window(at(-90_000), at(-89_000))
    assert plan.proof(window, at(-86_400), at(0), timedelta(seconds=1)) == Intervals.of(
        (at(-90_000), at(-89_000))
    )
    assert plan.proof(window, at(-86_401), at(0), timedelta(seconds=1)) == Intervals()


@given(streams_)
def test_gaps_are_wanted_not_covered_and_below_the_top(shown):
    """Gaps and coverage never meet, and above the upper end of coverage there is only the live tail."""
    found = plan.gaps(shown)
    assert not found & shown.coverage
    assert found - shown.wanted == Intervals()
    if found:
        assert found.upper <= shown.coverage.upper


@given(streams_, spans)
def test_gap_windows_are_the_newest_end_of_the_newest_gap(shown, width):
    """On whole milliseconds, at most `width` and a rounding wide, and no further out of the gap than that rounding."""
    found = plan.gaps(shown)
    window = plan.gap_window(found, width)
    if window is None:
        assert not found
        return
    start, end = found.pairs[-1]
    assert whole_ms(window)
    assert window.kind == "gap"
    assert end <= window.until < end + MS
    assert start - MS < window.since
    assert window.span <= width + 2 * MS


@settings(max_examples=60)
@given(streams_, st.lists(st.tuples(st.integers(0, 50_000), st.integers(0, 2**28)), min_size=1, max_size=20))
def test_any_gaps_drain(shown, densities):
    """Whatever the density of alerts, a bounded number of windows proves all gaps, newest first."""
    width, turn, tops = plan.FIRST_WIDTH, 0, []
    top = shown.coverage.upper
    while (window := plan.gap_window(plan.gaps(shown), width)) is not None:
        items, size = densities[turn % len(densities)]
        tops.append(window.until)
        shown = replace(
            shown, coverage=shown.coverage | plan.proof(window, at(10**8), at(10**8), timedelta(seconds=1))
        )
        # a density, not a number for ever: what is narrow holds less
        share = min(window.span / plan.FIRST_WIDTH, 1)
        width = plan.next_width(window.span, int(items * share), int(size * share))
        turn += 1
        assert turn < 5_000
    assert shown.coverage.upper == top
    assert tops == sorted(tops, reverse=True)


@given(spans, st.integers(0, 10**7), st.integers(0, 2**34))
def test_the_next_width_is_bounded(span, items, size):
    """At least a millisecond, at most WIDEST, at most four times what was read, and narrower where that was too much."""
    width = plan.next_width(span, items, size)
    assert MS <= width <= max(plan.WIDEST, MS)
    assert width <= max(span * 4, MS)
    if items > plan.TARGET_ITEMS or (items and size > plan.TARGET_BYTES):
        assert width <= max(span, MS)


@pytest.mark.parametrize(
    ("most", "weight", "aimed_at"),
    [(None, 100, plan.TARGET_ITEMS), (10_000, 100, 7_000), (10_000, 4_096, 5_120), (100, 4_096, 70)],
)
def test_the_next_width_aims_at_what_an_answer_holds(most, weight, aimed_at):
    """By the records of a page where the API has one, and by bytes where these are many: else a backlog of Defender for
    Endpoint takes five times the requests of paging.
    """
    span = timedelta(hours=1)
    width = plan.next_width(span, aimed_at // 2, aimed_at // 2 * weight, most)
    assert abs(width / span - 2) < 0.01


@given(windows, st.lists(moments, max_size=30))
def test_parts_tile_their_window(window, times):
    """Two parts, both not empty, on whole milliseconds, that meet; only a millisecond cannot be split."""
    parts = plan.split(window, times)
    if parts is None:
        assert window.span <= MS
        return
    older, newer = parts
    assert (older.since, older.until, newer.until) == (window.since, newer.since, window.until)
    assert whole_ms(older)
    assert whole_ms(newer)
    assert older.kind == newer.kind == window.kind


def test_a_full_answer_is_split_just_above_its_oldest_record():
    """What is missing is older; the newer part, asked for with a millisecond around it, does not bring that record again."""
    window = model.Window(at(0), at(3600))
    oldest = at(1800) + timedelta(microseconds=1500)
    older, newer = plan.split(window, [at(2000), oldest, at(3000)])
    assert older.until == at(1800) + 3 * MS
    assert newer.since - MS > oldest


def test_a_full_answer_at_the_lower_edge_is_split_at_its_median():
    """Where the oldest record lies at the window's start, the median halves what is left."""
    times = [at(0), at(10), at(20)]
    older, _ = plan.split(model.Window(at(0), at(3600)), times)
    assert older.until == at(0) + 2 * MS
    older, _ = plan.split(model.Window(at(0), at(0) + 2 * MS), [at(0)] * 3)
    assert older.until == at(0) + MS


@given(streams_, windows, st.lists(moments, max_size=5))
def test_the_watermark_neither_goes_back_nor_beyond_the_window(shown, window, times):
    """It is the newest of what it was and what was seen, and a record dated later than the window does not count for more."""
    moved = plan.watermark(shown, window, times)
    if not times:
        assert moved == shown.watermark
        return
    assert moved >= (shown.watermark or moved)
    assert moved <= max(window.until, shown.watermark or window.until)
    assert moved in {shown.watermark, max(times), window.until}


def test_a_record_of_2099_moves_the_watermark_to_the_windows_end_only():
    """One wrong date must not stop a stream."""
    window = model.Window(at(0), at(60))
    assert plan.watermark(stream(), window, [datetime(2099, 1, 1, tzinfo=UTC)]) == at(60)


@pytest.mark.parametrize(
    ("seconds", "is_outside"),
    [(-1.001, True), (-1, False), (0, False), (60, False), (60.999, False), (61, True)],
)
def test_outside_begins_a_second_beyond_the_window(seconds, is_outside):
    """Requests are a little wider than windows; more than a second away is another window than asked for."""
    assert plan.outside(model.Window(at(0), at(60)), [at(30), at(seconds)]) is is_outside


@pytest.mark.parametrize(
    ("seconds", "is_outside"),
    [
        ([30, 500], False),
        ([500, 500, 500], False),
        ([30] * 10 + [500] * 10, False),
        ([30] * 9 + [500] * 10, True),
        ([500] * 4, True),
        ([30] * 10 + [-5], True),
    ],
)
def test_records_that_change_may_be_newer_than_their_window(seconds, is_outside):
    """A few were updated meanwhile; most of an answer were not, and what is older never was."""
    times = [at(second) for second in seconds]
    assert plan.outside(model.Window(at(0), at(60)), times, mutable=True) is is_outside
    assert plan.outside(model.Window(at(0), at(60)), times)


@pytest.mark.parametrize(
    ("kind", "seconds", "expected"),
    [
        ("live", 10, "live"),
        ("gap", 10, "catch_up"),
        ("live", -10, "initial"),
        ("gap", -10, "initial"),
        ("gap", -7000, "backfill"),
        ("live", -7000, "backfill"),
    ],
)
def test_arrival(kind, seconds, expected):
    """Before the enrolment it is history; afterwards live or late; what a person asked for later is backfill."""
    shown = stream(backfill=Intervals.of((at(-8000), at(-6000))))
    assert plan.arrival(shown, kind, at(seconds)) == expected


def test_what_is_older_than_wanted_is_no_news():
    """An alert past retention comes along with an incident of today: history, however long ago the tenant was enrolled."""
    shown = stream(wanted=Intervals.of((at(-100), None)), enrolled_at=at(-9000))
    assert [plan.arrival(shown, "live", at(seconds)) for seconds in (-101, -99)] == ["initial", "live"]


@pytest.mark.parametrize(("proven", "expected"), [(None, 0), (-60, 0), (60, 60)])
def test_news_begin_where_the_retired_stream_ended(proven, expected):
    """What another source brings is news from the end of what was proven on, and never from before the enrolment."""
    coverage = Intervals() if proven is None else Intervals.of((at(-100), at(proven)))
    shown = stream(coverage=coverage, enrolled_at=at(0))
    assert plan.news_from(shown) == at(expected)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3600)), max_size=40), st.integers(0, 3600))
def test_coverage_gives_up_its_shortest_ranges(pauses, last):
    """What stays has at most MOST_RANGES, and nothing that was given up is longer than what stays."""
    ranges, start = [], at(0)
    for pause, length in pauses * 8:
        start += timedelta(seconds=pause + 1)
        ranges.append((start, start + timedelta(seconds=length)))
        start += timedelta(seconds=length)
    coverage = Intervals.of(*ranges, (start + HOUR, start + HOUR + timedelta(seconds=last)))
    dropped = plan.excess(coverage)
    kept = coverage - dropped
    assert len(kept) <= plan.MOST_RANGES
    assert dropped - coverage == Intervals()
    assert not dropped or len(coverage) > plan.MOST_RANGES
    if dropped:
        assert max(end - begin for begin, end in dropped) <= min(end - begin for begin, end in kept)


def test_an_endless_range_is_never_given_up():
    """FOREVER counts as the longest."""
    pairs = [(at(20 * n), at(20 * n + 10)) for n in range(plan.MOST_RANGES + 5)]
    coverage = Intervals.of(*pairs, (at(10**6), FOREVER))
    assert (coverage - plan.excess(coverage)).upper == FOREVER

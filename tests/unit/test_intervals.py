"""Intervals behave as sets of points, checked against sets of small integers."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import model
from service.intervals import FOREVER, Intervals

ORIGIN = datetime(2026, 10, 1, tzinfo=UTC)
SIZE = 24


def at(number):
    return ORIGIN + timedelta(milliseconds=number)


def interval(*pairs):
    return Intervals.of(*((at(start), FOREVER if end is None else at(end)) for start, end in pairs))


def points(intervals):
    """The model: the whole milliseconds in the intervals; SIZE stands for all that comes after."""
    return {
        number for number in range(SIZE + 1) if any(start <= at(number) < end for start, end in intervals)
    }


edges = st.tuples(st.integers(0, SIZE), st.one_of(st.none(), st.integers(0, SIZE))).filter(
    lambda pair: pair[1] is None or pair[0] <= pair[1]
)
sets = st.lists(edges, max_size=8).map(lambda pairs: interval(*pairs))


def canonical(intervals):
    """Sorted, disjoint, not touching, not empty: what PostgreSQL stores."""
    flat = [moment for pair in intervals for moment in pair]
    return all(earlier < later for earlier, later in itertools.pairwise(flat))


@given(st.lists(edges, max_size=8))
def test_of_is_the_union_of_its_pairs(pairs):
    """Order, overlap and empty pairs do not matter."""
    result = interval(*pairs)
    expected = {n for start, end in pairs for n in range(start, SIZE + 1 if end is None else end)}
    assert points(result) == expected
    assert canonical(result)


@given(sets, sets)
def test_operators_are_those_of_sets(left, right):
    """Union, difference and intersection agree with sets of points, and stay canonical."""
    for result, expected in [
        (left | right, points(left) | points(right)),
        (left - right, points(left) - points(right)),
        (left & right, points(left) & points(right)),
    ]:
        assert points(result) == expected
        assert canonical(result)
    assert left | right == right | left
    assert (left - right) | (left & right) == left
    assert not ((left - right) & right)


@given(sets, st.integers(0, SIZE), st.integers(0, SIZE))
def test_questions_agree_with_the_points(intervals, one, two):
    """contains, covers, below, above, lower, upper and total say what the points say."""
    inside = points(intervals)
    since, until = min(one, two), max(one, two)
    assert intervals.contains(at(one)) == (one in inside)
    assert intervals.covers(model.Window(at(since), at(until))) == (set(range(since, until)) <= inside)
    assert points(intervals.below(at(one))) == {number for number in inside if number < one}
    assert points(intervals.above(at(one))) == {number for number in inside if number >= one}
    assert bool(intervals) == bool(inside)
    assert intervals.lower == (at(min(inside)) if inside else None)
    if SIZE in inside:
        assert intervals.upper == FOREVER
        assert intervals.total() == timedelta.max
    else:
        assert intervals.upper == (at(max(inside) + 1) if inside else None)
        assert intervals.total() == timedelta(milliseconds=len(inside))


def test_touching_intervals_become_one():
    """[1, 2) and [2, 3) are [1, 3): coverage stays at few ranges."""
    assert interval((2, 3), (1, 2)).pairs == ((at(1), at(3)),)
    assert (interval((1, 2)) | interval((2, 3))).pairs == ((at(1), at(3)),)


def test_a_hole_can_reach_over_several_intervals():
    """One hole that spans three intervals is taken from each of them."""
    assert interval((0, 2), (4, 6), (8, 10)) - interval((1, 9)) == interval((0, 1), (9, 10))


def test_no_upper_end():
    """An end of None is FOREVER and survives every operation."""
    wanted = Intervals.of((at(0), None))
    assert wanted.upper == FOREVER
    assert wanted - interval((3, 5)) == interval((0, 3), (5, None))
    assert wanted & interval((3, 5)) == interval((3, 5))
    assert wanted.below(at(7)) == interval((0, 7))
    assert not wanted - wanted


def test_order_of_iteration():
    """Iteration is oldest first, reversed newest first, and len counts the pairs."""
    intervals = interval((5, 6), (1, 2))
    assert list(intervals) == [(at(1), at(2)), (at(5), at(6))]
    assert list(reversed(intervals)) == [(at(5), at(6)), (at(1), at(2))]
    assert len(intervals) == 2
    assert Intervals.window(model.Window(at(1), at(2))) == interval((1, 2))


def test_mistakes_are_refused():
    """A datetime without a zone and an end before its start raise ValueError."""
    with pytest.raises(ValueError, match="without a zone"):
        Intervals.of((datetime(2026, 10, 1), at(1)))  # noqa: DTZ001 - the mistake under test
    with pytest.raises(ValueError, match="ends before it starts"):
        Intervals.of((at(2), at(1)))

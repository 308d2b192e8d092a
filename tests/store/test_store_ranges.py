"""Intervals here and multiranges there are the same sets."""

from datetime import timedelta

import asyncpg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.intervals import FOREVER, Intervals
from service.store import ranges
from tests.store import rows

points = st.integers(0, 40).map(rows.hour)
pairs = st.tuples(points, st.one_of(points, st.just(FOREVER))).map(lambda ends: (min(ends), max(ends)))
sets = st.lists(pairs, max_size=6).map(lambda some: Intervals.of(*some))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(one=sets, other=sets)
async def test_sets_of_time_are_the_same_on_both_sides(pool: asyncpg.Pool, one: Intervals, other: Intervals):
    """Union, intersection and difference computed by PostgreSQL are those of Intervals, and both ways of travel lose nothing."""
    row = await pool.fetchrow(
        "SELECT a, a + b, a * b, a - b FROM (SELECT $1::tstzmultirange AS a, $2::text::tstzmultirange AS b) given",
        ranges.encode(one),
        ranges.text(other),
    )
    assert [ranges.decode(value) for value in row] == [one, one | other, one & other, one - other]


async def test_an_end_without_a_bound_is_forever(pool: asyncpg.Pool):
    """FOREVER is no bound at all in the database, and comes back as FOREVER; an empty range is nothing."""
    start = rows.NOON + timedelta(microseconds=1)
    row = await pool.fetchrow(
        "SELECT upper_inf($1::tstzrange), $1::tstzrange, 'empty'::tstzrange",
        ranges.encode_pair(start, FOREVER),
    )
    assert row[0]
    assert ranges.decode([row[1], row[2]]) == Intervals.of((start, None))

"""The verdict of a chaos run itself: it finds what is wrong, and the weather follows from the seed."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from service.intervals import Intervals
from service.simulator import sightings
from service.simulator.ticks import SECOND
from tests.chaos import scene, verdict, vitals, weather
from tests.chaos.follower import Seen
from tests.chaos.verdict import Held

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AT = (NOON - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) * 10
TENANT = "11111111-1111-1111-1111-111111111111"


def seen(seq: int, revision: int, kind: str, name: str = "a", tenant: str = TENANT) -> Seen:
    """A row of the feed."""
    return Seen(seq, f"change {seq}", tenant, "siem", "alert", name, revision, kind, "live", 0.0)


def test_each_kind_of_difference_is_found():
    """Lost, held twice, made up, and of other content: each by its id; alerts inside of an incident do not count."""
    truth = {name: json.dumps({"id": name, "alerts": [1]}).encode() for name in "abcde"}
    held = [
        Held("a", NOON, '{"id": "a"}'),
        Held("b", NOON, '{"id": "b"}'),
        Held("b", NOON, '{"id": "b"}'),
        Held("c", NOON, '{"id": "other"}'),
        Held("x", NOON, '{"id": "x"}'),
    ]
    found = verdict.compare(truth, {"a", "b", "c", "d"}, held)
    assert found == verdict.Stream(4, lost=["d"], doubled=["b"], phantom=["x"], different=["c"])


@pytest.mark.parametrize(
    ("late", "held", "broken"),
    [(0, None, ["a"]), (6, None, ["a"]), (7, None, []), (0, -1, ["a"]), (0, 0, []), (0, 1, [])],
)
def test_a_claim_is_held_against_what_was_shown_in_time(late, held, broken):
    """A proven time claims what was shown within the overlap, in this version or a newer one; late arrivals are not claimed."""
    shown = [sightings.Sighting("a", AT, AT + late * SECOND, AT)]
    covered = Intervals.of((NOON, NOON + timedelta(seconds=1)))
    rows = {} if held is None else {"a": NOON + timedelta(seconds=held)}
    assert verdict.claims(shown, covered, rows, timedelta(seconds=6)) == (int(late <= 6), broken)
    elsewhere = Intervals.of((NOON + timedelta(seconds=1), NOON + timedelta(seconds=2)))
    assert verdict.claims(shown, elsewhere, rows, timedelta(seconds=6)) == (0, [])


def test_a_reader_that_saw_all_in_order_is_content():
    """Two alerts, one of them changed."""
    rows = [seen(1, 1, "created"), seen(2, 1, "created", "b"), seen(5, 2, "updated")]
    assert verdict.feed("reader", rows, {1, 2, 5}, {TENANT}) == []


@pytest.mark.parametrize(
    ("rows", "numbers", "word"),
    [
        ([seen(2, 1, "created"), seen(1, 2, "updated")], {1, 2}, "ascend"),
        ([seen(1, 1, "created"), seen(1, 2, "updated")], {1}, "two numbers"),
        ([seen(1, 1, "created")], {1, 2}, "missed"),
        ([seen(1, 1, "created")], set(), "not in the feed"),
        ([seen(1, 1, "created", tenant="other")], {1}, "not its own"),
        ([seen(1, 1, "created"), seen(2, 3, "updated")], {1, 2}, "revisions"),
        ([seen(1, 1, "created"), seen(2, 2, "created")], {1, 2}, "came as"),
        ([seen(1, 1, "updated")], {1}, "came as"),
    ],
)
def test_what_a_reader_must_not_see_is_said(rows, numbers, word):
    """Order, numbers, tenants, revisions, creations: each has its sentence."""
    assert any(word in each for each in verdict.feed("reader", rows, numbers, {TENANT}))


def test_the_weather_follows_from_the_seed():
    """The same seed brings the same events, another one others; every kind comes, and every replica but the spared one ends."""

    def forecast(seed: int) -> list[weather.Event]:
        return weather.forecast(seed, 300, replicas=3, holders=lambda _: [1, 2], tenants=40, spared=0)

    assert forecast(1) == forecast(1) != forecast(2)
    assert {event.kind for event in forecast(1)} == set(weather.PERIODS)
    assert 0 not in {event.target for event in forecast(1) if event.kind in ("kill", "restart")}
    named = {event.fault for event in weather.forecast(1, 900, replicas=1, holders=lambda _: [1], tenants=1)}
    assert named >= {name for surface in ("siem", "graph", "token") for name in weather.faults(surface)}


def test_growth_is_judged_by_the_line_that_fits():
    """A process that was watched for long and rises grows; one that fills its caches, or lived briefly, does not."""

    def life(hours: float, mib_an_hour: float) -> vitals.Growth:
        rises = [
            vitals.Vitals(n * 36.0, round((90 + n * mib_an_hour / 100) * vitals.MIB), 8, 30)
            for n in range(int(hours * 100))
        ]
        return vitals.growth("replica", rises)

    assert life(1, 100).mib_an_hour == pytest.approx(100, rel=0.01)
    assert life(1, 100).grows
    assert not life(1, 1).grows
    assert not life(0.2, 100).grows
    filled = [vitals.Vitals(n * 36.0, min(90 + 2 * n, 120) * vitals.MIB, 8, 30) for n in range(100)]
    assert not vitals.growth("replica", filled).grows
    assert vitals.slope([]) == vitals.slope([(1, 1)]) == 0


def test_every_source_is_somebodys():
    """Tenants have one source or two, and every tenth has all of them; percentiles are values that were seen."""
    assert {name for number in range(10) for name in scene.sources(number)} == set(scene.APIS)
    assert [*scene.sources(9)] == [*scene.APIS]
    assert [verdict.percentile([3, 1, 2], share) for share in (0.5, 0.99, 1.0)] == [2, 3, 3]
    assert verdict.percentile([], 0.5) is None

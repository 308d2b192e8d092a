"""Tenants, their alerts and the truth about them, without a network."""

from __future__ import annotations

import collections
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.simulator import runs, ticks, world

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
NOON = ticks.parse("2026-10-01T12:00:00Z")


def made(seed=7, quirks=None, at=NOON, rate=5.0):
    """A world of one tenant at a time that stands still."""
    shown = world.World(seed, ticks.HandClock(at), quirks)
    shown.add_tenant(CONTOSO, "Contoso", rate=rate)
    return shown


def records(shown, since, until, tenant_id=CONTOSO):
    """An answer's records as bytes, newest first."""
    return [*shown.select(tenant_id, since, until).records()]


def processed(record):
    """A record's LastProcessedTimeUtc in ticks."""
    return ticks.parse(json.loads(record)["LastProcessedTimeUtc"])


@given(st.integers(0, ticks.parse("9999-12-31T23:59:59.9999999Z")))
def test_times_keep_every_tick(at):
    """Any time survives being written and read, and never ends in a zero after the point."""
    written = ticks.text(at)
    assert ticks.parse(written) == at
    assert "." not in written or written[-2] not in "0."


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("2026-10-01T08:17:03.35743Z", "2026-10-01T08:17:03.35743Z"),
        ("2026-10-01T08:17:03.0000000", "2026-10-01T08:17:03Z"),
        ("2026-10-01T08:17:03.12345678Z", "2026-10-01T08:17:03.1234567Z"),
        ("2026-10-01T10:17:03.5+02:00", "2026-10-01T08:17:03.5Z"),
        ("2026-10-01T03:17:03-05:00", "2026-10-01T08:17:03Z"),
        ("2026-10-01", "2026-10-01T00:00:00Z"),
    ],
)
def test_forms_of_times(text, same):
    """Zones, dates and digits beyond the seventh are read as the one instant they mean."""
    assert ticks.text(ticks.parse(text)) == same


def test_the_same_seed_gives_the_same_alerts_however_they_are_asked_for():
    """Two worlds of one seed agree byte for byte, in one piece or in slices, whenever they were made."""
    whole = records(made(), NOON - 5 * ticks.HOUR, NOON)
    later = made(at=NOON + 3 * ticks.HOUR)
    slices = [
        record
        for hour in range(5)
        for record in records(later, NOON - (hour + 1) * ticks.HOUR + 1, NOON - hour * ticks.HOUR)
    ]
    assert whole == slices
    assert len(whole) > 1000
    assert records(made(seed=8), NOON - 5 * ticks.HOUR, NOON) != whole


def test_the_rate_is_about_what_was_asked_for():
    """Five alerts a minute bring about three hundred an hour."""
    found = len(made().select(CONTOSO, NOON - 10 * ticks.HOUR, NOON))
    assert 2500 < found < 3500


@pytest.mark.parametrize("rate", [0.05, 40.0, 2000.0])
def test_rates_from_idle_to_flood(rate):
    """A quiet and a flooded tenant get their share too, in buckets of fitting width."""
    span = 6000 / rate
    shown = world.World(7, ticks.HandClock(NOON))
    shown.add_tenant(CONTOSO, "Contoso", rate=rate, history=1e7)
    found = shown.select(CONTOSO, NOON - round(span * ticks.MINUTE), NOON)
    assert 4800 < len(found) < 7200


def test_history_begins_where_it_was_said_to():
    """Nothing is older than the history of the tenant."""
    shown = world.World(7, ticks.HandClock(NOON))
    shown.add_tenant(CONTOSO, "Contoso", rate=30.0, history=1000.0)
    oldest = min(processed(record) for record in shown.truth(CONTOSO).values())
    assert NOON - 1000 * ticks.SECOND <= oldest < NOON - 900 * ticks.SECOND


def test_alerts_keep_arriving_and_never_from_the_future():
    """As the clock goes on there are more; none is visible before its time."""
    shown = made()
    clock = shown.clock
    before = shown.full_ids(CONTOSO)
    clock.advance(3600)
    after = shown.full_ids(CONTOSO)
    assert before < after
    assert max(processed(record) for record in shown.truth(CONTOSO).values()) <= clock()


def test_stories_make_several_detections_of_one_alert():
    """One AlertId has several parts with different FullIds on one device, in rising order of time."""
    by_alert = collections.defaultdict(list)
    for record in reversed(records(made(), NOON - 10 * ticks.HOUR, NOON)):
        row = json.loads(record)
        by_alert[row["AlertId"]].append(row)
    assert max(map(len, by_alert.values())) >= 4
    for rows in by_alert.values():
        assert len({row["FullId"] for row in rows}) == len(rows)
        assert len({(row["DeviceID"], row["AlertTitle"]) for row in rows}) == 1
    assert {row["Source"] for rows in by_alert.values() for row in rows} == {"EDR", "Antivirus"}
    fractions = {len(row["LastProcessedTimeUtc"]) for rows in by_alert.values() for row in rows}
    assert {20, 28} <= fractions


def test_truth_is_what_a_full_read_gives():
    """Newest version of each FullId, whatever run it came from."""
    shown = made(quirks=runs.Quirks(late_share=0.2, revised_share=0.2, tied_share=0.2))
    shown.add_backlog(CONTOSO, 500, since=NOON - ticks.DAY, until=NOON)
    read = {}
    for record in reversed(records(shown, 0, NOON)):
        read[json.loads(record)["FullId"]] = record
    assert read == shown.truth(CONTOSO)
    assert set(read) == shown.full_ids(CONTOSO)
    count = shown.count(CONTOSO)
    assert count.full_ids == len(read) < count.records


def test_answers_of_several_runs_are_in_order():
    """A backlog, live alerts and filed records of one span come newest first, together."""
    shown = made()
    shown.add_backlog(CONTOSO, 300, since=NOON - ticks.HOUR, until=NOON)
    shown.add_record(
        CONTOSO, b'{"LastProcessedTimeUtc":"2026-10-01T11:30:00Z"}', at=NOON - 30 * ticks.MINUTE, full_id=None
    )
    found = shown.select(CONTOSO, NOON - ticks.HOUR, NOON)
    times = [processed(record) for record in found.records()]
    assert times == sorted(times, reverse=True)
    assert [*found.newest(100).records()] == [*found.records()][:100]
    assert len(found.newest(100)) == 100


def test_versions_and_unreadable_records():
    """The newest time wins, of equal times the last one filed; records without a key are counted, not part of the truth."""
    shown = world.World(7, ticks.HandClock(NOON))
    shown.add_tenant(FABRIKAM, "Fabrikam")
    for at, raw in ((2, b"new"), (1, b"old"), (2, b"newer")):
        shown.add_record(FABRIKAM, raw, at=at, full_id="one")
    shown.add_record(FABRIKAM, b"{", at=3, full_id=None)
    shown.add_record(FABRIKAM, b"later", at=4, visible_at=NOON + 1, full_id="one")
    assert shown.truth(FABRIKAM) == {"one": b"newer"}
    assert shown.count(FABRIKAM) == world.Count(records=4, full_ids=1, unreadable=1)
    assert shown.truth(FABRIKAM, NOON + 1) == {"one": b"later"}


def test_nothing_is_visible_before_the_time_it_is_filed_under():
    """A record with such times is refused."""
    shown = world.World(7, ticks.HandClock(NOON))
    shown.add_tenant(FABRIKAM, "Fabrikam")
    with pytest.raises(ValueError, match="visible before"):
        shown.add_record(FABRIKAM, b"{}", at=NOON, visible_at=NOON - 1, full_id=None)


def test_late_arrivals_come_within_their_bound():
    """Some alerts become visible after their time, none later than the bound, and what is visible only grows."""
    shown = made(quirks=runs.Quirks(late_share=0.3, late_seconds=240))
    seen = shown.full_ids(CONTOSO)
    shown.clock.advance(240)
    then = {json.loads(record)["FullId"] for record in records(shown, NOON - ticks.DAY, NOON)}
    assert seen < then
    shown.clock.advance(10_000)
    assert then == {json.loads(record)["FullId"] for record in records(shown, NOON - ticks.DAY, NOON)}


def test_revised_versions_are_later_and_differ():
    """A revised detection has the same FullId, a later time and another description."""
    versions = collections.defaultdict(list)
    for record in records(made(quirks=runs.Quirks(revised_share=0.5)), NOON - 2 * ticks.HOUR, NOON):
        row = json.loads(record)
        versions[row["FullId"]].append(row)
    revised = [rows for rows in versions.values() if len(rows) == 2]
    assert len(revised) > 50
    for newer, older in revised:
        assert ticks.parse(newer["LastProcessedTimeUtc"]) > ticks.parse(older["LastProcessedTimeUtc"])
        assert newer["Description"].startswith(older["Description"])
        assert newer["Description"] != older["Description"]


def test_tied_stories_share_one_instant_of_seven_digits():
    """With tied stories all detections of an alert have one time, written with seven digits."""
    by_alert = collections.defaultdict(set)
    for record in records(made(quirks=runs.Quirks(tied_share=1.0)), NOON - 2 * ticks.HOUR, NOON):
        row = json.loads(record)
        by_alert[row["AlertId"]].add(row["LastProcessedTimeUtc"])
    assert all(len(times) == 1 and len(min(times)) == 28 for times in by_alert.values())


@pytest.mark.parametrize("encoded", [False, True])
def test_backlogs_are_exact_and_cheap(encoded):
    """Count and bounds are exact, FullIds differ, and rendering ahead changes no byte."""
    shown = world.World(7, ticks.HandClock(NOON))
    shown.add_tenant(FABRIKAM, "Fabrikam")
    since = NOON - 5 * ticks.DAY
    shown.add_backlog(FABRIKAM, 5000, since=since, until=NOON, encoded=encoded)
    found = records(shown, 0, NOON, FABRIKAM)
    assert len(found) == len({json.loads(record)["FullId"] for record in found}) == 5000
    assert since <= processed(found[-1]) <= processed(found[0]) < NOON
    again = world.World(7, ticks.HandClock(NOON))
    again.add_tenant(FABRIKAM, "Fabrikam")
    again.add_backlog(FABRIKAM, 5000, since=since, until=NOON)
    assert records(again, 0, NOON, FABRIKAM) == found


def test_tenants_are_found_by_id_and_domain():
    """GUIDs and domains in any casing; ids are unique GUIDs."""
    shown = made()
    assert shown.find(CONTOSO.upper()) is shown.find("Contoso.OnMicrosoft.com") is shown.tenants[CONTOSO]
    assert shown.find("nobody.example") is None
    with pytest.raises(ValueError, match="exists already"):
        shown.add_tenant(CONTOSO, "Again")
    with pytest.raises(ValueError, match="badly formed"):
        shown.add_tenant("contoso", "Contoso")


def test_thousands_of_tenants_are_the_same_every_time():
    """A populated world is deterministic; names and ids are unique."""
    first, second = (world.World(3, ticks.HandClock(NOON)).populate(3000) for _ in range(2))
    assert [(each.tenant_id, each.name, each.rate) for each in first] == [
        (each.tenant_id, each.name, each.rate) for each in second
    ]
    twice = world.World(3, ticks.HandClock(NOON))
    assert len({each.tenant_id for each in [*twice.populate(30), *twice.populate(30)]}) == 60
    assert len({each.name for each in first}) == len({each.tenant_id for each in first}) == 3000

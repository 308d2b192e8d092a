"""Alerts and incidents with their lives: the same stories through every API, and the truth about them."""

from __future__ import annotations

import collections
import itertools
import json

import pytest

from service.simulator import cases, filing, runs, ticks, world

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
NOON = ticks.parse("2026-10-01T12:00:00Z")


def made(rate=2.0, quirks=None, at=NOON):
    """A world of one lively and one empty tenant."""
    shown = world.World(7, ticks.HandClock(at), quirks)
    history = 86_400 + (at - NOON) / ticks.SECOND
    shown.add_tenant(CONTOSO, "Contoso", rate=rate, history=history)
    shown.add_tenant(FABRIKAM, "Fabrikam")
    return shown


def loaded(records):
    """A truth, decoded."""
    return {name: json.loads(record) for name, record in records.items()}


def test_one_alert_has_one_id_in_every_api():
    """The SIEM detections, the MDE alert, the nested XDR alert and the Graph alert share it, device and title."""
    shown = made()
    mde, xdr, graph = (loaded(shown.truth_alerts(CONTOSO, api)) for api in ("mde", "xdr", "graph"))
    siem = collections.defaultdict(list)
    for record in loaded(shown.truth(CONTOSO)).values():
        siem[record["AlertId"]].append(record)
    assert set(siem) == set(mde) == set(xdr) == set(graph)
    assert len(mde) > 1000
    for name, detections in siem.items():
        alert, nested, other = mde[name], xdr[name], graph[name]
        first = min(detections, key=lambda each: ticks.parse(each["LastProcessedTimeUtc"]))
        last = max(detections, key=lambda each: ticks.parse(each["AlertTime"]))
        assert ticks.parse(alert["alertCreationTime"]) == ticks.parse(first["LastProcessedTimeUtc"])
        assert alert["lastEventTime"] == nested["lastActivity"] == last["AlertTime"]
        assert alert["machineId"] == nested["devices"][0]["mdatpDeviceId"] == first["DeviceID"]
        assert other["evidence"][0]["mdeDeviceId"] == first["DeviceID"]
        assert alert["title"] == nested["title"] == other["title"] == first["AlertTitle"]
        assert alert["lastUpdateTime"] == nested["lastUpdatedTime"] == other["lastUpdateDateTime"]
        assert alert["status"] == nested["status"] == other["status"][0].upper() + other["status"][1:]
        assert str(alert["incidentId"]) == str(nested["incidentId"]) == other["incidentId"]
        hashes = {each["Sha1"] for each in detections if each["CommandLine"]}
        assert hashes == {each["sha1"] for each in alert["evidence"] if each["entityType"] == "Process"}


def test_incidents_hold_their_alerts_and_move_with_them():
    """Every alert is in the incident that it names, whose update time is no older than any of theirs."""
    shown = made()
    for api in ("xdr", "graph"):
        incidents = loaded(shown.truth_incidents(CONTOSO, api))
        updated = {"xdr": ("lastUpdateTime", "lastUpdatedTime"), "graph": ("lastUpdateDateTime",) * 2}[api]
        seen = 0
        for name, incident in incidents.items():
            for alert in incident["alerts"]:
                seen += 1
                assert str(alert["incidentId"]) == name
                assert ticks.parse(alert[updated[1]]) <= ticks.parse(incident[updated[0]])
        assert seen == len(shown.truth_alerts(CONTOSO, "mde"))


def test_merged_incidents_redirect_and_their_alerts_follow():
    """A redirected incident has no alerts and names a survivor that is there and holds them."""
    shown = made()
    xdr, graph = (loaded(shown.truth_incidents(CONTOSO, api)) for api in ("xdr", "graph"))
    merged = [each for each in xdr.values() if each["status"] == "Redirected"]
    assert len(merged) > 20
    for incident in merged:
        assert incident["alerts"] == []
        survivor = xdr[str(incident["redirectIncidentId"])]
        assert survivor["status"] != "Redirected"
        assert len(survivor["alerts"]) >= 2
        same = graph[str(incident["incidentId"])]
        assert (same["status"], same["redirectIncidentId"]) == ("redirected", str(survivor["incidentId"]))


def test_lives_go_forward_and_move_the_update_time():
    """Versions rise in time; status goes from new to resolved; each difference has a version of its own."""
    shown = made()
    versions = shown.casebook(CONTOSO).versions("alerts", "mde", NOON)
    truth = shown.truth_alerts(CONTOSO, "mde")
    order = {"New": 0, "InProgress": 1, "Resolved": 2}
    seen = collections.Counter()
    for name, listed in versions.items():
        rows = [json.loads(record) for _, record in listed]
        assert [at for at, _ in listed] == sorted({at for at, _ in listed})
        assert [ticks.parse(row["lastUpdateTime"]) for row in rows] == [at for at, _ in listed]
        for before, after in itertools.pairwise(rows):
            assert order[before["status"]] <= order[after["status"]]
            assert len(before["evidence"]) <= len(after["evidence"])
            assert {**before, "lastUpdateTime": ""} != {**after, "lastUpdateTime": ""}
            seen.update(key for key in before if before[key] != after[key])
        assert listed[-1][1] == truth[name]
    for key in (
        "status",
        "assignedTo",
        "comments",
        "evidence",
        "incidentId",
        "investigationState",
        "resolvedTime",
    ):
        assert seen[key] > 20, key
    digits = {len(json.loads(record)["lastUpdateTime"].partition(".")[2]) for record in truth.values()}
    assert len(digits) == 8
    shared = collections.Counter(json.loads(record)["lastUpdateTime"] for record in truth.values())
    assert max(shared.values()) > 1


def test_the_same_whenever_and_however_it_is_asked_for():
    """What was true at noon is told alike by a world that was never asked before and one whose clock has gone on."""
    early, late = made(), made(at=NOON + ticks.DAY)
    for api in ("mde", "xdr", "graph"):
        truth = early.truth_alerts(CONTOSO, api)
        assert late.truth_alerts(CONTOSO, api, NOON) == truth == early.truth_alerts(CONTOSO, api)


@pytest.mark.parametrize("rate", [0.05, 40.0])
def test_slices_of_time_make_up_the_whole(rate):
    """Windows side by side hold each record exactly once, in its newest version."""
    shown = made(rate=rate)
    book = shown.casebook(CONTOSO)
    begin = NOON - 8 * ticks.HOUR
    for kind in ("alerts", "incidents"):
        whole = {
            (id(each.cases), each.owner, each.at)
            for each in book.select(kind, "graph", begin, NOON, NOON).all()
        }
        sliced = [
            (id(each.cases), each.owner, each.at)
            for number in range(32)
            for each in book.select(
                kind,
                "graph",
                begin + number * ticks.HOUR // 4,
                begin + (number + 1) * ticks.HOUR // 4 - (number < 31),
                NOON,
            ).all()
        ]
        assert len(sliced) == len(set(sliced))
        assert set(sliced) == whole


def test_late_changes_are_seen_late_and_no_version_comes_back():
    """With late arrivals the newest visible version is shown, never an older one than before."""
    shown = made(quirks=runs.Quirks(late_share=0.3, late_seconds=240))
    book, held, late = shown.casebook(CONTOSO), {}, 0
    all_versions = book.versions("alerts", "mde", NOON + ticks.DAY)
    for minute in range(4):
        now = NOON - (4 - minute) * ticks.MINUTE
        visible = {name: listed[-1][0] for name, listed in book.versions("alerts", "mde", now).items()}
        for name, record in shown.truth_alerts(CONTOSO, "mde", now).items():
            at = ticks.parse(json.loads(record)["lastUpdateTime"])
            assert at == visible[name] >= held.get(name, 0)
            late += any(at < other <= now for other, _ in all_versions[name])
            held[name] = at
    assert late > 2


def test_orders():
    """Newest creation first, newest update first, oldest update first."""
    shown = made()
    book = shown.casebook(CONTOSO)
    alerts = [each.alert() for each in book.select("alerts", "mde", 0, NOON, NOON, "creation").all()]
    made_at = [each.created for each in alerts]
    assert made_at == sorted(made_at, reverse=True)
    assert [each.updated for each in alerts] != sorted([each.updated for each in alerts], reverse=True)
    newest = [each.at for each in book.select("alerts", "mde", 0, NOON, NOON, "update").all()]
    oldest = [each.at for each in book.select("alerts", "mde", 0, NOON, NOON, "update_asc").all()]
    assert newest == sorted(newest, reverse=True) == oldest[::-1]


def test_backlogs_are_exact():
    """So many alerts in so many incidents, all ids different; at one instant all times are equal and stay so."""
    shown = made()
    begin = NOON - 5 * ticks.DAY
    shown.add_alert_backlog(FABRIKAM, 3000, since=begin, until=NOON - ticks.DAY, per_incident=3)
    shown.add_alert_backlog(FABRIKAM, 500, since=begin, until=begin)
    alerts = loaded(shown.truth_alerts(FABRIKAM, "mde"))
    assert len(alerts) == 3500
    incidents = loaded(shown.truth_incidents(FABRIKAM, "xdr"))
    assert collections.Counter(len(each["alerts"]) for each in incidents.values()) == {3: 1000, 1: 500}
    tied = [each for each in alerts.values() if ticks.parse(each["lastUpdateTime"]) == begin]
    assert len(tied) == 500
    assert set(alerts) == {each["AlertId"] for each in loaded(shown.truth(FABRIKAM)).values()}


def test_filed_alerts_change_as_they_are_told_to():
    """Every update is a version; incidents follow; what is filed late is seen late."""
    shown = made()
    desk = filing.Desk(shown, FABRIKAM)
    begin = NOON - ticks.HOUR
    first = desk.add_alert(at=begin, severity="High", siem=True, parts=2)
    desk.update_alert(first, at=begin + 1, status="InProgress", assigned="soc@mssp.example", comment="mine")
    desk.update_alert(first, at=begin + 2, evidence=1, visible_at=NOON + 1)
    desk.update_alert(first, at=begin + 3, status="Resolved", classification="FalsePositive")
    shown.clock.advance(1)
    alert = loaded(shown.truth_alerts(FABRIKAM, "mde"))[first]
    assert (alert["status"], alert["assignedTo"], alert["severity"]) == (
        "Resolved",
        "soc@mssp.example",
        "High",
    )
    assert alert["comments"][0]["comment"] == "mine"
    assert alert["resolvedTime"] == alert["lastUpdateTime"] == ticks.text(begin + 3)
    assert json.loads(shown.truth_alerts(FABRIKAM, "mde", NOON)[first])["lastUpdateTime"] == ticks.text(
        begin + 1
    )
    assert len(shown.casebook(FABRIKAM).versions("alerts", "graph", NOON + 1)[first]) == 3
    assert len(shown.full_ids(FABRIKAM)) == 2
    incident = loaded(shown.truth_incidents(FABRIKAM, "xdr"))[str(alert["incidentId"])]
    assert (incident["status"], incident["lastUpdateTime"]) == ("Resolved", ticks.text(begin + 3))
    with pytest.raises(ValueError, match="older"):
        desk.update_alert(first, at=begin)
    with pytest.raises(ValueError, match="no alert"):
        desk.update_alert("da1_1", at=begin)


def test_filed_incidents_merge():
    """The merged one is redirected and empty, the survivor has the alerts of both, each a version newer."""
    shown = made()
    desk = filing.Desk(shown, FABRIKAM)
    one, other = desk.add_incident(at=NOON - 10, alerts=3), desk.add_incident(at=NOON - 9, alerts=2)
    desk.merge(other, one, at=NOON - 5)
    incidents = loaded(shown.truth_incidents(FABRIKAM, "xdr"))
    assert (len(incidents[str(one)]["alerts"]), incidents[str(other)]["alerts"]) == (5, [])
    assert incidents[str(other)]["redirectIncidentId"] == one
    moved = [
        each for each in incidents[str(one)]["alerts"] if each["lastUpdatedTime"] == ticks.text(NOON - 5)
    ]
    assert len(moved) == 2
    assert {each["incidentId"] for each in loaded(shown.truth_alerts(FABRIKAM, "mde")).values()} == {one}
    before = {
        name: json.loads(each) for name, each in shown.truth_incidents(FABRIKAM, "xdr", NOON - 6).items()
    }
    assert len(before[str(other)]["alerts"]) == 2


def test_what_no_collector_may_hold_is_not_part_of_the_truth():
    """Raw bytes and records that name another tenant are shown and not counted; APIs can be left out."""
    shown = made()
    desk = filing.Desk(shown, FABRIKAM)
    desk.add_raw({"mde": b"{", "graph": b"17"}, at=NOON)
    foreign = desk.add_alert(at=NOON, tenant=CONTOSO)
    office = desk.add_alert(at=NOON, alert_id="fa1_1", apis=("xdr", "graph"), source="OfficeATP")
    odd = desk.add_alert(at=NOON, fields={"mde": {"severity": 3, "mitreTechniques": None}})
    assert set(shown.truth_alerts(FABRIKAM, "mde")) == {odd}
    assert set(shown.truth_alerts(FABRIKAM, "xdr")) == {office, odd}
    book = shown.casebook(FABRIKAM)
    assert len(book.select("alerts", "mde", 0, NOON, NOON)) == 3
    assert foreign in {each.alert().alert_id for each in book.select("alerts", "mde", 0, NOON, NOON).all()}
    assert json.loads(shown.truth_alerts(FABRIKAM, "mde")[odd])["severity"] == 3


def test_a_version_that_is_never_alone_newest_is_never_shown():
    """Where a later version is visible first, the earlier one is skipped."""
    line = cases.Timeline([[(1, 10), (2, 2)], [(1, 1)]])
    assert line.shown(0, 99, 9).owners == [1]
    assert [*zip(*line.shown(0, 99, 10), strict=True)] == [(1, 1), (2, 0)]
    assert line.newest(0, 9) is None
    assert line.newest(0, 10) == 2
    assert [*line.every(99)] == [(1, 1), (0, 2)]

"""Each source of mutable records against the simulator's truth: every record once, in its newest version."""

from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from service import model, timestamps
from service.ingest import asking
from service.simulator import graph, runs, world
from service.sources import mde_alerts, registry
from service.store import feed, storing
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, moment, taken

MS = timedelta(milliseconds=1)
SURFACES = {"mde_alerts": "mde", "xdr_incidents": "xdr", "graph_alerts": "graph", "graph_incidents": "graph"}
LINKING = ("graph_alerts", "graph_incidents")
OTHER = "22222222-2222-2222-2222-222222222222"

every_source = pytest.mark.parametrize("source", sorted(SURFACES))


def small_pages(monkeypatch, most):
    """Let mde_alerts, whose pages hold 10,000, ask for this many."""
    smaller = dataclasses.replace(mde_alerts.SOURCE, most=most)
    monkeypatch.setattr(registry, "SOURCES", {**registry.SOURCES, "mde_alerts": smaller})


async def incidents_are_the_truth(bench, source):
    """soc.incidents holds the newest version of each incident that the API shows, without its alerts, and names these."""
    rows = await bench.books.rows.fetch("SELECT * FROM soc.incidents")
    held = {row["incident_id"]: row for row in rows}
    assert len(held) == len(rows)
    truth = bench.shown.truth_incidents(CONTOSO, SURFACES[source]) if "incidents" in source else {}
    assert held.keys() == truth.keys()
    key = "alertId" if source == "xdr_incidents" else "id"
    for incident_id, raw in truth.items():
        told = json.loads(raw)
        inside = {alert[key] for alert in told.pop("alerts", [])}
        assert {**json.loads(held[incident_id]["raw"]), "alerts": None} == {**told, "alerts": None}
        assert len(held[incident_id]["alert_ids"] or []) == len(inside)


@every_source
async def test_the_newest_version_of_every_record_is_held_once(staged, clock, source):
    """A day of stories with changes and merged incidents, read as history and then live while it goes on."""
    shown = world.World(11, clock, runs.Quirks(tied_share=0.3, revised_share=0.2))
    shown.add_tenant(CONTOSO, "Contoso", rate=0.5, history=86_400)
    async with staged(shown) as bench:
        mine = await bench.take(source=source, lookback=100_000)
        await taken(bench, mine)
        held = await bench.books.same_alerts(shown, source)
        assert len(held) > 100
        await incidents_are_the_truth(bench, source)
        for _ in range(6):
            bench.advance(600)
            await taken(bench, mine)
        newer = await bench.books.same_alerts(shown, source)
        await incidents_are_the_truth(bench, source)
        assert not await bench.books.gaps()
        assert (await bench.books.stream())["proven_until"] == bench.now - timedelta(minutes=10)
        changed = {key for key, row in newer.items() if key in held and row["raw"] != held[key]["raw"]}
        assert changed
        changes = await bench.books.rows.fetch(
            "SELECT full_id, kind, changed FROM alertwell.alert_change ORDER BY batch, n"
        )
    kinds = {}
    for row in changes:
        kinds.setdefault(row["full_id"], []).append(row["kind"])
    assert all(each[0] == "created" and set(each[1:]) <= {"updated", "merged"} for each in kinds.values())
    assert changed <= {key for key, each in kinds.items() if len(each) > 1}
    assert all(json.loads(row["changed"]) for row in changes if row["kind"] == "updated")


class Versions:
    """What polls handed in to be stored, version by version: records and ids of alerts, by incident."""

    def __init__(self, monkeypatch):
        self.told = {}
        real = storing.store

        async def store(database, lease, source, poll, harvest):
            counts = await real(database, lease, source, poll, harvest)
            for one in (*harvest.incidents.new, *harvest.incidents.newer):
                self.told.setdefault(one.incident_id, []).append((json.loads(one.raw), one.alert_ids))
            return counts

        monkeypatch.setattr(storing, "store", store)

    def content(self, incident_id):
        """Its versions that differ from the one before; without its alerts an incident keeps those it had."""
        kept = []
        for raw, named in self.told[incident_id]:
            ids = named if named is not None or not kept else kept[-1][1]
            if not kept or (raw, set(ids or ())) != (kept[-1][0], set(kept[-1][1] or ())):
                kept.append((raw, ids))
        return kept


def applied(content, changed):
    """A version after a change; what is shown as null because it is large is taken as read."""
    raw, ids = content
    raw = dict(raw)
    for field, (_, new) in changed.items():
        if field.startswith("raw."):
            raw[field.removeprefix("raw.")] = new
    return raw, changed.get("alert_ids", (None, ids))[1]


async def incident_changes_are_the_versions(bench, versions):
    """The changes of each incident in order of seq: one for each version stored, saying what differs, up to what is held."""
    while await feed.number(bench.database):
        pass
    changes = {}
    for row in await bench.books.rows.fetch(
        "SELECT * FROM soc.changes(NULL, NULL) WHERE record = 'incident' ORDER BY seq"
    ):
        changes.setdefault(row["incident_id"], []).append(row)
    held = {row["incident_id"]: row for row in await bench.books.rows.fetch("SELECT * FROM soc.incidents")}
    assert changes.keys() == held.keys() == versions.told.keys()
    columns = ("title", "severity", "status", "redirect_incident_id", "source_updated_at", "assigned_to")
    kinds = []
    for incident_id, found in changes.items():
        content = versions.content(incident_id)
        assert [row["revision"] for row in found] == list(range(1, len(content) + 1))
        kinds += [row["kind"] for row in found]
        assert found[0]["kind"] == "created"
        latest = {}
        for (before, now), row in zip(itertools.pairwise(content), found[1:], strict=True):
            changed = json.loads(row["changed"])
            raw, ids = applied(before, changed)
            hidden = {field for field, value in raw.items() if value is None}  # large, or gone
            assert {k: v for k, v in raw.items() if k not in hidden} == {
                k: v for k, v in now[0].items() if k not in hidden
            }
            assert ids is None or set(ids) == set(now[1] or ())
            merged = changed.get("redirect_incident_id", (None, None))[1] is not None
            assert row["kind"] == ("merged" if merged else "updated")
            latest |= changed
        row = held[incident_id]
        assert (row["revision"], json.loads(row["raw"])) == (len(content), content[-1][0])
        assert set(row["alert_ids"] or ()) == set(content[-1][1] or ())
        for column in columns:
            if column in latest:
                new = latest[column][1]
                assert (timestamps.parse(new) if column == "source_updated_at" else new) == row[column]
        assert json.loads(found[-1]["incident"]) == content[-1][0]
    return kinds


@pytest.mark.parametrize("source", ["xdr_incidents", "graph_incidents"])
async def test_every_version_of_an_incident_is_a_change(staged, clock, source, monkeypatch):
    """History, then live with updates and merges: what polls stored is what the feed tells, version by version."""
    versions = Versions(monkeypatch)
    shown = world.World(11, clock, runs.Quirks(tied_share=0.3, revised_share=0.2))
    shown.add_tenant(CONTOSO, "Contoso", rate=0.5, history=86_400)
    async with staged(shown) as bench:
        desk = bench.file_desk()
        numbers = [desk.add_incident(at=bench.ago(3000 - n), alerts=2) for n in range(6)]
        mine = await bench.take(source=source, lookback=100_000)
        await taken(bench, mine)
        for turn in range(6):
            bench.advance(600)
            desk.update_incident(numbers[turn], at=bench.ago(30), status="Resolved")
            if turn == 3:
                desk.merge(numbers[4], numbers[5], at=bench.ago(20))
            await taken(bench, mine)
        await bench.books.same_alerts(shown, source)
        await incidents_are_the_truth(bench, source)
        kinds = await incident_changes_are_the_versions(bench, versions)
        arrivals = await bench.books.rows.fetch(
            "SELECT DISTINCT arrival FROM soc.changes(NULL, NULL) WHERE record = 'incident'"
        )
    assert set(kinds) == {"created", "updated", "merged"}
    assert {row[0] for row in arrivals} >= {"initial", "live"}


@every_source
async def test_items_add_up_with_nested_alerts(staged, source):
    """The counts of a poll balance whatever is nested in what, and the rows' own CHECK holds."""
    async with staged() as bench:
        desk = bench.file_desk()
        for number in range(8):
            desk.add_incident(at=bench.ago(3000 - number), alerts=number)
        mine = await bench.take(source=source)
        first = (await bench.turn(mine))._poll.tally.counts
        again = (await bench.turn(mine))._poll.tally.counts
        assert first.balanced
        assert again.balanced
        assert (first.nested, again.inserted, again.unchanged) == (
            (28, 0, 8) if "incidents" in source else (0, 0, 28)
        )
        assert first.inserted == (8 if "incidents" in source else 28)
        await bench.books.same_alerts(bench.shown, source)


@pytest.mark.parametrize("source", ["xdr_incidents", "graph_incidents"])
async def test_full_answers_are_split(staged, source):
    """A backlog many times a page, most of it changed long after it was made: all held, nothing left unproven."""
    async with staged() as bench:
        bench.shown.add_alert_backlog(CONTOSO, 1500, since=bench.ago(20_000), until=bench.ago(700))
        mine = await bench.take(source=source, lookback=30_000)
        listener = bench.listen()
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, source)
        assert not await bench.books.gaps()
    assert not any("$skip" in dict(request.query) for request in listener.requests)


async def test_small_pages_with_links_are_split(staged):
    """Where the service's page is smaller than the one asked for, its link says that the answer was cut."""
    security = graph.Choices(
        alerts=dataclasses.replace(graph.ALERTS_DOCUMENTED, largest=40),
        incidents=dataclasses.replace(graph.INCIDENTS_DOCUMENTED, largest=20, over="clamped"),
    )
    async with staged(security=security) as bench:
        bench.shown.add_alert_backlog(CONTOSO, 400, since=bench.ago(9000), until=bench.ago(700))
        for source in ("graph_alerts", "graph_incidents"):
            await bench.books.rows.execute("DELETE FROM alertwell.tenant")
            mine = await bench.take(source=source, lookback=10_000)
            await taken(bench, mine)
            await bench.books.same_alerts(bench.shown, source)
            assert not await bench.books.gaps()


@every_source
async def test_ties_over_a_page_are_followed_and_proven(staged, source, monkeypatch):
    """More records at one instant than a page holds: read page by page, each once, and the instant is proven."""
    small_pages(monkeypatch, 60)
    security = graph.Choices(alerts=dataclasses.replace(graph.ALERTS_DOCUMENTED, largest=100))
    async with staged(security=security) as bench:
        instant = bench.ago(1500) + 5000
        bench.shown.add_alert_backlog(CONTOSO, 230, since=instant, until=instant)
        mine = await bench.take(source=source)
        listener = bench.listen()
        await taken(bench, mine)
        held = await bench.books.same_alerts(bench.shown, source)
        assert len(held) == 230
        assert not await bench.books.gaps()
        window = model.Window(moment(bench.ago(3600)), moment(bench.ago(600)))
        assert mine.stream.coverage.covers(window)
        assert len(listener.requests) > len(listener.windows) or source in ("mde_alerts", "xdr_incidents")
        assert mine.stream.watermark == moment(instant)


async def test_a_record_that_moves_another_one_over_a_page(staged):
    """One of the first page changes before the second is read: the one that slips to the first page is not lost."""
    async with staged() as bench:
        desk = bench.file_desk()
        instant = bench.ago(1500)
        numbers = [desk.add_incident(at=instant, alerts=1) for _ in range(130)]
        mine = await bench.take(source="xdr_incidents")
        changed = []

        async def instead(_since, _until):
            if "$skip" in dict(listener.requests[-1].query) and not changed:
                changed.append(numbers[-1])  # newest first: it was on the first page
                desk.update_incident(numbers[-1], at=bench.ago(60), status="Resolved")

        listener = bench.listen(instead=instead)
        window = model.Window(moment(instant), moment(instant) + MS, "gap")
        reading = bench.poll(mine)
        await reading._splitting.read([window], isolate=False)
        assert changed
        assert len(await bench.books.alerts(source="xdr_incidents")) == 130
        assert reading.tally.stream.coverage.covers(window)


@every_source
async def test_records_that_change_between_two_requests_of_a_window(staged, source):
    """What is updated while its window is read in parts is held in the newer version once the next poll is done."""
    async with staged() as bench:
        desk = bench.file_desk()
        alerts = [desk.add_alert(at=bench.ago(9000 - number * 10)) for number in range(300)]
        mine = await bench.take(source=source, lookback=10_000)
        asked = []

        async def instead(_since, _until):
            asked.append(1)
            if 1 < len(asked) <= 30:
                number = len(asked) * 7
                desk.update_alert(alerts[number], at=bench.ago(50 - len(asked)), comment="changed meanwhile")

        bench.listen(instead=instead)
        await taken(bench, mine)
        assert len(asked) > 1
        bench.advance(60)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, source)
        assert not await bench.books.gaps()


@pytest.mark.parametrize("source", ["xdr_incidents", "graph_incidents", "graph_alerts"])
async def test_alerts_of_a_merged_incident_follow_the_survivor(staged, source):
    """After a merge the alerts have the survivor's id, as an update of theirs."""
    async with staged() as bench:
        desk = bench.file_desk()
        ends = desk.add_incident(at=bench.ago(3000), alerts=3)
        stays = desk.add_incident(at=bench.ago(2900), alerts=1)
        mine = await bench.take(source=source)
        await taken(bench, mine)
        rows = await bench.books.alerts(source=source)
        assert sorted(row["incident_id"] for row in rows.values()) == sorted([str(ends)] * 3 + [str(stays)])
        desk.merge(ends, stays, at=bench.ago(-20))
        bench.advance(60)
        await taken(bench, mine)
        rows = await bench.books.same_alerts(bench.shown, source)
        told = await bench.books.rows.fetch(
            "SELECT incident_id, redirect_incident_id, status FROM soc.incidents ORDER BY status DESC"
        )
    assert {row["incident_id"] for row in rows.values()} == {str(stays)}
    assert sorted(row["revision"] for row in rows.values())[-3:] >= [2, 2, 2]
    if "incidents" in source:
        assert [(row["incident_id"], row["redirect_incident_id"]) for row in told] == [
            (str(ends), str(stays)),
            (str(stays), None),
        ]
        assert told[0]["status"] == "redirected"


@every_source
async def test_a_record_of_another_tenant_is_a_reject(staged, source):
    """It names another directory: kept as a reject, stored nowhere, and its neighbours are."""
    async with staged() as bench:
        desk = bench.file_desk()
        desk.add_alert(at=bench.ago(1000))
        # XDR's records do not name their tenant; one that does is held to it
        named = {"fields": {"xdr": {"tenantId": OTHER}}} if source == "xdr_incidents" else {"tenant": OTHER}
        foreign = desk.add_alert(at=bench.ago(900), counted=False, **named)
        mine = await bench.take(source=source)
        await taken(bench, mine)
        held = await bench.books.same_alerts(bench.shown, source)
        found = await bench.books.rejects()
        count = await bench.books.rows.fetchval("SELECT count(*) FROM alertwell.alert")
    assert [row["source"] for row in found] == [source]
    assert "another tenant" in found[0]["reason"]
    assert foreign in found[0]["raw"]
    assert foreign not in held
    assert count == 1


@pytest.mark.parametrize("source", ["graph_alerts", "graph_incidents"])
async def test_a_link_to_another_host_is_refused(staged, source):
    """Nothing is sent there; the records are stored, the window proves nothing, and it is logged, counted and shown."""
    async with staged() as bench:
        desk = bench.file_desk()
        for number in range(5):
            desk.add_alert(at=bench.ago(1000 + number))
        bench.simulator.plan("graph", CONTOSO, "foreign-link", None)
        mine = await bench.take(source=source)
        listener = bench.listen()
        with capture_logs() as logs:
            await bench.turn(mine)
        assert {request.path for request in listener.requests} == {listener.requests[0].path}
        assert all(request.query for request in listener.requests)
        assert "next link refused: it leads to elsewhere.invalid" in {
            entry.get("warning") for entry in logs if entry["event"] == "answer_warning"
        }
        assert stages.series(bench.desk.metrics)[f"alertwell_warnings_total{{source={source}}}"] >= 1
        assert mine.stream.state == "degraded"
        assert "elsewhere.invalid" in mine.stream.state_reason
        assert not mine.stream.coverage
        bench.simulator.script.clear()
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, source)


@every_source
async def test_a_part_of_an_answer_is_stored_and_not_taken_for_all(staged, source):
    """206 with a Warning and half the records, poll after poll: what came is there, and the state says what is missing."""
    async with staged() as bench:
        desk = bench.file_desk()
        for number in range(6):
            desk.add_alert(at=bench.ago(1000 + number))
        bench.simulator.plan(SURFACES[source], CONTOSO, "206", None)
        mine = await bench.take(source=source)
        for _ in range(4):
            listener = bench.listen()
            await bench.turn(mine)
            assert len(listener.requests) == 1
            assert (mine.stream.state, mine.stream.failures) == ("degraded", 0)
            assert mine.stream.state_reason == (
                "the API brought a part only (206): Microsoft/WDATP answered 504"
            )
            assert not mine.stream.coverage
            assert 0 < len(await bench.books.alerts(CONTOSO, source)) < 6
            bench.advance(60)
        bench.simulator.script.clear()
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, source)
        assert (mine.stream.state, mine.stream.state_reason) == ("ok", None)
        assert mine.stream.coverage.contains(moment(bench.ago(1000)))


@every_source
async def test_a_gap_that_is_answered_in_part_holds_up_no_older_one(staged, source):
    """It stays a gap with its reason, is left alone for an hour, and healed after it."""
    async with staged() as bench:
        desk = bench.file_desk()
        for number in range(30):
            desk.add_alert(at=bench.ago(1000 * (number + 1)))
        mine = await bench.take(source=source, lookback=200_000)
        first = bench.poll(mine)
        await first.live()
        mine.stream = first.tally.stream
        bench.simulator.plan(SURFACES[source], CONTOSO, "206", None)
        listener = bench.listen()
        polled = bench.poll(mine)
        await polled.gaps(lambda: True)
        mine.stream = polled.tally.stream
        assert polled.tally.gap_error is None
        assert 5 < len(await bench.books.alerts(CONTOSO, source)) < 30
        assert not polled.open_gaps()
        gaps = await bench.books.gaps()
        assert gaps
        assert all("206" in gap["reason"] for gap in gaps)
        asked = len(listener.requests)
        await polled.gaps(lambda: True)
        assert len(listener.requests) == asked
        bench.simulator.script.clear()
        bench.advance(3700)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, source)
        assert not await bench.books.gaps()


@pytest.mark.parametrize("source", LINKING)
async def test_a_tie_over_pages_that_come_in_part_is_not_proven(staged, source):
    """More records at one instant than a page holds, and 206 all the time: stored as they come, and never proven."""
    security = graph.Choices(alerts=dataclasses.replace(graph.ALERTS_DOCUMENTED, largest=20))
    async with staged(security=security) as bench:
        instant = bench.ago(1500) + 5000
        bench.shown.add_alert_backlog(CONTOSO, 110, since=instant, until=instant)
        bench.simulator.plan("graph", CONTOSO, "206", None)
        mine = await bench.take(source=source)
        await bench.turn(mine)
        assert not mine.stream.coverage.contains(moment(instant))
        assert "206" in mine.stream.state_reason
        assert await bench.books.alerts(CONTOSO, source)


async def test_incidents_are_read_without_their_alerts_where_these_break_the_service(staged):
    """500 over `$expand=alerts`, twice: the live window is read without, which is said and remembered, and proves nothing."""
    async with staged(security=graph.Choices(expand_breaks_at=10)) as bench:
        desk = bench.file_desk()
        desk.add_incident(at=bench.ago(1000), alerts=12)
        mine = await bench.take(source="graph_incidents")
        listener = bench.listen()
        await bench.turn(mine)
        assert mine.stream.state == "degraded"
        assert "500" in mine.stream.state_reason
        assert not mine.stream.coverage
        assert [("$expand" in dict(request.query)) for request in listener.requests] == [True, True, False]
        bench.advance(60)
        await bench.turn(mine)
        assert [("$expand" in dict(request.query)) for request in listener.requests[3:]] == [False]
        bench.advance(asking.RELIEF.total_seconds())
        await bench.turn(mine)
        assert "$expand" in dict(listener.requests[4].query)


async def test_relief_is_no_change_of_an_incident(staged, monkeypatch):
    """Read with its alerts, then without them, for another one's break the service: it keeps them, and nothing is told."""
    versions = Versions(monkeypatch)
    async with staged(security=graph.Choices(expand_breaks_at=10)) as bench:
        desk = bench.file_desk()
        first = desk.add_incident(at=bench.ago(300), alerts=2)
        mine = await bench.take(source="graph_incidents")
        await bench.turn(mine)
        rows = "SELECT alert_ids, revision FROM soc.incidents WHERE incident_id = $1"
        before = await bench.books.rows.fetchrow(rows, str(first))
        assert len(before["alert_ids"]) == 2
        desk.add_incident(at=bench.ago(200), alerts=12)
        bench.advance(60)
        await bench.turn(mine)
        assert [ids is None for _, ids in versions.told[str(first)]] == [False, True]
        assert mine.memory.relieved_until is not None
        assert await bench.books.rows.fetchrow(rows, str(first)) == before
        kinds = await incident_changes_are_the_versions(bench, versions)
    assert kinds == ["created", "created"]


async def test_a_500_of_the_service_itself_is_a_failure(staged):
    """Where the lighter request fails as well it was not the alerts: nothing is remembered."""
    async with staged() as bench:
        bench.simulator.plan("graph", CONTOSO, "500", None)
        mine = await bench.take(source="graph_incidents")
        await bench.turn(mine)
        assert (mine.stream.state, mine.memory.relieved_until) == ("degraded", None)


async def test_an_order_that_is_kept_saves_reading_twice(staged):
    """With `ordered` and an API that honours it, each full answer proves all but the last millisecond that it reaches."""
    async with staged() as bench:
        bench.shown.add_alert_backlog(CONTOSO, 3000, since=bench.ago(30_000), until=bench.ago(700))
        mine = await bench.take(source="graph_alerts", parameters={"ordered": True}, lookback=60_000)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "graph_alerts")
        assert not await bench.books.gaps()
        assert bench.requests("graph") <= 10


@pytest.mark.parametrize("source", ["mde_alerts", "graph_incidents"])
async def test_an_order_that_is_ignored_proves_nothing(staged, source, monkeypatch):
    """With `ordered` and an API that ignores it answers are split as ever."""
    small_pages(monkeypatch, 50)
    async with staged() as bench:
        bench.shown.add_alert_backlog(CONTOSO, 400, since=bench.ago(9000), until=bench.ago(700))
        mine = await bench.take(source=source, parameters={"ordered": True}, lookback=10_000)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, source)
        assert not await bench.books.gaps()

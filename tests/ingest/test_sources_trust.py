"""What an answer of the sources of mutable records proves, and what it does not: nothing is lost that counts as read."""

from __future__ import annotations

import dataclasses
import json
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from structlog.testing import capture_logs

from service import errors, model, timestamps
from service.ingest import asking
from service.simulator import graph
from tests.ingest.stages import CONTOSO, moment, taken

MS = timedelta(milliseconds=1)
WITHOUT = "read without its alerts: the service fails with them (500)"
EVERY = ("graph_alerts", "graph_incidents", "mde_alerts", "xdr_incidents")


def expands(listener):
    """Of each request, whether it asks for the alerts of the incidents."""
    return ["$expand" in dict(request.query) for request in listener.requests]


async def incidents_held(bench):
    """soc.incidents by id."""
    return {row["incident_id"]: row for row in await bench.books.rows.fetch("SELECT * FROM soc.incidents")}


@pytest.mark.parametrize("failing", [1, 2])
async def test_passing_500s_cost_no_alerts(staged, failing):
    """One 500 is asked again; after a second the incidents come alone for a while, and with their alerts after it."""
    async with staged() as bench:
        desk = bench.file_desk()
        mine = await bench.take(source="graph_incidents")
        await taken(bench, mine)
        desk.add_incident(at=bench.ago(-10), alerts=3)
        bench.simulator.plan("graph", CONTOSO, "500", failing)
        listener = bench.listen()
        for minute in range(20):
            bench.advance(60)
            if minute % 5 == 4:
                desk.add_incident(at=bench.ago(5), alerts=1)
            await bench.turn(mine)
            assert (await incidents_held(bench)).keys() == bench.shown.truth_incidents(
                CONTOSO, "graph"
            ).keys()
        assert expands(listener)[:3] == [True, True, failing == 1]
        assert (mine.stream.state, mine.stream.state_reason) == ("ok", None)
        await bench.books.same_alerts(bench.shown, "graph_incidents")
        assert all(row["alert_ids"] for row in (await incidents_held(bench)).values())
        assert not await bench.books.gaps()
        assert (await bench.books.stream())["proven_until"] == bench.now - timedelta(minutes=10)


async def test_a_service_that_always_breaks_over_alerts(staged):
    """Incidents are stored by each poll, nothing is proven, the stream says so and names the way out; few requests."""
    async with staged() as bench:
        desk = bench.file_desk()
        bench.simulator.plan("graph", CONTOSO, "expand-500", None)
        mine = await bench.take(source="graph_incidents")
        listener = bench.listen()
        for minute in range(31):
            if minute % 5 == 0:
                desk.add_incident(at=bench.ago(5), alerts=1)
            await bench.turn(mine)
            assert len(await incidents_held(bench)) == minute // 5 + 1
            assert (mine.stream.state, mine.stream.failures) == ("degraded", 0)
            assert not mine.stream.coverage
            bench.advance(60)
        assert "graph_alerts" in mine.stream.state_reason
        assert "expand=false" in mine.stream.state_reason
        # every poll once without them, and every fifteen minutes twice with them before
        assert 31 < len(listener.requests) <= 31 + 2 * 3
        assert not await bench.books.alerts()
        bench.simulator.script.clear()
        bench.advance(asking.RELIEF.total_seconds())
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "graph_incidents")
        assert mine.stream.state_reason is None


async def test_history_of_a_service_that_breaks_over_alerts(staged):
    """Gaps are not read without alerts while they are wide: they are tried on the slow schedule, and nothing is proven."""
    async with staged() as bench:
        bench.shown.add_alert_backlog(CONTOSO, 100, since=bench.ago(80_000), until=bench.ago(9000))
        mine = await bench.take(source="graph_incidents", lookback=90_000)
        first = bench.poll(mine)
        await first.live()
        mine.stream = first.tally.stream
        before = mine.stream.coverage
        assert before
        bench.simulator.plan("graph", CONTOSO, "expand-500", None)
        listener = bench.listen()
        for _ in range(14):
            await bench.turn(mine)
            bench.advance(60)
        assert mine.stream.coverage == before
        assert mine.stream.state == "degraded"
        assert len(listener.requests) < 14 + 2 * 1 + 14 * 7
        bench.simulator.script.clear()
        bench.advance(3700)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "graph_incidents")
        assert not await bench.books.gaps()


async def test_one_incident_of_a_gap_that_breaks_the_service(staged):
    """It is found by halving and held without its alerts, as a gap that says so; its neighbours are whole."""
    async with staged(security=graph.Choices(expand_breaks_at=10)) as bench:
        desk = bench.file_desk()
        for number in range(20):
            desk.add_incident(at=bench.ago(10_000 + 1000 * number), alerts=2)
        breaks = desk.add_incident(at=bench.ago(20_500), alerts=12)
        mine = await bench.take(source="graph_incidents", lookback=40_000)
        for _ in range(30):
            await bench.turn(mine)
            if not bench.poll(mine).open_gaps():
                break
        held = await incidents_held(bench)
        assert len(held) == 21
        assert not held[str(breaks)]["alert_ids"]
        assert len(await bench.books.alerts()) == 40
        gaps = await bench.books.gaps()
        assert gaps[0]["gap_from"] <= moment(bench.ago(20_500)) < gaps[-1]["gap_to"]
        assert gaps[-1]["gap_to"] - gaps[0]["gap_from"] <= 4 * MS
        assert {gap["reason"] for gap in gaps} == {WITHOUT}
        assert (mine.stream.state, mine.stream.state_reason) == ("ok", None)
        listener = bench.listen()
        await bench.turn(mine)
        assert len(listener.requests) == 1
        bench.advance(3700)
        await bench.turn(mine)
        assert {gap["reason"] for gap in await bench.books.gaps()} == {WITHOUT}
        assert len(listener.requests) < 20
        bench.simulator._surfaces[-1].both = graph.Choices()
        bench.advance(3700)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "graph_incidents")
        assert not await bench.books.gaps()


@pytest.mark.parametrize("source", EVERY)
async def test_a_record_updated_while_it_is_answered(staged, source):
    """One of a gap's records is newer in the answer than its window: stored, no reason for distrust, and no watermark."""
    async with staged() as bench:
        desk = bench.file_desk()
        for seconds in (8500, 8600, 1000):
            desk.add_alert(at=bench.ago(seconds))
        mine = await bench.take(source=source, lookback=10_000)
        newer = moment(bench.ago(30)).isoformat()

        async def after(answer):
            told = json.loads(answer.body)
            for record in told["value"]:
                for name in ("lastUpdateTime", "lastUpdateDateTime"):
                    if name in record and timestamps.parse(record[name], zoneless_is_utc=True) <= moment(
                        bench.ago(8500)
                    ):
                        record[name] = newer
            return dataclasses.replace(answer, body=json.dumps(told).encode())

        listener = bench.listen(after=after)
        for _ in range(3):
            await bench.turn(mine)
        assert len(listener.requests) <= 5
        assert (mine.stream.state, mine.stream.state_reason) == ("ok", None)
        assert len(await bench.books.alerts()) == 3
        assert not await bench.books.gaps()
        assert mine.stream.watermark == moment(bench.ago(1000))


@pytest.mark.parametrize(
    "failure",
    [
        errors.Gone("the API is not there (404)", status=404),
        errors.Gone("the API is not there (410)", status=410),
        errors.Refused("the API does not take this request (400)", status=400),
    ],
)
async def test_a_link_that_leads_nowhere_does_not_end_the_source(staged, failure):
    """The instant that it goes on from stays a gap with the reason; the stream is well, and not said to be gone."""
    security = graph.Choices(alerts=dataclasses.replace(graph.ALERTS_DOCUMENTED, largest=100))
    async with staged(security=security) as bench:
        instant = bench.ago(1500) + 5000
        bench.shown.add_alert_backlog(CONTOSO, 230, since=instant, until=instant)
        mine = await bench.take(source="graph_alerts")

        async def after(answer):
            if not listener.requests[-1].query:
                raise failure
            return answer

        listener = bench.listen(after=after)
        await bench.turn(mine)
        assert (mine.stream.state, mine.stream.failures, mine.stream.gone_since) == ("ok", 0, None)
        (gap,) = await bench.books.gaps()
        assert gap["gap_from"] <= moment(instant) < gap["gap_to"]
        assert gap["gap_to"] - gap["gap_from"] <= 4 * MS
        assert str(failure.status) in gap["reason"]
        assert mine.stream.coverage.covers(model.Window(moment(bench.ago(1400)), moment(bench.ago(600))))


def endless(bench, before, link):
    """An `after` for a Listener: answers whose window starts before this time always have a link to more."""

    async def after(answer):
        if bench.desk.sender.windows[-1][0] >= before:
            return answer
        told = {**json.loads(answer.body), "@odata.nextLink": link}
        return dataclasses.replace(answer, body=json.dumps(told).encode())

    return after


@pytest.mark.parametrize("link", [5, "https://elsewhere.invalid/api/incidents?$skip=100"])
async def test_answers_that_are_always_full_are_said_to_be(staged, link):
    """Each poll ends within the quota of a minute, with a reason and not as a success; what came is stored."""
    async with staged() as bench:
        desk = bench.file_desk()
        for number in range(5):
            desk.add_incident(at=bench.ago(1000 + number), alerts=2)
        mine = await bench.take(source="xdr_incidents")
        listener = bench.listen()
        listener.after = endless(bench, bench.now + timedelta(days=1), link)
        await bench.turn(mine)
        assert len(listener.requests) <= 50
        assert mine.stream.state == "degraded"
        assert "full" in mine.stream.state_reason
        assert not mine.stream.coverage
        assert len(await bench.books.alerts()) == 10
        listener.after = None
        bench.advance(3700)
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "xdr_incidents")


async def test_what_is_proven_before_the_answers_stay_full_is_kept(staged):
    """The newest part of the live window is covered, the rest is a gap, and the state says why."""
    async with staged() as bench:
        bench.file_desk().add_incident(at=bench.ago(1000), alerts=2)
        mine = await bench.take(source="xdr_incidents")
        listener = bench.listen()
        listener.after = endless(bench, moment(bench.ago(2000)), 5)
        await bench.turn(mine)
        assert mine.stream.coverage.covers(model.Window(moment(bench.ago(1900)), moment(bench.ago(600))))
        assert mine.stream.state == "catching_up"
        assert "full" in mine.stream.state_reason


async def test_a_budget_that_ends_before_anything_is_proven_is_said(staged):
    """A poll that had time for a full answer alone is no success without a word."""
    async with staged() as bench:
        bench.shown.add_alert_backlog(CONTOSO, 1500, since=bench.ago(7000), until=bench.ago(700))
        mine = await bench.take(source="xdr_incidents", lookback=8000)
        await bench.turn(mine, budget=0.0)
        assert not mine.stream.coverage
        assert mine.stream.state == "degraded"
        assert "POLL_BUDGET" in mine.stream.state_reason
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "xdr_incidents")


class SortedPages:
    """A sender behind which a service cuts by its own order, and sorts what is left by the update time."""

    def __init__(self, inner):
        self.inner = inner

    @asynccontextmanager
    async def send(self, access, request):
        async with self.inner.send(access, request) as answer:
            told = json.loads(answer.body)
            told["value"].sort(key=lambda alert: timestamps.parse(alert["lastUpdateDateTime"]))
            yield dataclasses.replace(answer, body=json.dumps(told).encode())


async def test_an_order_of_each_page_alone_proves_nothing(staged):
    """A service that cuts by creation and then sorts is found out by asking again for what its first page reaches."""
    security = graph.Choices(
        alerts=dataclasses.replace(graph.ALERTS_DOCUMENTED, orderby="ignored", newest_by="created")
    )
    async with staged(security=security) as bench:
        bench.shown.add_alert_backlog(CONTOSO, 3000, since=bench.ago(30_000), until=bench.ago(700))
        mine = await bench.take(source="graph_alerts", parameters={"ordered": True}, lookback=60_000)
        bench.desk = dataclasses.replace(bench.desk, sender=SortedPages(bench.desk.sender))
        listener = bench.listen()
        with capture_logs() as logs:
            await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "graph_alerts")
        assert not await bench.books.gaps()
        assert "ordered" in mine.stream.state_reason
        assert [entry["event"] for entry in logs].count("order_not_kept") == 1
        assert "$orderby" not in dict(listener.requests[-1].query)


async def test_an_order_is_shown_once(staged):
    """One request more for each owner: what its first full page reaches, asked for again."""
    async with staged() as bench:
        bench.shown.add_alert_backlog(CONTOSO, 6000, since=bench.ago(7000), until=bench.ago(700))
        mine = await bench.take(source="graph_alerts", parameters={"ordered": True}, lookback=7200)
        listener = bench.listen()
        await taken(bench, mine)
        await bench.books.same_alerts(bench.shown, "graph_alerts")
        # pages, the test, and the gap of the moments since enrolment
        assert len(listener.requests) <= 7 + 1 + 2
        first, second, third, *others = listener.windows
        assert second[0] == first[0]
        assert first[0] < second[1] < first[1] == third[1]
        assert all(since > first[0] or until < second[1] for since, until in others)
        assert mine.memory.ordered
        assert mine.stream.state_reason is None

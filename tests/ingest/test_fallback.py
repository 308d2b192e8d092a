"""The end of a source: retired by the database's memory of it, and what stands in for it from then on."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from uuid import UUID, uuid4

import asyncpg
from structlog.testing import capture_logs

from service import errors, model
from service.ingest import worker
from service.simulator import ticks
from service.sources import registry
from service.store import enrolments, leases, streams
from tests.ingest.stages import CONTOSO, FABRIKAM, moment
from tests.ingest.waiting import until

DAY = 86_400


def passed_over(logs):
    """Why no stream was enrolled, as the log says it."""
    return [line["reason"] for line in logs if line["event"] == "fallback_passed_over"]


def standing_in(bench, gone_for_good=timedelta(hours=24)):
    """The bench with FALLBACK_SOURCE=graph_alerts."""
    bench.desk = dataclasses.replace(
        bench.desk,
        fallback=registry.SOURCES["graph_alerts"],
        rules=dataclasses.replace(bench.desk.rules, gone_for_good=gone_for_good),
    )


async def test_a_day_of_absence_counts_over_restarts(bench):
    """Since when a source is missing stands in the database: who follows knows it; an answer of it ends the count."""
    mine = await bench.take()
    bench.simulator.plan("siem", CONTOSO, "410", None)
    await bench.turn(mine)
    since = mine.stream.gone_since
    assert since is not None
    await bench.books.rows.execute("UPDATE alertwell.lease SET owner = NULL, epoch = epoch + 1")
    bench.replica_id = uuid4()
    mine = await bench.claim()
    assert mine.stream.gone_since == since
    bench.advance(DAY + 3600)
    await bench.turn(mine)
    assert (mine.stream.state, mine.stream.gone_since) == ("retired", since)
    bench.simulator.script.clear()
    await bench.turn(mine)
    assert (mine.stream.state, mine.stream.gone_since) == ("ok", None)
    assert await bench.books.rows.fetchval("SELECT gone_since FROM alertwell.stream") is None


async def test_what_nobody_answers_is_neither_gone_nor_there(bench):
    """A 503 between two 410 does not begin the day anew; a 429, which the source itself says, does."""
    mine = await bench.take()
    bench.simulator.plan("siem", CONTOSO, "410")
    await bench.turn(mine)
    since = mine.stream.gone_since
    bench.simulator.plan("siem", CONTOSO, "503", 3)
    await bench.turn(mine)
    assert mine.stream.gone_since == since
    bench.simulator.script.clear()
    bench.simulator.plan("siem", CONTOSO, "429")
    await bench.turn(mine)
    assert mine.stream.gone_since is None


async def test_nothing_stands_in_unless_a_setting_says_so(bench):
    """Without FALLBACK_SOURCE a retired stream is all there is."""
    mine = await bench.take()
    bench.simulator.plan("siem", CONTOSO, "410", None)
    await bench.turn(mine)
    bench.advance(DAY + 60)
    taken = await bench.turn(mine)
    assert (mine.stream.state, taken.enrolled) == ("retired", None)
    assert await bench.books.rows.fetchval("SELECT count(*) FROM alertwell.stream") == 1


async def test_the_fallback_goes_on_where_the_retired_stream_ended(bench):
    """Wanted from the end of what was proven: no hole, nothing older. What happened since then is news, late or live, and what
    the retired stream had read already is not.
    """
    # half a day: what is dated more than a day off our own clock proves nothing
    standing_in(bench, timedelta(hours=12))
    desk = bench.file_desk()
    old = desk.add_alert(at=bench.ago(3000), siem=True)
    mine = await bench.take()
    await bench.turn(mine)
    bench.advance(1800)
    await bench.turn(mine)
    proven = mine.stream.coverage.upper
    known = desk.add_alert(at=bench.ago(900), siem=True)  # the overlap reaches there
    bench.simulator.plan("siem", CONTOSO, "410", None)
    await bench.turn(mine)
    bench.advance(DAY / 4)
    meanwhile = desk.add_alert(at=bench.ago(1000))
    bench.advance(DAY / 4 + 60)
    taken = await bench.turn(mine)
    assert mine.stream.state == "retired"
    stream = taken.enrolled.stream
    assert stream.wanted.lower == proven - timedelta(minutes=10)
    assert (stream.source, stream.history) == ("graph_alerts", "fallback")
    assert stream.enrolled_at == proven
    fallback = dataclasses.replace(mine, stream=stream, memory=type(mine.memory)())
    await bench.turn(fallback)
    newer = desk.add_alert(at=bench.clock() + ticks.SECOND)
    bench.advance(60)
    await bench.turn(fallback)
    held = await bench.books.alerts(source="graph_alerts")
    assert {key: row["arrival"] for key, row in held.items()} == {
        known: "fallback",
        meanwhile: "catch_up",
        newer: "live",
    }
    assert old not in held
    assert fallback.stream.coverage.contains(moment(bench.ago(DAY / 4)))
    # a second failure enrols nothing more, nor does a replica that knows of nothing: it gets the stream that there is
    assert (await bench.turn(mine)).enrolled is None
    mine.memory.fallen_back = False
    again = await bench.turn(mine)
    assert again.enrolled.stream.wanted == stream.wanted
    assert await bench.books.rows.fetchval("SELECT count(*) FROM alertwell.stream") == 2


async def test_the_fallback_fills_what_the_retired_stream_left_open(bench):
    """A source that ends while its history is still a gap: the fallback wants that too, and brings it."""
    standing_in(bench, timedelta())
    desk = bench.file_desk()
    left = desk.add_alert(at=bench.ago(DAY / 4))
    mine = await bench.take(lookback=DAY / 2)
    await bench.turn(mine, budget=0.0)  # the live window alone
    assert await bench.books.gaps()
    bench.simulator.plan("siem", CONTOSO, "410", None)
    taken = await bench.turn(mine)
    assert taken.enrolled.stream.wanted.lower == mine.stream.wanted.lower
    fallback = dataclasses.replace(mine, stream=taken.enrolled.stream, memory=type(mine.memory)())
    await bench.turn(fallback)
    held = await bench.books.alerts(source="graph_alerts")
    assert {key: row["arrival"] for key, row in held.items()} == {left: "fallback"}
    assert fallback.stream.coverage.contains(moment(bench.ago(DAY / 4)))


async def test_a_fallback_that_its_owner_has_not_heard_of_is_polled(bench, monkeypatch):
    """The database goes away between the enrolment and the owner's knowing of it: the next poll hands the stream over."""
    standing_in(bench, timedelta())
    mine = await bench.take()
    bench.simulator.plan("siem", CONTOSO, "410", None)
    load = streams.load

    async def away(*_, **__):
        monkeypatch.setattr(streams, "load", load)
        raise errors.DatabaseUnavailable("the database is away")

    monkeypatch.setattr(streams, "load", away)
    assert (await bench.turn(mine)).enrolled is None
    assert (await bench.turn(mine)).enrolled.stream.source == "graph_alerts"


async def test_a_person_who_ended_the_fallback_is_obeyed(bench):
    """A stream of the fallback that is there already, polled or not, stays as it is."""
    standing_in(bench, timedelta())
    mine = await bench.take()
    await bench.books.rows.execute(
        "INSERT INTO alertwell.stream (tenant_id, source, enabled, wanted) VALUES ($1, 'graph_alerts', false, '{}')",
        UUID(CONTOSO),
    )
    bench.simulator.plan("siem", CONTOSO, "410", None)
    with capture_logs() as logs:
        taken = await bench.turn(mine)
        await bench.turn(mine)
    assert (mine.stream.state, taken.enrolled) == ("retired", None)
    assert passed_over(logs) == ["its stream is disabled"]
    rows = await bench.books.rows.fetch(
        "SELECT enabled, history FROM alertwell.stream WHERE source <> 'siem'"
    )
    assert [tuple(row) for row in rows] == [(False, "initial")]


async def test_a_stream_that_was_there_before_stays_as_it_is(bench):
    """A fallback's stream that wants less than the retired one leaves behind is polled on, and the log says what it lacks."""
    standing_in(bench, timedelta())
    mine = await bench.take()
    start = mine.stream.wanted.lower
    await bench.books.rows.execute(
        "INSERT INTO alertwell.stream (tenant_id, source, wanted)"
        " VALUES ($1, 'graph_alerts', tstzmultirange(tstzrange($2, NULL)))",
        UUID(CONTOSO),
        bench.now,
    )
    bench.simulator.plan("siem", CONTOSO, "410", None)
    with capture_logs() as logs:
        taken = await bench.turn(mine)
    assert taken.enrolled.stream.wanted.lower == bench.now
    assert passed_over(logs) == [
        f"it has a stream of its own, which does not want all from {start.isoformat()} on"
    ]


async def test_a_part_of_a_tenant_is_not_made_the_whole(bench):
    """A siem stream of some device groups is not followed by a source that reads everything, unless a person enrols it: the
    stream says so as long as nothing does.
    """
    standing_in(bench, timedelta())
    mine = await bench.take(parameters={"machinegroups": ["Servers"]})
    bench.simulator.plan("siem", CONTOSO, "410", None)
    with capture_logs() as logs:
        taken = await bench.turn(mine)
        await bench.turn(mine)
    assert taken.enrolled is None
    assert len(passed_over(logs)) == 1
    assert await bench.books.rows.fetchval("SELECT count(*) FROM alertwell.stream") == 1
    reason = "SELECT state_reason FROM soc.coverage WHERE source = 'siem' AND state = 'retired'"
    told = await bench.books.rows.fetchval(reason)
    assert told.startswith("the API is not there (410); graph_alerts does not stand in by itself")
    assert "narrowed by machinegroups" in told
    assert told.endswith("enrol the tenant with --source graph_alerts")
    await bench.books.rows.execute(
        "INSERT INTO alertwell.stream (tenant_id, source, wanted) VALUES ($1, 'graph_alerts', $2)",
        UUID(CONTOSO),
        [asyncpg.Range(bench.now, None)],
    )
    await bench.turn(mine)
    assert "stand in" not in await bench.books.rows.fetchval(reason)


async def test_the_tenants_other_streams_never_notice(bench):
    """The owner polls the new stream under the lease that it has: same epoch, no poll broken off, other tenants untouched."""
    standing_in(bench, timedelta())
    bench.simulator.plan("siem", CONTOSO, "410", None)
    await enrolments.enrol(
        bench.database,
        [
            enrolments.Enrolment(
                model.Tenant(UUID(CONTOSO), "Contoso", region="eu"), {"siem": {}, "mde_alerts": {}}
            ),
            enrolments.Enrolment(model.Tenant(UUID(FABRIKAM), "Fabrikam", region="eu"), {"siem": {}}),
        ],
        lookback=timedelta(hours=1),
    )
    alert_id = bench.file_desk().add_alert(at=bench.ago(30))
    await leases.heartbeat(bench.database, bench.replica_id, host="bench", version="0", ttl=60)
    claimed = await leases.claim(bench.database, bench.replica_id, limit=9, ttl=60)
    working = worker.Worker(bench.desk, bench.replica_id, slots=8, budget=30)
    working.may_poll_until = float("inf")
    loaded = await streams.load(bench.database, [lease.tenant_id for lease in claimed])
    by_tenant = {lease.tenant_id: lease for lease in claimed}
    working.adopt([(by_tenant[item.stream.tenant_id], item) for item in loaded])
    working.start_due()

    async def held():
        rows = await bench.books.rows.fetch("SELECT source FROM soc.alerts WHERE full_id = $1", alert_id)
        return sorted(row["source"] for row in rows) == ["graph_alerts", "mde_alerts"]

    await until(held)
    await working.stop(10)
    assert not working.lease_lost.is_set()
    states = await bench.books.rows.fetch(
        "SELECT t.name, s.source, s.state FROM alertwell.stream s JOIN alertwell.tenant t USING (tenant_id) ORDER BY 1, 2"
    )
    by_name = {(row["name"], row["source"]): row["state"] for row in states}
    assert by_name[("Contoso", "siem")] == "retired"
    assert by_name[("Contoso", "mde_alerts")] == by_name[("Fabrikam", "siem")] == "ok"
    epochs = await bench.books.rows.fetch("SELECT tenant_id, epoch FROM alertwell.lease")
    assert {row["tenant_id"]: row["epoch"] for row in epochs} == {
        lease.tenant_id: lease.epoch for lease in claimed
    }

"""A whole collector by the real clock: alerts that keep arriving, faults by chance, idle polls, many tenants and few slots."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
import structlog

from service import app, model
from service.ingest import slots, worker
from service.simulator import chaos, runs, server, ticks, world
from service.store import streams
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM, moment
from tests.ingest.waiting import until


async def proven(stage, tenant_id, moment_):
    """Wait until everything before a point in time is proven."""

    async def seen():
        until_ = (await stage.books.stream(tenant_id))["proven_until"]
        return until_ is not None and until_ >= moment_

    await until(seen, 40, saying=lambda: stage.books.stream(tenant_id))


@pytest.mark.parametrize("share", [0.0, 0.04])
async def test_what_keeps_arriving_is_held_once(database_url, database, books, tmp_path, share):
    """Late, tied and revised alerts of a busy tenant, with and without faults: what is proven is the truth."""
    quirks = runs.Quirks(late_share=0.1, late_seconds=2, tied_share=0.3, revised_share=0.2)
    shown = world.World(9, quirks=quirks)
    shown.add_tenant(CONTOSO, "Contoso", rate=600, history=60)
    names = ("500", "html", "truncated", "twice", "older", "strange", "reset", "reset-inside", "401", "503")
    faults = chaos.Chaos(dict.fromkeys(names, share), {"503": share}) if share else None
    async with server.Simulator(shown, directory=tmp_path / "ca", chaos=faults) as simulator:
        stage = stages.Stage(shown, simulator, database_url, books, database, tmp_path)
        await stage.enrol(CONTOSO, lookback=100)
        with structlog.testing.capture_logs() as logs:
            async with stage.collecting(overlap="3s", overlap_max="3s"):
                end = datetime.now(UTC) + timedelta(seconds=2)
                await proven(stage, CONTOSO, end)
    held = await books.alerts()
    truth = {
        full_id: raw
        for full_id, raw in shown.truth(CONTOSO, stages.tick(end) + 3 * ticks.SECOND).items()
        if moment(ticks.parse(json.loads(raw)["LastProcessedTimeUtc"])) < end
    }
    assert len(truth) > 300
    for full_id, raw in truth.items():
        row = held[full_id]
        # a newer version than this one may be held already
        newer = row["last_processed_at"] > moment(ticks.parse(json.loads(raw)["LastProcessedTimeUtc"]))
        assert newer or json.loads(row["raw"]) == json.loads(raw)
    assert not [entry for entry in logs if entry["log_level"] in ("error", "critical")]
    if not share:
        assert not [entry for entry in logs if entry["log_level"] == "warning"]


async def test_a_backlog_becomes_whole(stage):
    """A first poll with history: live window, then gaps, then ok; rows, changes and metrics agree."""
    now = stage.shown.clock()
    stage.shown.add_backlog(CONTOSO, 800, since=now - 86_400 * ticks.SECOND, until=now)
    await stage.enrol(CONTOSO, lookback=86_400)
    async with stage.collecting() as collector:
        await stage.stored()
        await stage.well()
        await until(lambda: _numbered(stage, 800))
        seen = stages.series(collector.metrics)
    await stage.books.same_as(stage.shown)
    assert seen["alertwell_alerts_total{result=inserted}{source=siem}"] == 800
    assert seen["alertwell_database_up"] == 1
    assert seen["alertwell_owned_tenants"] == 1
    assert sum(row["inserted"] for row in await stage.books.polls()) == 800


async def _numbered(stage, changes):
    return await stage.books.rows.fetchval("SELECT head_seq FROM soc.feed") == changes


async def fingerprint(stage):
    """Every row version of every table of ours but the heartbeats."""
    tables = await stage.books.rows.fetch(
        "SELECT tablename FROM pg_tables WHERE schemaname = 'alertwell' AND tablename <> 'replica' ORDER BY 1"
    )
    return {
        row["tablename"]: await stage.books.rows.fetch(
            f"SELECT ctid::text, xmin::text FROM alertwell.{row['tablename']}"
        )
        for row in tables
    }


async def test_idle_polls_write_nothing(stage, monkeypatch):
    """Polls that bring nothing leave no row version behind; what they proved is written at the end."""
    monkeypatch.setattr(app, "_FLUSH_EVERY", 3600.0)
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    await stage.enrol(CONTOSO, lookback=10)
    async with stage.collecting():
        await stage.stored()
        await stage.well()
        await until(lambda: _numbered(stage, 1))
        before = await fingerprint(stage)
        read_to = (await stage.books.stream())["data_age_seconds"]
        asked = stage.simulator.siem_requests
        start = asked[CONTOSO]
        await until(lambda: asked[CONTOSO] >= start + 4)
        assert await fingerprint(stage) == before
        last = datetime.now(UTC)
    after = await stage.books.stream()
    assert after["proven_until"] > last - timedelta(seconds=4)
    assert after["data_age_seconds"] < read_to + 4


async def test_the_flush_of_idle_polls_is_fenced(bench):
    """What an owner proved that is none any more is not written."""
    mine = await bench.take()
    await bench.poll(mine).live()
    mine.moved = True
    mine.stream = bench.poll(mine).tally.stream
    progress = mine.progress(float("inf"), bench.now)
    await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    assert await streams.flush(bench.database, [progress]) == set()
    assert (await bench.books.stream())["next_poll_at"] is None


async def test_a_late_flush_leaves_a_newer_ownership_alone(bench):
    """A tenant that was taken anew while a flush of its old lease was under way stays: nobody polls it twice."""
    old = await bench.take()
    await bench.poll(old).live()
    old.moved = True
    polls = worker.Worker(bench.desk, bench.replica_id, slots=4, budget=10)
    polls.adopt([(old.lease, streams.Owned(old.stream, old.access, None))])
    [before] = polls._owned[old.lease.tenant_id].values()
    before.moved, before.last_success_at = True, bench.now
    await bench.books.rows.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    flushing = streams.flush
    newer = model.Lease(old.lease.tenant_id, old.lease.owner, old.lease.epoch + 1, old.lease.server)

    async def meanwhile(database, moved):
        ours = await flushing(database, moved)
        polls.drop(old.lease.tenant_id)
        polls.adopt([(newer, streams.Owned(old.stream, old.access, None))])
        return ours

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(streams, "flush", meanwhile)
        await polls.flush(everything=True)
    assert polls.leases == {old.lease.tenant_id: newer}
    assert not polls.lease_lost.is_set()


async def test_gaps_leave_half_of_the_slots_to_live_windows(stage):
    """With two slots and long backlogs of two tenants, a third one's live windows are read meanwhile."""
    now = stage.shown.clock()
    deep = [CONTOSO, "33333333-3333-3333-3333-333333333333"]
    stage.shown.add_tenant(deep[1], "Northwind Traders")
    for tenant_id in deep:
        stage.shown.add_backlog(tenant_id, 2000, since=now - 5 * 86_400 * ticks.SECOND, until=now)
        stage.simulator.plan("siem", tenant_id, chaos.Fault("slow", seconds=0.15), None)
    await stage.enrol(*deep, lookback=5 * 86_400)
    await stage.enrol(FABRIKAM, lookback=20)
    options = {"max_concurrent_polls": 2, "max_body_bytes": 64 * 1024, "max_bytes_in_flight": 256 * 1024}
    async with stage.collecting(**options) as collector:
        for tenant_id in deep:
            await until(lambda: stage.books.count(tenant_id))  # noqa: B023 - asked at once
        for number in range(3):
            stages.file(stage.shown, FABRIKAM, f"live {number}", stage.shown.clock())
            await stage.stored(FABRIKAM)
            assert await stage.books.count(CONTOSO) + await stage.books.count(deep[1]) < 4000
            assert stages.series(collector.metrics)["alertwell_polls_running"] <= 2
    arrivals = [row["arrival"] for row in (await stage.books.alerts(FABRIKAM)).values()]
    assert arrivals == ["live"] * 3


async def test_slots_count():
    """Half of the places, at least one, may be used for gaps; a place that was given back is free again."""
    places = slots.Slots(5)
    assert [places.take_gap(number) for number in range(3)] == [True, True, False]
    places.give_gap(0)
    assert places.take_gap(3)
    for _ in range(5):
        assert places.free
        places.take()
    assert not places.free
    assert places.polls == 5
    assert slots.Slots(1).take_gap(0)


async def test_alerts_go_under_the_tenant_whose_token_fetched_them(stage):
    """Two tenants may have the same FullIds."""
    for tenant_id in (CONTOSO, FABRIKAM):
        stages.file(stage.shown, tenant_id, "same", stage.shown.clock(), AlertTitle=f"of {tenant_id}")
    await stage.enrol(CONTOSO, FABRIKAM)
    async with stage.collecting():
        await stage.stored(CONTOSO)
        await stage.stored(FABRIKAM)
    for tenant_id in (CONTOSO, FABRIKAM):
        assert (await stage.books.alerts(tenant_id))["same"]["title"] == f"of {tenant_id}"


async def test_a_stopped_collector_gives_its_tenants_back(stage):
    """At a normal stop leases are free, the replica is gone, and nothing is logged as error or warning."""
    await stage.enrol(CONTOSO, FABRIKAM)
    with structlog.testing.capture_logs() as logs:
        async with stage.collecting() as collector:
            await stage.well(CONTOSO)
            assert set(await stage.books.owners()) == {collector.replica_id}
    assert set(await stage.books.owners()) == {None}
    assert await stage.books.rows.fetchval("SELECT count(*) FROM alertwell.replica") == 0
    assert not [entry for entry in logs if entry["log_level"] in ("warning", "error")]
    assert isinstance(collector.replica_id, UUID)

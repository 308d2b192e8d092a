"""Ends and outages: signals, a database that is not there, and one that goes away and comes back."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest
import structlog

from service import app, errors
from service.simulator import chaos, server, world
from service.store import pool as doors
from service.store import schema
from service.store.embedded import Cluster
from tests import postgres as servers
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


async def test_sigterm_ends_in_peace(stage):
    """The poll under way stores what it fetched, leases are free, the exit code is 0."""
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    stage.simulator.plan("siem", CONTOSO, chaos.Fault("slow", seconds=1.5))
    await stage.enrol(CONTOSO, FABRIKAM)
    async with processes.running(stage) as replica:
        await until(lambda: stage.simulator.counters["fault:slow"])
        replica.process.send_signal(signal.SIGTERM)
        assert await replica.ends() == 0
    await stage.books.same_as(stage.shown)
    assert set(await stage.books.owners()) == {None}
    assert not await stage.books.rows.fetch("SELECT * FROM alertwell.replica")
    assert not [line for line in replica.lines if line["level"] != "info"]
    assert not replica.other


async def test_a_second_signal_ends_at_once(stage):
    """Whoever hangs is left behind; the leases run out by themselves."""
    stage.simulator.plan("siem", CONTOSO, "hang", None)
    await stage.enrol(CONTOSO)
    async with processes.running(stage, ALERTWELL_SHUTDOWN_GRACE="1h") as replica:
        await until(lambda: stage.simulator.counters["fault:hang"])
        replica.process.send_signal(signal.SIGINT)
        await replica.logs("polls_ending")
        replica.process.send_signal(signal.SIGTERM)
        assert await replica.ends() == 128 + signal.SIGTERM


async def test_a_poll_that_outlasts_its_grace_is_cut_off(stage):
    """The stop goes on without it, and leases are free."""
    stage.simulator.plan("siem", CONTOSO, "hang", None)
    await stage.enrol(CONTOSO)
    async with stage.collecting(shutdown_grace="0"):
        await until(lambda: stage.simulator.counters["fault:hang"])
    assert set(await stage.books.owners()) == {None}
    assert not await stage.books.polls()


async def test_heartbeats_go_on_while_polls_get_their_grace(stage):
    """A grace longer than LEASE_TTL does not give the tenants of a running poll to another replica; none is taken over."""
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    stage.simulator.plan("siem", CONTOSO, chaos.Fault("slow", seconds=4))
    await stage.enrol(CONTOSO)
    stop = asyncio.Event()

    async def run():
        async with stage.collecting(shutdown_grace="1h"):
            await stop.wait()

    running = asyncio.create_task(run())
    await until(lambda: stage.simulator.counters["fault:slow"])
    stop.set()
    for _ in range(2):
        seen = await stage.books.rows.fetchval("SELECT clock_timestamp()")
        await until(lambda: _beats_after(stage, seen))  # noqa: B023 - asked at once
        assert not running.done()
        await stage.enrol(FABRIKAM)
    assert (await stage.books.owners())[None] == [FABRIKAM]
    await running
    await stage.books.same_as(stage.shown)


async def _beats_after(stage, moment):
    return await stage.books.rows.fetchval(
        "SELECT count(*) FROM alertwell.replica WHERE heartbeat_at > $1", moment
    )


async def test_a_database_that_is_not_there_is_waited_for(stage):
    """It says so, and a signal ends the waiting."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"postgresql://alertwell@127.0.0.1:{taken.getsockname()[1]}/alertwell"
        async with processes.running(stage, ALERTWELL_DATABASE_URL=nobody) as replica:
            line = await replica.logs("database_unavailable")
            assert line["level"] == "warning"
            assert "cannot reach PostgreSQL" in line["error"]
            replica.process.send_signal(signal.SIGTERM)
            assert await replica.ends() == 0


async def test_a_database_without_a_schema_ends_the_start(stage, empty_url):
    """It names the command to run."""
    with pytest.raises(errors.SchemaMismatch, match="alertwell migrate"):
        async with app.collector(stage.config(), empty_url):
            pass


async def test_a_restarted_database_costs_a_pause(tmp_path):
    """Polls stop and go on, the process stays, what came meanwhile is stored, and nothing is doubled."""
    shown = world.World(3)
    shown.add_tenant(CONTOSO, "Contoso")
    with tempfile.TemporaryDirectory(dir=servers.quick_folder()) as folder:
        async with (
            Cluster(Path(folder) / "postgres", durable=False) as cluster,
            server.Simulator(shown, directory=tmp_path / "ca") as simulator,
        ):
            await schema.migrate(cluster.dsn)
            async with (
                asyncpg.create_pool(cluster.dsn, min_size=0, max_size=2) as rows,
                doors.open_database(cluster.dsn, size=2) as database,
            ):
                stage = stages.Stage(shown, simulator, cluster.dsn, stages.Books(rows), database, tmp_path)
                await stage.enrol(CONTOSO)
                with structlog.testing.capture_logs() as logs:
                    async with stage.collecting() as collector:
                        stages.file(shown, CONTOSO, "before", shown.clock())
                        await stage.stored()
                        await cluster.restart()
                        stages.file(shown, CONTOSO, "after", shown.clock())
                        await until(lambda: _stored(stage), 30)
                        assert not collector.failed.done()
                        await until(lambda: stages.series(collector.metrics)["alertwell_database_up"] == 1)
                await stage.books.same_as(shown)
    events = {entry["event"] for entry in logs}
    assert not [entry for entry in logs if entry["log_level"] == "error"], events


async def _stored(stage):
    """As `Stage.stored`, by connections that may have been lost."""
    try:
        return await stage.books.count() == 2
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return False


async def test_a_dead_owner_is_no_owner(stage):
    """Leases of a replica whose heartbeat is old are taken at the first round."""
    dead = UUID(int=77)
    await stage.enrol(CONTOSO)
    await stage.books.rows.execute(
        "INSERT INTO alertwell.replica (replica_id, host, version, heartbeat_at) VALUES ($1, 'gone', '0', $2)",
        dead,
        datetime(2026, 1, 1, tzinfo=UTC),
    )
    await stage.books.rows.execute("UPDATE alertwell.lease SET owner = $1", dead)
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    async with stage.collecting() as collector:
        await stage.stored()
        assert set(await stage.books.owners()) == {collector.replica_id}

"""A quota that others use up: waited for as the API says, with one refused request each time, and nothing is lost."""

from __future__ import annotations

import dataclasses
import time
from uuid import UUID

import pytest

from service.simulator import graph, mde, server, world, xdr
from tests.ingest import stages
from tests.ingest.stages import CONTOSO

SURFACES = {"mde_alerts": "mde", "xdr_incidents": "xdr", "graph_alerts": "graph", "graph_incidents": "graph"}


@pytest.mark.parametrize("source", sorted(SURFACES))
async def test_a_quota_that_others_use_up(clock, database, books, tmp_path, source):
    """The API allows us three calls a minute of which history needs more: each refusal costs one request and its own wait."""
    few = {"per_minute": 3, "per_hour": None}
    security = graph.Choices()
    shown = world.World(5, clock)
    shown.add_tenant(CONTOSO, "Contoso")
    simulator = server.Simulator(
        shown,
        directory=tmp_path / "ca",
        mde=dataclasses.replace(mde.DOCUMENTED, **few),
        xdr=dataclasses.replace(xdr.DOCUMENTED, **few),
        graph=dataclasses.replace(
            security,
            alerts=dataclasses.replace(security.alerts, **few),
            incidents=dataclasses.replace(security.incidents, **few),
        ),
    )
    async with simulator, stages.bench(shown, simulator, database, books, clock) as bench:
        shown.add_alert_backlog(CONTOSO, 40, since=bench.ago(9 * 86_400), until=bench.ago(3600), longest=0)
        mine = await bench.take(source=source, lookback=10 * 86_400)
        refused = 0
        for _ in range(40):
            mine.memory.width = min(mine.memory.width, stages.timedelta(days=2))
            await bench.turn(mine)
            if mine.stream.state == "ok":
                break
            if mine.stream.state == "throttled":
                refused += 1
                assert "throttled by Microsoft until" in mine.stream.state_reason
                wait = mine.due - time.monotonic()
                assert 0 < wait <= 61
                bench.advance(wait + 1)
                bench.desk.sender.forget(UUID(CONTOSO))  # its pace runs on a clock that nobody advances
            else:
                bench.advance(20)
        assert mine.stream.state == "ok"
        assert refused
        assert simulator.counters[f"{SURFACES[source]}:429"] == refused
        await bench.books.same_alerts(shown, source)

"""How many requests a backlog takes, against what plain paging would: 100,000 Graph alerts, 20,000 incidents.

    PYTHONPATH=. .venv/bin/python benchmarks/paging.py                # all four sources, about eight minutes
    PYTHONPATH=. .venv/bin/python benchmarks/paging.py --scale 0.1    # a tenth of the records
    PYTHONPATH=. .venv/bin/python benchmarks/paging.py --quotas xdr_incidents

Paging is the records over the largest page, rounded up. It is what one could not do with less, and what may miss records that
change meanwhile; see ARCHITECTURE.md. Requests are counted and not timed, so quotas are off unless asked for: then the simulator
enforces the documented ones, the collector paces itself as always, and a 429 shows. It fails where a record is missing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import math
import os
import platform
import random
import tempfile
import time
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from uuid import UUID, uuid4

from service import clouds, log, model, parts
from service.auth import modes, tokens
from service.ingest import owned, plan, reading, slots, turn, unpacking
from service.metrics import Metrics
from service.simulator import defender, graph, mde, server, ticks, world, xdr
from service.sources import registry
from service.store import enrolments, leases, pool, reports, schema, streams
from service.store.embedded import Cluster
from service.transport import budget, client, pace
from service.transport import session as sessions

DAY = 86_400
TENANT = "11111111-1111-1111-1111-111111111111"
MIB = 1024 * 1024
# source, its surface in the simulator, records, alerts in each incident, parameters
CASES = (
    ("graph_alerts", "graph", 100_000, 5, {}),
    ("graph_alerts", "graph", 100_000, 5, {"ordered": True}),
    ("mde_alerts", "mde", 100_000, 5, {}),
    ("xdr_incidents", "xdr", 20_000, 2, {}),
    ("graph_incidents", "graph", 20_000, 2, {}),
)


def free(choices: defender.Choices) -> defender.Choices:
    """Without a quota."""
    return dataclasses.replace(choices, per_minute=None, per_hour=None)


async def measure(
    database: pool.Database,
    source: str,
    surface: str,
    records: int,
    per_incident: int,
    parameters: dict[str, bool],
    *,
    quotas: bool,
) -> tuple[int, int, int, int, float]:
    """Requests, 429s among them, what paging takes, records held, and seconds for one backlog of a week."""
    limited = (lambda choices: choices) if quotas else free
    shown = world.World(7)
    shown.add_tenant(TENANT, "Contoso")
    incidents = registry.SOURCES[source].incidents
    now = ticks.now()
    shown.add_alert_backlog(
        TENANT,
        records * per_incident if incidents else records,
        since=now - 7 * DAY * ticks.SECOND,
        until=now - 9 * 3600 * ticks.SECOND,
        per_incident=per_incident,
    )
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        simulator = await stack.enter_async_context(
            server.Simulator(
                shown,
                directory=folder,
                mde=limited(mde.DOCUMENTED),
                xdr=limited(xdr.DOCUMENTED),
                graph=graph.Choices(limited(graph.ALERTS_DOCUMENTED), limited(graph.INCIDENTS_DOCUMENTED)),
            )
        )
        session = await stack.enter_async_context(sessions.open_session(simulator.ca_file))
        hosts = clouds.Endpoints(
            {
                "authority": simulator.authority_url,
                "mde": simulator.mde_url,
                "xdr": simulator.xdr_url,
                "graph": simulator.graph_url,
            }
        )
        app = modes.SharedApp(shown.app.app_id, shown.app.secret)
        provider = tokens.Tokens(hosts, session, shared=app, ca_file=simulator.ca_file)
        stack.push_async_callback(provider.close)
        desk = reading.Desk(
            sender=client.Client(
                session,
                provider,
                hosts,
                budget.ByteBudget(128 * MIB, 32 * MIB),
                paces=pace.Pace(parts.quotas()) if quotas else None,
            ),
            database=database,
            sources=registry.SOURCES,
            rules=plan.Rules(timedelta(minutes=1), timedelta(hours=2), timedelta(minutes=10)),
            clock=reading.Clock(),
            unpacking=unpacking.Unpacking(32 * 2**20, at_once=2),
            metrics=Metrics("0"),
        )
        mine = await _take(database, source, parameters)
        started = time.monotonic()
        while mine.stream.state != "ok":
            mine.gap_due, mine.due = 0.0, math.inf
            live = mine.stream.state == "new"
            taken = turn.Turn(
                desk,
                mine.lease.owner,
                mine,
                slots.Slots(2),
                live=live,
                budget=600,
                dice=random.Random(1),
            )
            await taken.take()
            if mine.stream.state not in ("ok", "catching_up"):
                raise SystemExit(f"{source}: {mine.stream.state}: {mine.stream.state_reason}")
        seconds = time.monotonic() - started
        table = "incidents" if incidents else "alerts"
        [held] = await reports.fetch(database, f"SELECT count(*) AS n FROM soc.{table}")
        kind = "incidents" if incidents else "alerts"
        api = "mde" if surface == "mde" else "xdr" if surface == "xdr" else "graph"
        there = len(shown.casebook(TENANT).select(kind, api, 0, ticks.now(), ticks.now()))
    if held["n"] != there:
        raise SystemExit(f"{source}: {held['n']} held of {there}")
    most = registry.SOURCES[source].most or there
    refused = simulator.counters[f"{surface}:429"]
    return simulator.counters[surface], refused, math.ceil(there / most), there, seconds


async def _take(database: pool.Database, source: str, parameters: dict[str, bool]) -> owned.Owned:
    tenant = model.Tenant(UUID(TENANT), "Contoso", region="eu")
    enrolment = enrolments.Enrolment(tenant, {source: parameters})
    await enrolments.enrol(database, [enrolment], lookback=timedelta(days=8))
    replica = uuid4()
    await leases.heartbeat(database, replica, host="benchmark", version="0", ttl=3600)
    [lease] = await leases.claim(database, replica, limit=1, ttl=3600)
    [loaded] = await streams.load(database, [lease.tenant_id])
    return owned.Owned(lease, loaded.access, loaded.stream, due=0.0)


async def main(scale: float, names: set[str], *, quotas: bool) -> None:
    """One row a case."""
    print(f"{os.cpu_count()} cores, Python {platform.python_version()}, quotas {'on' if quotas else 'off'}\n")
    print("| source | records | requests | of them 429 | paging | ratio | seconds |")
    print("|---|--:|--:|--:|--:|--:|--:|")
    for source, surface, records, per_incident, parameters in CASES:
        if names and source not in names:
            continue
        with tempfile.TemporaryDirectory() as folder:
            async with Cluster(Path(folder) / "postgres") as cluster:
                await schema.migrate(cluster.dsn)
                async with pool.open_database(cluster.dsn, size=4) as database:
                    wanted = max(int(records * scale), 1)
                    asked, refused, paging, there, seconds = await measure(
                        database, source, surface, wanted, per_incident, parameters, quotas=quotas
                    )
        name = f"{source} (ordered)" if parameters else source
        print(
            f"| {name} | {there:,} | {asked:,} | {refused} | {paging:,} | {asked / paging:.2f} | {seconds:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="part of the records, 1 = all")
    parser.add_argument("--quotas", action="store_true", help="with the documented quotas")
    parser.add_argument("sources", nargs="*", help="only these")
    given = parser.parse_args()
    log.configure("error", "console")
    asyncio.run(main(given.scale, set(given.sources), quotas=given.quotas))

"""How soon an alert is held: from the moment that the API shows it to its commit in PostgreSQL.

    .venv/bin/python benchmarks/fresh.py                       # 5,000 tenants, 60 s interval, about 50 alerts a second
    .venv/bin/python benchmarks/fresh.py --backlog 1000000     # and once more, while so many alerts of one tenant are read

A real replica over TLS, the simulator in a process of its own, a durable PostgreSQL. Of a sample of the tenants each alert that
was shown meanwhile is looked up: the time of its storing transaction against the time from which the API showed it. What is not
held in the end is counted as missing. Figures, no test.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

import aiohttp
import collect

from service import app, log, model, process, settings
from service.intervals import Intervals
from service.simulator import ticks
from service.store import backfills, enrolments, pool, schema
from service.store.embedded import Cluster

INTERVAL = 60.0
SAMPLE = 400


async def shown(
    session: aiohttp.ClientSession, said: dict, tenant: str, since: int, until: int
) -> dict[str, int]:
    """FullId -> the tick from which it is shown, of a tenant's alerts that came in this time."""
    async with session.get(f"{said['siem']}/_sim/sightings", params={"tenant": tenant}) as answer:
        answer.raise_for_status()
        seen = [json.loads(line) async for line in answer.content]
    return {one["id"]: one["first"] for one in seen if since <= one["first"] < until}


async def delays(
    session: aiohttp.ClientSession, database: pool.Database, said: dict, since: int, until: int
) -> tuple[list[float], int]:
    """Seconds from shown to committed, sorted, of the sampled tenants' alerts that came in this time; how many are missing."""
    found: list[float] = []
    missing = 0
    every = max(len(said["tenants"]) // SAMPLE, 1)
    for tenant, _, _ in said["tenants"][1::every]:
        wanted = await shown(session, said, tenant, since, until)
        async with database.connection() as connection:
            rows = await connection.fetch(
                "SELECT full_id, first_seen_at FROM alertwell.alert WHERE tenant_id = $1 AND full_id = ANY ($2)",
                UUID(tenant),
                list(wanted),
            )
        missing += len(wanted) - len(rows)
        found += [row["first_seen_at"].timestamp() - wanted[row["full_id"]] / ticks.SECOND for row in rows]
    return sorted(found), missing


def say(what: str, seconds: list[float], missing: int) -> dict[str, float]:
    """One row of the table."""
    if not seconds:
        raise SystemExit("no alert came in this time: let it take longer")
    p50, p99 = (seconds[int(len(seconds) * share)] for share in (0.5, 0.99))
    within = sum(one <= INTERVAL + 2 for one in seconds) / len(seconds)
    collect.row(
        what,
        f"{len(seconds):,} sampled, {missing} missing; median {p50:.1f} s, 99 % {p99:.1f} s, longest {seconds[-1]:.1f} s; "
        f"{within:.1%} within {INTERVAL + 2:.0f} s",
    )
    return {
        "alerts": len(seconds),
        "missing": missing,
        "p50": p50,
        "p99": p99,
        "max": seconds[-1],
        "within": within,
    }


async def measure(scale: float, minutes: float, backlog: int) -> dict[str, dict[str, float]]:
    with tempfile.TemporaryDirectory() as name, collect.simulated("fresh", scale, Path(name)) as said:
        async with Cluster(Path(name) / "pg") as cluster:
            log.configure("warning", "json", (Path(name) / "log").open("w"))
            await schema.migrate(cluster.dsn)
            config = settings.load({}, initial_lookback="10m", **collect.reaching(said))
            async with pool.open_database(cluster.dsn, size=2) as database:
                await enrolments.enrol(
                    database,
                    [
                        enrolments.Enrolment(model.Tenant(UUID(each), called, region=region), {"siem": {}})
                        for each, called, region in said["tenants"]
                    ],
                    lookback=timedelta(minutes=10),
                )
                trust = ssl.create_default_context(cafile=said["ca"])
                async with (
                    aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session,
                    app.collector(config, cluster.dsn),
                ):
                    process.settle()
                    return await phases(session, database, said, minutes, backlog)


async def phases(
    session: aiohttp.ClientSession, database: pool.Database, said: dict, minutes: float, backlog: int
) -> dict[str, dict[str, float]]:
    """First without, then with the backlog; the last alerts of each have three intervals to arrive."""
    await asyncio.sleep(2 * INTERVAL)  # the first interval spreads the polls
    found = {}
    for what, extra in (("alone", 0), (f"beside {backlog:,} of one tenant", backlog)):
        if what != "alone" and not backlog:
            continue
        if extra:
            tenant, now = said["tenants"][0][0], ticks.now()
            await widen(session, database, said, tenant, extra, now)
            # the simulator answers nobody for the seconds in which it makes them: what was due then is no figure of ours
            await asyncio.sleep(INTERVAL)
        since = ticks.now()
        await asyncio.sleep(60 * minutes)
        until = ticks.now()
        left = await behind(database, said["tenants"][0][0])
        await asyncio.sleep(3 * INTERVAL)
        key = "alone" if not extra else "backlog"
        found[key] = say(what, *await delays(session, database, said, since, until))
        if extra:
            collect.row("left of the backlog meanwhile", f"{left / 3600:.1f} h of its time")
    return found


async def widen(
    session: aiohttp.ClientSession, database: pool.Database, said: dict, tenant: str, count: int, now: int
) -> None:
    """A long past of one tenant, wanted from now on."""
    day = 86_400 * ticks.SECOND
    span = {"since": ticks.text(now - 30 * day), "until": ticks.text(now - day)}
    body = {"tenant": tenant, "count": count, **span}
    async with session.post(f"{said['siem']}/_sim/backlog", json=body) as answer:
        answer.raise_for_status()
    asked = Intervals.of((datetime.now(UTC) - timedelta(days=31), datetime.now(UTC) - timedelta(hours=1)))
    await backfills.widen(
        database, UUID(tenant), "siem", asked, beyond=Intervals(), share=1.0, actor="benchmark"
    )


async def behind(database: pool.Database, tenant: str) -> float:
    """Seconds of the tenant's time that are gaps."""
    async with database.connection() as connection:
        return float(
            await connection.fetchval(
                """
                SELECT coalesce(sum(extract(epoch FROM upper(g) - lower(g))), 0)::float8
                FROM soc.coverage c, unnest(c.gaps) g WHERE c.tenant_id = $1
                """,
                UUID(tenant),
            )
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=float, default=1.0, help="of the tenants")
    parser.add_argument("--minutes", type=float, default=5.0, help="of each phase")
    parser.add_argument("--backlog", type=int, default=0, help="alerts of one tenant in a second phase")
    parser.add_argument("--json", action="store_true", help="print the figures as one object")
    options = parser.parse_args()
    collect.row(f"freshness (scale {options.scale:g})", f"{os.cpu_count()} cores")
    with asyncio.Runner(loop_factory=process.loop_factory()) as runner:
        found = runner.run(measure(options.scale, options.minutes, options.backlog))
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()

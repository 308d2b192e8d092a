"""One run of a whole collector in which each tenant has a fault of its own, and one has none.

Everything stands until each stream has shown its state; then all is mended, and what is held must be what the simulator knows.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from datetime import timedelta
from typing import Any
from uuid import UUID

from service import model
from service.auth import sealing
from service.simulator import cases, chaos, filing, ticks
from service.store import credentials, enrolments, tenants
from tests.chaos.matrix import Drill
from tests.ingest import stages
from tests.ingest.waiting import until

HEALTHY = "99999999-9999-4999-8999-999999999999"
_BEFORE = 5
_LOOK = 0.1  # all streams are looked at together, which costs more than one
_APIS: dict[str, tuple[chaos.Surface, cases.Api]] = {
    "mde_alerts": ("mde", "mde"),
    "xdr_incidents": ("xdr", "xdr"),
    "graph_alerts": ("graph", "graph"),
    "graph_incidents": ("graph", "graph"),
}
_LEAST_PAUSE = timedelta(seconds=0.9)  # a second, and clocks are read at both ends


class Run:
    """Tenants by drill, on a stage."""

    def __init__(self, stage: stages.Stage, drills: tuple[Drill, ...]) -> None:
        self._stage = stage
        self._drills = {
            f"{number:08d}-1111-4111-8111-111111111111": each for number, each in enumerate(drills, 1)
        }
        self._keys = stage.folder / "sealing_keys"
        self._keys.write_text(sealing.generate_key())
        self.polls: dict[str, int] = {}
        self.asked: dict[str, int] = {}
        self._seen: set[str] = set()

    async def ride(self, **changes: Any) -> None:
        """The whole of it; `changes` are settings."""
        await self._enrol()
        simulator = self._stage.simulator
        async with self._stage.collecting(sealing_keys_file=self._keys, poll_interval="2s", **changes):
            await until(self._all_shown, 60, saying=self._not_shown)
            for tenant_id in [*self._drills, HEALTHY]:
                self._file(tenant_id, 0)
            # nobody waits for those that fail
            await self._stage.stored(HEALTHY)
            await self._count()
            for drill in self._drills.values():
                planned = drill.planned
                kind = (chaos.FAULTS[planned] if isinstance(planned, str) else planned).kind
                assert simulator.counters[f"fault:{kind}"], drill.fault
            simulator.script.clear()
            await self._resume()
            for tenant_id in self._drills:
                self._file(tenant_id, 1)
            await until(self._all_well, 60, saying=self._not_well)
            await until(self._numbered)
        await self._prove()

    async def _enrol(self) -> None:
        shown, simulator = self._stage.shown, self._stage.simulator
        sealer = sealing.Sealer.from_file(self._keys)
        shown.add_tenant(HEALTHY, "Healthy")
        wanted = [enrolments.Enrolment(model.Tenant(UUID(HEALTHY), "Healthy", region="eu"), {"siem": {}})]
        for tenant_id, drill in self._drills.items():
            app = shown.add_tenant(tenant_id, drill.fault, own_app=drill.own_app).app
            own = (
                credentials.Own(app.app_id, "client_secret", sealer.seal(app.secret))
                if drill.own_app
                else None
            )
            tenant = model.Tenant(UUID(tenant_id), drill.fault, region="eu")
            wanted.append(enrolments.Enrolment(tenant, {drill.source: {}}, own=own))
            for number in range(_BEFORE):
                self._file(tenant_id, 60 * (number + 1))
            simulator.plan(drill.surface, tenant_id, drill.planned, drill.times)
        await enrolments.enrol(self._stage.database, wanted, lookback=timedelta(minutes=20))

    def _file(self, tenant_id: str, ago: float) -> None:
        shown = self._stage.shown
        at = shown.clock() - round(ago * ticks.SECOND)
        drill = self._drills.get(tenant_id)
        if drill is None or drill.source == "siem":
            stages.file(shown, tenant_id, f"{tenant_id[:8]} {at}", at)
        else:
            filing.Desk(shown, tenant_id).add_alert(at=at)

    async def _rows(self) -> dict[str, Any]:
        rows = await self._stage.books.rows.fetch("SELECT * FROM soc.coverage")
        return {str(row["tenant_id"]): row for row in rows}

    def _shows(self, tenant_id: str, row: Any) -> bool:
        drill = self._drills[tenant_id]
        said = row["state_reason"] or ""
        state = "ok" if row["state"] == "catching_up" else row["state"]
        return state == drill.state and drill.says in said and drill.cause == row["cause"]

    async def _not_shown(self) -> list[Any]:
        """Drills that have not shown yet what they should; a busy machine may show a time-out after it."""
        rows = await self._rows()
        self._seen |= {each for each in self._drills if self._shows(each, rows[each])}
        return [
            (drill.fault, rows[tenant_id]["state"], rows[tenant_id]["cause"], rows[tenant_id]["state_reason"])
            for tenant_id, drill in self._drills.items()
            if tenant_id not in self._seen
        ]

    async def _all_shown(self) -> bool:
        await asyncio.sleep(_LOOK)
        return not await self._not_shown()

    async def _count(self) -> None:
        """How often each API was asked, and by how many polls."""
        simulator = self._stage.simulator
        for tenant_id, drill in self._drills.items():
            self.polls[tenant_id] = len(await self._stage.books.polls(tenant_id))
            surface = _APIS.get(drill.source, ("siem", None))[0]
            asked = simulator.api_requests[surface, tenant_id] + simulator.siem_requests[tenant_id] * (
                surface == "siem"
            )
            self.asked[tenant_id] = asked + simulator.token_requests[tenant_id]

    async def _resume(self) -> None:
        """What a person does who has mended something."""
        rows = await self._rows()
        waiting = [
            UUID(each)
            for each, drill in self._drills.items()
            if drill.resumed or rows[each]["state"] == "needs_attention"
        ]
        for state in ("paused", "active"):
            await asyncio.gather(*(tenants.set_state(self._stage.database, each, state) for each in waiting))

    def _truth(self, tenant_id: str) -> dict[str, Any]:
        shown, drill = self._stage.shown, self._drills.get(tenant_id)
        if drill is None or drill.source == "siem":
            return {key: json.loads(raw) for key, raw in shown.truth(tenant_id).items()}
        told = map(json.loads, shown.truth_alerts(tenant_id, _APIS[drill.source][1]).values())
        return {each["alertId" if drill.source == "xdr_incidents" else "id"]: each for each in told}

    async def _not_well(self) -> list[Any]:
        rows = await self._rows()
        counted = await self._stage.books.rows.fetch(
            "SELECT tenant_id, count(*) AS held FROM soc.alerts GROUP BY 1"
        )
        held = {str(row["tenant_id"]): row["held"] for row in counted}
        return [
            (drill.fault, rows[each]["state"], rows[each]["state_reason"], held.get(each, 0))
            for each, drill in self._drills.items()
            if rows[each]["state"] != "ok" or held.get(each, 0) != _BEFORE + 2
        ]

    async def _all_well(self) -> bool:
        await asyncio.sleep(_LOOK)
        return not await self._not_well()

    async def _numbered(self) -> bool:
        return not await self._stage.books.rows.fetchval("SELECT unnumbered FROM soc.feed")

    async def _prove(self) -> None:
        books = self._stage.books
        for tenant_id in [*self._drills, HEALTHY]:
            held = await books.alerts(tenant_id)
            assert {key: json.loads(row["raw"]) for key, row in held.items()} == self._truth(tenant_id)
        created = await books.rows.fetch(
            "SELECT tenant_id, full_id, count(*) AS times FROM soc.change_feed"
            " WHERE kind = 'created' AND full_id IS NOT NULL GROUP BY 1, 2"
        )
        of_alerts = [row for row in created if row["full_id"] in (await books.alerts(row["tenant_id"]))]
        assert {row["times"] for row in of_alerts} == {1}
        assert len(of_alerts) == sum(len(self._truth(each)) for each in [*self._drills, HEALTHY])
        for tenant_id, drill in self._drills.items():
            await self._no_storm(tenant_id, drill)

    async def _no_storm(self, tenant_id: str, drill: Drill) -> None:
        """A poll asks so often and no more, and failing polls keep a distance."""
        assert self.asked[tenant_id] <= drill.most * (self.polls[tenant_id] + 1), (
            drill.fault,
            self.asked[tenant_id],
            self.polls[tenant_id],
        )
        failing = (await self._stage.books.polls(tenant_id))[: self.polls[tenant_id]]
        starts = [row["started_at"] for row in failing]
        assert all(after - before >= _LEAST_PAUSE for before, after in itertools.pairwise(starts)), (
            drill.fault
        )

"""The run compared with the truth: claims of coverage while it lasts, everything once the world stands still."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import aiohttp
import asyncpg

from service import timestamps
from service.intervals import Intervals
from service.simulator import sightings
from tests.chaos import ledger, report, verdict
from tests.chaos.follower import Seen
from tests.chaos.stage import Stage

AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError)
"""What a question to a database under chaos may end with; it is asked again."""
_EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
_INSIDE = {"xdr_incidents": "alertId", "graph_incidents": "id"}


@dataclass
class Claims:
    """What coverage claimed in all samples. spared: streams whose API had denied what is there."""

    samples: int = 0
    claimed: int = 0
    spared: int = 0
    broken: list[str] = field(default_factory=list)


async def sample_claims(stage: Stage, claims: Claims, every: float) -> None:
    """For ever: take some tenants, and hold what is proven of them against what was to be seen at that time."""
    dice = random.Random(stage.scene.seed)
    while True:
        await asyncio.sleep(every)
        customers = dice.sample([*stage.customers], min(4, len(stage.customers)))
        try:
            connection = await ledger.connect(stage.cluster.admin_dsn)
            try:
                sample = await ledger.sample(connection, [each.tenant_id for each in customers])
            finally:
                connection.terminate()
        except AWAY:
            continue
        claims.samples += 1
        at = (sample.at - _EPOCH) // timedelta(microseconds=1) * 10
        for key in [(each.tenant_id, source) for each in customers for source in each.sources]:
            if key in stage.storm.lied:
                claims.spared += 1
                continue
            incidents = key[1] in _INSIDE
            shown = await stage.defender.sightings(*key, incidents=incidents, at=at)
            held = (sample.incidents if incidents else sample.alerts).get(key, {})
            claimed, broken = verdict.claims(
                shown, sample.coverage[key], held, timedelta(seconds=stage.scene.overlap)
            )
            claims.claimed += claimed
            claims.broken += [
                f"at {sample.at:%H:%M:%S} {' '.join(key)} was proven without {name}" for name in broken[:3]
            ]


@dataclass
class Missing:
    """What is still to come: records, changes without a number, changes that readers do not have yet."""

    truth: int
    records: int
    unnumbered: int
    behind: int
    example: str = ""

    @property
    def stored(self) -> bool:
        """Whether all is held, numbered and read, proven or not."""
        return not (self.records or self.unnumbered or self.behind)

    def __str__(self) -> str:
        told = f"{self.truth} records in truth, {self.records} missing, "
        return (
            told + f"{self.unnumbered} changes without a number, readers {self.behind} behind{self.example}"
        )


async def stored(stage: Stage, patience: float, say: Callable[[str], None], *, read: bool = True) -> bool:
    """Wait until all that was to be seen when this was called is held, numbered and `read`; whether that came.

    Where alerts go on arriving, there is nearly always one on its way to the readers: then it is enough that all is held.
    """
    shown = await _shown(stage)
    deadline = asyncio.get_running_loop().time() + patience
    while True:
        try:
            missing = await _missing(stage, shown)
        except AWAY:
            missing = None
        say(str(missing) if missing else "PostgreSQL does not answer")
        if missing and (missing.stored or not (read or missing.records)):
            return True
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(1)


async def unproven(stage: Stage, until: datetime) -> list[str]:
    """The streams that want something before `until` that is not proven, each with what is known of it."""
    connection = await ledger.connect(stage.cluster.admin_dsn)
    try:
        streams = await ledger.streams(connection)
    finally:
        connection.terminate()
    return [
        f"{' '.join(key)} lacks the proof of {[*gaps]}: {each.state}, {each.reason}"
        for key, each in streams.items()
        if (gaps := each.wanted.below(until) - each.coverage)
    ]


Shown = Mapping[ledger.Key, Sequence[sightings.Sighting]]


async def _shown(stage: Stage) -> Shown:
    return {key: await stage.defender.sightings(*key, incidents=key[1] in _INSIDE) for key in stage.streams}


async def _missing(stage: Stage, shown: Shown) -> Missing:
    connection = await ledger.connect(stage.cluster.admin_dsn)
    try:
        sample = await ledger.sample(connection, [each.tenant_id for each in stage.customers])
        streams = await ledger.streams(connection)
        head, unnumbered = await ledger.head(connection)
    finally:
        connection.terminate()
    truth = records = 0
    example = ""
    for key, those in shown.items():
        held = (sample.incidents if key[1] in _INSIDE else sample.alerts).get(key, {})
        wanted = [each for each in those if streams[key].wanted.contains(verdict.moment(each.updated))]
        truth += len(wanted)
        lacking = [
            each for each in wanted if each.id not in held or held[each.id] < verdict.moment(each.updated)
        ]
        records += len(lacking)
        if lacking:
            example = f"; {' '.join(key)} is {streams[key].state}: {streams[key].reason}"
    behind = sum(max(0, head - (each.position or 0)) for each in stage.followers)
    return Missing(truth, records, unnumbered, behind, example)


async def judge(stage: Stage, told: report.Report) -> None:
    """The verdict: record by record, change by change, poll by poll."""
    connection = await ledger.connect(stage.cluster.admin_dsn)
    try:
        streams = await ledger.streams(connection)
        alerts, incidents = _Sum("alert"), _Sum("incident")
        for tenant_id, source in stage.streams:
            wanted = streams[tenant_id, source].wanted
            inside: dict[str, bytes] = {}
            if source in _INSIDE:
                truth = await stage.defender.truth(tenant_id, source, incidents=True)
                held = await ledger.held(connection, tenant_id, source, incidents=True)
                names = await _wanted(stage, tenant_id, source, wanted, incidents=True)
                incidents.add(tenant_id, source, verdict.compare(truth, names, held))
                inside = _inside(truth, names, _INSIDE[source])
                everything = _inside(truth, set(truth), _INSIDE[source])
            else:
                everything = await stage.defender.truth(tenant_id, source)
                names = await _wanted(stage, tenant_id, source, wanted, incidents=False)
                inside = {name: everything[name] for name in names}
            held = await ledger.held(connection, tenant_id, source, incidents=False)
            alerts.add(tenant_id, source, verdict.compare(everything, inside.keys(), held))
        told.alerts, told.incidents = alerts.figures(), incidents.figures()
        told.violations += alerts.said + incidents.said
        for each in stage.followers:
            numbers = await ledger.numbers(connection, [*each.tenants])
            told.violations += verdict.feed(each.name, each.seen, numbers, each.tenants)
            told.feed[each.name] = len(each.seen)
        told.feed["reconnects"] = sum(each.reconnects for each in stage.followers)
        told.items = await ledger.sums(connection)
        told.database = await ledger.weight(connection)
    finally:
        connection.terminate()
    kinds = [row.kind for row in stage.followers[0].seen]
    told.feed |= {kind: kinds.count(kind) for kind in ("created", "updated", "merged")}
    if (told.items["items"]) != sum(
        told.items[name] for name in ("inserted", "updated", "unchanged", "stale", "duplicate", "rejected")
    ):
        told.violations.append(f"items of polls do not add up: {told.items}")


class _Sum:
    """The verdicts of all streams together."""

    def __init__(self, word: str) -> None:
        self._word = word
        self._counts = dict.fromkeys(("truth", "lost", "doubled", "phantom", "different"), 0)
        self.said: list[str] = []

    def add(self, tenant_id: str, source: str, one: verdict.Stream) -> None:
        self._counts["truth"] += one.truth
        for name in ("lost", "doubled", "phantom", "different"):
            names: list[str] = getattr(one, name)
            self._counts[name] += len(names)
            if names:
                self.said.append(
                    f"{tenant_id} {source}: {len(names)} {self._word}s {name}, such as {', '.join(names[:3])}"
                )

    def figures(self) -> dict[str, int]:
        return dict(self._counts)


async def _wanted(
    stage: Stage, tenant_id: str, source: str, wanted: Intervals, *, incidents: bool
) -> set[str]:
    shown = await stage.defender.sightings(tenant_id, source, incidents=incidents)
    return {each.id for each in shown if wanted.contains(verdict.moment(each.updated))}


def _inside(incidents: dict[str, bytes], names: set[str], key: str) -> dict[str, bytes]:
    """The alerts that some incidents show inside of them; of one that two show, the newer incident's."""
    found: dict[str, tuple[datetime, bytes]] = {}
    for name in names:
        told = json.loads(incidents[name])
        updated = timestamps.parse(
            told.get("lastUpdateTime") or told["lastUpdateDateTime"], zoneless_is_utc=True
        )
        for alert in told.get("alerts", ()):
            if alert[key] not in found or found[alert[key]][0] < updated:
                found[alert[key]] = updated, json.dumps(alert).encode()
    return {alert_id: raw for alert_id, (_, raw) in found.items()}


async def accounts(port: int) -> str | None:
    """What is wrong with a replica's own sums, by its metrics; None where they add up."""
    limit = aiohttp.ClientTimeout(total=10)
    async with (
        aiohttp.ClientSession(timeout=limit) as session,
        session.get(f"http://127.0.0.1:{port}/metrics") as answer,
    ):
        text = await answer.text()
    sums = {"alertwell_items_total": 0.0, "alertwell_alerts_total": 0.0}
    for line in text.splitlines():
        name = line.partition("{")[0]
        if name in sums:
            sums[name] += float(line.rsplit(" ", 1)[1])
    items, results = sums.values()
    return None if items == results else f"metrics: {items:.0f} items, {results:.0f} results"


def delays(
    seen: list[Seen], first: dict[tuple[str, str | None, str], float], calm: tuple[float, float], rough: float
) -> report.Delays:
    """From the first time that the API showed an alert to the time that a reader had it; Unix times.

    `first`: by tenant, source and id. Alerts shown in `calm` count as without faults, those shown after `rough` as with.
    """
    without, among = [], []
    for row in seen:
        shown = first.get((row.tenant_id, row.source, row.name or ""))
        if row.record != "alert" or row.kind != "created" or shown is None:
            continue
        if calm[0] <= shown < calm[1]:
            without.append(row.seen_at - shown)
        elif shown >= rough:
            among.append(row.seen_at - shown)
    return report.Delays(without, among)


async def first_shown(stage: Stage) -> dict[tuple[str, str | None, str], float]:
    """Since when, in Unix time, each alert has been shown."""
    found: dict[tuple[str, str | None, str], float] = {}
    for tenant_id, source in stage.streams:
        for each in await stage.defender.sightings(tenant_id, source):
            found[tenant_id, source, each.id] = each.first / 10_000_000
    return found

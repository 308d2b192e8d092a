"""Any schedule of news, crashes, faults, replicas and time: what is claimed is held at every moment, in the end all of it is."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import errors, intervals
from service.simulator import filing, ticks, world
from tests.chaos import direct, fate, lives
from tests.ingest import stages

OVERLAP = 600
SERVICES = ("siem", "mde")
FAULTS: dict[str, Callable[[], errors.PollFailure | bytes]] = {
    "timeout": lambda: errors.Transient("timeout"),
    "500": lambda: errors.Transient("500", status=500),
    "429": lambda: errors.Throttled("429", retry_after=1.0),
    "truncated": lambda: b'[{"FullId": "x", ',
    "html": lambda: b"<html>",
}

seconds = st.integers(1, 4 * 3600)
actions = st.one_of(
    # (what, how long ago, how much later it can be seen); ties: several of one instant, more than a page holds
    st.tuples(st.just("siem"), st.integers(0, OVERLAP), st.integers(0, OVERLAP)),
    st.tuples(st.just("late"), st.integers(OVERLAP + 1, 3000)),
    st.tuples(st.just("alert"), st.integers(0, OVERLAP), st.integers(1, 6)),
    st.tuples(st.just("update"), st.integers(0, 20)),
    st.tuples(st.just("revise"), st.integers(0, 20)),
    st.tuples(st.just("pass"), seconds),
    st.tuples(
        st.just("fault"), st.sampled_from(SERVICES), st.sampled_from(sorted(FAULTS)), st.integers(1, 3)
    ),
    st.tuples(st.just("poll")),
    st.tuples(st.just("crash"), st.integers(1, 150), st.booleans()),
    st.tuples(st.just("other"), st.integers(-900, 900)),
)


@dataclass
class Course:
    """One tenant under a schedule; at most one replica lives at a time, whoever died before."""

    lived: lives.World
    tenant_id: str
    stack: AsyncExitStack
    replica: lives.Replica | None = None
    alerts: list[str] = field(default_factory=list)
    records: dict[str, int] = field(default_factory=dict)
    late: dict[str, tuple[datetime, datetime]] = field(default_factory=dict)
    proofs: dict[str, list[tuple[intervals.Intervals, datetime]]] = field(default_factory=dict)
    seen: dict[str, intervals.Intervals] = field(default_factory=dict)

    async def act(self, what: str, *how: Any) -> None:
        """Do one thing of the schedule, and look whether all claims are honest."""
        await getattr(self, f"_{what}")(*how)
        await self.look()

    async def look(self) -> None:
        """What became proven since the last look was read just now: whoever could be seen by then is held."""
        for source, claimed in (await self.lived.claims(self.tenant_id)).items():
            before = self.seen.get(source, intervals.Intervals())
            kept = [(spans & claimed, at) for spans, at in self.proofs.get(source, [])]
            self.proofs[source] = [*kept, (claimed - before, self.lived.now)]
            self.seen[source] = claimed
        excused = {
            key
            for key, (at, visible) in self.late.items()
            if any(spans.contains(at) and when < visible for spans, when in self.proofs["siem"])
        }
        await self.lived.honest(self.tenant_id, but=frozenset(excused))
        await self.lived.consistent(self.tenant_id)

    def ago(self, seconds: int) -> int:
        return self.lived.hand() - seconds * ticks.SECOND

    async def _siem(self, ago: int, later: int) -> None:
        key = f"r{len(self.records)}:1"
        at = self.records[key] = self.ago(ago)
        # nothing appears later than the overlap but what is late by intent
        visible = min(max(self.lived.hand(), at + later * ticks.SECOND), at + OVERLAP * ticks.SECOND)
        stages.file(self.lived.api.shown, self.tenant_id, key, at, visible_at=visible)

    async def _late(self, lateness: int) -> None:
        self.lived.hand.advance(1)  # after whatever was proven till now
        key = f"late{len(self.late)}:1"
        at = self.ago(lateness)
        self.late[key] = stages.moment(at), self.lived.now
        stages.file(self.lived.api.shown, self.tenant_id, key, at, visible_at=self.lived.hand())

    async def _revise(self, which: int) -> None:
        if self.records:
            key = sorted(self.records)[which % len(self.records)]
            self.records[key] = max(self.records[key] + 1, self.lived.hand())
            stages.file(
                self.lived.api.shown,
                self.tenant_id,
                key,
                self.records[key],
                AlertTitle=str(self.records[key]),
            )

    async def _alert(self, later: int, ties: int) -> None:
        desk = filing.Desk(self.lived.api.shown, self.tenant_id)
        now = self.lived.hand()
        for _ in range(ties):
            self.alerts.append(desk.add_alert(at=now, visible_at=now + later * ticks.SECOND))

    async def _update(self, which: int) -> None:
        now = self.lived.hand()
        held = self.lived.api.shown.truth_alerts(self.tenant_id, "mde")
        seen = sorted(json.loads(raw)["id"] for raw in held.values())
        if seen:
            key = seen[which % len(seen)]
            desk = filing.Desk(self.lived.api.shown, self.tenant_id)
            desk.update_alert(key, at=now, comment=f"at {now}")

    async def _pass(self, seconds: int) -> None:
        self.lived.hand.advance(seconds)

    async def _fault(self, service: str, kind: str, times: int) -> None:
        planned = self.lived.api.faults.setdefault((self.tenant_id, service), [])
        planned += [FAULTS[kind]() for _ in range(times)]

    async def _poll(self) -> None:
        replica = self.replica or await self._born()
        assert await replica.fate.end(replica.once())

    async def _crash(self, awaits: int, read: bool) -> None:
        replica = self.replica or await self._born()
        replica.fate.arm(awaits, fate.answered if read else fate.sent)
        if await replica.fate.end(replica.once()):
            replica.fate.disarm()  # it had less to do
            return
        replica.cut()
        self.replica = None
        await self.lived.forget()

    async def _other(self, ahead: int) -> None:
        if self.replica is not None:
            assert await self.replica.fate.end(self.replica.owner.resign())
        await self._born(timedelta(seconds=ahead))

    async def _born(self, ahead: timedelta = timedelta()) -> lives.Replica:
        self.replica = await self.stack.enter_async_context(self.lived.replica(ahead=ahead))
        self.stack.push_async_callback(self.replica.fate.bury)
        return self.replica

    async def end(self) -> None:
        """Faults are over, and time passes until all that is late was found by a sweep."""
        self.lived.api.faults.clear()
        if self.replica is not None:
            assert await self.replica.fate.end(self.replica.owner.resign())
        since = self.lived.now
        for _ in range(8):
            self.lived.hand.advance(2 * 3600)
            await self.lived.succeed(self.tenant_id)
            await self.look()
            verified = await self.lived.rows.fetchval(
                "SELECT bool_and(last_verified_at > $2) FROM soc.coverage WHERE tenant_id = $1",
                UUID(self.tenant_id),
                since,
            )
            if verified:
                break
        await self.lived.complete(self.tenant_id)


async def course(schedule: list[tuple[Any, ...]], made: lives.World, numbers: Iterator[int]) -> None:
    """A world and a tenant of its own for each schedule; the database is one."""
    hand = ticks.HandClock(made.hand())
    api = direct.Api(world.World(7, hand))
    rules = replace(made.rules, sweep_span=timedelta(days=60))
    lived = lives.World(api, hand, made.dsn, made.rows, made.database, made.metrics, rules)
    (tenant_id,) = await lived.enrol(1, after=next(numbers))
    await lived.alone(tenant_id)
    async with AsyncExitStack() as stack:
        tried = Course(lived, tenant_id, stack)
        for action in schedule:
            await tried.act(*action)
        await tried.end()


def schedules(examples: int, *, same: bool) -> Callable[[Any], Any]:
    """A test of so many schedules, the `same` ones in each run or others."""

    def decorate(test: Any) -> Any:
        given_ = given(schedule=st.lists(actions, min_size=6, max_size=30))
        return settings(
            max_examples=examples,
            deadline=None,
            derandomize=same,
            database=None,
            print_blob=not same,
            suppress_health_check=[*HealthCheck],
        )(given_(test))

    return decorate


@pytest.fixture
def numbers() -> Iterator[int]:
    """Tenants that no example had before."""
    return itertools.count(0)


@schedules(5, same=True)
async def test_some_schedules_end_in_the_truth(lived, numbers, schedule):
    """Whatever happens in whatever order: claims are honest all the time, and stored = truth."""
    await course(schedule, lived, numbers)


async def test_two_versions_of_one_microsecond(lived, numbers):
    """Both in one answer, the newest first: 100 ns tell them apart."""
    await course([("siem", 0, 0), ("revise", 0)], lived, numbers)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@schedules(60, same=False)
async def test_many_schedules_end_in_the_truth(lived, numbers, schedule):
    """As above, others in each run."""
    await course(schedule, lived, numbers)

"""The worker: starts due polls of the streams this replica owns, live work before gap work, as far as slots allow.

Everything about scheduling lives in memory and on the monotonic clock. An idle poll writes nothing of its own: what it proved
waits in `Owned` for the next flush.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any, TypeAlias, get_args
from uuid import UUID

import structlog

from service import causes, model
from service.ingest import outage, plan, reading
from service.ingest.owned import Owned
from service.ingest.slots import Patient, Place, Slots
from service.ingest.turn import Turn
from service.store import streams

_FLUSH_BATCH = 1000
_GAP_LOOKS = 64  # so many queued streams are looked at a time: those that wait for later only turn round
_PATIENCE = 15.0
_Due: TypeAlias = tuple[float, int, int, Owned]
"""When it is due, a number that no other entry has, its ticket, and the stream."""
_log = structlog.get_logger(__name__)


def _patience(interval: timedelta) -> float:
    """Seconds that a request may go without an answer while others need its place."""
    return min(max(interval.total_seconds() / 4, 1.0), _PATIENCE)


class Worker:
    """Owns streams by `adopt` and `drop`; `start_due` starts what is due; `stop` lets running polls end."""

    def __init__(
        self,
        desk: reading.Desk,
        replica_id: UUID,
        *,
        slots: int,
        budget: float,
        stalled: Callable[[asyncio.Task[Any] | None], bool] = lambda _: False,
        dice: random.Random | None = None,
    ) -> None:
        self._desk = desk
        self._replica_id = replica_id
        self._slots = Slots(slots, patience=_patience(desk.rules.poll_interval), stalled=stalled)
        self._budget = budget
        self._dice = dice or random.Random()  # noqa: S311 - jitter
        self._owned: dict[UUID, dict[str, Owned]] = {}
        self._heap: list[_Due] = []
        self._probation: list[tuple[int, _Due]] = []
        self._pushes = 0
        self._gap_queue: deque[Owned] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self.may_poll_until = 0.0
        """Monotonic: ownership moves it with each heartbeat; beyond it our leases may be somebody else's."""
        self.lease_lost = asyncio.Event()
        """Set when a poll found its lease gone, or no database: ownership looks again at once."""
        self.outage = outage.Outage()

    @property
    def leases(self) -> dict[UUID, model.Lease]:
        """The tenants this worker polls, with the lease it polls them under."""
        return {tenant_id: next(iter(mine.values())).lease for tenant_id, mine in self._owned.items()}

    @property
    def closing(self) -> bool:
        """Whether `stop` was called: nothing is taken over any more."""
        return self._slots.closing

    def adopt(self, loaded: Iterable[tuple[model.Lease, streams.Owned]]) -> None:
        """Take over streams; each is due at once."""
        for lease, item in loaded:
            owned = Owned(lease, item.access, item.stream, due=time.monotonic(), read_to=item.read_to)
            self._owned.setdefault(lease.tenant_id, {})[item.stream.source] = owned
            self._push(owned)

    def drop(self, tenant_id: UUID) -> list[asyncio.Task[None]]:
        """Stop polling a tenant. Its polls under way come back: a lease that is given away waits for them."""
        mine = self._owned.pop(tenant_id, {})
        return [owned.task for owned in mine.values() if owned.task is not None]

    def idle(self, tenant_id: UUID) -> bool:
        """Whether no poll of this tenant is under way."""
        return all(owned.task is None for owned in self._owned.get(tenant_id, {}).values())

    def wake(self, states: Sequence[model.StreamState]) -> None:
        """Make streams that show one of these states due now: the cause may be gone."""
        for mine in self._owned.values():
            for owned in mine.values():
                if owned.task is not None:
                    owned.woken = True
                elif owned.stream.state in states:
                    self._due_now(owned)

    def start_due(self) -> None:
        """Start what is due, live work first, then gaps, while there are slots. The tick calls it, and a freed slot that somebody
        waits for.
        """
        now = time.monotonic()
        if self._slots.closing or now >= self.may_poll_until or not self.outage.over:
            return
        while (entry := self._next_due(now)) is not None:
            due, _, _, owned = entry
            self._desk.metrics.poll_lag_seconds.observe(now - due)
            self._start(owned, live=True)
        for _ in range(min(len(self._gap_queue), _GAP_LOOKS)):
            if not (self._slots.free and self._slots.gaps_left):
                break
            owned = self._gap_queue.popleft()
            if not self._current(owned) or owned.task is not None:
                owned.queued = False  # the poll under way reads gaps itself, or asks for a turn again
            elif max(owned.gap_due, owned.ration_due) > now or not self._slots.gap_free(
                owned.lease.tenant_id
            ):
                self._gap_queue.append(owned)
            else:
                owned.queued = False
                self._start(owned, live=False)

    def _next_due(self, now: float) -> _Due | None:
        """The stream that has been due for longest of those that may be polled now. Those on probation wait for one of their own
        places, first who failed the fewest times in a row, and hold up nobody else meanwhile.
        """
        while self._heap and (
            self._old(self._heap[0]) or (self._heap[0][0] <= now and self._heap[0][3].probation)
        ):
            entry = heapq.heappop(self._heap)
            if not self._old(entry):
                heapq.heappush(self._probation, (entry[3].stream.failures, entry))
        while self._probation and self._old(self._probation[0][1]):
            heapq.heappop(self._probation)
        waiting = self._probation[0][1] if self._probation else None
        if waiting is not None and not self._slots.probation_left:
            self._slots.make_room(probation=True)
            waiting = None
        first = self._heap[0] if self._heap and self._heap[0][0] <= now else None
        if (waiting or first) is not None and not self._slots.free:
            self._slots.make_room()
            return None
        if waiting is not None and (first is None or waiting < first):
            return heapq.heappop(self._probation)[1]
        return None if first is None else heapq.heappop(self._heap)

    def _old(self, entry: _Due) -> bool:
        return entry[2] != entry[3].ticket or not self._current(entry[3])

    def show(self) -> None:
        """Set the gauges that tell of our streams; from memory, so that looking costs the database nothing."""
        now = self._desk.clock.now()
        states: Counter[str] = Counter()
        waiting: Counter[str] = Counter(dict.fromkeys(causes.CAUSES, 0))
        ages = [0.0]
        gaps = 0.0
        silent = 0
        for mine in self._owned.values():
            for owned in mine.values():
                states[owned.stream.state] += 1
                if owned.stream.cause is not None:
                    waiting[owned.stream.cause] += 1
                silent += bool(owned.stream.volume.silent_since or owned.stream.volume.missing)
                gaps += plan.gaps(owned.stream).total().total_seconds()
                if owned.read_to is not None:
                    ages.append((now - owned.read_to).total_seconds())
        for state in get_args(model.StreamState):
            self._desk.metrics.streams.labels(state).set(states[state])
        for cause, count in waiting.items():
            self._desk.metrics.streams_needing_attention.labels(cause).set(count)
        self._desk.metrics.silent_streams.set(silent)
        self._desk.metrics.data_age_seconds_max.set(max(ages))
        self._desk.metrics.gap_seconds.set(gaps)
        self._desk.metrics.clock_skew_seconds.set(-self._desk.clock.offset.total_seconds())

    async def stop(self, grace: float) -> None:
        """No new polls; those under way get `grace` seconds, then they are cancelled."""
        self._slots.closing = True
        if self._running:
            _log.info("polls_ending", running=len(self._running), grace_seconds=grace)
            await asyncio.wait(self._running, timeout=grace)
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running, timeout=5)

    async def flush(self, *, everything: bool = False) -> None:
        """Write the progress of idle polls, in batches. Raises DatabaseUnavailable; what was not written is kept."""
        now = float("inf") if everything else time.monotonic()
        wall = self._desk.clock.now()
        moved = [
            (owned, progress)
            for mine in self._owned.values()
            for owned in mine.values()
            if (progress := owned.progress(now, wall)) is not None
        ]
        for start in range(0, len(moved), _FLUSH_BATCH):
            batch = moved[start : start + _FLUSH_BATCH]
            ours = await streams.flush(self._desk.database, [progress for _, progress in batch])
            for owned, progress in batch:
                if owned.lease.tenant_id in ours:
                    owned.written(progress, time.monotonic())
                elif self._current(owned):  # else it was taken anew meanwhile, under another epoch
                    self._lost(owned)

    def _current(self, owned: Owned) -> bool:
        return self._owned.get(owned.lease.tenant_id, {}).get(owned.stream.source) is owned

    def _due_now(self, owned: Owned) -> None:
        owned.due = owned.gap_due = time.monotonic()
        self._push(owned)

    def _push(self, owned: Owned) -> None:
        owned.ticket += 1
        self._pushes += 1
        heapq.heappush(self._heap, (owned.due, self._pushes, owned.ticket, owned))

    def _start(self, owned: Owned, *, live: bool) -> None:
        owned.ticket += 1  # whatever the heap still holds of it is old now
        place = self._slots.take(probation=live and owned.probation, failures=owned.stream.failures)
        task = asyncio.create_task(
            self._poll(owned, place, live=live), name=f"poll {owned.lease.tenant_id} {owned.stream.source}"
        )
        owned.task = task
        self._running.add(task)
        self._desk.metrics.polls_running.set(len(self._running))

    async def _poll(self, owned: Owned, place: Place, *, live: bool) -> None:
        desk = replace(self._desk, sender=Patient(self._desk.sender, place))
        turn = Turn(
            desk, self._replica_id, owned, self._slots, live=live, budget=self._budget, dice=self._dice
        )
        try:
            await turn.take()
            stream = (owned.lease.tenant_id, owned.stream.source)
            if turn.database_error is not None:
                self.outage.struck(stream, turn.database_error)
                self.lease_lost.set()  # is it this poll's trouble alone, or is nothing there?
            elif turn.stored:
                self.outage.stored(stream)
        finally:
            owned.slow = place.waited >= self._slots.patience
            self._ended(owned, place, lost=turn.lease_lost)
        if turn.enrolled is not None and self._current(owned):
            self._fall_back(owned.lease, turn.enrolled)

    def _fall_back(self, lease: model.Lease, enrolled: streams.Owned) -> None:
        """Poll what stands in for a stream of this tenant; it may be polled already."""
        stream = enrolled.stream
        if stream.source in self._owned[lease.tenant_id]:
            return
        start = stream.wanted.lower
        _log.warning(
            "fallback_enrolled", fallback=stream.source, wanted_from=start.isoformat() if start else None
        )
        self.adopt([(lease, enrolled)])
        self.start_due()

    def _ended(self, owned: Owned, place: Place, *, lost: bool) -> None:
        task, owned.task = owned.task, None
        if task is not None:
            self._running.discard(task)
        # where nobody waits for a slot the next tick starts what is due by then, all at once, which costs less each
        crowded = place.probation or not self._slots.free
        self._slots.give(place)
        self._desk.metrics.polls_running.set(len(self._running))
        if not self._current(owned) or lost:
            if self._current(owned):
                self._lost(owned)
            if crowded:
                self.start_due()
            return
        woken, owned.woken = owned.woken, False
        if woken and owned.stream.failures:
            self._due_now(owned)
        else:
            self._push(owned)
        if owned.stream.state == "catching_up" and not owned.queued:
            owned.queued = True
            self._gap_queue.append(owned)
        if crowded or self._gap_queue:
            self.start_due()

    def _lost(self, owned: Owned) -> None:
        self.drop(owned.lease.tenant_id)
        self.lease_lost.set()

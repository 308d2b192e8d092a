"""One window: ask, read, compare, store. What a poll does again and again; everything it learns is in the `Reading`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

from service import metrics, model
from service.ingest import plan
from service.intervals import Intervals
from service.sources import contract
from service.store import alerts, pool, storing

_PROMPT = timedelta(seconds=2)


class Sender(Protocol):
    """The door to Microsoft: `transport.client.Client`, or anything that answers like it."""

    def send(self, access: model.Access, request: model.Request) -> AbstractAsyncContextManager[model.Answer]:
        """The answer's bytes count against MAX_BYTES_IN_FLIGHT until the context ends. Raises errors.PollFailure."""
        ...


class Clock:
    """Our clock, corrected by what the answers' Date headers say; one a process.

    The median of a few answers counts: one host with a wrong clock does not move the windows of all tenants. Dates have whole
    seconds, so a difference below two of them is noise and not followed.
    """

    _NOISE = timedelta(seconds=2)
    _ANSWERS = 5

    def __init__(self) -> None:
        self._seen: deque[timedelta] = deque(maxlen=self._ANSWERS)
        self._offset = timedelta()

    @property
    def offset(self) -> timedelta:
        """Theirs minus ours."""
        return self._offset

    def ours(self) -> datetime:
        """The host's own clock."""
        return datetime.now(UTC)

    def now(self) -> datetime:
        """The best guess of the answers' clock."""
        return self.ours() + self._offset

    def learn(self, date: datetime | None) -> None:
        """An answer has just arrived that is dated so."""
        if date is None:
            return
        self._seen.append(date + timedelta(milliseconds=500) - self.ours())
        seen = sorted(self._seen)[len(self._seen) // 2]
        if abs(seen - self._offset) > self._NOISE:
            self._offset = seen if abs(seen) > self._NOISE else timedelta()


@dataclass(frozen=True, slots=True)
class Desk:
    """What every poll works with, made once in the composition root."""

    sender: Sender
    database: pool.Database
    sources: Mapping[str, contract.Source]
    rules: plan.Rules
    clock: Clock
    metrics: metrics.Metrics


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one window: the stream as it is now, what was counted, and whether its date could prove anything.

    `full` asks for the window to be split; `times` are the update times seen, for choosing where.
    """

    stream: model.Stream
    counts: model.Counts
    size: int
    stored: bool
    dated: bool
    full: bool
    foreign: bool
    times: tuple[datetime, ...]


async def read(
    desk: Desk,
    lease: model.Lease,
    access: model.Access,
    stream: model.Stream,
    poll: storing.Poll,
    window: model.Window,
) -> Reading:
    """Read one window and store what is new. Raises errors.PollFailure, LeaseLost, DatabaseUnavailable."""
    source = desk.sources[stream.source]
    request = source.request(window, stream.parameters)
    asked = desk.clock.ours()
    async with desk.sender.send(access, request) as answer:
        if desk.clock.ours() - asked < _PROMPT:  # a slow body says nothing about clocks
            desk.clock.learn(answer.date)
        page = source.read(answer.body, window, stream.tenant_id)
        date, size = answer.date, len(answer.body)
        del (
            answer
        )  # records hold what they need of the body: storing them takes long enough to do without the rest
        times = tuple(alert.last_processed_at for alert in page.alerts)
        foreign = plan.outside(window, times)
        dated = plan.credible(date, desk.clock.ours())
        proof = Intervals()
        moved = stream.watermark
        if not page.full and not foreign:
            overlap = plan.overlap_of(stream, desk.rules)
            proof = plan.proof(window, date, desk.clock.ours(), overlap) & stream.wanted
            moved = plan.watermark(stream, window, times)
        sorted_alerts = alerts.Sorted((), (), 0, 0)
        if page.alerts:
            sorted_alerts = await alerts.sort(desk.database, stream.tenant_id, stream.source, page.alerts)
        coverage = stream.coverage | proof
        dropped = plan.excess(coverage)
        harvest = storing.Harvest(
            sorted=sorted_alerts,
            arrival=lambda alert: plan.arrival(stream, window.kind, alert.last_processed_at),
            rejects=page.rejects,
            duplicates=page.duplicates,
            items=page.items,
            watermark=moved,
            folded=stream.unfolded | proof,
            dropped=dropped,
            read_to=date if window.kind == "live" and not page.full and not foreign else None,
        )
        if sorted_alerts.new or sorted_alerts.newer or page.rejects or dropped:
            counts = await storing.store(desk.database, lease, stream.source, poll, harvest)
            unfolded, stored = Intervals(), True
        else:
            counts = model.Counts(
                items=page.items,
                unchanged=sorted_alerts.unchanged,
                stale=sorted_alerts.stale,
                duplicate=page.duplicates,
            )
            unfolded, stored = stream.unfolded | proof, False
    measured = desk.metrics.source(stream.source)
    measured.counts(counts)
    measured.rejected(counts.rejected)
    now = replace(stream, coverage=coverage - dropped, unfolded=unfolded, watermark=moved)
    return Reading(now, counts, size, stored, dated, page.full, foreign, times)

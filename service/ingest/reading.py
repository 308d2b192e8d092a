"""One window: ask, read, compare, store. What a poll does again and again; everything it learns is in the `Reading`."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from service import metrics, model
from service.ingest import lateness, plan, sweep, unpacking, volume
from service.intervals import Intervals
from service.sources import contract
from service.store import alerts, incidents, pool, storing, volumes

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
    unpacking: unpacking.Unpacking
    fallback: contract.Source | None = None
    """What takes the place of a source that is gone for good (FALLBACK_SOURCE)."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one answer: the stream as it is now, what was counted, and whether its date could prove anything.

    `full` asks for the window to be split, or read on from `rest` where the API keeps to the order that it was asked for;
    `times` are the update times seen, for choosing where, and `next` goes on from here where it cannot be split. `items` are
    top-level records, `records` their keys and versions; `digest` is the same for the same of them, in any order, and adds up
    over pages. `warnings` as in model.Page. `partial` says why the answer is a part only, by the API's own word or by what it
    was asked for: stored, and it proves nothing. `read` is what a whole answer has shown, up to its date; `learned` what it
    taught about lateness, None where nothing came late.
    """

    stream: model.Stream
    counts: model.Counts
    items: int
    size: int
    stored: bool
    date: datetime | None
    dated: bool
    full: bool
    rest: model.Window | None
    foreign: bool
    times: tuple[datetime, ...]
    next: model.Request | None
    records: frozenset[tuple[str, datetime]]
    digest: int
    warnings: tuple[str, ...]
    partial: str | None
    read: Intervals
    learned: model.Learned | None


async def read(
    desk: Desk,
    lease: model.Lease,
    access: model.Access,
    stream: model.Stream,
    poll: storing.Poll,
    window: model.Window,
    *,
    parameters: Mapping[str, Any] | None = None,
    further: model.Request | None = None,
    lacking: str | None = None,
    seen: Intervals = Intervals(),
    in_order: bool = False,
) -> Reading:
    """Read one window and store what is new. Raises errors.PollFailure, LeaseLost, DatabaseUnavailable.

    `parameters` stand for the stream's own. `further` is the request for a further page of a window that cannot be
    narrowed: stored like any other, and what it proves is for the caller to say (`proven`), who sees all pages. `lacking` says
    what an answer to these parameters lacks of what the stream wants: it is a part, like one that the API calls so.
    `seen` is what was read before, beyond coverage: what appears in there now came late.
    `in_order` says that the service was shown to keep to the order of update times: a cut answer then proves what it reaches.
    """
    source = desk.sources[stream.source]
    asked_for = further or source.request(window, stream.parameters if parameters is None else parameters)
    asked = desk.clock.ours()
    async with desk.sender.send(access, asked_for) as answer:
        came = desk.clock.ours()
        if came - asked < _PROMPT:  # a slow body says nothing about clocks
            desk.clock.learn(answer.date)
        async with desk.unpacking.room(len(answer.body)):
            steps = source.read(
                answer.body, window, stream.tenant_id, asked=asked_for, base_url=answer.base_url
            )
            page = await unpacking.read(steps)
            date, size, partial = answer.date, len(answer.body), answer.partial or lacking
            del answer  # records hold what they need of the body: storing them takes long enough to do without the rest
            if stream.volume.missing and not page.items and window.kind != "sweep":
                partial = partial or volume.lacking(stream.volume)
            times = page.times
            foreign = plan.outside(window, times, mutable=source.mutable)
            dated = plan.credible(date, came)
            parts = plan.prefix(window, times) if in_order and page.full and not partial else None
            whole, rest = parts or (None if page.full else window, None)
            proof = shown = Intervals()
            moved = stream.watermark
            if whole and not foreign and not partial and further is None:
                shown = plan.read(whole, date, came)
                # a sweep reads what is proven: there is nothing to join the row
                proof = _proof(desk, stream, whole, date, came) if window.kind != "sweep" else proof
                moved = plan.watermark(stream, whole, times)
            swept = sweep.after(stream, shown) if window.kind == "sweep" else stream.sweep
            if window.kind == "sweep" and shown:
                swept = await _compared(desk, lease, stream, swept, shown, page)
            usual = stream.volume if foreign else volume.seen(stream.volume, _inside(window, times))
            key, server = (desk.database, stream.tenant_id, stream.source), lease.server
            sorted_alerts = await alerts.sort(*key, page.alerts, of=server)
            sorted_incidents = await incidents.sort(*key, page.incidents, of=server)
            coverage = stream.coverage | proof
            dropped = plan.excess(coverage)
            top = sorted_incidents if page.incidents or page.nested else sorted_alerts
            come = () if foreign else (*top.new, *top.newer)
            late = lateness.late(come, window, stream.coverage | seen) if come else {}
            fresh = sorted_alerts.new or sorted_alerts.newer or sorted_incidents.new or sorted_incidents.newer
            if fresh or page.rejects or dropped:
                harvest = storing.Harvest(
                    sorted=sorted_alerts,
                    arrival=lambda moment: plan.arrival(stream, window.kind, moment),
                    rejects=page.rejects,
                    duplicates=page.duplicates,
                    items=page.items,
                    watermark=moved,
                    folded=stream.unfolded | proof,
                    dropped=dropped,
                    incidents=sorted_incidents,
                    nested=page.nested,
                    nested_rejects=page.nested_rejects,
                    read_to=date if window.kind == "live" and not page.full and not foreign else None,
                    idle=stream.idle,
                    learn=lambda written: lateness.learned(
                        replace(stream, sweep=swept),
                        [moment for key, moment in late.items() if key in written],
                        date if dated else None,
                        sweeping=window.kind == "sweep",
                    ),
                )
                kept = await storing.store(desk.database, lease, stream.source, poll, harvest)
                counts, learned, rejects = kept.counts, kept.learned, kept.rejects
                unfolded, stored, idle = Intervals(), True, stream.idle
            else:
                counts = model.Counts(
                    items=page.items,
                    unchanged=top.unchanged,
                    stale=top.stale,
                    duplicate=page.duplicates,
                    nested=page.nested,
                )
                unfolded, stored, learned, rejects = stream.unfolded | proof, False, None, 0
                idle = stream.idle + counts
    keys = _keys(page)
    measured = desk.metrics.source(stream.source)
    measured.counts(counts)
    measured.rejected(rejects)
    measured.warned(len(page.warnings) + (partial is not None))
    measured.late(learned.late if learned else 0)
    return Reading(
        stream=replace(
            stream,
            coverage=coverage - dropped,
            unfolded=unfolded,
            watermark=moved,
            lateness=learned.lateness if learned else stream.lateness,
            sweep=learned.sweep if learned else swept,
            volume=usual,
            idle=idle,
        ),
        counts=counts,
        items=page.items,
        size=size,
        stored=stored,
        date=date,
        dated=dated,
        full=page.full,
        rest=rest,
        foreign=foreign,
        times=times,
        next=page.next,
        records=frozenset(keys),
        digest=page.items + sum(map(hash, keys)),
        warnings=page.warnings,
        partial=partial,
        read=shown,
        learned=learned,
    )


def proven(
    desk: Desk,
    stream: model.Stream,
    window: model.Window,
    date: datetime | None,
    times: Sequence[datetime],
) -> model.Stream:
    """The stream once all pages of a window are stored, the first of them dated `date`: like an idle poll's, the proof
    travels with the next storing transaction or flush.
    """
    ours = desk.clock.ours()
    if window.kind == "sweep":
        return replace(stream, sweep=sweep.after(stream, plan.read(window, date, ours)))
    proof = _proof(desk, stream, window, date, ours)
    return replace(
        stream,
        coverage=stream.coverage | proof,
        unfolded=stream.unfolded | proof,
        watermark=plan.watermark(stream, window, times),
    )


def _proof(
    desk: Desk, stream: model.Stream, window: model.Window, date: datetime | None, ours: datetime
) -> Intervals:
    return plan.proof(window, date, ours, plan.overlap_of(stream, desk.rules)) & stream.wanted


async def _compared(
    desk: Desk,
    lease: model.Lease,
    stream: model.Stream,
    swept: model.Sweep | None,
    shown: Intervals,
    page: model.Page,
) -> model.Sweep | None:
    """A sweep with what of this part is held, and how much of that its answer does not have; rejects may be any of it."""
    since, source = stream.volume.began_at, desk.sources[stream.source]
    if swept is None or since is None or shown.lower is None or shown.upper is None:
        return swept
    held, missing = await volumes.missing(
        desk.database,
        stream.tenant_id,
        stream.source,
        (shown.lower, shown.upper),
        [key for key, _ in _keys(page)],
        since=since,
        incidents=source.incidents,
        of=lease.server,
    )
    missing = max(missing - len(page.rejects), 0)
    return replace(swept, held=swept.held + held, missing=swept.missing + missing)


def _inside(window: model.Window, times: Sequence[datetime]) -> list[datetime]:
    return [moment for moment in times if window.since <= moment < window.until]


def _keys(page: model.Page) -> list[tuple[str, datetime]]:
    if page.incidents or page.nested:
        return [(incident.incident_id, incident.last_update) for incident in page.incidents]
    return [(alert.full_id, alert.last_processed_at) for alert in page.alerts]

"""One poll: the live window of a stream, then its gaps while the budget lasts, then one window of its sweep."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from service import errors, model
from service.ingest import asking, memory, plan, ration, reading, splitting, sweep, volume
from service.intervals import Intervals
from service.store import storing, sweeps

_STEADY_FAILURES: Final = 3
"""From so many failures in a row on, a window that fails is halved: before, the API itself is the likelier cause."""
_NARROW: Final = timedelta(seconds=1)
"""A gap up to so wide that fails is set aside at once: it should not hold up older ones."""
_log = structlog.get_logger(__name__)


class Poll:
    """One turn of work on one stream. `tally` says how far it got, also after an exception."""

    def __init__(
        self,
        desk: reading.Desk,
        lease: model.Lease,
        access: model.Access,
        stream: model.Stream,
        remembered: memory.Memory,
        record: storing.Poll,
        *,
        budget: float,
    ) -> None:
        self._desk = desk
        self._lease = lease
        self._memory = remembered
        self._record = record
        self._deadline = time.monotonic() + budget
        self.tally = memory.Tally(stream)
        self._asking = asking.Asking(desk, lease, access, record, self.tally, remembered)
        self._splitting = splitting.Splitting(
            desk, lease, record, self.tally, remembered, self._asking, lambda: self.spent
        )
        if stream.backfill and remembered.ration is None:
            share = stream.gap_share or ration.DEFAULT_SHARE
            remembered.ration = ration.Ration(self._asking.source.quota, share)

    async def live(self) -> None:
        """Read the live window, in parts where it is too full. Raises errors.PollFailure where none of it could be read."""
        now = self._desk.clock.now()
        window = plan.live_window(self.tally.stream, now, self._desk.rules)
        steady = self.tally.stream.failures >= _STEADY_FAILURES
        # what failed for good a while ago would have to be found anew by each poll as long as it is young
        parts = Intervals.window(window) - self._memory.avoided(now)
        await self._splitting.read([model.Window(*part, "live") for part in parts], isolate=steady)
        self.tally.live_date = now

    def open_gaps(self) -> Intervals:
        """Gaps that are worth reading now: not those that failed for good a while ago, nor those beyond the source's reach."""
        now = self._desk.clock.now()
        found = plan.gaps(self.tally.stream) - self._memory.avoided(now)
        reach = self._asking.source.reach
        return found if reach is None else found.above(now - reach)

    def readable_gaps(self) -> Intervals:
        """The open gaps to read next: what a backfill added comes after all others, and when its share allows."""
        found = plan.first(self.open_gaps(), self.tally.stream)
        return found if self._allowed(found) else Intervals()

    def ration_due(self) -> float:
        """When a backfill may go on (monotonic seconds); 0 where other gaps are open, which need not wait."""
        ours = self._memory.ration
        if ours is None or not self._rationed(plan.first(self.open_gaps(), self.tally.stream)):
            return 0.0
        return ours.ready_at()

    def _rationed(self, found: Intervals) -> bool:
        return bool(found & self.tally.stream.backfill)

    def _allowed(self, found: Intervals) -> bool:
        ours = self._memory.ration
        return ours is None or not self._rationed(found) or ours.ready_at() <= time.monotonic()

    def _going_on(self, may_go_on: Callable[[], bool], asked: Intervals) -> bool:
        return may_go_on() and self._allowed(asked)

    async def gaps(self, may_go_on: Callable[[], bool]) -> None:
        """Read gaps, newest first, until none is left, the budget is spent or `may_go_on` says no.

        A failure ends it, and says nothing of the live window: `tally.gap_error`. Raises errors.Throttled, which does.
        """
        while may_go_on() and not self.spent:
            before = self.open_gaps()
            window = plan.gap_window(self.readable_gaps(), self._memory.width)
            if window is None:
                return
            going_on = partial(self._going_on, may_go_on, Intervals.window(window))
            steady = self._memory.gap_failures >= _STEADY_FAILURES
            # what was narrowed down before is read with relief at once, part by part
            isolate = steady or (window.span <= _NARROW and self._asking.relievable)
            try:
                done = await self._splitting.read([window], isolate=isolate, may_go_on=going_on)
                if done and self.open_gaps() == before:
                    raise errors.Refused("the answers prove nothing: their Date header is missing or wrong")
                self._memory.gap_failures = 0
            except errors.Throttled:
                raise
            except errors.PollFailure as failure:
                self._memory.gap_failures += 1
                self.tally.gap_error = str(failure)
                if steady or window.span <= _NARROW:
                    # the next one is wider: where the API has nothing to give for days, one gets past them in few steps
                    self._memory.width = min(window.span * 2, plan.WIDEST)
                    await self._splitting.set_aside(window, failure)
                else:
                    # the next one is narrower: it may time out because of its size, or hold several bad records
                    self._memory.width = max(window.span / 4, plan.NARROWEST)
                    await self._splitting.note(window, failure)
                return

    def own_gaps(self) -> Intervals:
        """The open gaps that a sweep waits for: not those of a backfill, or nothing late would be found for days."""
        return self.open_gaps() - self.tally.stream.backfill

    def sweeping(self) -> bool:
        """Whether there is a sweep to go on with; one whose time has come begins here."""
        stream, rules = self.tally.stream, self._desk.rules
        now = self._desk.clock.now()
        usual = volume.given_up(stream.volume, now)
        if usual is not stream.volume:
            stream = self.tally.stream = replace(stream, volume=usual)
        if not sweep.left(stream) and sweep.due(stream, now, rules.sweep_interval):
            self._memory.sweep_long_due = sweep.long_due(stream, now, rules.sweep_interval)
            begun = sweep.begun(stream, now, rules, self._asking.source.reach)
            stream = self.tally.stream = replace(stream, sweep=begun or stream.sweep)
        return bool(sweep.left(stream))

    async def sweep(self, may_go_on: Callable[[], bool]) -> None:
        """Read one window of the sweep, and end it where that was the last: a poll takes at most one, so that sweeps are slow.

        A failure is not the live window's: `tally.sweep_error`. Raises errors.Throttled, which is.
        """
        remembered = self._memory
        window = plan.gap_window(self._left(), remembered.width, "sweep")
        if window is not None:
            before = self._left()
            steady = remembered.sweep_failures >= _STEADY_FAILURES
            try:
                await self._splitting.read([window], isolate=steady, may_go_on=may_go_on)
                if self._left() == before and not self.spent and may_go_on():
                    raise errors.Refused("the answers prove nothing: their Date header is missing or wrong")
                remembered.sweep_failures = 0
            except errors.Throttled:
                raise
            except errors.PollFailure as failure:
                remembered.sweep_failures += 1
                self.tally.sweep_error = str(failure)
                remembered.width = max(window.span / 4, plan.NARROWEST)
                if steady:
                    await self._splitting.set_aside(window, failure)
        if not self._left():
            await self._end_sweep()

    def _left(self) -> Intervals:
        return sweep.left(self.tally.stream) - self._memory.avoided(self._desk.clock.now())

    async def _end_sweep(self) -> None:
        """What was set aside is in no sweep's proof: this one has verified nothing then, and the next one tries again."""
        stream = self.tally.stream
        ended = stream.sweep
        if ended is None or ended.span is None:
            return
        usual = volume.rechecked(stream.volume, ended, whole=not sweep.left(stream))
        whole = not sweep.left(stream) and not volume.doubtful(ended)
        if whole:
            verified = sweep.verified(stream)
            await sweeps.verify(self._desk.database, self._lease, stream.source, ended, verified)
        self.tally.stream = replace(
            stream, sweep=model.Sweep(started_at=ended.started_at, span=ended.span), volume=usual
        )
        if usual.missing != stream.volume.missing:
            _log.warning("records_not_returned", missing=usual.missing, held=usual.held)
        _log.debug("swept", since=ended.span[0].isoformat(), until=ended.span[1].isoformat(), whole=whole)
        if ended.late:
            _log.warning(
                "late_arrivals",
                found_by="sweep",
                count=ended.late,
                greatest_lateness_seconds=round(ended.greatest.total_seconds()),
            )

    @property
    def spent(self) -> bool:
        """Whether the budget is used up: the stream goes on in a later poll, and others get their turn."""
        return time.monotonic() >= self._deadline

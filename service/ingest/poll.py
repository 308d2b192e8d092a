"""One poll: the live window of a stream, then its gaps while the budget lasts.

A window that comes back full is split and both parts are read, newest first. A window that fails for itself alone while the
API is well is halved until the narrowest part that fails is found: that part is set aside. It stays a gap, with its reason, and
is tried again on a slow schedule; everything around it is stored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Final

import structlog

from service import errors, model
from service.ingest import asking, memory, plan, ration, reading, sweep
from service.intervals import Intervals
from service.store import storing, streams, sweeps

_STEADY_FAILURES: Final = 3
"""From so many failures in a row on, a window that fails is halved: before, the API itself is the likelier cause."""
_BOTH_HALVES: Final = 3
"""A window and its two halves: where all three fail, the API is at fault."""
_ALL_QUARTERS: Final = 7
"""And their halves, for what has been failing for a while: two bad records do not look like an API at fault."""
_DEAD: Final = 16
"""So many failures in a row, though others of its parts were well: a whole region fails, and is not searched any further."""
_DEEPEST: Final = 40
"""So many answers in a row that are too large: LIVE_SPAN of years is one millisecond after fewer halvings."""
_PIECES: Final = 128
"""Windows read of one window at most, and no more than the source's quota allows in its shortest time."""
_UNFINISHED: Final = "the answers stay full, or fail, however narrow the window: {} of them did not finish it"
_SPENT: Final = "POLL_BUDGET was spent before any of the live window was proven: the answers are slow or full"
_NARROW: Final = timedelta(seconds=1)
"""A gap up to so wide that fails is set aside at once: it should not hold up older ones."""
_POISON_RETRY: Final = timedelta(hours=1)
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
        await self._read_all([model.Window(*part, "live") for part in parts], isolate=steady)
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
        found = plan.first(self.open_gaps(), self.tally.stream)
        return self._memory.ration.ready_at() if self._memory.ration and self._rationed(found) else 0.0

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
                done = await self._read_all([window], isolate=isolate, may_go_on=going_on)
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
                    await self._set_aside(window, failure)
                else:
                    # the next one is narrower: it may time out because of its size, or hold several bad records
                    self._memory.width = max(window.span / 4, plan.NARROWEST)
                    await self._note(window, failure)
                return

    def sweeping(self) -> bool:
        """Whether there is a sweep to go on with; one whose time has come begins here."""
        stream, rules = self.tally.stream, self._desk.rules
        now = self._desk.clock.now()
        if not sweep.left(stream) and sweep.due(stream, now, rules.sweep_interval):
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
                await self._read_all([window], isolate=steady, may_go_on=may_go_on)
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
                    await self._set_aside(window, failure)
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
        whole = not sweep.left(stream)
        if whole:
            verified = sweep.verified(stream)
            await sweeps.verify(self._desk.database, self._lease, stream.source, ended, verified)
        self.tally.stream = replace(stream, sweep=model.Sweep(started_at=ended.started_at, span=ended.span))
        _log.debug("swept", since=ended.span[0].isoformat(), until=ended.span[1].isoformat(), whole=whole)
        if ended.late:
            _log.warning(
                "late_arrivals",
                found_by="sweep",
                count=ended.late,
                greatest_lateness_seconds=round(ended.greatest.total_seconds()),
            )

    def _got(self) -> tuple[Intervals, Intervals]:
        """What moves on where answers are good for something."""
        return self.tally.stream.coverage, sweep.left(self.tally.stream)

    @property
    def spent(self) -> bool:
        """Whether the budget is used up: the stream goes on in a later poll, and others get their turn."""
        return time.monotonic() >= self._deadline

    async def _read_all(
        self, parts: list[model.Window], *, isolate: bool, may_go_on: Callable[[], bool] = lambda: True
    ) -> bool:
        """Read windows (oldest first) and the parts they have to be split into, newest first; whether all of them were read.

        A failure that is the window's own is halved down to where it lies; one that all its parts share is the API's, and raised.
        What ends before it is done says so in `tally`, and is refused where there were answers enough and they proved nothing.
        """
        before = self._got()
        pieces = min([_PIECES, *(calls for calls, _ in self._asking.source.quota)])
        live = any(part.kind == "live" for part in parts)
        healthy = False
        in_a_row = 0
        width: timedelta | None = None  # known once an answer was full
        for _ in range(pieces):
            if not parts:
                return True
            if healthy and (self.spent or not may_go_on()):
                # what is left of a live window is a gap from now on, if any of it is proven
                if live and self._got() == before:
                    self.tally.partial = self.tally.partial or _SPENT
                elif not live:
                    # else a full answer that leaves no time for its parts would be asked for again and again
                    self._memory.width = max(min(self._memory.width, parts[-1].span), plan.NARROWEST)
                return False
            part = parts.pop()
            if width is not None and width < part.span and (cut := plan.newest(part, width)):
                older, part = cut
                parts.append(older)
            try:
                got = await self._asking.read(part)
                healthy = True
                in_a_row = 0
                halves = plan.split(part, got.times, mutable=self._asking.source.mutable)
                paged = got.full and not got.rest and not halves
                unproven = await self._asking.pages(part, got) if paged else None
            except (errors.Throttled, errors.Attention, errors.Gone):
                raise
            except errors.TooLarge as failure:
                in_a_row += 1
                if in_a_row > _DEEPEST:
                    raise
                if in_a_row == 1 and failure.sample:
                    await streams.keep_sample(
                        self._desk.database,
                        self._lease,
                        self.tally.stream.source,
                        str(failure),
                        failure.sample,
                    )
                self._memory.width = max(part.span / 4, plan.NARROWEST)
                if halves := plan.split(part):
                    parts = [*parts, *halves]
                else:
                    await self._set_aside(part, failure)
            except errors.PollFailure as failure:
                in_a_row += 1
                own = isolate or isinstance(failure, errors.Refused | errors.BadBody)
                most = _DEAD if healthy else _ALL_QUARTERS if isolate else _BOTH_HALVES
                if not own or in_a_row >= most:
                    raise
                if halves := plan.split(part):
                    # everything else is tried before the halves of this one: most of it is well
                    parts = [*halves, *parts]
                else:
                    await self._set_aside(part, failure)
            else:
                if got.rest:
                    parts.append(got.rest)
                elif got.full and halves:
                    parts = [*parts, *halves]
                    if self._asking.most is not None:
                        width = self._memory.width = halves[1].span
                elif got.full:
                    if unproven:
                        await self._set_aside(part, errors.Refused(unproven))
                else:
                    if got.partial and part.kind != "live":
                        # as good as it gets now: what came is stored, and older gaps should not wait for the rest
                        await self._set_aside(part, errors.Refused(got.partial))
                    if width is not None:
                        width = plan.next_width(part.span, got.items, got.size, self._asking.most)

        if parts:
            self._unfinished(_UNFINISHED.format(pieces), live=live, fruitless=self._got() == before)
        return not parts

    def _unfinished(self, why: str, *, live: bool, fruitless: bool) -> None:
        """A window took more answers than one poll should ask for: the rest of it is a gap, where any of it is proven."""
        if fruitless and not (self.tally.partial or self.tally.undated):
            raise errors.Refused(why)
        if live:
            self.tally.notice = why

    async def _set_aside(self, window: model.Window, failure: errors.PollFailure) -> None:
        self._memory.poison.append((Intervals.window(window), self._desk.clock.now() + _POISON_RETRY))
        await self._note(window, failure)

    async def _note(self, window: model.Window, failure: errors.PollFailure) -> None:
        if failure.sample:
            self._desk.metrics.source(self.tally.stream.source).rejected(1)
        if window.kind == "sweep":  # no gap: it is proven, and only not read again
            if failure.sample:
                await streams.keep_sample(
                    self._desk.database, self._lease, self.tally.stream.source, str(failure), failure.sample
                )
            return
        await streams.note_gap(
            self._desk.database,
            self._lease,
            self.tally.stream.source,
            self._record,
            span=(window.since, window.until),
            reason=str(failure),
            sample=failure.sample,
        )

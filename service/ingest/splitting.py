"""Reading a window in parts.

One that comes back full is split and both parts are read, newest first. One that fails for itself alone while the API is well
is halved until the narrowest part that fails is found: that part is set aside. It stays a gap, with its reason, and is tried
again on a slow schedule; everything around it is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from service import errors, model
from service.ingest import asking, memory, plan, reading, sweep
from service.intervals import Intervals
from service.store import storing, streams

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
_POISON_RETRY: Final = timedelta(hours=1)


class Splitting:
    """For one poll. Moves its `tally` on, and what the owner remembers of the stream."""

    def __init__(
        self,
        desk: reading.Desk,
        lease: model.Lease,
        record: storing.Poll,
        tally: memory.Tally,
        remembered: memory.Memory,
        asked: asking.Asking,
        spent: Callable[[], bool],
    ) -> None:
        """`spent()` says whether the poll's budget is used up."""
        self._desk = desk
        self._lease = lease
        self._record = record
        self._tally = tally
        self._memory = remembered
        self._asking = asked
        self._spent = spent

    async def read(
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
            if healthy and (self._spent() or not may_go_on()):
                # what is left of a live window is a gap from now on, if any of it is proven
                if live and self._got() == before:
                    self._tally.partial = self._tally.partial or _SPENT
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
                halves = (
                    plan.split(part, got.times, mutable=self._asking.source.mutable) if got.full else None
                )
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
                        self._tally.stream.source,
                        str(failure),
                        failure.sample,
                    )
                self._memory.width = max(part.span / 4, plan.NARROWEST)
                if halves := plan.split(part):
                    parts = [*parts, *halves]
                else:
                    await self.set_aside(part, failure)
            except errors.PollFailure as failure:
                in_a_row += 1
                own = failure.asked and (isolate or isinstance(failure, errors.Refused | errors.BadBody))
                most = _DEAD if healthy else _ALL_QUARTERS if isolate else _BOTH_HALVES
                if not own or in_a_row >= most:
                    raise
                if halves := plan.split(part):
                    # everything else is tried before the halves of this one: most of it is well
                    parts = [*halves, *parts]
                else:
                    await self.set_aside(part, failure)
            else:
                if got.rest:
                    parts.append(got.rest)
                elif got.full and halves:
                    parts = [*parts, *halves]
                    if self._asking.most is not None:
                        width = self._memory.width = halves[1].span
                elif got.full:
                    if unproven:
                        await self.set_aside(part, errors.Refused(unproven))
                else:
                    if got.partial and part.kind != "live":
                        # as good as it gets now: what came is stored, and older gaps should not wait for the rest
                        await self.set_aside(part, errors.Refused(got.partial))
                    if width is not None:
                        width = self._asking.next_width(part.span, got)

        if parts:
            self._unfinished(_UNFINISHED.format(pieces), live=live, fruitless=self._got() == before)
        return not parts

    def _got(self) -> tuple[Intervals, Intervals]:
        """What moves on where answers are good for something."""
        return self._tally.stream.coverage, sweep.left(self._tally.stream)

    def _unfinished(self, why: str, *, live: bool, fruitless: bool) -> None:
        """A window took more answers than one poll should ask for: the rest of it is a gap, where any of it is proven."""
        if fruitless and not (self._tally.partial or self._tally.undated):
            raise errors.Refused(why)
        if live:
            self._tally.notice = why

    async def set_aside(self, window: model.Window, failure: errors.PollFailure) -> None:
        """Leave a window that fails for good, for an hour."""
        self._memory.poison.append((Intervals.window(window), self._desk.clock.now() + _POISON_RETRY))
        await self.note(window, failure)

    async def note(self, window: model.Window, failure: errors.PollFailure) -> None:
        """Say why a window is a gap, and keep what could not be read of it."""
        if failure.sample:
            self._desk.metrics.source(self._tally.stream.source).rejected(1)
        if window.kind == "sweep":  # no gap: it is proven, and only not read again
            if failure.sample:
                await streams.keep_sample(
                    self._desk.database, self._lease, self._tally.stream.source, str(failure), failure.sample
                )
            return
        await streams.note_gap(
            self._desk.database,
            self._lease,
            self._tally.stream.source,
            self._record,
            span=(window.since, window.until),
            reason=str(failure),
            sample=failure.sample,
        )

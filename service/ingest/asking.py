"""Asking for one window of a stream: a first answer, further pages where it cannot be narrowed, and less of each record
where the service breaks over all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from service import errors, model
from service.ingest import memory, plan, reading
from service.sources import contract
from service.store import storing

_PAGES: Final = 50
"""Of a window that cannot be narrowed, at most."""
_PASSES: Final = 4
"""Over these pages, until two bring the same."""
_ENDLESS: Final = "a full answer whose window cannot be narrowed"
_BROKEN: Final = 500
_RELIEF: Final = timedelta(minutes=15)
"""For so long a stream is read with a source's relief before it is asked for everything again."""


class Asking:
    """Answers of one poll, each stored as it comes; `tally` moves on with them, and `remembered` says what was learned."""

    def __init__(
        self,
        desk: reading.Desk,
        lease: model.Lease,
        access: model.Access,
        record: storing.Poll,
        tally: memory.Tally,
        remembered: memory.Memory,
    ) -> None:
        self._desk = desk
        self._lease = lease
        self._access = access
        self._record = record
        self._tally = tally
        self._memory = remembered

    @property
    def source(self) -> contract.Source:
        """The source of the stream that is polled."""
        return self._desk.sources[self._tally.stream.source]

    @property
    def most(self) -> int | None:
        """What bounds an answer; what comes in the order of its update times is read on from where it was cut."""
        return None if self._tally.stream.parameters.get("ordered") else self.source.most

    async def pages(self, window: model.Window, first: reading.Reading) -> str | None:
        """Read a full answer's window page by page; None where it is proven, else why it is not.

        A record that leaves the window between two pages moves others to the page that was read before. So two passes
        have to bring the same; what left is newer now and found by its new time.
        """
        before = None
        for _ in range(_PASSES):
            got, digest, times, partial = first, first.digest, [*first.times], first.partial
            for _ in range(_PAGES):
                if got.next is None:
                    break
                got = await self.read(window, got.next)
                digest += got.digest
                times += got.times
                partial = partial or got.partial
            if got.full:
                return _ENDLESS
            if partial:
                return partial
            if digest == before:
                self._tally.stream = reading.proven(self._desk, self._tally.stream, window, first.date, times)
                return None
            before = digest
            first = await self.read(window)
            if not first.full:
                return first.partial  # it has become less meanwhile, and proven itself
        return _ENDLESS

    async def read(self, window: model.Window, further: model.Request | None = None) -> reading.Reading:
        """Read and store one answer. Raises errors.PollFailure, also where it answers what was not asked for."""
        tally = self._tally
        got = await self._ask(window, further)
        tally.stream = got.stream
        tally.counts += got.counts
        tally.windows += 1
        tally.stored = tally.stored or got.stored
        tally.undated = tally.undated or not got.dated
        if window.kind == "live":
            tally.partial = tally.partial or got.partial
        if window.kind == "gap" and further is None and (got.rest or not got.full):
            read = window.span - got.rest.span if got.rest else window.span
            width = plan.next_width(read, got.items, got.size, self.most)
            # what is read on from ends in a short part: four times that would be too narrow for the next window
            last_part = got.rest is None and tally.stream.parameters.get("ordered")
            self._memory.width = max(width, self._memory.width) if last_part else width
        if got.foreign:
            raise errors.Refused(
                "the source answers another window than asked for; stored, and nothing is proven by it"
            )
        if got.full and got.warnings and got.next is None and got.items < (self.source.most or 0):
            raise errors.Refused(f"the answer goes on where it cannot be followed ({got.warnings[0]})")
        return got

    async def _ask(self, window: model.Window, further: model.Request | None) -> reading.Reading:
        """One answer; where the service breaks over what is asked for, with the source's relief."""
        stream, memory = self._tally.stream, self._memory
        own = stream.parameters
        lighter = {**own, **self.source.relief}
        now = self._desk.clock.now()
        relieved = lighter != own and memory.relieved_until is not None and now < memory.relieved_until
        try:
            got = await self._one(window, further, lighter if relieved else own)
        except errors.Transient as failure:
            if failure.status != _BROKEN or relieved or lighter == own:
                raise
            if further is not None:
                memory.relieved_until = now + _RELIEF  # all pages of a window have to be asked for alike
                raise
            got = await self._one(window, None, lighter)
            memory.relieved_until = now + _RELIEF
            relieved = True
        self._tally.relieved = self._tally.relieved or relieved
        return got

    async def _one(
        self, window: model.Window, further: model.Request | None, parameters: Mapping[str, Any]
    ) -> reading.Reading:
        return await reading.read(
            self._desk,
            self._lease,
            self._access,
            self._tally.stream,
            self._record,
            window,
            parameters=parameters,
            further=further,
        )

"""Asking for one window of a stream: a first answer, further pages where it cannot be narrowed, and less of each record
where the service breaks over all of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final

import structlog

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
RELIEF: Final = timedelta(minutes=15)
"""For so long live windows are read with a source's relief before they are asked for everything again."""
_LACKING: Final[Mapping[model.WindowKind, str]] = MappingProxyType(
    {
        "live": "the service breaks over the alerts of incidents (500): these are stored without them, and nothing is proven;"
        " read the alerts by the source graph_alerts, or set the parameter expand=false to have the incidents alone proven",
        "gap": "read without its alerts: the service fails with them (500)",
        "sweep": "read again without its alerts: the service fails with them (500)",
    }
)
"""What an answer lacks that was asked for with relief: like any part of an answer it is stored, and proves nothing."""

_log = structlog.get_logger(__name__)


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
    def relievable(self) -> bool:
        """Whether less of each record can be asked for than the stream wants."""
        return {**self._own, **self.source.relief} != self._own

    @property
    def most(self) -> int | None:
        """What bounds an answer; what comes in the order of its update times is read on from where it was cut."""
        return None if self._own.get("ordered") else self.source.most

    @property
    def _own(self) -> Mapping[str, Any]:
        """The stream's parameters, without an order that the service was shown not to keep."""
        own = self._tally.stream.parameters
        return {**own, "ordered": False} if own.get("ordered") and self._memory.ordered is False else own

    def next_width(self, span: timedelta, got: reading.Reading) -> timedelta:
        """How wide the next window may be, from what one of `span` brought."""
        target = self._desk.rules.target_bytes
        return plan.next_width(span, got.items, got.size, self.most, target_bytes=target)

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
        got = await self._stored(window, further)
        unshown = self._memory.ordered is None and self._own.get("ordered") and further is None
        return await self._shown(window, got) if unshown and got.full and not got.partial else got

    async def _shown(self, window: model.Window, got: reading.Reading) -> reading.Reading:
        """A full answer, gone on from where it ends if the service is shown to keep to the order that it was asked for.

        A service may as well cut by another order and sort what is left: then records are missing all over the answer. So what it
        reaches is asked for again as a window of its own, which proves itself and has to bring nothing else. What was
        updated meanwhile has left it.
        """
        cut = plan.prefix(window, got.times, spare=plan.NARROWEST)
        if cut is None:
            return got
        whole, rest = cut
        again = await self._stored(whole)
        if again.partial:
            return got  # says nothing; the next full answer may
        others = {record for record in again.records if record[1] < whole.until} - got.records
        self._memory.ordered = not (again.full or others)
        if self._memory.ordered:
            return replace(got, stream=again.stream, rest=rest)
        _log.warning("order_not_kept", others=len(others), full=again.full)
        self._desk.metrics.source(self._tally.stream.source).warned(1)
        return got

    async def _stored(self, window: model.Window, further: model.Request | None = None) -> reading.Reading:
        tally = self._tally
        got = await self._ask(window, further)
        tally.stream = got.stream
        tally.counts += got.counts
        tally.windows += 1
        tally.stored = tally.stored or got.stored
        tally.undated = tally.undated or not got.dated
        if got.warnings and got.warnings != self._memory.warnings:  # said once, and then counted
            for warning in got.warnings:
                _log.warning("answer_warning", warning=warning)
            self._memory.warnings = got.warnings
        if got.learned and window.kind != "sweep":
            tally.late += got.learned.late
            tally.greatest = max(tally.greatest, got.learned.greatest)
        if got.read and window.kind == "live":
            seen = self._memory.read | got.read
            proven = tally.stream.coverage.upper
            self._memory.read = seen if proven is None else seen.above(proven)
        if window.kind == "live":
            tally.partial = tally.partial or got.partial
        if window.kind != "live" and further is None and (got.rest or not got.full):
            read = window.span - got.rest.span if got.rest else window.span
            width = self.next_width(read, got)
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
        """One answer; with the source's relief where the service breaks over what is asked for, and twice so.

        A live window is relieved at once and as a whole, for its records should be held soon, and so are those of the next
        minutes. A gap can wait: it is halved down to the records that break the service, and these alone are read so.
        """
        own, memory = self._own, self._memory
        now = self._desk.clock.now()
        live = window.kind == "live"
        relieved = live and memory.relieved_until is not None and now < memory.relieved_until
        if not (self.relievable and (live or plan.split(window) is None)):
            return await self._whole(window, further, own)
        if not relieved:
            try:
                return await self._twice(window, further, own)
            except errors.Transient as failure:
                if failure.status != _BROKEN:
                    raise
                if further is not None:
                    # all pages of a window have to be asked for alike
                    memory.relieved_until = now + RELIEF if live else memory.relieved_until
                    raise
        got = await self._one(window, further, {**own, **self.source.relief}, _LACKING[window.kind])
        if live and not relieved:
            memory.relieved_until = now + RELIEF
        return got

    async def _twice(
        self, window: model.Window, further: model.Request | None, own: Mapping[str, Any]
    ) -> reading.Reading:
        """All that the stream wants, once more after a 500: a single one is more often the service's than the window's."""
        try:
            return await self._whole(window, further, own)
        except errors.Transient as failure:
            if failure.status != _BROKEN:
                raise
        return await self._whole(window, further, own)

    async def _whole(
        self, window: model.Window, further: model.Request | None, own: Mapping[str, Any]
    ) -> reading.Reading:
        got = await self._one(window, further, own)
        if further is None:
            self._memory.relieved_until = None
        return got

    async def _one(
        self,
        window: model.Window,
        further: model.Request | None,
        parameters: Mapping[str, Any],
        lacking: str | None = None,
    ) -> reading.Reading:
        began = time.monotonic()
        try:
            return await reading.read(
                self._desk,
                self._lease,
                self._access,
                self._tally.stream,
                self._record,
                window,
                parameters=parameters,
                further=further,
                lacking=lacking,
                seen=self._memory.read,
                in_order=self._memory.ordered is True and parameters.get("ordered") is True,
            )
        except errors.Gone as failure:
            if further is None or failure.status is None:
                raise
            # a link of the service's own runs out like that: it says nothing of the API
            raise errors.Refused(
                f"the way on from a full answer leads nowhere ({failure.status})", status=failure.status
            ) from failure
        finally:
            if self._memory.ration is not None and plan.backfills(self._tally.stream, window):
                self._memory.ration.take(began, time.monotonic())

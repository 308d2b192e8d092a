"""One task of the worker: a poll from its start to the next due time, whatever happens in between."""

from __future__ import annotations

import random
import time
from dataclasses import replace
from uuid import UUID, uuid4

import structlog

from service import causes, errors
from service.ingest import lateness, pacing, plan, poll, reading, standing_in
from service.ingest.owned import Owned
from service.ingest.slots import Slots
from service.store import storing, streams, sweeps

_DATABASE_PAUSE = 5.0
_GAP_BACKOFF_MOST = 15 * 60.0
_UNDATED = (
    "the answers' Date header is missing or more than a day off: alerts are stored, nothing can be proven"
)
_UNORDERED = "ordered=true has no effect: the service does not keep to the order of update times, so full answers are split"
_log = structlog.get_logger(__name__)


def _backoff(failures: int) -> float:
    """Seconds until a gap or a sweep is tried again."""
    return min(2.0 ** min(failures + 2, 16), _GAP_BACKOFF_MOST)


class Turn:
    """Takes one turn of a stream; `live` false means that only gaps are read. Leaves `owned` ready to be scheduled again."""

    def __init__(
        self,
        desk: reading.Desk,
        replica_id: UUID,
        owned: Owned,
        slots: Slots,
        *,
        live: bool,
        budget: float,
        dice: random.Random,
    ) -> None:
        self._desk = desk
        self._owned = owned
        self._slots = slots
        self._live = live
        self._dice = dice
        self._interval = desk.rules.poll_interval
        self._started = time.monotonic()
        self._record = storing.Poll(uuid4(), replica_id, desk.clock.now())
        self._poll = poll.Poll(
            desk, owned.lease, owned.access, owned.stream, owned.memory, self._record, budget=budget
        )
        self.lease_lost = False
        """Whether the lease is over: another replica has the tenant, or this poll made its epoch grow."""
        self.enrolled: streams.Owned | None = None
        """A stream that stands in for this one: for this owner to poll, if it does not yet."""

    async def take(self) -> None:
        """Run the poll and settle what comes of it. Raises only CancelledError."""
        owned = self._owned
        structlog.contextvars.bind_contextvars(
            tenant=str(owned.lease.tenant_id), source=owned.stream.source, poll_id=str(self._record.poll_id)
        )
        outcome, error = "complete", None
        try:
            outcome, error = await self._read_and_settle()
        except errors.LeaseLost:
            outcome = "lease_lost"
            self.lease_lost = True
            self._desk.metrics.leases_lost.inc()
        except errors.DatabaseUnavailable as failure:
            outcome, error = "database", str(failure)
            self._later(_DATABASE_PAUSE * (1 + self._dice.random()))
        except Exception as bug:
            # one stream's bug must not stop it for ever, nor anyone else
            outcome, error = "bug", f"{type(bug).__name__}: {bug}"
            _log.exception("poll_bug")
            self._later(self._interval.total_seconds())
        self._report(outcome, error)

    async def _read_and_settle(self) -> tuple[str, str | None]:
        try:
            try:
                if self._live:
                    await self._poll.live()
                    self._succeeded()
                await self._gaps()
                if self._live:
                    await self._sweep()
            finally:
                self._owned.stream = self._poll.tally.stream  # what was stored is stored, whatever came after
        except errors.PollFailure as failure:
            await self._failed(failure)
            return failure.kind, str(failure)
        await self._complete()
        await self._widen()
        return "complete", self._poll.tally.gap_error or self._poll.tally.sweep_error

    async def _gaps(self) -> None:
        owned = self._owned
        owned.ration_due = self._poll.ration_due()
        if owned.gap_due > time.monotonic() or not self._poll.readable_gaps() or not self._slots.take_gap():
            return
        try:
            await self._poll.gaps(lambda: not self._slots.closing and time.monotonic() < owned.due)
        finally:
            self._slots.give_gap()
            owned.ration_due = self._poll.ration_due()
        if self._poll.tally.gap_error:
            owned.gap_due = time.monotonic() + _backoff(owned.memory.gap_failures)
        self._moved()

    async def _sweep(self) -> None:
        """Behind the live window and the gaps, and only where there are places enough for those of others."""
        remembered = self._owned.memory
        if remembered.sweep_after > time.monotonic() or self._poll.open_gaps() or not self._poll.sweeping():
            return
        if self._poll.spent or not (self._slots.free and self._slots.take_sweep()):
            return
        try:
            await self._poll.sweep(lambda: not self._slots.closing and time.monotonic() < self._owned.due)
        finally:
            self._slots.give_gap()
        if self._poll.tally.sweep_error:
            remembered.sweep_after = time.monotonic() + _backoff(remembered.sweep_failures)

    async def _widen(self) -> None:
        """Let the overlap grow to the lateness seen. What this replica knows of the tenant is out of date with it."""
        stream, rules = self._owned.stream, self._desk.rules
        overlap = plan.overlap_of(stream, rules)
        grown = lateness.overlap(stream.lateness, overlap, rules.overlap_max)
        if grown <= overlap:
            return
        too_early = plan.too_early(stream.coverage, grown - overlap)
        await sweeps.widen_overlap(self._desk.database, self._owned.lease, stream, grown, too_early)
        self.lease_lost = True
        _log.info("overlap_grown", seconds=grown.total_seconds(), was_seconds=overlap.total_seconds())

    def _succeeded(self) -> None:
        owned = self._owned
        if owned.first:
            # all tenants of a start are due at once: from the second poll on they are spread over the interval
            owned.first = False
            owned.due = self._started + self._interval.total_seconds() * self._dice.uniform(0.05, 1)
        else:
            owned.due = self._started + pacing.pause(self._interval, self._dice)
        owned.read_to = self._poll.tally.live_date
        self._moved()

    def _moved(self) -> None:
        self._owned.last_success_at = self._desk.clock.now()
        self._owned.moved = True

    async def _complete(self) -> None:
        owned = self._owned
        stream = owned.stream
        if not self._live and stream.state not in ("ok", "catching_up"):
            return  # gaps alone say nothing about the live window
        tally = self._poll.tally
        owned.memory.said.clear()
        state = pacing.stored(gaps_left=bool(self._poll.open_gaps()), partial=tally.partial is not None)
        unordered = _UNORDERED if owned.memory.ordered is False else None
        reason = tally.partial or (_UNDATED if tally.undated else tally.notice or unordered)
        if (stream.state, stream.state_reason, stream.failures) == (state, reason, 0):
            return
        owned.flushed_at = 0.0  # what brought the change should be seen with it, not a minute later
        await streams.show_state(
            self._desk.database, owned.lease, stream.source, state=state, reason=reason, failures=0
        )
        if stream.failures:
            _log.info("stream_recovered", was=stream.state, failures=stream.failures)
        owned.stream = replace(
            stream, state=state, state_reason=reason, cause=None, failures=0, gone_since=None
        )

    async def _failed(self, failure: errors.PollFailure) -> None:
        owned = self._owned
        now = time.monotonic()
        stream = owned.stream
        gone = isinstance(failure, errors.Gone)
        clock = self._desk.clock.now()
        verdict = pacing.failed(
            failure,
            failures=stream.failures,
            interval=self._interval,
            gone_for=clock - (stream.gone_since or clock),
            gone_for_good=self._desk.rules.gone_for_good,
            dice=self._dice,
        )
        cause = causes.of(failure, verdict.state)
        reason = causes.said(str(failure), cause, owned.access)
        owned.first = False
        owned.due = owned.gap_due = now + verdict.delay
        if failure.sample:
            self._desk.metrics.source(stream.source).rejected(1)
        if owned.memory.news(f"{verdict.state} {failure}"):
            # each reason once, then quiet until it is over: /metrics and soc.coverage have it all the time
            _log.warning("stream_failing", state=verdict.state, cause=cause, reason=reason)
        # what nobody answered says neither that the source is gone nor that it is there
        unknown = isinstance(failure, errors.Transient) and not isinstance(failure, errors.BadBody)
        fallback = standing_in.wanted(self._desk, stream) if verdict.state == "retired" else None
        unread = await standing_in.unread(self._desk, owned, fallback) if fallback else None
        if unread is not None:  # instead of the usual advice, which has been taken
            reason = f"{failure}; {unread}"
        gone_since = await streams.record_failure(
            self._desk.database,
            owned.lease,
            stream.source,
            self._record,
            state=verdict.state,
            reason=reason,
            failures=verdict.failures,
            sample=failure.sample,
            cause=cause,
            gone=True if gone else None if unknown else False,
        )
        owned.stream = replace(
            stream,
            state=verdict.state,
            state_reason=reason,
            cause=cause,
            failures=verdict.failures,
            gone_since=gone_since,
        )
        if fallback is not None and not owned.memory.fallen_back:
            if unread is None:
                self.enrolled = await standing_in.enrol(self._desk, owned, fallback)
            else:
                _log.warning("fallback_passed_over", fallback=fallback.name, reason=unread)
            owned.memory.fallen_back = True

    def _later(self, seconds: float) -> None:
        self._owned.gap_due = time.monotonic() + seconds
        if self._live:
            self._owned.due = self._owned.gap_due

    def _report(self, outcome: str, error: str | None) -> None:
        tally = self._poll.tally
        seconds = time.monotonic() - self._started
        self._desk.metrics.source(self._owned.stream.source).poll(outcome)
        self._desk.metrics.poll_seconds.observe(seconds)
        if tally.late:  # once each: what is held is not late a second time
            _log.warning(
                "late_arrivals",
                found_by="live",
                count=tally.late,
                greatest_lateness_seconds=round(tally.greatest.total_seconds()),
            )
        # idle polls would drown the rest
        say = _log.info if tally.stored or outcome != "complete" or error else _log.debug
        counts = tally.counts
        say(
            "poll",
            outcome=outcome,
            error=error,
            live=self._live,
            windows=tally.windows,
            items=counts.items,
            inserted=counts.inserted,
            updated=counts.updated,
            unchanged=counts.unchanged,
            stale=counts.stale,
            duplicate=counts.duplicate,
            rejected=counts.rejected,
            watermark=tally.stream.watermark.isoformat() if tally.stream.watermark else None,
            seconds=round(seconds, 3),
        )

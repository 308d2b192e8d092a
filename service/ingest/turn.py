"""One task of the worker: a poll from its start to the next due time, whatever happens in between."""

from __future__ import annotations

import logging
import random
import time
from dataclasses import replace
from uuid import UUID, uuid4

import structlog

from service import causes, errors
from service.ingest import lateness, pacing, plan, poll, reading, standing_in, volume
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
        self._repeated = (
            owned.stream.failures > 0 or owned.memory.gap_failures + owned.memory.sweep_failures > 0
        )
        """Whether the last one failed, too: it was said then."""
        if owned.stream.volume.began_at is None:  # before anything is stored that it counts
            begun = replace(owned.stream.volume, began_at=desk.clock.now())
            owned.stream = replace(owned.stream, volume=begun)
        self._poll = poll.Poll(
            desk, owned.lease, owned.access, owned.stream, owned.memory, self._record, budget=budget
        )
        self.lease_lost = False
        """Whether the lease is over: another replica has the tenant, or this poll made its epoch grow."""
        self.database_error: str | None = None
        """Why the database could not be read or written, where that ended the poll."""
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
            self.database_error = str(failure)
            owned.memory.unstored += 1
            most = max(self._interval.total_seconds(), _DATABASE_PAUSE)
            pause = min(_DATABASE_PAUSE * 2.0 ** min(owned.memory.unstored - 1, 16), most)
            self._later(pause * (1 + self._dice.random()))
        except Exception as bug:
            # one stream's bug must not stop it for ever, nor anyone else
            outcome, error = "bug", f"{type(bug).__name__}: {bug}"
            _log.exception("poll_bug")
            self._later(self._interval.total_seconds())
        if self.database_error is None:
            owned.memory.unstored = 0
        self._report(outcome, error)

    @property
    def stored(self) -> bool:
        """Whether anything of it was new, and is stored."""
        return self._poll.tally.stored

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
        tenant_id = owned.lease.tenant_id
        if owned.gap_due > time.monotonic() or not self._poll.readable_gaps():
            return
        if not self._slots.take_gap(tenant_id):
            return
        try:
            await self._poll.gaps(lambda: not self._slots.closing and time.monotonic() < owned.due)
        finally:
            self._slots.give_gap(tenant_id)
            owned.ration_due = self._poll.ration_due()
        if self._poll.tally.gap_error:
            owned.gap_due = time.monotonic() + _backoff(owned.memory.gap_failures)
        self._moved()

    async def _sweep(self) -> None:
        """Behind the live window and the gaps; where others need the places, only what has waited for long."""
        remembered = self._owned.memory
        if remembered.sweep_after > time.monotonic() or self._poll.own_gaps() or not self._poll.sweeping():
            return
        if self._poll.spent or not self._slots.take_sweep(long_due=remembered.sweep_long_due):
            return
        try:
            await self._poll.sweep(lambda: not self._slots.closing and time.monotonic() < self._owned.due)
        finally:
            self._slots.give_sweep()
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
        self._judge()
        stream, usual = owned.stream, owned.stream.volume
        if not self._live and stream.state not in ("ok", "catching_up"):
            return  # gaps alone say nothing about the live window
        tally = self._poll.tally
        owned.memory.said.clear()
        missing = usual.missing > 0
        state = pacing.stored(
            gaps_left=bool(self._poll.open_gaps()), partial=missing or tally.partial is not None
        )
        unordered = _UNORDERED if owned.memory.ordered is False else None
        reason = tally.partial or (_UNDATED if tally.undated else tally.notice or unordered)
        cause = None
        if missing:
            cause, reason = causes.NOT_RETURNED, volume.lacking(usual)
        elif usual.silent_since is not None and reason is None:
            cause, reason = causes.SILENT, volume.silence(usual)
        reason = causes.said(reason, cause, owned.access) if reason else None
        if (stream.state, stream.state_reason, stream.failures) == (state, reason, 0):
            return
        owned.flushed_at = 0.0  # what brought the change should be seen with it, not a minute later
        await streams.show_state(
            self._desk.database,
            owned.lease,
            stream.source,
            state=state,
            reason=reason,
            failures=0,
            cause=cause,
        )
        if stream.failures:
            _log.info("stream_recovered", was=stream.state, failures=stream.failures)
        owned.stream = replace(
            stream, state=state, state_reason=reason, cause=cause, failures=0, gone_since=None
        )

    def _judge(self) -> None:
        """Whether the stream is silent: once an hour, and at once where records have come."""
        owned = self._owned
        stream = owned.stream
        if not self._live:
            return
        now = self._desk.clock.now()
        at = (int(now.timestamp()) // 3600, stream.volume.last)
        if owned.memory.judged != at:
            owned.memory.judged = at
            was, stream = stream.volume, replace(stream, volume=volume.judged(stream))
            if stream.volume.silent_since != was.silent_since:
                if stream.volume.silent_since:
                    _log.warning("silence", reason=volume.silence(stream.volume))
                else:
                    _log.info("silence_over")
        owned.stream = stream

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
        # idle polls would drown the rest, and so would those that fail as the one before did; an outage of the database is said
        # once, for all polls that it ends
        news = outcome != "database" and (outcome != "complete" or error) and not self._repeated
        level = logging.INFO if tally.stored or news else logging.DEBUG
        if not _log.is_enabled_for(level):
            return  # nearly all polls, and what is said of them costs as much as a tenth of the poll
        counts = tally.counts
        _log.log(
            level,
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

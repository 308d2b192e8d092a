"""A stream in its owner's memory: its picture of the row, when it is due, and what no flush has written yet."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from service import model
from service.ingest.memory import Memory
from service.intervals import Intervals
from service.store import streams

_FLUSH_EVERY = 60.0


@dataclass(slots=True, eq=False)
class Owned:
    """A stream that this replica owns. `due` and `gap_due` are monotonic seconds: of the next live window, and before
    which no gap is read; `ration_due` is when a backfill may go on that has used up its share, if no other gap is open.
    `ticket` tells the heap which of its entries is the current one. `slow` says that its last poll waited long for an answer,
    `woken` that a poll under way may have failed of a cause that is gone meanwhile. `counted` and
    `volume` are of the row, as the last flush left it.
    """

    lease: model.Lease
    access: model.Access
    stream: model.Stream
    due: float
    memory: Memory = field(default_factory=Memory)
    gap_due: float = 0.0
    ration_due: float = 0.0
    first: bool = True
    slow: bool = False
    ticket: int = 0
    queued: bool = False
    woken: bool = False
    task: asyncio.Task[None] | None = None
    last_success_at: datetime | None = None
    read_to: datetime | None = None
    flushed_at: float = 0.0
    moved: bool = False
    counted: model.Counts = field(init=False)
    volume: model.Volume = field(init=False)

    def __post_init__(self) -> None:
        self.counted, self.volume = self.stream.idle, self.stream.volume

    @property
    def probation(self) -> bool:
        """Whether it has to show that polling it does not take up a place for long."""
        return self.slow and self.stream.failures > 0

    def progress(self, now: float, wall: datetime) -> streams.Progress | None:
        """What is to be written, at most once a minute; None where nothing moved or it is too early (`now` is monotonic)."""
        if now - self.flushed_at < _FLUSH_EVERY:
            return None
        uncounted = self.stream.idle != self.counted  # of a poll that failed later on
        if not (self.moved or uncounted):
            return None
        unfolded = self.stream.unfolded
        single = len(unfolded) == 1
        return streams.Progress(
            lease=self.lease,
            source=self.stream.source,
            last_success_at=self.last_success_at,
            read_to=self.read_to,
            # one range fits into stream_progress; several join the stream's row
            proven=unfolded.pairs[0] if single else None,
            folded=Intervals() if single else unfolded,
            next_poll_at=wall + timedelta(seconds=max(self.due - now, 0)),
            sweep=self.stream.sweep,
            idle=self.stream.idle,
            volume=self.stream.volume if self.stream.volume != self.volume else None,
        )

    def written(self, progress: streams.Progress, now: float) -> None:
        """A flush has written this. What moved while it was under way is written by the next one."""
        self.flushed_at = now
        self.moved = self.last_success_at != progress.last_success_at
        self.counted = progress.idle
        self.volume = progress.volume or self.volume
        if progress.folded:
            self.stream = replace(self.stream, unfolded=self.stream.unfolded - progress.folded)

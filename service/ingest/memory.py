"""What outlives an answer: of a stream while it is owned (`Memory`), and of one poll (`Tally`)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from service import model
from service.ingest import plan, ration
from service.intervals import Intervals

_DIGITS: Final = re.compile(r"\d+")
_MOST_SAID: Final = 8


@dataclass(slots=True)
class Memory:
    """What an owner remembers of a stream beyond its row; lost at a restart, and only speed is lost with it."""

    width: timedelta = plan.FIRST_WIDTH
    gap_failures: int = 0
    unstored: int = 0
    """Polls in a row that the database ended."""
    relieved_until: datetime | None = None
    ordered: bool | None = None
    """Whether the service was shown to keep to the order that is asked for; None until it was put to the test."""
    fallen_back: bool = False
    ration: ration.Ration | None = None
    """Of a stream with a backfill; the first poll makes it."""
    read: Intervals = Intervals()
    """What whole answers have shown above the end of coverage: a record that appears in there came late."""
    sweep_failures: int = 0
    sweep_after: float = 0.0
    """Monotonic seconds before which no sweep goes on."""
    sweep_long_due: bool = False
    """Whether the sweep that is under way was left waiting for longer than its interval."""
    warnings: tuple[str, ...] = ()
    """What the last answer that warned of something said."""
    judged: tuple[int, int] | None = None
    """The hour in which it was last judged whether the stream is silent, and the newest one with records then."""
    poison: list[tuple[Intervals, datetime]] = field(default_factory=list)
    said: set[str] = field(default_factory=set)
    """Why the live window failed since it was last well, as far as the log has it."""

    def news(self, reason: str) -> bool:
        """Whether a failure is to be logged: each reason once, whatever numbers are in it, and not without end."""
        plain = _DIGITS.sub("", reason)
        if plain in self.said or len(self.said) >= _MOST_SAID:
            return False
        self.said.add(plain)
        return True

    def avoided(self, now: datetime) -> Intervals:
        """Parts that failed for good and are not due again yet."""
        self.poison = [entry for entry in self.poison if entry[1] > now]
        avoided = Intervals()
        for intervals, _ in self.poison:
            avoided |= intervals
        return avoided


@dataclass(slots=True)
class Tally:
    """What a poll has done so far; moves on with each window, so that it is true whenever the poll ends.

    `partial` says why a part of the live window is not all there is, `notice` what else should be seen of a poll that went well.
    """

    stream: model.Stream
    counts: model.Counts = field(default_factory=model.Counts)
    windows: int = 0
    stored: bool = False
    live_date: datetime | None = None
    undated: bool = False
    partial: str | None = None
    notice: str | None = None
    gap_error: str | None = None
    sweep_error: str | None = None
    late: int = 0
    """Records that came late and were found by other than the sweep; `greatest` is the greatest lateness among them."""
    greatest: timedelta = timedelta()

"""What a database that is away, or takes nothing, means for polls: none starts, since nothing that they fetch could be stored."""

from __future__ import annotations

import time
from collections.abc import Hashable

import structlog

_SHORTEST, _LONGEST = 2.0, 60.0
_log = structlog.get_logger(__name__)


class Outage:
    """`struck` when a poll could not store, `away` while heartbeats fail. Pauses double as long as each ends in a failure.

    What strikes one stream again and again, and no other, is that stream's own trouble (a damaged row, a lock): it waits for
    itself alone then.
    """

    def __init__(self) -> None:
        self._pause = 0.0
        self._until = 0.0
        self._struck: Hashable = None
        self.away = False
        """Whether the last round of ownership failed: nothing is polled until one succeeds."""

    @property
    def over(self) -> bool:
        """Whether polls may start."""
        return not self.away and time.monotonic() >= self._until

    def struck(self, stream: Hashable, error: str) -> None:
        """A poll of this stream could not read or write the database. Those that were under way together are one failure."""
        now = time.monotonic()
        if now < self._until or stream == self._struck:
            return
        self._struck = stream
        recent = now - self._until < self._pause + _LONGEST
        self._pause = min(self._pause * 2, _LONGEST) if self._pause and recent else _SHORTEST
        self._until = now + self._pause
        _log.warning("polls_wait_for_database", seconds=self._pause, error=error)

    def stored(self, stream: Hashable) -> None:
        """A poll of this stream could store: whatever strikes next is another failure."""
        self._pause = 0.0
        if stream == self._struck:
            self._struck = None

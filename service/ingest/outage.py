"""What a database that is away, or takes nothing, means for polls: none starts, since nothing that they fetch could be stored."""

from __future__ import annotations

import time

import structlog

_SHORTEST, _LONGEST = 2.0, 60.0
_log = structlog.get_logger(__name__)


class Outage:
    """`struck` when a poll could not store, `away` while heartbeats fail. Pauses double as long as each ends in a failure."""

    def __init__(self) -> None:
        self._pause = 0.0
        self._until = 0.0
        self.away = False
        """Whether the last round of ownership failed: nothing is polled until one succeeds."""

    @property
    def over(self) -> bool:
        """Whether polls may start."""
        return not self.away and time.monotonic() >= self._until

    def struck(self, error: str) -> None:
        """A poll could not read or write the database. Those that were under way together are one failure."""
        now = time.monotonic()
        if now < self._until:
            return
        recent = now - self._until < self._pause + _LONGEST
        self._pause = min(self._pause * 2, _LONGEST) if self._pause and recent else _SHORTEST
        self._until = now + self._pause
        _log.warning("polls_wait_for_database", seconds=self._pause, error=error)

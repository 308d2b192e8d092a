"""Entra's time: our clock, corrected by the `Date` of Entra's last answer.

Entra refuses assertions outside of their time window (AADSTS700024), and machines have wrong clocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

_NOISE: Final = 5.0
"""Seconds: `Date` has whole ones, and an answer may wait for its turn in a busy process; less is not followed."""


class Clock:
    """One a process; safe to use from threads."""

    def __init__(self, ours: Callable[[], float] = time.time) -> None:
        """`ours` gives this machine's time in seconds since 1970."""
        self._ours = ours
        self._offset = 0.0

    @property
    def skew(self) -> float:
        """Seconds that this machine's clock is ahead of Entra's; 0.0 where they agree, or Entra has not answered yet."""
        return -self._offset

    def now(self) -> float:
        """Entra's time, in seconds since 1970."""
        return self._ours() + self._offset

    def is_past(self, moment: float) -> bool:
        """Whether this time (seconds since 1970) is over by our clock and by Entra's: one wrong `Date` must not end what nobody
        asks Entra about any more, for then no other `Date` would come.
        """
        return moment <= min(self._ours(), self.now())

    def learn(self, date: str | None) -> None:
        """An answer of Entra has just come with this `Date` header; one that cannot be read says nothing."""
        try:
            found = parsedate_to_datetime(date or "")
            theirs = (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, OverflowError):
            return
        offset = theirs - self._ours()
        self._offset = offset if abs(offset) > _NOISE else 0.0

    def said(self) -> str:
        """The skew in words, for a sentence."""
        seconds = round(abs(self.skew))
        if not seconds:
            return "this machine's clock agrees with Entra's"
        return f"this machine's clock is {seconds} s {'ahead of' if self.skew > 0 else 'behind'} Entra's"

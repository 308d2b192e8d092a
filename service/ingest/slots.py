"""Places for polls: so many at once, at most half of them reading gaps."""

from __future__ import annotations


class Slots:
    """Counts, and nothing else: the event loop is the lock."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._most_gaps = max(most // 2, 1)
        self._polls = 0
        self._gaps = 0
        self.closing = False

    @property
    def free(self) -> bool:
        return self._polls < self._most

    @property
    def gap_free(self) -> bool:
        return self._gaps < self._most_gaps

    @property
    def polls(self) -> int:
        """Polls under way."""
        return self._polls

    def take(self) -> None:
        self._polls += 1

    def give(self) -> None:
        self._polls -= 1

    def take_gap(self) -> bool:
        """Whether a poll may go on with gaps; it gives the place back."""
        if not self.gap_free:
            return False
        self._gaps += 1
        return True

    def take_sweep(self) -> bool:
        """Whether a poll may go on with its sweep, in a place for gaps, of which half are left to these; it gives it back."""
        return self._gaps < max(self._most_gaps // 2, 1) and self.take_gap()

    def give_gap(self) -> None:
        self._gaps -= 1

"""What a backfill may take: a share of the quota that its source documents, and of the time of one poll slot.

Pure: the caller says what time it is. Live windows and other gaps are never counted here, and never wait here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

DEFAULT_SHARE: Final = 0.2
"""Where a stream names none."""

_BURST: Final = 0.2
"""So much of a quota's span may be drawn ahead, so that a backfill with a slow source is no slower than its share."""
_SLOT_BURST: Final = 10.0
"""The same of a slot's time, in seconds: short answers need no pause after each."""


class Ration:
    """`quota` are (calls, seconds) pairs as in `sources.contract`, empty where none is documented; `share` is in (0, 1].

    Requests that began when `ready_at` allowed it are, in any span of a quota's seconds, at most `share` of its calls
    (rounded up to whole ones), and in any span T they took at most `share` * (T + 10 s) and what the last of them took.
    What is taken beyond that, where a window has to be finished, is made up for before the next.
    """

    def __init__(self, quota: Sequence[tuple[int, float]], share: float) -> None:
        self._share = share
        self._paces = [_pace(calls * share, seconds) for calls, seconds in quota]
        # the earliest time at which nothing would be drawn ahead: of each quota, and of the slot
        self._even = [0.0] * len(quota)
        self._slot_even = 0.0

    def ready_at(self) -> float:
        """From when on the next request may begin."""
        ready = [even - ahead for even, (_, ahead) in zip(self._even, self._paces, strict=True)]
        return max([self._slot_even - _SLOT_BURST, *ready])

    def take(self, began: float, ended: float) -> None:
        """A request was made, which took a slot from `began` to `ended`."""
        self._even = [
            max(even, began) + every for even, (every, _) in zip(self._even, self._paces, strict=True)
        ]
        self._slot_even = max(self._slot_even, began) + (ended - began) / self._share


def _pace(calls: float, seconds: float) -> tuple[float, float]:
    """(seconds from one request to the next, seconds that may be drawn ahead): together at most `calls` in any `seconds`."""
    ahead = seconds * _BURST if calls >= 2 else 0.0
    return (seconds + ahead) / calls, ahead

"""When to come back to a stream, and what to say of it: one pure function from what happened to the next delay and state."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from service import errors, model

_JITTER: Final = 0.05
_TRANSIENT_MOST: Final = 15 * 60.0
_THROTTLED_MOST: Final = 3600.0
_ATTENTION: Final = 3600.0
_GONE_MOST: Final = 6 * 3600.0
GONE_FOR_GOOD: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a stream shows after a failure, and when its next live window is due: `delay` in seconds, from the end of the poll
    (a Retry-After counts from the answer, however long that took).
    """

    state: model.StreamState
    reason: str
    failures: int
    delay: float


def pause(interval: timedelta, dice: random.Random) -> float:
    """Seconds from the start of a poll that stored its live window to the next one, whatever gaps are read in between."""
    return interval.total_seconds() * (1 + dice.uniform(-_JITTER, _JITTER))


def stored(*, gaps_left: bool, partial: bool = False) -> model.StreamState:
    """What a stream shows whose live window is stored; `partial` where something is known to be missing in it."""
    return "degraded" if partial else "catching_up" if gaps_left else "ok"


def failed(
    failure: errors.PollFailure,
    *,
    failures: int,
    interval: timedelta,
    gone_for: timedelta,
    gone_for_good: timedelta = GONE_FOR_GOOD,
    dice: random.Random,
) -> Verdict:
    """The live window could not be read. `failures` counts the ones in a row before this one; `gone_for` says since when the
    source has been missing.

    throttled: what the answer said, or a backoff, the longer, up to 1 h; transient: backoff with full jitter up to 15 min;
    attention: 1 h, or at once when the cause is fixed; gone: transient until `gone_for_good`, then retired and doubling to 6 h.
    """
    count = failures + 1
    reason = str(failure)
    backoff = min(interval.total_seconds() / 4 * 2 ** min(count, 16), _TRANSIENT_MOST)
    jittered = max(dice.uniform(0, backoff), 1.0)
    match failure:
        case errors.Throttled():
            wait = min(max(failure.retry_after or 0.0, jittered), _THROTTLED_MOST)
            return Verdict("throttled", reason, count, wait)
        case errors.Attention():
            # where many wait on one cause, they do not come back in the same second
            wait = min(failure.retry_after or _ATTENTION, _ATTENTION)
            return Verdict("needs_attention", reason, count, wait * (1 + dice.uniform(0, _JITTER)))
        case errors.Gone() if gone_for >= gone_for_good:
            wait = min(interval.total_seconds() * 2 ** min(count, 16), _GONE_MOST)
            return Verdict("retired", reason, count, wait)
        case _:
            return Verdict(
                "degraded", reason, count, max(jittered, min(failure.retry_after or 0.0, _THROTTLED_MOST))
            )

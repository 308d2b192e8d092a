"""The sweep: when a stream's recent past is to be read a second time, and what of it is left. Arithmetic only, no I/O.

Each stream has its own points in time, SWEEP_INTERVAL apart, where in between follows from its tenant and source: streams are
spread whatever happened to them together, and a restart moves none.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final
from zlib import crc32

from service import model, timestamps
from service.ingest import plan, volume
from service.intervals import Intervals

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_TICK: Final = timedelta(microseconds=1)


def due(stream: model.Stream, now: datetime, interval: timedelta) -> bool:
    """Whether one of the stream's points in time lies between the start of its last sweep and now.

    They are nearer to each other where the last one did not find what is held.
    """
    if stream.volume.missing_span is not None:
        interval = min(interval, volume.RECHECK)
    begun = stream.sweep.started_at if stream.sweep else stream.enrolled_at
    phase = (stream.tenant_id.int + crc32(stream.source.encode())) % (interval // _TICK) * _TICK
    return now - (now - _EPOCH - phase) % interval > begun


def long_due(stream: model.Stream, now: datetime, interval: timedelta) -> bool:
    """Whether a whole interval has gone by in which a sweep should have begun."""
    begun = stream.sweep.started_at if stream.sweep else stream.enrolled_at
    return now - begun > 2 * interval


def begun(
    stream: model.Stream, now: datetime, rules: plan.Rules, reach: timedelta | None
) -> model.Sweep | None:
    """A sweep of the last SWEEP_SPAN, as far as the source reaches; None where nothing of it is proven, and so nothing is to be
    read a second time. What was not returned is asked for once more, as long as the API should have it.
    """
    again = stream.volume.missing_span
    if again is not None:
        left = Intervals.of(again) & stream.coverage
        left = left if reach is None else left.above(now - reach)
        return model.Sweep(now, again, left) if left else None
    span = rules.sweep_span if reach is None else min(rules.sweep_span, reach)
    pair = (timestamps.floor_ms(now - span), timestamps.floor_ms(now))
    left = Intervals.of(pair) & stream.coverage
    return model.Sweep(now, pair, left) if left else None


def left(stream: model.Stream) -> Intervals:
    """What is not read again yet, and still proven: what is not, is read as a gap or by the live window, and not by a sweep."""
    return stream.sweep.left & stream.coverage if stream.sweep else Intervals()


def after(stream: model.Stream, shown: Intervals) -> model.Sweep | None:
    """The stream's sweep once this was read again."""
    sweep = stream.sweep
    return replace(sweep, left=sweep.left - shown) if sweep else None


def verified(stream: model.Stream) -> Intervals:
    """What a sweep that ends whole has read again: all of its span that is proven. What is proven only since it began was read
    since then, too.
    """
    span = stream.sweep.span if stream.sweep else None
    return Intervals.of(span) & stream.coverage if span else Intervals()

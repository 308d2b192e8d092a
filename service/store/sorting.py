"""The records of an answer against what is held of them: one rule for alerts and for incidents."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar

import asyncpg

from service import model

_Record = TypeVar("_Record", model.Alert, model.Incident)


@dataclass(frozen=True, slots=True)
class Sorted(Generic[_Record]):
    """What is to be inserted, what is to be updated, and how many need nothing."""

    new: tuple[_Record, ...]
    newer: tuple[_Record, ...]
    unchanged: int
    stale: int

    @property
    def total(self) -> int:
        return len(self.new) + len(self.newer) + self.unchanged + self.stale


NONE: Final[Sorted[Any]] = Sorted((), (), 0, 0)


def compare(
    records: Sequence[_Record], times: Iterable[datetime], held: Sequence[asyncpg.Record]
) -> Sorted[_Record]:
    """Sort records, each with its update time. `held` has rows of (place from 1, update time, content hash, misdated): of the
    records that are held, as `changes.misdated` judges them.
    """
    known = {place - 1: (updated, content, misdated) for place, updated, content, misdated in held}
    new: list[_Record] = []
    newer: list[_Record] = []
    unchanged = stale = 0
    for n, (record, time) in enumerate(zip(records, times, strict=True)):
        if (found := known.get(n)) is None:
            new.append(record)
        elif record.content_hash == found[1]:
            unchanged += 1
        elif time < found[0] and not found[2]:
            stale += 1
        else:
            newer.append(record)
    return Sorted(tuple(new), tuple(newer), unchanged, stale)

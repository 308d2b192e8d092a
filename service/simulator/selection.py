"""The alerts of one answer of the SIEM API: picked from a tenant's runs, newest first."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from service.simulator import runs


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The alerts of one answer, newest first, as indices into runs: nothing is rendered before it is read."""

    parts: tuple[tuple[runs.Run, Sequence[int]], ...]

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)

    def records(self) -> Iterator[bytes]:
        """The alerts' JSON."""
        for run, indices in self.parts:
            yield from map(run.render, indices)

    def newest(self, limit: int) -> Selection:
        """The first `limit` of them."""
        kept: list[tuple[runs.Run, Sequence[int]]] = []
        for run, indices in self.parts:
            if limit <= 0:
                break
            kept.append((run, indices[:limit]))
            limit -= len(indices)
        return Selection(tuple(kept))


def select(those: Iterable[runs.Run], since: int, until: int, now: int) -> Selection:
    """What is visible of the runs with since <= LastProcessedTimeUtc <= until (ticks), newest first."""
    picked = [(run, runs.pick(run, since, until, now)) for run in those]
    picked = [(run, indices) for run, indices in picked if indices]
    picked.sort(key=lambda each: each[0].times[each[1][0]])
    ends = [run.times[indices[-1]] for run, indices in picked]
    begins = [run.times[indices[0]] for run, indices in picked]
    if all(end < begin for end, begin in zip(ends, begins[1:], strict=False)):
        return Selection(tuple((run, indices[::-1]) for run, indices in reversed(picked)))
    # Runs that overlap in time: the one place where times are sorted, and then only those of the answer.
    rows = [(run.times[index], run, index) for run, indices in picked for index in indices]
    rows.sort(key=lambda row: row[0])
    return Selection(tuple((run, (index,)) for _, run, index in reversed(rows)))

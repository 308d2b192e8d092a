"""What a process holds, read from /proc; and whether it grows: pure arithmetic over samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

MIB = 1024 * 1024
LEAST_HOURS = 0.5
"""A process that was watched for less is not judged: caches fill."""
MOST_MIB_AN_HOUR = 8.0
MOST_FILES_AN_HOUR = 4.0


class Vitals(NamedTuple):
    """`at` in seconds of the run; `rss` in bytes."""

    at: float
    rss: int
    threads: int
    files: int


def look(pid: int, at: float) -> Vitals | None:
    """The process as it is now; None where it has ended."""
    folder = Path("/proc", str(pid))
    try:
        lines = (folder / "status").read_text().splitlines()
        files = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    fields = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
    if "VmRSS" not in fields:
        return None  # a zombie
    return Vitals(at, int(fields["VmRSS"][0]) * 1024, int(fields["Threads"][0]), files)


def slope(points: Sequence[tuple[float, float]]) -> float:
    """The rise a unit of x of the line that fits best; 0 for fewer than two different x."""
    if len(points) < 2:
        return 0.0
    middle_x = sum(x for x, _ in points) / len(points)
    middle_y = sum(y for _, y in points) / len(points)
    square = sum((x - middle_x) ** 2 for x, _ in points)
    if square == 0:
        return 0.0
    return sum((x - middle_x) * (y - middle_y) for x, y in points) / square


class Growth(NamedTuple):
    """Of one process between two starts; the slopes are of its last two thirds."""

    name: str
    hours: float
    rss: tuple[int, int]
    threads: tuple[int, int]
    files: tuple[int, int]
    mib_an_hour: float
    files_an_hour: float

    @property
    def grows(self) -> bool:
        """Whether it was watched for long enough, and grows on."""
        return self.hours >= LEAST_HOURS and (
            self.mib_an_hour > MOST_MIB_AN_HOUR or self.files_an_hour > MOST_FILES_AN_HOUR
        )


def growth(name: str, samples: Sequence[Vitals]) -> Growth:
    """From the first sample to the last (at least one)."""
    first, last = samples[0], samples[-1]
    settled = [each for each in samples if each.at >= first.at + (last.at - first.at) / 3]
    return Growth(
        name,
        (last.at - first.at) / 3600,
        (first.rss, last.rss),
        (first.threads, last.threads),
        (first.files, last.files),
        slope([(each.at / 3600, each.rss / MIB) for each in settled]),
        slope([(each.at / 3600, each.files) for each in settled]),
    )

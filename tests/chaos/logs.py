"""What replicas wrote, searched for what must not be there."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

_BAD = frozenset({"error", "critical"})


class Found(NamedTuple):
    """lines: all of them; levels: by level; bad: lines of the level error, stacks, and what is no JSON at all."""

    lines: int
    levels: Counter[str]
    bad: list[str]


def read(files: Iterable[Path]) -> Found:
    """Every line of some JSON logs."""
    levels: Counter[str] = Counter()
    bad: list[str] = []
    count = 0
    for file in files:
        for line in file.read_bytes().splitlines():
            count += 1
            text = line.decode(errors="replace")
            try:
                level = str(json.loads(text)["level"])
            except (ValueError, KeyError, TypeError):
                bad.append(f"{file.name}: {text[:400]}")
                continue
            levels[level] += 1
            if level in _BAD or "Traceback" in text:
                bad.append(f"{file.name}: {text[:1200]}")
    return Found(count, levels, bad)


def listened(file: Path) -> int:
    """How often a process that logs there has begun to listen."""
    return file.read_bytes().count(b'"http_listening"')


def port(file: Path) -> int | None:
    """Where the process that logs there listens for probes and metrics: the last line that says so."""
    found = None
    for line in file.read_bytes().splitlines():
        if b'"http_listening"' in line:
            found = json.loads(line)["port"]
    return found

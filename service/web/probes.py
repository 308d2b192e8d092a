"""What `/livez` and `/readyz` ask, as plain callables: this layer knows neither scheduler nor database.

Answers are for anybody who reaches the port, so a check's detail names no tenant and no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `detail` is a short phrase for a person."""

    name: str
    ok: bool
    detail: str = ""


Ask = Callable[[], Sequence[Check]]
"""Looks at what is known already and answers at once: it runs on the event loop and does no I/O."""


@dataclass(frozen=True, slots=True)
class Probes:
    """`live`: whether the process works at all or should be restarted; `ready`: whether it can do its work.

    That the event loop runs is shown by the answer itself.
    """

    live: Ask
    ready: Ask


def fresh(name: str, age: float | None, limit: float) -> Check:
    """A check that something happened within `limit` seconds; `age` in seconds, None where it never did."""
    if age is None:
        return Check(name, ok=False, detail="not yet")
    return Check(name, ok=age <= limit, detail=f"{age:.1f} s ago, at most {limit:.1f} s")


def ask(question: Ask) -> list[Check]:
    """The checks of `question`; one that breaks is a failed check, and its error is in the log alone."""
    try:
        return list(question())
    except Exception:
        log.exception("probe_broke")
        return [Check("probe", ok=False, detail="it broke; the log says why")]

"""What goes wrong when, by a seed alone: the same seed and length give the same weather. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final, Literal, NamedTuple

from service.simulator import chaos

Kind = Literal[
    "kill",  # a replica ends without a word, and is started again
    "restart",  # SIGTERM, and is started again
    "freeze",  # SIGSTOP for longer than the lease, then SIGCONT
    "silence",  # packets between a replica and PostgreSQL are lost
    "cut",  # connections between a replica and PostgreSQL are reset, and new ones too
    "slow",  # every piece between a replica and PostgreSQL waits
    "postgres",  # PostgreSQL ends at once (SIGQUIT) and recovers
    "backends",  # connections are ended by pg_terminate_backend
    "api",  # every answer of an API for a tenant is one fault
    "entra",  # every answer of Entra for a tenant is one fault
    "pause",  # a tenant is paused, then resumed, by command
    "backfill",  # by command
    "rewind",  # by command
    "burst",  # many detections within a second, or at one instant
]

# Seconds from one of a kind to the next, on average.
PERIODS: Final[dict[Kind, float]] = {
    "kill": 30.0,
    "restart": 45.0,
    "freeze": 50.0,
    "silence": 60.0,
    "cut": 50.0,
    "slow": 60.0,
    "postgres": 75.0,
    "backends": 40.0,
    "api": 1.5,
    "entra": 8.0,
    "pause": 40.0,
    "backfill": 60.0,
    "rewind": 45.0,
    "burst": 15.0,
}
SPANS: Final[dict[Kind, tuple[float, float]]] = {
    "kill": (0.0, 8.0),
    "restart": (0.0, 4.0),
    "freeze": (8.0, 14.0),  # the lease is 6 s
    "silence": (3.0, 18.0),
    "cut": (1.0, 12.0),
    "slow": (5.0, 15.0),
    "api": (3.0, 18.0),
    "entra": (3.0, 15.0),
    "pause": (4.0, 20.0),
}
LYING: Final = frozenset({"empty"})
"""Faults that deny what is there: a claim made of them is as wrong as the source, until the sweep."""
_SURFACES: Final[tuple[chaos.Surface, ...]] = ("siem", "mde", "xdr", "graph")


class Event(NamedTuple):
    """At so many seconds of the weather. target: number of the replica or tenant; fault: of an API or Entra, on `surface`."""

    at: float
    kind: Kind
    target: int
    seconds: float
    surface: str = ""
    fault: str = ""


def faults(surface: chaos.Surface) -> list[str]:
    """The names of all faults that the surface can have."""

    def fits(name: str) -> bool:
        try:
            chaos.check(surface, chaos.FAULTS[name])
        except ValueError:
            return False
        return True

    return [name for name in chaos.FAULTS if fits(name)]


def forecast(
    seed: int,
    seconds: float,
    *,
    replicas: int,
    holders: Callable[[str], Sequence[int]],
    tenants: int,
    spacing: float = 1.0,
    spared: int | None = None,
) -> list[Event]:
    """The weather of so many seconds, in order of time; each kind comes at least once.

    holders: the tenants that have a surface. spacing: all periods times this. spared: a replica that nothing ends.
    """
    dice = random.Random(seed)
    endless = {surface: _endless(dice, faults(surface)) for surface in (*_SURFACES, "token")}
    turns = itertools.cycle([each for each in dice.sample(_SURFACES, len(_SURFACES)) if holders(each)])
    events: list[Event] = []
    for kind, period in PERIODS.items():
        for _ in range(max(1, round(seconds / period / spacing))):
            at = dice.uniform(0, seconds * 0.95)
            span = dice.uniform(*SPANS.get(kind, (0.0, 0.0)))
            if kind in ("kill", "restart", "freeze", "silence", "cut", "slow"):
                ending = kind in ("kill", "restart")
                free = [each for each in range(replicas) if not (ending and each == spared)]
                events.append(Event(at, kind, dice.choice(free), span))
            elif kind == "api":
                surface = next(turns)
                events.append(
                    Event(at, kind, dice.choice(holders(surface)), span, surface, next(endless[surface]))
                )
            elif kind == "entra":
                events.append(Event(at, kind, dice.randrange(tenants), span, "token", next(endless["token"])))
            else:
                events.append(Event(at, kind, dice.randrange(tenants), span))
    return sorted(events)


def _endless(dice: random.Random, names: Sequence[str]) -> Iterator[str]:
    while True:
        yield from dice.sample(names, len(names))

"""Faults as values: what an answer can do wrong, by plan ("the next three answers of this tenant") or by
chance.

A `Fault` says what happens; the surfaces and `faults` make it happen. `FAULTS` names the usual ones, so
that the command line and the control surface can speak of them.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Mapping
from typing import Literal

from service.simulator import dice

Surface = Literal["metadata", "token", "sign_in", "siem", "mde", "xdr", "graph"]
Kind = Literal[
    "status",  # the status, an empty body, Retry-After if asked for
    "html",  # a page, as proxies and gateways send it, with the status
    "hang",  # no answer at all until the client gives up
    "reset",  # the connection is reset before the answer
    "reset_inside",  # ... in the middle of the body
    "truncated",  # well-formed HTTP whose body ends half-way
    "slow",  # the body comes in small pieces over so many seconds
    "redirect",  # 301 or 302 to `location`
    "wrong_type",  # the right body called text/plain
    "partial",  # status 206 and a Warning header; from mde, xdr and graph every second record is missing
    "bomb",  # `size` bytes of blanks, compressed a thousandfold
    "twice",  # some records come twice in one answer
    "older",  # older versions of some records are replayed after them
    "strange",  # records of a wrong shape are strewn in
    "empty",  # [] although there are alerts
    "expand",  # 500 where $expand is asked for, else the right answer
    "foreign_link",  # the right records, and a nextLink to `location`
    "no_list",  # an envelope whose value is no list
    "aadsts",  # Entra's error `code`, called `error` if given
    "token",  # a token that differs: see lifetime, roles, tid, audience
]


# What makes sense on one side only: tokens come from Entra, records from the APIs.
_ENTRA_ONLY = frozenset({"aadsts", "token"})
_ENVELOPE_ONLY = frozenset({"expand", "foreign_link", "no_list"})
_API_ONLY = _ENVELOPE_ONLY | {"wrong_type", "partial", "twice", "older", "strange", "empty", "bomb"}


@dataclasses.dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong.

    status: for status, html and redirect; 0 is the kind's own default. seconds: of Retry-After, or of a
    slow body. retry: how Retry-After is written. location: a redirect's or link's target. size: bytes of a bomb.
    code: AADSTS number; error: replaces its OAuth error. lifetime: seconds of a token. roles: those of a
    token, None for the tenant's own.
    tid, audience: a wrong claim.
    """

    kind: Kind
    status: int = 0
    seconds: float = 1.0
    retry: Literal["none", "seconds", "date"] = "none"
    location: str = "https://elsewhere.invalid/api/alerts"
    size: int = 256 * 1024 * 1024
    code: int = 0
    error: str = ""
    lifetime: int | None = None
    roles: tuple[str, ...] | None = None
    tid: str | None = None
    audience: str | None = None


FAULTS: Mapping[str, Fault] = {
    "429": Fault("status", 429, seconds=7, retry="seconds"),
    "429-date": Fault("status", 429, seconds=7, retry="date"),
    "429-bare": Fault("status", 429),
    **{str(status): Fault("status", status) for status in (204, 400, 401, 403, 404, 410, 500, 502, 503, 504)},
    "503-retry": Fault("status", 503, seconds=3, retry="seconds"),
    "503-html": Fault("html", 503),
    "html": Fault("html", 200),
    "206": Fault("partial"),
    "hang": Fault("hang"),
    "reset": Fault("reset"),
    "reset-inside": Fault("reset_inside"),
    "truncated": Fault("truncated"),
    "slow": Fault("slow", seconds=2.0),
    "301": Fault("redirect", 301),
    "302": Fault("redirect", 302),
    "wrong-type": Fault("wrong_type"),
    "bomb": Fault("bomb"),
    "twice": Fault("twice"),
    "older": Fault("older"),
    "strange": Fault("strange"),
    "empty": Fault("empty"),
    "expand-500": Fault("expand", 500),
    "foreign-link": Fault("foreign_link", location="https://elsewhere.invalid/v1.0/security?$skiptoken=x"),
    "not-a-list": Fault("no_list"),
    "slow-down": Fault("aadsts", code=70016, error="slow_down"),
    "short-token": Fault("token", lifetime=301),
    "expired-token": Fault("token", lifetime=-60),
    "no-roles": Fault("token", roles=()),
    "foreign-token": Fault("token", tid="ffffffff-ffff-4fff-8fff-ffffffffffff"),
}

# What a collector gets over by trying again; the others lie ("empty") or ask for a person ("403").
PASSING: tuple[str, ...] = (
    "429", "429-date", "429-bare", "500", "502", "503", "504", "503-html", "html", "401", "reset",
    "reset-inside", "truncated", "slow", "wrong-type", "twice", "older", "strange",
)  # fmt: skip


@dataclasses.dataclass(frozen=True, slots=True)
class Chaos:
    """Probabilities (0 to 1, together at most 1) of named faults for each answer of the alert APIs and of
    Entra's token endpoint.
    """

    api: Mapping[str, float] = dataclasses.field(default_factory=dict)
    token: Mapping[str, float] = dataclasses.field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        sides: tuple[tuple[Surface, Mapping[str, float]], ...] = (("graph", self.api), ("token", self.token))
        for surface, shares in sides:
            unknown = shares.keys() - FAULTS.keys()
            if unknown:
                raise ValueError(
                    f"no such fault: {', '.join(sorted(unknown))} (there are: {', '.join(FAULTS)})"
                )
            if any(share < 0 for share in shares.values()) or sum(shares.values()) > 1.000001:
                raise ValueError("probabilities of faults must be 0 to 1 and together at most 1")
            for name in shares:
                check(surface, FAULTS[name])

    @classmethod
    def passing(cls, share: float, seed: int = 1) -> Chaos:
        """Every fault of `PASSING` alike, so that `share` of all API answers and a fifth of that of tokens
        go wrong.
        """
        tokens = ("429", "503", "503-html", "reset")
        return cls(
            {name: share / len(PASSING) for name in PASSING},
            {name: share / 5 / len(tokens) for name in tokens},
            seed,
        )


def check(surface: Surface, fault: Fault) -> None:
    """Raise ValueError for a fault that a surface cannot have."""
    senseless = _API_ONLY if surface in ("metadata", "token", "sign_in") else _ENTRA_ONLY
    if surface == "siem":
        senseless |= _ENVELOPE_ONLY
    if fault.kind in senseless:
        raise ValueError(f"a {fault.kind!r} fault makes no sense on the {surface} surface")


class Script:
    """Which fault the next answer gets: what is planned for the tenant first, then chance."""

    def __init__(self, chaos: Chaos | None = None) -> None:
        self.planned: dict[tuple[Surface, str], collections.deque[Fault | None]] = {}
        self.standing: dict[tuple[Surface, str], Fault] = {}
        self.change(chaos or Chaos())

    def change(self, chaos: Chaos) -> None:
        """Other probabilities from now on; plans stay."""
        self.chaos = chaos
        self._rng = dice.Dice(chaos.seed)

    def plan(
        self, surface: Surface, tenant_id: str, fault: Fault | str | None, times: int | None = 1
    ) -> None:
        """The tenant's next `times` answers are this fault (a name of `FAULTS` will do; None: an answer as
        it should be).

        Plans queue up. Raises ValueError for a fault that this surface cannot have. With times None the
        fault stands until `clear`, behind what is queued; without a fault what stands ends, and what is queued.
        """
        value = FAULTS[fault] if isinstance(fault, str) else fault
        if value is not None:
            check(surface, value)
        key: tuple[Surface, str] = (surface, tenant_id.lower())
        if times is not None:
            self.planned.setdefault(key, collections.deque()).extend([value] * times)
        elif value is not None:
            self.standing[key] = value
        else:
            self.clear(surface, tenant_id)

    def clear(self, surface: Surface | None = None, tenant_id: str | None = None) -> None:
        """Forget the plans of a surface, of a tenant, of both, or all."""
        for plans in (self.planned, self.standing):
            for key in [*plans]:
                if surface in (None, key[0]) and (tenant_id is None or tenant_id.lower() == key[1]):
                    plans.pop(key)

    def take(self, surface: Surface, tenant_id: str) -> Fault | None:
        """The fault of this answer, or None."""
        key: tuple[Surface, str] = (surface, tenant_id.lower())
        queue = self.planned.get(key)
        if queue:
            return queue.popleft()
        if key in self.standing:
            return self.standing[key]
        if surface in ("metadata", "sign_in"):
            return None
        shares = self.chaos.token if surface == "token" else self.chaos.api
        if not shares:
            return None
        chance = self._rng.random()
        for name, share in shares.items():
            chance -= share
            if chance < 0:
                return FAULTS[name]
        return None

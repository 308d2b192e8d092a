"""What is kept of each tenant between requests for tokens. Times are monotonic seconds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from service import errors, model
from service.auth import breaker, modes, replies, sealing, wire

Form = Literal["v2", "v1"]
Outcome: TypeAlias = replies.Grant | errors.PollFailure

_EARLY: Final = 600.0
"""Seconds before its end from which a token is renewed (a quarter of its life where that is shorter)."""
_MARGIN: Final = 30.0
"""Seconds before its end from which a token is not used any more (a tenth of its life where that is shorter)."""
_MOST: Final = 4
"""Credentials that are held of one tenant and service: those of its streams, and room for changed ones."""
_PAUSE: Final = 30.0
_LONGEST_PAUSE: Final = 300.0
"""Seconds between renewals that fail while the token still lives: they double from the first to the second."""


@dataclass(slots=True)
class Slot:
    """The token of one (tenant, service, credential), and the flight that fetches the next."""

    form: Form
    token: str | None = field(default=None, repr=False)
    fetched: float = 0.0
    renew_at: float = 0.0
    dead_at: float = 0.0
    pause: float = _PAUSE
    flight: asyncio.Task[Outcome] | None = None

    def keep(self, grant: replies.Grant, now: float, spread: float) -> None:
        """Hold a new token; `spread` (0 to 1) keeps tenants that came together from renewing together."""
        early = min(_EARLY, grant.seconds / 4) * (1 + spread / 2)
        if grant.refresh_in is not None:
            early = max(early, grant.seconds - max(grant.refresh_in, 0.0))
        self.token = grant.token
        self.fetched = now
        self.dead_at = now + grant.seconds - min(_MARGIN, grant.seconds / 10)
        self.renew_at = min(now + grant.seconds - early, self.dead_at)
        self.pause = _PAUSE

    def postpone(self, now: float, retry_after: float | None) -> bool:
        """The renewal failed: keep the token while it lives. Says whether it does."""
        if self.token is None or now >= self.dead_at:
            self.drop()
            return False
        self.renew_at = min(now + max(self.pause, retry_after or 0.0), self.dead_at)
        self.pause = min(self.pause * 2, _LONGEST_PAUSE)
        return True

    def drop(self) -> None:
        """Hold no token."""
        self.token = None
        self.renew_at = self.dead_at = 0.0


@dataclass(slots=True)
class Holding:
    """All that is kept of one tenant, so that it can be forgotten at once.

    Two of its streams may have credentials of their own, for the same API; a credential that was changed leaves its slot behind.
    """

    slots: dict[tuple[str, model.Credential | None], Slot] = field(default_factory=dict)
    breakers: dict[modes.Identity, breaker.Breaker] = field(default_factory=dict, repr=False)
    memory: wire.Memory = field(default_factory=dict, repr=False)
    renewed: dict[model.Credential, bytes] = field(default_factory=dict, repr=False)
    probation: bool = False
    """Whether the last request for a token of this tenant brought no answer."""

    def sealed(self, credential: model.Credential) -> bytes:
        """The newest that is known of a credential: a sign-in gets another refresh token with each renewal."""
        return self.renewed.get(credential, credential.sealed)

    def renew(self, credential: model.Credential, refresh_token: str, sealer: sealing.Sealer) -> bytes | None:
        """Hold what a renewal brought, sealed, None where it is no other; the oldest beyond what streams can use goes."""
        if sealer.unseal(self.sealed(credential)) == refresh_token:
            return None
        for old in list(self.renewed)[: max(len(self.renewed) + 1 - _MOST, 0)]:
            del self.renewed[old]
        sealed = self.renewed[credential] = sealer.seal(refresh_token)
        return sealed

    def add(self, service: str, credential: model.Credential | None, slot: Slot) -> None:
        """Hold one more slot; the oldest beyond what streams can use goes."""
        old = [key for key, held in self.slots.items() if key[0] == service and held.flight is None]
        for key in old[: max(len(old) + 1 - _MOST, 0)]:
            del self.slots[key]
        self.slots[service, credential] = slot

    def guard(self, identity: modes.Identity, made: Callable[[], breaker.Breaker]) -> breaker.Breaker:
        """The breaker of one of the tenant's own credentials."""
        if identity not in self.breakers:
            for old in list(self.breakers)[: max(len(self.breakers) + 1 - 2 * _MOST, 0)]:
                del self.breakers[old]
            self.breakers[identity] = made()
        return self.breakers[identity]

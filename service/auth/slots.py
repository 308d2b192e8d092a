"""What is kept of each tenant between requests for tokens. Times are monotonic seconds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from service import errors, model
from service.auth import entra, replies

Form = Literal["v2", "v1"]
Outcome: TypeAlias = replies.Grant | errors.PollFailure

_EARLY: Final = 600.0
"""Seconds before its end from which a token is renewed (a quarter of its life where that is shorter)."""
_MARGIN: Final = 30.0
"""Seconds before its end from which a token is not used any more (a tenth of its life where that is shorter)."""
_PAUSE: Final = 30.0
_LONGEST_PAUSE: Final = 300.0
"""Seconds between renewals that fail while the token still lives: they double from the first to the second."""


@dataclass(slots=True)
class Slot:
    """The token of one (tenant, service, app), and the flight that fetches the next."""

    credential: model.Credential | None
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
    """All that is kept of one tenant, so that it can be forgotten at once."""

    slots: dict[tuple[str, str], Slot] = field(default_factory=dict)
    apps: dict[str, entra.App] = field(default_factory=dict, repr=False)

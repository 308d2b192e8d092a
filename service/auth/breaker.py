"""One probe in place of thousands of requests while Entra refuses a credential that many tenants share.

Entra blocks what hammers it with a wrong secret. So the first refusal opens the breaker: until its time has passed every call is
refused here, without a request. Then one call goes through as the probe, the others of that moment wait for its outcome.
The very first call goes alone too: a credential that is wrong from the start costs one request, not one a place.
A changed secret is another credential, with a breaker of its own, which is closed.

What one customer's directory says of a credential that works for others is no reason to shut those out: Entra answers some
faults of a single tenant (650052, 7000229, and who knows which next) with `invalid_client` too. So where a refusal does not name
the credential as what is wrong, one that has worked is given up when a second tenant is refused, or the same one again a minute
later, with no success in between.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Final

from service import errors

FIRST_PAUSE: Final = 60.0
LONGEST_PAUSE: Final = 3600.0
"""Seconds: the pause doubles from the first to the longest with each probe that is refused."""
_OF_WHOM: Final = frozenset({"credential_refused", "app_disabled"})
"""Codes of refusals that may be one tenant's trouble."""


class Breaker:
    """Of one credential in one version."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_change: Callable[[errors.CredentialRefused | None], None] | None = None,
    ) -> None:
        """`on_change` is called with the refusal when the breaker opens, and with None when it closes again."""
        self._clock = clock
        self._on_change = on_change
        self._refusal: errors.CredentialRefused | None = None
        self._pause = FIRST_PAUSE
        self._until = 0.0
        self._probe: asyncio.Future[None] | None = None
        self._tried = False
        self._worked = False
        self._doubt: tuple[Hashable, float] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the last that Entra said of this credential was a refusal."""
        return self._refusal is not None

    @asynccontextmanager
    async def guard(self, subject: Hashable = None) -> AsyncIterator[None]:
        """Around one request. Raises errors.CredentialRefused, with the rest of the pause as `retry_after`, while open.

        `subject` is whose request it is, where one credential serves many: the refusal of one alone does not open.
        """
        probe = await self._admit()
        try:
            yield
        except errors.CredentialRefused as refusal:
            # What was under way when another call opened the breaker says nothing new.
            if probe is not None or (self._refusal is None and not self._of_one(refusal, subject)):
                self._open(refusal)
            if self._refusal is not None:
                refusal.retry_after = self._left()
            raise
        else:
            self._close()
        finally:
            # A probe that ended without an answer leaves the breaker as it is: the next call is the next probe.
            self._tried = True
            if probe is not None:
                self._probe = None
                probe.set_result(None)

    async def _admit(self) -> asyncio.Future[None] | None:
        while self._refusal is not None or not self._tried:
            if self._refusal is not None and self._clock() < self._until:
                raise errors.CredentialRefused(
                    str(self._refusal),
                    code=self._refusal.code,
                    status=self._refusal.status,
                    retry_after=self._left(),
                )
            if self._probe is None:
                self._probe = asyncio.get_running_loop().create_future()
                return self._probe
            await asyncio.wait({self._probe})
        return None

    def _of_one(self, refusal: errors.CredentialRefused, subject: Hashable) -> bool:
        """Whether a refusal may be the subject's own trouble, as far as is known yet."""
        if subject is None or not self._worked or refusal.code not in _OF_WHOM:
            return False
        if self._doubt is None:
            self._doubt = (subject, self._clock())
        first, since = self._doubt
        return subject == first and self._clock() < since + FIRST_PAUSE

    def _open(self, refusal: errors.CredentialRefused) -> None:
        first = self._refusal is None
        if not first:
            self._pause = min(self._pause * 2, LONGEST_PAUSE)
        self._refusal = refusal
        self._until = self._clock() + self._pause
        if first and self._on_change:
            self._on_change(refusal)

    def _close(self) -> None:
        was_open = self._refusal is not None
        self._worked = True
        self._doubt = None
        self._refusal = None
        self._pause = FIRST_PAUSE
        if was_open and self._on_change:
            self._on_change(None)

    def _left(self) -> float:
        return max(self._until - self._clock(), 1.0)

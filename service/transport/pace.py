"""Requests of one tenant in time: the quotas that an API documents, kept before it has to say 429, and what it says then.

Quotas count per app and tenant, so a tenant's requests wait for themselves alone. Replicas need no agreement:
all streams of a tenant run on one.

Somebody else's app may use up the quota, and an API may have one that nobody documents. So a 429 holds up all streams of the
tenant that share the quota, for as long as the answer says, and what follows goes at half the pace: it grows with each answer
that is none. Asking again early keeps one throttled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import aiolimiter

from service import errors

_BURST: Final = 0.2
"""Part of a quota that may be used at once; the rest comes evenly. Both together never exceed it in any span."""

_MINUTE: Final = 60.0

_UNKNOWN: Final = 0.5
"""Seconds between two requests after the first 429 of an API whose quota is not documented."""
_SLOWEST: Final = 20.0
_EASED: Final = 0.8
_LOOSE: Final = 0.05

_LONGEST_WAIT: Final = 20.0
"""Seconds that a request waits here; a longer one gives its slot to another tenant and comes again."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most so many calls in any so many seconds."""

    calls: int
    seconds: float


@dataclass(slots=True)
class Brake:
    """What 429s have taught of one (tenant, quota group): nothing goes before `until` (monotonic), then one every so often."""

    until: float = 0.0
    every: float = 0.0
    next_at: float = 0.0

    def tighten(self, least: float, retry_after: float | None, now: float) -> None:
        """The API said 429."""
        self.until = max(self.until, now + (retry_after or 0.0))
        self.every = min(max(self.every * 2, least), _SLOWEST)
        self.next_at = max(self.next_at, now) + self.every

    def ease(self) -> bool:
        """The API answered; whether there is still something to keep."""
        self.every *= _EASED
        return self.every > _LOOSE

    def wait(self, now: float) -> float:
        """Seconds until the next request may go."""
        return max(self.until, self.next_at) - now

    def take(self, now: float) -> None:
        """A request goes, or will."""
        self.next_at = max(self.next_at, self.until, now) + self.every


class Pace:
    """`quotas` maps a quota group to all quotas that hold for it together; a group without an entry has no limit."""

    def __init__(self, quotas: Mapping[str, tuple[Quota, ...]] | None = None) -> None:
        self._quotas = dict(quotas or {})
        self._limiters: dict[UUID, dict[str, list[aiolimiter.AsyncLimiter]]] = {}
        self._sent: dict[UUID, dict[str, list[float]]] = {}
        self._brakes: dict[UUID, dict[str, Brake]] = {}
        self._since = time.monotonic()

    async def wait(self, tenant_id: UUID, group: str) -> None:
        """Return when a request may go. Raises errors.Throttled where that takes long."""
        await self._braked(tenant_id, group)
        quotas = self._quotas.get(group)
        if not quotas:
            self._note(tenant_id, group)
            return
        of_tenant = self._limiters.setdefault(tenant_id, {})
        if group not in of_tenant:
            of_tenant[group] = [_limiter(quota) for quota in quotas]
        try:
            async with asyncio.timeout(_LONGEST_WAIT):
                for limiter in of_tenant[group]:
                    await limiter.acquire()
        except TimeoutError:
            raise errors.Throttled(
                f"the quota of {' and '.join(f'{q.calls} calls in {q.seconds:g} s' for q in quotas)} is used up",
                retry_after=max(quota.seconds / quota.calls for quota in quotas),
            ) from None

        self._note(tenant_id, group)

    def refused(self, tenant_id: UUID, group: str, retry_after: float | None) -> None:
        """The API said 429, and in how many seconds to come again where it did."""
        brake = self._brakes.setdefault(tenant_id, {}).setdefault(group, Brake())
        least = max(
            [_UNKNOWN, *(2 * quota.seconds / quota.calls for quota in self._quotas.get(group, ())[:1])]
        )
        brake.tighten(least, retry_after, time.monotonic())

    def answered(self, tenant_id: UUID, group: str) -> None:
        """The API brought something other than 429."""
        of_tenant = self._brakes.get(tenant_id)
        if of_tenant and group in of_tenant and not of_tenant[group].ease():
            del of_tenant[group]

    async def _braked(self, tenant_id: UUID, group: str) -> None:
        brake = self._brakes.get(tenant_id, {}).get(group)
        if brake is None:
            return
        now = time.monotonic()
        seconds = brake.wait(now)
        if seconds > _LONGEST_WAIT:
            until = datetime.now(UTC) + timedelta(seconds=seconds)
            raise errors.Throttled(
                f"throttled by Microsoft until {until:%H:%M} UTC (429 a moment ago)", retry_after=seconds
            )
        brake.take(now)
        if seconds > 0:
            await asyncio.sleep(seconds)

    def account(self, tenant_id: UUID, group: str) -> str:
        """What we asked of a quota that the API calls used up, for people; nothing where we have not looked on for a minute."""
        now = time.monotonic()
        if now - self._since < _MINUTE:
            return ""
        sent = self._sent.get(tenant_id, {}).get(group, [])
        count = sum(at > now - _MINUTE for at in sent)
        said = f"we made {count} call{'' if count == 1 else 's'} in the last minute"
        quotas = self._quotas.get(group, ())
        # a longer quota may be used up by what we sent before
        ours = any(count >= quota.calls * _MINUTE / quota.seconds for quota in quotas)
        return said if ours or not quotas else f"{said}, so another app shares this quota"

    def forget(self, tenant_id: UUID) -> None:
        """Drop what is kept of a tenant."""
        self._limiters.pop(tenant_id, None)
        self._sent.pop(tenant_id, None)
        self._brakes.pop(tenant_id, None)

    def _note(self, tenant_id: UUID, group: str) -> None:
        of_tenant = self._sent.setdefault(tenant_id, {})
        now = time.monotonic()
        of_tenant[group] = [at for at in of_tenant.get(group, ()) if at > now - _MINUTE] + [now]


def _limiter(quota: Quota) -> aiolimiter.AsyncLimiter:
    burst = max(1.0, quota.calls * _BURST)
    rate = max(quota.calls - burst, 1.0) / quota.seconds
    return aiolimiter.AsyncLimiter(burst, burst / rate)

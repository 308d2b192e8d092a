"""Requests of one tenant in time: the quotas that an API documents, kept before it has to say 429.

Quotas count per app and tenant, so a tenant's requests wait for themselves alone. Replicas need no agreement:
all streams of a tenant run on one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import aiolimiter

from service import errors

_BURST: Final = 0.2
"""Part of a quota that may be used at once; the rest comes evenly. Both together never exceed it in any span."""

_LONGEST_WAIT: Final = 20.0
"""Seconds that a request waits here; a longer one gives its slot to another tenant and comes again."""


@dataclass(frozen=True, slots=True)
class Quota:
    """At most so many calls in any so many seconds."""

    calls: int
    seconds: float


class Pace:
    """`quotas` maps a quota group to all quotas that hold for it together; a group without an entry has no limit."""

    def __init__(self, quotas: Mapping[str, tuple[Quota, ...]] | None = None) -> None:
        self._quotas = dict(quotas or {})
        self._limiters: dict[UUID, dict[str, list[aiolimiter.AsyncLimiter]]] = {}

    async def wait(self, tenant_id: UUID, group: str) -> None:
        """Return when a request may go. Raises errors.Throttled where that takes long."""
        quotas = self._quotas.get(group)
        if not quotas:
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

    def forget(self, tenant_id: UUID) -> None:
        """Drop what is kept of a tenant."""
        self._limiters.pop(tenant_id, None)


def _limiter(quota: Quota) -> aiolimiter.AsyncLimiter:
    burst = max(1.0, quota.calls * _BURST)
    rate = max(quota.calls - burst, 1.0) / quota.seconds
    return aiolimiter.AsyncLimiter(burst, burst / rate)

"""Quotas as sliding windows: calls of one app for one tenant."""

from __future__ import annotations

import collections
from collections.abc import Iterable


class Quota:
    """Calls of one app for one tenant in a sliding window."""

    def __init__(self, limits: Iterable[tuple[int | None, int]], *, refused_count: bool) -> None:
        self._limits = [(calls, width) for calls, width in limits if calls is not None]
        self._refused_count = refused_count
        self._calls: dict[tuple[str, str], list[collections.deque[int]]] = {}

    def take(self, app_id: str, tenant_id: str, now: int) -> int:
        """Count a call; ticks until one is let through again, 0 if this one is."""
        logs = self._calls.get((app_id, tenant_id))
        if logs is None:
            logs = [collections.deque(maxlen=calls) for calls, _ in self._limits]
            self._calls[app_id, tenant_id] = logs
        over = any(self._wait(log, limit, now) for log, limit in zip(logs, self._limits, strict=True))
        if not over or self._refused_count:
            for log in logs:
                log.append(now)
        if not over:
            return 0
        return max(self._wait(log, limit, now) for log, limit in zip(logs, self._limits, strict=True))

    def _wait(self, log: collections.deque[int], limit: tuple[int, int], now: int) -> int:
        calls, width = limit
        return max(0, log[0] + width - now) if len(log) == calls else 0

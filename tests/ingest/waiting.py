"""The one place where tests of the collector wait: for a state that can be seen, never for time to pass."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

T = TypeVar("T")
_LOOK = 0.02


async def until(
    condition: Callable[[], T | Awaitable[T]],
    seconds: float = 20.0,
    *,
    saying: Callable[[], Any] | None = None,
) -> T:
    """The first true value of `condition`, called again and again; what it said last is in the failure."""
    deadline = time.monotonic() + seconds
    while True:
        value: Any = condition()
        if inspect.isawaitable(value):
            value = await value
        if value:
            return value
        if time.monotonic() > deadline:
            detail = saying() if saying else value
            if inspect.isawaitable(detail):
                detail = await detail
            raise AssertionError(f"not within {seconds} s; last seen: {detail!r}")
        await asyncio.sleep(_LOOK)

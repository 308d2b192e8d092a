"""Quotas of one tenant, kept before the API has to say 429."""

from __future__ import annotations

import asyncio
import uuid

import pytest

from service import errors
from service.transport import pace

CONTOSO = uuid.UUID("11111111-1111-1111-1111-111111111111")
FABRIKAM = uuid.UUID("22222222-2222-2222-2222-222222222222")


async def test_no_quota() -> None:
    """A group without a documented quota has no limit, and nothing is kept of it."""
    paces = pace.Pace()
    for _ in range(1000):
        await paces.wait(CONTOSO, "default")
    assert not paces._limiters


@pytest.mark.parametrize(("calls", "seconds"), [(100, 60.0), (1500, 3600.0), (1, 60.0), (3, 1.0)])
async def test_never_over(calls: int, seconds: float) -> None:
    """What may go at once and what follows evenly are together no more than the quota in any span of it."""
    limiter = pace._limiter(pace.Quota(calls, seconds))
    at_once = int(limiter.max_rate)
    following = seconds * limiter.max_rate / limiter.time_period
    assert at_once + following <= max(calls, 2)


async def test_tenants_apart() -> None:
    """One tenant's quota is not another's."""
    paces = pace.Pace({"alerts": (pace.Quota(2, 3600.0),)})
    await paces.wait(CONTOSO, "alerts")
    waiting = asyncio.create_task(paces.wait(CONTOSO, "alerts"))
    await asyncio.sleep(0)
    await paces.wait(FABRIKAM, "alerts")
    assert not waiting.done()
    waiting.cancel()


async def test_long_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a request would have to wait for long it is throttled, so that its slot goes to another tenant."""
    monkeypatch.setattr(pace, "_LONGEST_WAIT", 0.01)
    paces = pace.Pace({"alerts": (pace.Quota(2, 3600.0),)})
    await paces.wait(CONTOSO, "alerts")
    with pytest.raises(errors.Throttled, match="2 calls in 3600 s") as failed:
        await paces.wait(CONTOSO, "alerts")
    assert failed.value.retry_after == 1800

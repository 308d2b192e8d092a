"""What a backfill may take of a quota and of a slot, by arithmetic and beside a live stream in simulated time."""

from __future__ import annotations

import asyncio
import contextlib
import math
import selectors
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.ingest import ration
from service.transport import pace

CONTOSO = UUID("11111111-1111-1111-1111-111111111111")
QUOTA = (50, 60.0)


@given(
    calls=st.integers(1, 2000),
    seconds=st.sampled_from([1.0, 60.0, 3600.0]),
    share=st.floats(0.01, 1),
    answers=st.lists(st.floats(0, 0.5), min_size=50, max_size=300),
)
def test_no_span_holds_more_than_the_share(
    calls: int, seconds: float, share: float, answers: list[float]
) -> None:
    """Asked for as early as allowed, in no span are there more requests than the share, nor more time of a slot."""
    ours = ration.Ration([(calls, seconds)], share)
    now, began, spent = 1000.0, [], []
    for took in answers:
        now = max(now, ours.ready_at())
        began.append(now)
        spent.append(took)
        now += took
        ours.take(began[-1], now)
    most = math.ceil(calls * share * (1 - 1e-9))
    for first in range(len(began) - most):
        assert began[first + most] - began[first] >= seconds * (1 - 1e-9)
    for first in range(0, len(began), 7):
        span = began[-1] - began[first]
        assert sum(spent[first:-1]) <= share * (span + 10.0) + 0.5 + 1e-6


def test_what_was_taken_beyond_is_made_up_for() -> None:
    """A window that had to be finished costs its pause afterwards, and no longer than that."""
    ours = ration.Ration([], 0.2)
    ours.take(0.0, 30.0)
    assert ours.ready_at() == pytest.approx(30 / 0.2 - 10)
    assert ration.Ration([(100, 60.0)], 0.5).ready_at() <= 0


class Simulated(selectors.DefaultSelector):
    """A selector that waits for nothing: the loop's time moves to where something is due."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As if so much time had passed."""
        self.now += (timeout or 0.0) + 1e-5  # as nothing takes no time at all
        return super().select(0)


class Hours(asyncio.SelectorEventLoop):
    """An event loop in simulated time."""

    def __init__(self) -> None:
        self._simulated = Simulated()
        super().__init__(self._simulated)

    def time(self) -> float:
        """Seconds since it was made."""
        return self._simulated.now


async def beside(share: float | None) -> tuple[int, int, float]:
    """An hour of live polls, 20 a minute, and a backfill that asks as often as it may, in one quota of 50 a minute.

    Requests of either, and the longest that the live stream waited. A share of None is no ration at all.
    """
    loop = asyncio.get_running_loop()
    paces = pace.Pace({"graph": (pace.Quota(*QUOTA),)})
    ours = ration.Ration([QUOTA], share) if share else None
    live, backfill, waited = 0, 0, 0.0

    async def reads() -> None:
        nonlocal backfill
        while True:
            if ours is not None:
                await asyncio.sleep(max(ours.ready_at() - loop.time(), 0))
            began = loop.time()
            with contextlib.suppress(errors.Throttled):
                await paces.wait(CONTOSO, "graph")
                backfill += 1
            await asyncio.sleep(0.2)
            if ours is not None:
                ours.take(began, loop.time())

    # several gaps of one tenant at once, as several streams of one quota have them
    reading = [asyncio.create_task(reads()) for _ in range(1 if share else 4)]
    while loop.time() < 3600.0:
        await asyncio.sleep(3.0 - loop.time() % 3.0)
        began = loop.time()
        with contextlib.suppress(errors.Throttled):
            await paces.wait(CONTOSO, "graph")
            live += 1
        waited = max(waited, loop.time() - began)
    for task in reading:
        task.cancel()
    return live, backfill, waited


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_live_polls_do_not_wait_for_a_backfill(share: float) -> None:
    """In an hour the backfill asks no more often than its share, nearly as often, and the live stream hardly waits."""
    with asyncio.Runner(loop_factory=Hours) as runner:
        live, backfill, waited = runner.run(beside(share))
    assert live >= 1199
    assert share * 3000 * 0.8 <= backfill <= share * 3000 + 1
    assert waited < 2


def test_without_a_share_they_would_wait() -> None:
    """The same hour without a ration: the quota is used up, and each live request waits behind the gaps'."""
    with asyncio.Runner(loop_factory=Hours) as runner:
        live, backfill, waited = runner.run(beside(None))
    assert live < 1100
    assert live + backfill <= 3001
    assert waited > 4

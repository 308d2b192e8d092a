"""The bytes of all answers together: bounded, fair, and never stuck."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.transport import budget

KIB = 1024
UNCOUNTED = budget.UNCOUNTED


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_pool_comes_back() -> None:
    """What a share took from the pool is there again after it, and what it took and did not need once it is whole."""
    bytes_ = budget.ByteBudget(100 * KIB, 60 * KIB)
    with bytes_.share() as share:
        await bytes_.grow(share, 5 * KIB)
        assert bytes_.free == 35 * KIB
        bytes_.grown(share)
        assert bytes_.free == 40 * KIB - (5 * KIB - UNCOUNTED)
        await bytes_.grow(share, 25 * KIB)
        assert bytes_.free == 40 * KIB - (30 * KIB - UNCOUNTED)
    assert bytes_.free == 40 * KIB


async def test_few_grow_at_a_time() -> None:
    """Of many large answers only so many hold parts as the pool has blocks: the others wait, and it fills with whole ones."""
    bytes_ = budget.ByteBudget(3_200 * KIB, 1_600 * KIB)
    whole: list[int] = []
    parts: dict[int, int] = {}
    most = 0

    async def answer(number: int, read: asyncio.Event) -> None:
        nonlocal most
        with bytes_.share() as share:
            while share.held < 150 * KIB:
                await bytes_.grow(share, 10 * KIB)
                parts[number] = share.held
                most = max(most, sum(held > 20 * KIB for held in parts.values()))
                await turns(1)
            bytes_.grown(share)
            del parts[number]
            whole.append(number)
            await read.wait()

    read = asyncio.Event()
    tasks = [asyncio.create_task(answer(number, read)) for number in range(40)]
    await turns(500)
    assert most <= 8 + 1  # blocks, and the lane
    assert len(whole) >= 8
    read.set()
    await asyncio.gather(*tasks)
    assert bytes_.free == 1_600 * KIB


async def test_small_answers_first() -> None:
    """Where large answers wait for the pool, a small one that comes later does not wait behind them."""
    bytes_ = budget.ByteBudget(3_200 * KIB, 1_600 * KIB)
    order: list[str] = []

    async def answer(name: str, size: int) -> None:
        with bytes_.share() as share:
            await bytes_.grow(share, size)
            order.append(name)

    with bytes_.share() as lane:
        with bytes_.share() as full:
            await bytes_.grow(full, 1_600 * KIB)
            await bytes_.grow(lane, 100 * KIB)
            tasks = [asyncio.create_task(answer(*one)) for one in (("large", 100 * KIB), ("small", 10 * KIB))]
            await turns()
            assert (order, bytes_.waiting) == ([], 2)
        await asyncio.gather(*tasks)
    assert order == ["small", "large"]


async def test_small_answers_never_wait() -> None:
    """With pool and lane taken, an empty list still comes through."""
    bytes_ = budget.ByteBudget(100 * KIB, 60 * KIB)
    with bytes_.share() as one, bytes_.share() as two, bytes_.share() as three:
        await bytes_.grow(one, 40 * KIB)
        await bytes_.grow(two, 60 * KIB)
        assert not bytes_.at_once(three, 5 * KIB)
        await bytes_.grow(three, 2)
        assert three.held == 2


async def test_lane() -> None:
    """With the pool empty one share grows to the largest size, the next waits until it is done."""
    bytes_ = budget.ByteBudget(100 * KIB, 60 * KIB)
    done = []

    async def grow(name: str, release: asyncio.Event) -> None:
        with bytes_.share() as share:
            for _ in range(6):
                await bytes_.grow(share, 10 * KIB)
            done.append(name)
            await release.wait()

    with bytes_.share() as full:
        await bytes_.grow(full, 40 * KIB)
        ends = [asyncio.Event(), asyncio.Event()]
        tasks = [asyncio.create_task(grow(name, end)) for name, end in zip("ab", ends, strict=True)]
        await turns()
        assert done == ["a"]
        assert bytes_.waiting == 1
        ends[0].set()
        await turns()
        assert done == ["a", "b"]
        ends[1].set()
        await asyncio.gather(*tasks)


async def test_cancelled_waiter() -> None:
    """A waiter that is cancelled leaves the queue and blocks nobody, even when its turn came at that moment."""
    bytes_ = budget.ByteBudget(100 * KIB, 60 * KIB)

    async def grow() -> str:
        with bytes_.share() as share:
            await bytes_.grow(share, 50 * KIB)
            return "done"

    with bytes_.share() as lane:
        await bytes_.grow(lane, 50 * KIB)
        first, second = asyncio.create_task(grow()), asyncio.create_task(grow())
        await turns()
        assert bytes_.waiting == 2
        first.cancel()
    assert await second == "done"
    assert first.cancelled() or await asyncio.wait({first})
    assert (bytes_.free, bytes_.waiting) == (40 * KIB, 0)


async def test_over_the_largest() -> None:
    """Nobody grows over the largest size, in the lane or beside it."""
    bytes_ = budget.ByteBudget(100 * KIB, 60 * KIB)
    with bytes_.share() as share, pytest.raises(ValueError, match="over"):
        await bytes_.grow(share, 61 * KIB)


@pytest.mark.parametrize(("total", "largest"), [(0, 0), (10, 11), (10, 0)])
def test_bad_sizes(total: int, largest: int) -> None:
    """A largest size over the total would break the bound."""
    with pytest.raises(ValueError, match="largest"):
        budget.ByteBudget(total, largest)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    total=st.integers(10, 200),
    part=st.floats(0.05, 1.0),
    sizes=st.lists(st.integers(0, 100), min_size=1, max_size=25),
    cancelled=st.sets(st.integers(0, 24)),
)
def test_any_schedule(seed: int, total: int, part: float, sizes: list[int], cancelled: set[int]) -> None:
    """However answers grow, end and are cancelled: all end, memory stays in its bound, everything comes back."""
    largest = max(int(total * part), 1) * KIB
    bytes_ = budget.ByteBudget(total * KIB, largest)
    rng = random.Random(seed)
    held: dict[int, int] = {}
    peak = 0

    async def answer(number: int, size: int) -> None:
        nonlocal peak
        size = min(size * KIB, largest)
        try:
            with bytes_.share() as share:
                while share.held < size:
                    await bytes_.grow(share, min(rng.randint(1, 16 * KIB), size - share.held))
                    held[number] = share.held
                    peak = max(peak, sum(max(each - UNCOUNTED, 0) for each in held.values()))
                    await turns(rng.randint(0, 2))
                await turns(rng.randint(0, 5))
                held.pop(number, None)
        finally:
            held.pop(number, None)

    async def run() -> None:
        tasks = [asyncio.create_task(answer(number, size)) for number, size in enumerate(sizes)]
        await turns(rng.randint(0, 10))
        for number in cancelled & set(range(len(tasks))):
            tasks[number].cancel()
            await turns(rng.randint(0, 1))
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)

    asyncio.run(run())
    assert peak <= total * KIB
    assert (bytes_.free, bytes_.waiting) == (total * KIB - largest, 0)

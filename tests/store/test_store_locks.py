"""Locks in one order: a flush and a poll of the same stream wait for each other, and never against each other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncpg
import pytest

from service import model
from service.store import sweeps
from tests.store import rows


async def with_rejects(owner: rows.Owner) -> None:
    """A poll that keeps a reject, whose room is noted with the progress."""
    await owner.store(rejects=[model.Reject("not JSON", b"{")])


async def sweep_ends(owner: rows.Owner) -> None:
    """A sweep that has ended, which both rows tell of."""
    sweep = model.Sweep(rows.hour(1), (rows.hour(0), rows.hour(1)))
    await sweeps.verify(owner.database, owner.lease, owner.source, sweep, rows.interval(0, 1))


@pytest.mark.parametrize("write", [with_rejects, sweep_ends])
async def test_a_flush_and_a_poll_take_locks_in_one_order(
    owner: rows.Owner, pool: asyncpg.Pool, write: Callable[[rows.Owner], Awaitable[None]]
):
    """While a flush holds the stream and goes on to its progress, what a poll writes waits: neither is a deadlock's victim."""
    async with pool.acquire() as flush:
        undone = flush.transaction()
        await undone.start()
        await flush.execute("SELECT FROM alertwell.stream FOR UPDATE")
        writing = asyncio.ensure_future(write(owner))
        while not await pool.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            assert not writing.done()
        await flush.execute("UPDATE alertwell.stream_progress SET next_poll_at = now()")
        await undone.commit()
    await writing

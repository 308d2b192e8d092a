"""Plans that are kept: one that was made while nothing was held reads no more than it must once a tenant holds thousands."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from service import model
from service.store import alerts, incidents
from service.store import pool as pools
from tests.store import rows

HELD = 3_000
FEW = 120
"""Rows that storing three alerts may look at, in all its steps."""


@pytest.fixture
async def alone(database_url: str) -> AsyncIterator[rows.Owner]:
    """A tenant polled over a single connection, which keeps its plans from the first use on; usually it is the sixth."""
    async with pools.open_database(database_url, size=1) as database:
        async with database.connection() as connection:
            for table in ("alert", "alert_merged"):  # statistics would end all plans
                await connection.execute(f"ALTER TABLE alertwell.{table} SET (autovacuum_enabled = off)")
            await connection.execute("SET plan_cache_mode = force_generic_plan")
        [one] = await rows.owners(database, 1)
        yield one


async def looked_at(owner: rows.Owner) -> int:
    """Rows of alerts that the connection has looked at."""
    async with owner.database.connection() as connection:
        await connection.execute(
            "SELECT pg_stat_force_next_flush()"
        )  # the next statement finds what this one hands over
        return int(
            await connection.fetchval(
                """
                SELECT sum(coalesce(idx_tup_fetch, 0) + seq_tup_read) FROM pg_stat_user_tables
                WHERE schemaname = 'alertwell' AND relname IN ('alert', 'alert_merged')
                """
            )
        )


async def fill(owner: rows.Owner) -> None:
    """Many alerts of the tenant, of which nobody has taken statistics."""
    async with owner.database.connection() as connection:
        await connection.execute(
            """
            INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, source_updated_text, content_hash,
                                         arrival, alert_id, raw)
            SELECT $1, 'siem', 'held-' || n, $2, '', n, 'live', 'held-' || n / 2, '{}' FROM generate_series(1, $3::int) n
            """,
            owner.lease.tenant_id,
            rows.NOON,
            HELD,
        )


def three(age: int, key: str = "first") -> list[model.Alert]:
    """Three alerts, of two alert ids, in the version of this age."""
    return [
        rows.alert(
            f"{key}-{n}:1",
            rows.NOON + timedelta(seconds=age),
            alert_id=f"{key}-{n // 2}",
            record={"age": age},
        )
        for n in range(3)
    ]


async def test_plans_of_an_empty_database_stay_right(alone: rows.Owner) -> None:
    """Comparing, inserting, updating and merging three alerts look at a few rows, however many the tenant holds by then."""
    await alone.store(*three(0))
    await alone.store(*three(1))
    await fill(alone)
    before = await looked_at(alone)
    assert (await alone.store(*three(2))).updated == 3
    assert (await alone.store(*three(2, "held"))).inserted == 3
    assert await looked_at(alone) - before < FEW


@pytest.mark.parametrize("statement", [alerts._UPDATE, incidents._UPDATE])
def test_statements_are_kept(statement: str) -> None:
    """What is longer than the driver keeps is parsed and planned each time, which costs more than a small update itself."""
    assert len(statement) < pools._LONGEST_STATEMENT

"""Failovers: a standby that streams takes over, with all that was stored or without the last of it."""

from __future__ import annotations

from uuid import UUID

import pytest
import structlog

from service import errors, model
from service.store import leases, servers
from tests.chaos import databases
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


async def read_further(stage):
    """Wait until two more polls have read past all that is filed now: what is held is proven, too."""
    asked = stage.simulator.counters["siem"]
    await until(lambda: stage.simulator.counters["siem"] >= asked + 6)


async def test_a_failover_that_loses_the_last_commits(tmp_path):
    """What the new primary never heard of is fetched again and stored once; no epoch of before writes, no number comes twice."""
    async with databases.pair() as pair, databases.staged(pair.dsn, tmp_path) as stage:
        await stage.enrol(CONTOSO, FABRIKAM)
        with structlog.testing.capture_logs() as logs:
            async with stage.collecting() as collector, databases.reading(stage) as reader:
                for tenant_id in (CONTOSO, FABRIKAM):
                    stages.file(stage.shown, tenant_id, f"kept {tenant_id}", stage.shown.clock())
                await databases.all_held(stage)
                [old] = [
                    lease
                    for lease in await leases.held(stage.database, collector.replica_id)
                    if lease.tenant_id == UUID(CONTOSO)
                ]
                await pair.part()
                for tenant_id in (CONTOSO, FABRIKAM):
                    stages.file(stage.shown, tenant_id, f"lost {tenant_id}", stage.shown.clock())
                await databases.all_held(stage)
                await read_further(stage)
                await until(lambda: len(reader.seqs) == 4)
                await pair.fail_over()
                assert not [one for one in await databases_held(pair) if one.startswith("lost")]
                stages.file(stage.shown, CONTOSO, "after", stage.shown.clock())
                await databases.all_held(stage)
                await until(lambda: "after" in reader.full_ids, 60, saying=lambda: (reader, logs[-12:]))
                # the very same owner and epoch, of before: nothing of it is written
                async with stage.database.transaction() as connection:
                    again = await connection.fetchrow(
                        "SELECT owner, epoch FROM alertwell.lease WHERE tenant_id = $1", UUID(CONTOSO)
                    )
                    assert (again["owner"], again["epoch"]) == (old.owner, old.epoch)
                    with pytest.raises(errors.LeaseLost):
                        await leases.fence(connection, old)
                    life = await connection.fetchval(f"SELECT {servers.LIFE}")
                    await leases.fence(connection, model.Lease(old.tenant_id, old.owner, old.epoch, life))
                assert not collector.failed.done()
        assert sorted(reader.full_ids).count(f"lost {CONTOSO}") == 2  # as the old one had it, and anew
        assert reader.seqs[-1] > 2**32
    assert not [entry for entry in logs if entry["log_level"] == "error"]


async def databases_held(pair):
    """The ids that the standby that was promoted holds right now."""
    found = await databases.on(
        pair.standby.admin_dsn, "SELECT coalesce(array_agg(full_id), '{}') FROM alertwell.alert"
    )
    assert isinstance(found, list)
    return found

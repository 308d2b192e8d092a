"""A network between a replica and the database that is slow, or gone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import structlog

from tests.chaos import databases, relay
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


@pytest.mark.chaos
@pytest.mark.timeout(300)
async def test_a_replica_that_is_cut_off(tmp_path):
    """The other one takes its tenants; it stops asking Microsoft, and shares again when it is back. All is held once."""
    port = databases.free_port()
    async with (
        databases.alone(port=port) as cluster,
        relay.relayed(cluster.loopback_dsn) as (line, through),
        databases.staged(cluster.dsn, tmp_path) as stage,
    ):
        far = replace(stage, dsn=through)
        await stage.enrol(CONTOSO, FABRIKAM)
        with structlog.testing.capture_logs() as logs:
            async with far.collecting() as cut, stage.collecting() as near, databases.reading(stage):

                async def owned_by(*replicas):
                    return set(await stage.books.owners()) == {one.replica_id for one in replicas}

                line.turn("slow", 0.05)
                await until(lambda: owned_by(cut, near), 60)
                for turn, owners in (("slow", (cut, near)), ("cut", (near,)), ("back", (cut, near))):
                    if turn == "cut":
                        line.turn("cut")
                    if turn == "back":
                        line.turn("open")
                    await until(lambda: owned_by(*owners), 60)  # noqa: B023 - asked at once
                    for tenant_id in (CONTOSO, FABRIKAM):
                        stages.file(stage.shown, tenant_id, f"{turn} {tenant_id}", stage.shown.clock())
                    await databases.all_held(stage)
                assert not cut.failed.done()
        assert not [entry for entry in logs if entry["log_level"] == "error"]

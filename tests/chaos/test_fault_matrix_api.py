"""Every fault of an answer, each with a tenant of its own, in one run of a whole collector."""

from __future__ import annotations

from tests.chaos import drills, matrix


async def test_each_fault_costs_its_own_tenant_time_and_nobody_an_alert(stage):
    """Every stream shows its fault and says why, the healthy tenant is read meanwhile; once mended, all is held, once."""
    await drills.Run(stage, matrix.API).ride(
        request_timeout="3s", max_body_bytes="1MiB", max_bytes_in_flight="64MiB"
    )

"""Every fault of Entra and every code that it may answer, each with a tenant of its own, in one run of a whole collector."""

from __future__ import annotations

from tests.chaos import drills, matrix


async def test_entra_at_fault_for_one_tenant_costs_no_other_and_no_alert(stage):
    """Every stream says what Entra said, with a word for alarms where a person must act; once mended, all is held, once."""
    await drills.Run(stage, matrix.ENTRA).ride()

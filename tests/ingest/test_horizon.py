"""The daemon's look at the ends of credentials."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from structlog.testing import capture_logs

from service import horizons, model
from service.ingest import horizon
from service.metrics import Metrics
from service.store import credentials, enrolments, pool
from tests.ingest import stages

NOW = datetime.now(UTC)
APP = "55555555-5555-5555-5555-555555555555"


async def with_own(database: pool.Database, *days: float) -> None:
    """Tenants whose own certificates end in so many days."""
    wanted = [
        enrolments.Enrolment(
            model.Tenant(UUID(int=number), f"Contoso {number}", region="eu"),
            {"siem": {}},
            credentials.Own(APP, "certificate", b"x", NOW + timedelta(days=each)),
        )
        for number, each in enumerate(days, start=1)
    ]
    await enrolments.enrol(database, wanted, lookback=timedelta(hours=1))


async def test_it_is_shown_and_said_once_a_day(database: pool.Database) -> None:
    """The soonest of tenants' own beside the shared app's, each warned of at its steps, once a day."""
    await with_own(database, 50, 9, 400)
    shared = [horizons.Ending("shared", APP, "client_secret", NOW + timedelta(days=100))]
    now = NOW
    measured = Metrics("0")
    look = horizon.Horizon(database, lambda: shared, measured, lambda: now)
    with capture_logs() as logged:
        await look.round()
        await look.round()
    [said] = logged
    assert (said["event"], said["log_level"], said["owner"]) == ("credential.ends", "warning", "tenants")
    assert "of Contoso 2 (0000…)" in said["reason"]
    assert "2 tenants' own end within 60 days" in said["reason"]
    name = "alertwell_credential_expires_timestamp_seconds"
    shown = stages.series(measured)
    assert shown[f"{name}{{kind=certificate}}{{owner=tenants}}"] == (NOW + timedelta(days=9)).timestamp()
    assert shown[f"{name}{{kind=client_secret}}{{owner=shared}}"] == (NOW + timedelta(days=100)).timestamp()
    now = NOW + timedelta(days=10)
    with capture_logs() as logged:
        await look.round()
    assert [(one["event"], one["log_level"]) for one in logged] == [("credential.ended", "error")]
    shared.clear()
    await look.round()
    assert not [key for key in stages.series(measured) if key.startswith(name) and "shared" in key]

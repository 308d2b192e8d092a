"""Until when the credentials last: the shared app's as the settings have them, and tenants' own."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import UTC, datetime

from service import errors, horizons, parts, settings
from service.auth import credentials as shared
from service.doctor.finding import Finding, Grade
from service.store import credentials, pool, schema


async def of_horizon(config: settings.Settings, database: pool.Database | None) -> list[Finding]:
    """A finding for each credential of the shared app, and one for each kind of tenants' own that has an end."""
    app = parts.shared_app(config)
    endings: list[horizons.Ending] = list(shared.Shared(app).horizons()) if app else []
    with contextlib.suppress(errors.SchemaMismatch):  # is a finding already
        if database is not None:
            await schema.check(database)
            endings += await credentials.endings(database)
    return of(endings, datetime.now(UTC))


def of(endings: Sequence[horizons.Ending], now: datetime) -> list[Finding]:
    """What there is to say of them."""
    found = []
    for each in endings:
        step = each.step(now)
        grade: Grade = "ok" if step is None else "broken" if step == 0 else "warning"
        subject = (
            "tenants' own" if each.owner == "tenants" else f"{horizons.NAMES[each.kind]} of the shared app"
        )
        remedy = horizons.remedy(each) if step is not None else ""
        if each.kind == "client_secret" and each.expires_at is None:
            remedy = "To be warned before, set ALERTWELL_CLIENT_SECRET_EXPIRES_AT"
        found.append(Finding("horizon", subject, grade, each.said(now), remedy))
    return found

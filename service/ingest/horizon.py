"""The horizon of credentials: until when each lasts, as a gauge, and a warning before its end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime

import structlog

from service import horizons, metrics
from service.store import credentials, pool

_log = structlog.get_logger(__name__)


class Horizon:
    """Looks at the shared app's credentials and at tenants' own; says each thing once a day."""

    def __init__(
        self,
        database: pool.Database,
        shared: Callable[[], Sequence[horizons.Ending]],
        metrics: metrics.Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """`shared` as `auth.tokens.Tokens.horizons`."""
        self._database = database
        self._shared = shared
        self._gauge = metrics.credential_expires_timestamp_seconds
        self._now = now
        self._day: date | None = None
        self._said: set[tuple[str, str, str, int]] = set()
        self._shown: set[tuple[str, str]] = set()

    async def round(self) -> None:
        """One look. Raises DatabaseUnavailable; the shared app's are shown all the same."""
        now = self._now()
        if now.date() != self._day:
            self._day = now.date()
            self._said.clear()
        self._show("shared", self._shared(), now)
        self._show("tenants", await credentials.endings(self._database), now)

    def _show(self, owner: str, endings: Sequence[horizons.Ending], now: datetime) -> None:
        known = {(owner, each.kind): end for each in endings if (end := each.end(now)) is not None}
        for gone in [labels for labels in self._shown if labels[0] == owner and labels not in known]:
            self._gauge.remove(*gone)
            self._shown.discard(gone)
        for labels, end in known.items():
            self._gauge.labels(*labels).set(end.timestamp())
            self._shown.add(labels)
        for each in endings:
            step = each.step(now)
            if step is None or (about := (owner, each.app_id, each.kind, step)) in self._said:
                continue
            self._said.add(about)
            tell = _log.error if step == 0 else _log.warning
            tell(
                "credential.ended" if step == 0 else "credential.ends",
                reason=each.said(now),
                remedy=horizons.remedy(each),
                owner=owner,
                kind=each.kind,
            )

"""What a run is made of: its length, its seed, who the customers are, and the settings of the replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.simulator import cases

APIS: Final[Mapping[str, cases.Api | None]] = {
    "siem": None,
    "mde_alerts": "mde",
    "xdr_incidents": "xdr",
    "graph_alerts": "graph",
    "graph_incidents": "graph",
}
"""The simulator's API of each source; None is the SIEM API."""

SURFACES: Final = {source: api or "siem" for source, api in APIS.items()}


@dataclass(frozen=True, slots=True)
class Scene:
    """One run. seconds: of warm-up and weather together; healing comes after, for at most `patience` seconds.

    rate: alerts a minute of a tenant in the middle. history, lookback: seconds of alerts before the run, and how many of them are
    wanted at first. spacing: how far apart the faults are, 1 for a storm. judged: whether growth is judged, as a soak does.
    pace: all of the collector's times are multiplied by it.
    """

    seed: int
    seconds: float
    folder: Path
    tenants: int = 40
    replicas: int = 3
    rate: float = 10.0
    history: float = 1800.0
    lookback: float = 600.0
    spacing: float = 1.0
    patience: float = 300.0
    judged: bool = False
    pace: float = 1.0

    @property
    def interval(self) -> float:
        """Seconds from one poll of a stream to the next."""
        return 4.0 * self.pace

    @property
    def overlap(self) -> float:
        """Seconds behind now at which proof ends."""
        return 6.0 * self.pace

    @property
    def overlap_max(self) -> float:
        """Seconds that the overlap grows to."""
        return 12.0 * self.pace

    @property
    def late(self) -> float:
        """Seconds: alerts come up to so late, within the overlap and beyond it."""
        return 20.0 * self.pace

    @property
    def lease(self) -> float:
        """Seconds of silence after which a replica's tenants are others'."""
        return 6.0 * self.pace

    def settings(self) -> dict[str, str]:
        """A minute's work in seconds, so that minutes show what months bring."""
        return {
            "ALERTWELL_POLL_INTERVAL": f"{self.interval:g}s",
            "ALERTWELL_OVERLAP": f"{self.overlap:g}s",
            "ALERTWELL_OVERLAP_MAX": f"{self.overlap_max:g}s",
            "ALERTWELL_LIVE_SPAN": "60s",
            "ALERTWELL_SWEEP_SPAN": "15m",
            "ALERTWELL_SWEEP_INTERVAL": f"{30 * self.pace:g}s",
            "ALERTWELL_LEASE_TTL": f"{self.lease:g}s",
            "ALERTWELL_REQUEST_TIMEOUT": "8s",
            "ALERTWELL_POLL_BUDGET": "10s",
            "ALERTWELL_SHUTDOWN_GRACE": "10s",
            "ALERTWELL_DATABASE_POOL_SIZE": "6",
            "ALERTWELL_HTTP_PORT": "0",
            "ALERTWELL_LOG_FORMAT": "json",
            "ALERTWELL_LOG_LEVEL": "info",
        }

    @property
    def warm_up(self) -> float:
        """Seconds without faults: what the delays under faults are compared with."""
        return min(60.0, self.seconds * 0.2)


def sources(number: int) -> Sequence[str]:
    """The sources of the tenant with this number: one or two, and every tenth has all of them."""
    names = [*APIS]
    if number % 10 == 9:
        return names
    first = number % len(names)
    return names[first : first + 1] + ([names[first - 1]] if number % 4 == 0 else [])

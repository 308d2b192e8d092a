"""Every source, one line each."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from service import errors
from service.sources import contract, graph_alerts, graph_incidents, mde_alerts, siem, xdr_incidents

SOURCES: Final[Mapping[str, contract.Source]] = MappingProxyType(
    {
        "siem": siem.Siem(),
        "mde_alerts": mde_alerts.SOURCE,
        "xdr_incidents": xdr_incidents.SOURCE,
        "graph_alerts": graph_alerts.SOURCE,
        "graph_incidents": graph_incidents.SOURCE,
    }
)


def get(name: str) -> contract.Source:
    """The source of this name. Raises errors.BadInput that lists the known ones."""
    try:
        return SOURCES[name]
    except KeyError:
        raise errors.BadInput(f"source {name[:40]!r}: must be {' or '.join(SOURCES)}") from None

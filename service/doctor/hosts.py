"""Every host that the enrolled tenants need: found in the DNS, reached, trusted; and Entra's clock beside ours."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from service import clouds, errors, model, proxies
from service.doctor import premises
from service.doctor.finding import Finding
from service.sources import contract
from service.transport import dial

_SOON: Final = timedelta(days=7)

Wanted = dict[str, str]
"""Base address -> what it is for."""


def wanted(
    hosts: clouds.Endpoints, reads: Iterable[tuple[contract.Source, model.Tenant]], cloud: str
) -> Wanted:
    """The addresses that these tenants need, each host once; Entra of `cloud` where there are none."""
    found: Wanted = {_base(hosts.authority(cloud)): "Entra"}
    for source, tenant in reads:
        try:
            found[_base(hosts.authority(tenant.cloud))] = "Entra"
            found.setdefault(
                _base(hosts.base_url(source.service, tenant.cloud, tenant.region)), source.service
            )
        except errors.BadInput:
            continue  # said where the tenant is tried
    return found


async def of_host(url: str, purpose: str, ca_file: Path | None, proxy: proxies.Proxy | None) -> list[Finding]:
    """What dialling a host brings; for Entra its clock too."""
    host = urlsplit(url).netloc
    try:
        seen = await dial.dial(url, ca_file, proxy)
    except errors.PollFailure as failure:
        return [Finding("host", host, "broken", f"{purpose}: {failure}")]
    way = f"reached via proxy {seen.via}" if seen.via else "reached"
    until = f" until {seen.ends:%Y-%m-%d}" if seen.ends else ""
    said = f"{purpose}: {way}, certificate by {seen.issuer}{until}"
    found = [Finding("host", host, "ok", said)]
    if seen.ends and seen.ends - datetime.now(UTC) < _SOON:
        found = [
            Finding(
                "host",
                host,
                "warning",
                said,
                "The certificate ends soon; whoever runs the host has to renew it",
            )
        ]
    if purpose == "Entra" and seen.date is not None:
        # the Date header has whole seconds
        found.append(premises.clock(host, seen.date, seen.date - timedelta(seconds=seen.skew or 0), 1.0))
    return found


def _base(url: str) -> str:
    return f"https://{urlsplit(url).netloc}"

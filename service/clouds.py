"""Where Microsoft's clouds answer: (cloud, service) -> base URL, token audience, login authority. Pure.

Hosts are those of Microsoft's pages: "Pull detections using SIEM REST API" (EU, US, UK), the 2021 copies of the US government
page (the present one no longer lists SIEM hosts), "Supported Microsoft Defender for Endpoint APIs", "Microsoft Defender for
Endpoint for US Government customers" and its XDR counterpart, "National clouds" of Graph and of Entra. A bearer token goes
only to a host that this table or the settings name, always over https. Another API is one more entry of `_SERVICES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from service import errors

SIEM_RESOURCE: Final = "https://graph.windows.net"
"""Token audience that the SIEM pages name. It is the identifier of Azure AD Graph, hence a setting."""

_AUTHORITIES: Final[Mapping[str, str]] = {
    "public": "https://login.microsoftonline.com",
    "gcc": "https://login.microsoftonline.com",
    "gcc-high": "https://login.microsoftonline.us",
    "dod": "https://login.microsoftonline.us",
    "china": "https://login.partner.microsoftonline.cn",
}

CLOUDS: Final = tuple(_AUTHORITIES)


@dataclass(frozen=True, slots=True)
class _Place:
    """One API in one cloud. Where `anywhere` is None a tenant must name its region.

    `nearest`: the regions' hosts are only closer, and `anywhere` answers for tenants of every region.
    """

    audience: str
    anywhere: str | None = None
    regions: Mapping[str, str] = field(default_factory=dict)
    nearest: bool = False


def _own(host: str) -> _Place:
    """One host that is its own audience and answers for every region."""
    return _Place(host, anywhere=host, nearest=True)


_SIEM_GCC: Final = "https://wdatp-alertexporter-us.gcc.securitycenter.windows.us"
_SIEM_GOV: Final = "https://wdatp-alertexporter-us.securitycenter.windows.us"

_SERVICES: Final[Mapping[str, Mapping[str, _Place]]] = {
    "siem": {
        # No `anywhere`: the region is where the tenant keeps its data, chosen at onboarding, and what the exporter of
        # another region answers is not documented. An empty list would look like a quiet tenant.
        "public": _Place(
            SIEM_RESOURCE,
            regions={
                "eu": "https://wdatp-alertexporter-eu.windows.com",
                "us": "https://wdatp-alertexporter-us.windows.com",
                "uk": "https://wdatp-alertexporter-uk.windows.com",
            },
        ),
        "gcc": _Place(SIEM_RESOURCE, anywhere=_SIEM_GCC, regions={"us": _SIEM_GCC}),
        "gcc-high": _Place(SIEM_RESOURCE, anywhere=_SIEM_GOV, regions={"us": _SIEM_GOV}),
        "dod": _Place(SIEM_RESOURCE, anywhere=_SIEM_GOV, regions={"us": _SIEM_GOV}),
    },
    # Defender for Endpoint. The audience is the older host's name, whichever host is called: the newer one is that of another
    # resource app, "Microsoft Threat Protection", which is `xdr` below.
    "mde": {
        "public": _Place(
            "https://api.securitycenter.microsoft.com",
            anywhere="https://api.security.microsoft.com",
            regions={
                region: f"https://{region}.api.security.microsoft.com"
                for region in ("us", "eu", "uk", "au", "swa", "ina")
            },
            nearest=True,
        ),
        "gcc": _own("https://api-gcc.securitycenter.microsoft.us"),
        "gcc-high": _own("https://api-gov.securitycenter.microsoft.us"),
        "dod": _own("https://api-gov.securitycenter.microsoft.us"),
    },
    "xdr": {
        "public": _Place(
            "https://api.security.microsoft.com",
            anywhere="https://api.security.microsoft.com",
            regions={region: f"https://api-{region}.security.microsoft.com" for region in ("us", "eu", "uk")},
            nearest=True,
        ),
        "gcc": _own("https://api-gcc.security.microsoft.us"),
        "gcc-high": _own("https://api-gov.security.microsoft.us"),
        "dod": _own("https://api-gov.security.microsoft.us"),
    },
    # China has a Graph, without the security alerts.
    "graph": {
        "public": _own("https://graph.microsoft.com"),
        "gcc": _own("https://graph.microsoft.com"),
        "gcc-high": _own("https://graph.microsoft.us"),
        "dod": _own("https://dod-graph.microsoft.us"),
    },
}

SERVICES: Final = tuple(_SERVICES)

_REGIONS: Final = {
    region: None for places in _SERVICES.values() for place in places.values() for region in place.regions
}


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The table above, with what the settings put in its place.

    `overrides` maps "authority" or a service ("siem", "mde", "xdr", "graph") to a base URL, which then holds for every cloud and
    region. `siem_resource` is the audience of the SIEM API's tokens. Raises errors.BadSetting for a URL that is not plain https.
    """

    overrides: Mapping[str, str] = field(default_factory=dict)
    siem_resource: str = SIEM_RESOURCE

    def __post_init__(self) -> None:
        for key, url in self.overrides.items():
            _check_override(key, url)

    def check(self, service: str, cloud: str, region: str | None) -> None:
        """Raise errors.BadInput where a tenant of this cloud and region could not be read; for enrolment."""
        self.authority(cloud)
        self.base_url(service, cloud, region)
        self.audience(service, cloud)  # another address does not bring an API that the cloud has not

    def base_url(self, service: str, cloud: str, region: str | None) -> str:
        """The URL without a slash at its end, to which a request's path is appended. Raises errors.BadInput."""
        override = self.overrides.get(service)
        if override is not None:
            return override.rstrip("/")
        place = _place(service, cloud)
        if region is None:
            if place.anywhere is None:
                raise errors.BadInput(
                    f"the {service} API of the {cloud} cloud needs the tenant's region: {_listed(place.regions)} "
                    "(where its Defender data are stored, fixed at onboarding)"
                )
            return place.anywhere
        if region in place.regions:
            return place.regions[region]
        if place.nearest and place.anywhere is not None and region in _REGIONS:
            return place.anywhere  # a region that another of the tenant's sources needs
        known = _REGIONS if place.nearest else place.regions
        raise errors.BadInput(
            f"region {region[:40]!r}: the {service} API of the {cloud} cloud has {_listed(known)}"
        )

    def audience(self, service: str, cloud: str) -> str:
        """Resource URI for tokens; the scope is this and `/.default`. Raises errors.BadInput."""
        if service == "siem":
            return self.siem_resource.rstrip("/")
        return _place(service, cloud).audience

    def authority(self, cloud: str) -> str:
        """The URL of Entra without a slash at its end, to which `/{tenant}` is appended. Raises errors.BadInput."""
        if cloud not in _AUTHORITIES:
            raise errors.BadInput(f"cloud {cloud[:40]!r}: must be {_listed(CLOUDS)}")
        return self.overrides.get("authority", _AUTHORITIES[cloud]).rstrip("/")


def _place(service: str, cloud: str) -> _Place:
    if service not in _SERVICES:
        raise errors.BadInput(f"service {service[:40]!r}: must be {_listed(SERVICES)}")
    places = _SERVICES[service]
    if cloud not in _AUTHORITIES:
        raise errors.BadInput(f"cloud {cloud[:40]!r}: must be {_listed(CLOUDS)}")
    if cloud not in places:
        raise errors.BadInput(f"the {cloud} cloud has no {service} API; it exists in {_listed(places)}")
    return places[cloud]


def _check_override(key: str, url: str) -> None:
    name = f"ALERTWELL_{key.upper()}_URL"
    if key != "authority" and key not in _SERVICES:
        raise errors.BadSetting(
            f"{name}: there is no service {key!r}; there are authority, {_listed(SERVICES)}"
        )
    try:
        parts = urlsplit(url)
        whole = parts.scheme == "https" and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        whole = False
    if not whole or "@" in parts.netloc or parts.query or parts.fragment:
        # The value may hold a password before the @: not shown.
        raise errors.BadSetting(f"{name} must be a plain https address such as https://localhost:8443")
    # MSAL takes the first path segment for the tenant: a prefix would make all tenants one.
    if key == "authority" and parts.path.strip("/"):
        raise errors.BadSetting(
            f"{name} must have no path; /{{tenant}} is appended, such as https://localhost:8443"
        )


def _listed(names: Mapping[str, object] | tuple[str, ...]) -> str:
    return " ".join(names)

"""Hosts, audiences and authorities."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from service import clouds, errors
from service.sources import registry

PAGE = Path(__file__).parents[2] / "docs" / "sources.md"
TABLE = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in PAGE.read_text("utf-8")
    .partition("### Clouds and addresses")[2]
    .partition("\n## ")[0]
    .splitlines()
    if line.startswith("| `")
]
"""Cloud, source, Entra, address, nearer addresses, token audience: as the page has them, which was held against Microsoft's."""


def test_the_table_is_whole() -> None:
    """Every cloud with every source, once."""
    assert [row[:2] for row in TABLE] == [
        [cloud, source] for cloud in clouds.CLOUDS for source in registry.SOURCES
    ]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row[0]}-{row[1]}")
def test_clouds_and_sources(row: list[str]) -> None:
    """Authority, hosts and audience move together; what a cloud does not have is refused, wherever it is said to be."""
    cloud, source, entra, address, nearer, audience = row
    service = registry.SOURCES[source].service
    endpoints = clouds.Endpoints()
    assert endpoints.authority(cloud) == f"https://{entra}"
    if address == "none":
        for refusing in (
            endpoints,
            clouds.Endpoints({"mde": "https://a", "xdr": "https://a", "graph": "https://a"}),
        ):
            if service != "siem" or refusing is endpoints:
                with pytest.raises(errors.BadInput, match=f"the {cloud} cloud has no {service} API"):
                    refusing.check(service, cloud, None)
        return
    assert endpoints.audience(service, cloud) == f"https://{audience}"
    if address == "–":
        with pytest.raises(errors.BadInput, match="needs the tenant's region"):
            endpoints.check(service, cloud, None)
    else:
        assert endpoints.base_url(service, cloud, None) == f"https://{address}"
    if found := re.fullmatch(r"(.*)\{(.*)\}(.*)", nearer):
        for region in found[2].split(","):
            assert endpoints.base_url(service, cloud, region) == f"https://{found[1]}{region}{found[3]}"
    else:
        assert nearer == "–"
    moved = clouds.Endpoints({"authority": "https://a", service: "https://b"})
    assert (moved.authority(cloud), moved.base_url(service, cloud, "us")) == ("https://a", "https://b")


@pytest.mark.parametrize(
    ("cloud", "region", "host"),
    [
        ("public", "eu", "wdatp-alertexporter-eu.windows.com"),
        ("public", "us", "wdatp-alertexporter-us.windows.com"),
        ("public", "uk", "wdatp-alertexporter-uk.windows.com"),
        ("gcc", None, "wdatp-alertexporter-us.gcc.securitycenter.windows.us"),
        ("gcc", "us", "wdatp-alertexporter-us.gcc.securitycenter.windows.us"),
        ("gcc-high", None, "wdatp-alertexporter-us.securitycenter.windows.us"),
        ("dod", None, "wdatp-alertexporter-us.securitycenter.windows.us"),
    ],
)
def test_siem_hosts(cloud: str, region: str | None, host: str) -> None:
    """The hosts are those of Microsoft's pages."""
    endpoints = clouds.Endpoints()
    assert endpoints.base_url("siem", cloud, region) == f"https://{host}"
    endpoints.check("siem", cloud, region)


@pytest.mark.parametrize(
    ("service", "cloud", "region", "host"),
    [
        ("mde", "public", None, "api.security.microsoft.com"),
        *(
            ("mde", "public", region, f"{region}.api.security.microsoft.com")
            for region in ["us", "eu", "uk", "au", "swa", "ina"]
        ),
        ("mde", "gcc", None, "api-gcc.securitycenter.microsoft.us"),
        ("mde", "gcc-high", None, "api-gov.securitycenter.microsoft.us"),
        ("mde", "dod", "us", "api-gov.securitycenter.microsoft.us"),
        ("xdr", "public", None, "api.security.microsoft.com"),
        *(("xdr", "public", region, f"api-{region}.security.microsoft.com") for region in ["us", "eu", "uk"]),
        ("xdr", "public", "au", "api.security.microsoft.com"),
        ("xdr", "gcc", None, "api-gcc.security.microsoft.us"),
        ("xdr", "gcc-high", None, "api-gov.security.microsoft.us"),
        ("xdr", "dod", None, "api-gov.security.microsoft.us"),
        ("graph", "public", "eu", "graph.microsoft.com"),
        ("graph", "gcc", None, "graph.microsoft.com"),
        ("graph", "gcc-high", "us", "graph.microsoft.us"),
        ("graph", "dod", None, "dod-graph.microsoft.us"),
    ],
)
def test_hosts_of_the_other_apis(service: str, cloud: str, region: str | None, host: str) -> None:
    """A region's own host where there is one; else the one that answers for all, for the region may be another source's."""
    endpoints = clouds.Endpoints()
    assert endpoints.base_url(service, cloud, region) == f"https://{host}"
    endpoints.check(service, cloud, region)


@pytest.mark.parametrize(
    ("service", "cloud", "audience"),
    [
        ("mde", "public", "https://api.securitycenter.microsoft.com"),
        ("mde", "gcc", "https://api-gcc.securitycenter.microsoft.us"),
        ("mde", "dod", "https://api-gov.securitycenter.microsoft.us"),
        ("xdr", "public", "https://api.security.microsoft.com"),
        ("xdr", "gcc-high", "https://api-gov.security.microsoft.us"),
        ("graph", "gcc", "https://graph.microsoft.com"),
        ("graph", "gcc-high", "https://graph.microsoft.us"),
        ("graph", "dod", "https://dod-graph.microsoft.us"),
    ],
)
def test_audiences(service: str, cloud: str, audience: str) -> None:
    """The audience is the API's in that cloud, whichever host is called or set."""
    assert clouds.Endpoints().audience(service, cloud) == audience
    assert clouds.Endpoints({service: "https://localhost:8443"}).audience(service, cloud) == audience


@pytest.mark.parametrize(
    ("cloud", "host"),
    [
        ("public", "login.microsoftonline.com"),
        ("gcc", "login.microsoftonline.com"),
        ("gcc-high", "login.microsoftonline.us"),
        ("dod", "login.microsoftonline.us"),
        ("china", "login.partner.microsoftonline.cn"),
    ],
)
def test_authorities(cloud: str, host: str) -> None:
    """Each cloud has its own Entra."""
    assert clouds.Endpoints().authority(cloud) == f"https://{host}"


@pytest.mark.parametrize(
    ("service", "cloud", "region", "words"),
    [
        ("siem", "public", None, "eu us uk"),
        ("siem", "public", "asia", "eu us uk"),
        ("siem", "gcc", "eu", "has us"),
        ("siem", "china", None, "public gcc gcc-high dod"),
        ("siem", "mars", "eu", "public gcc gcc-high dod china"),
        ("sims", "public", "eu", "siem mde xdr graph"),
        ("mde", "public", "mars", "has eu us uk au swa ina"),
        ("graph", "public", "mars", "has eu us uk au swa ina"),
        ("mde", "china", None, "the china cloud has no mde API"),
        ("graph", "china", None, "the china cloud has no graph API; it exists in public gcc gcc-high dod"),
    ],
)
def test_bad_input(service: str, cloud: str, region: str | None, words: str) -> None:
    """What does not exist is answered with what does."""
    with pytest.raises(errors.BadInput, match=words):
        clouds.Endpoints().check(service, cloud, region)


def test_overrides() -> None:
    """The settings' addresses hold for every cloud and region, and need no region; the cloud is still checked."""
    endpoints = clouds.Endpoints(
        {"authority": "https://localhost:8443/", "siem": "https://localhost:9443/siem/"}, "https://audience/"
    )
    endpoints.check("siem", "public", None)
    assert endpoints.authority("dod") == "https://localhost:8443"
    assert endpoints.base_url("siem", "public", None) == "https://localhost:9443/siem"
    assert endpoints.audience("siem", "public") == "https://audience"
    with pytest.raises(errors.BadInput, match="mars"):
        endpoints.check("siem", "mars", None)


@pytest.mark.parametrize(
    ("key", "url"),
    [
        ("siem", "http://localhost:8443"),
        ("siem", "https://"),
        ("siem", "localhost:8443"),
        ("siem", "https://user:hidden@localhost"),
        ("siem", "https://localhost?x=1"),
        ("siem", "https://localhost:99999"),
        ("siem", "https://[half"),
        ("mde", "http://localhost:8443"),
        ("xdr", "https://user:hidden@localhost"),
        ("graph", "https://localhost?x=1"),
        ("authority", "https://localhost/entra"),
        ("nothing", "https://localhost"),
    ],
)
def test_bad_overrides(key: str, url: str) -> None:
    """An address that is not plain https is refused, without showing what may be a password."""
    with pytest.raises(errors.BadSetting, match=f"ALERTWELL_{key.upper()}_URL") as failed:
        clouds.Endpoints({key: url})
    assert "hidden" not in str(failed.value)

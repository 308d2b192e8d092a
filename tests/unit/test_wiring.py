"""What the composition root makes of settings and sources."""

from __future__ import annotations

import pytest

from service import clouds, parts, settings
from service.sources import registry


def test_each_address_reaches_its_service(tmp_path):
    """AUTHORITY_URL, SIEM_URL, MDE_URL, XDR_URL and GRAPH_URL take the place of the table, and of nothing else."""
    keys = ("authority", *clouds.SERVICES)
    named = {f"ALERTWELL_{key.upper()}_URL": f"https://{key}.example" for key in keys}
    hosts = parts.endpoints(settings.load(named, secrets_dir=tmp_path))
    assert hosts.authority("public") == "https://authority.example"
    assert [hosts.base_url(service, "dod", None) for service in clouds.SERVICES] == [
        f"https://{service}.example" for service in clouds.SERVICES
    ]
    plain = parts.endpoints(settings.load({}, secrets_dir=tmp_path))
    assert plain.base_url("graph", "public", None) == "https://graph.microsoft.com"


def test_every_service_has_an_address():
    """A source's service is in the table of hosts, and its address can be set."""
    for source in registry.SOURCES.values():
        assert source.service in clouds.SERVICES
        assert f"{source.service}_url" in settings.Settings.model_fields


def test_a_token_serves_all_sources_of_its_service():
    """Graph's two sources share a token, so that either's role will do; the API itself refuses what is not enough."""
    roles = parts.roles()
    assert roles["siem"] == frozenset()
    assert roles["mde"] == {"Alert.Read.All", "Alert.ReadWrite.All"}
    assert parts.scopes()["mde"] == {"Alert.Read", "Alert.ReadWrite"}
    assert roles["graph"] == registry.get("graph_alerts").roles | registry.get("graph_incidents").roles


@pytest.mark.parametrize(
    ("service", "quotas"),
    [
        ("mde", [(100, 60.0), (1500, 3600.0)]),
        ("xdr", [(50, 60.0), (1500, 3600.0)]),
        ("graph", [(150, 60.0)]),
    ],
)
def test_quotas_hold_for_a_service(service, quotas):
    """A quota is the service's, for its requests name it as their group; an API without a documented one has none."""
    assert [(quota.calls, quota.seconds) for quota in parts.quotas()[service]] == quotas
    assert "siem" not in parts.quotas()

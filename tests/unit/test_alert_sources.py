"""Requests and columns of the sources with mutable records, against the samples of the reference."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote, urlencode
from uuid import UUID

import pytest

from service import errors, model
from service.sources import contract, registry

FIXTURES = Path(__file__).parents[1] / "fixtures"
TENANT = UUID("11111111-1111-1111-1111-111111111111")
WINDOW = model.Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 1, 1, tzinfo=UTC))
ALERT = "da638950001421283751_-1022334455"
MUTABLE = ("mde_alerts", "xdr_incidents", "graph_alerts", "graph_incidents")
UPDATED = {"mde_alerts": "lastUpdateTime", "graph_alerts": "lastUpdateDateTime"}
KEYS = {"xdr_incidents": ("incidentId", "lastUpdateTime", "alertId", "lastUpdatedTime")}


def well_formed(name):
    body = (FIXTURES / name / "well_formed.json").read_bytes()
    return contract.whole(registry.get(name).read(body, WINDOW, TENANT))


def read(name, *values):
    return contract.whole(registry.get(name).read(json.dumps({"value": values}).encode(), WINDOW, TENANT))


def one(name, **changed):
    """The alert that one record becomes, the source's own fields beside an id and an update time."""
    time = UPDATED[name]
    (alert,) = read(name, {"id": "x1", time: "2026-10-01T08:00:00Z", **changed}).alerts
    return alert


def at(*clock, microsecond=0):
    return datetime(2026, 10, 1, *clock, microsecond, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "path", "time", "more"),
    [
        ("mde_alerts", "/api/alerts", "lastUpdateTime", {"$top": "10000", "$expand": "evidence"}),
        ("xdr_incidents", "/api/incidents", "lastUpdateTime", {"$top": "100"}),
        ("graph_alerts", "/v1.0/security/alerts_v2", "lastUpdateDateTime", {"$top": "1000"}),
        (
            "graph_incidents",
            "/v1.0/security/incidents",
            "lastUpdateDateTime",
            {"$top": "50", "$expand": "alerts"},
        ),
    ],
)
def test_the_request(name, path, time, more):
    """Path, filter and size as documented, a millisecond around the window, times unquoted in UTC with Z."""
    source = registry.get(name)
    request = source.request(WINDOW, {})
    filtered = f"{time} ge 2026-09-30T23:59:59.999Z and {time} lt 2026-10-01T01:00:00.001Z"
    assert (request.service, request.path, request.quota_group) == (source.service, path, source.service)
    assert dict(request.query) == {"$filter": filtered} | more
    prefer = (("Prefer", "include-unknown-enum-members"),) if name.startswith("graph") else ()
    assert request.headers == prefer
    written = urlencode(request.query, quote_via=quote, safe="$:")
    assert "+" not in written
    assert f"$filter={time}%20ge%202026-09-30T23:59:59.999Z%20and%20" in written


@pytest.mark.parametrize("name", MUTABLE)
def test_ordered_by_wish_alone(name):
    """`$orderby` is not documented: it is sent only where the parameter says so, by the update time."""
    source = registry.get(name)
    plain = dict(source.request(WINDOW, {}).query)
    ordered = dict(source.request(WINDOW, source.check_parameters({"ordered": "TRUE"})).query)
    time = plain["$filter"].split()[0]
    assert "$orderby" not in plain
    assert ordered == plain | {"$orderby": f"{time} asc"}


def test_incidents_without_their_alerts():
    """What asks for no alerts leaves `$expand` away, so that a poll can go on where the service cannot expand."""
    source = registry.get("graph_incidents")
    parameters = source.check_parameters({"expand": "false", "ordered": "no"})
    assert parameters == {"expand": False}
    assert "$expand" not in dict(source.request(WINDOW, parameters).query)
    assert source.check_parameters({"expand": True}) == {}


@pytest.mark.parametrize("name", MUTABLE)
@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"ordered": "maybe"}, "ordered 'maybe': must be true or false"),
        ({"ordered": 1}, "ordered 1: must be true or false"),
        ({"$top": 5}, "'\\$top' 5: the .* API has"),
        ({"limit": "x" * 1000}, "limit"),
    ],
)
def test_parameters_that_cannot_be_used(name, parameters, words):
    """Each mistake is refused in one line with the name, a short form of the value and what would be right."""
    with pytest.raises(errors.BadInput, match=words) as refused:
        registry.get(name).check_parameters(parameters)
    assert len(str(refused.value)) < 250


def test_quotas_and_roles():
    """As the pages say: calls in a minute and an hour, and one of two roles."""
    found = {name: (registry.get(name).quota, sorted(registry.get(name).roles)) for name in MUTABLE}
    graph = ((150, 60.0),)
    assert found == {
        "mde_alerts": (((100, 60.0), (1500, 3600.0)), ["Alert.Read.All", "Alert.ReadWrite.All"]),
        "xdr_incidents": (((50, 60.0), (1500, 3600.0)), ["Incident.Read.All", "Incident.ReadWrite.All"]),
        "graph_alerts": (graph, ["SecurityAlert.Read.All", "SecurityAlert.ReadWrite.All"]),
        "graph_incidents": (graph, ["SecurityIncident.Read.All", "SecurityIncident.ReadWrite.All"]),
    }


def columns(alert):
    """Every column that is not None, the record itself aside."""
    own = ("raw", "content_hash", "source_updated_text")
    return {
        name: value
        for name in alert.__struct_fields__
        if name not in own and (value := getattr(alert, name)) is not None
    }


SAMPLE = {
    "full_id": ALERT,
    "last_processed_at": at(8, 21, 50, microsecond=190_000),
    "alert_id": ALERT,
    "incident_id": "31337",
    "title": "Suspicious PowerShell command line",
    "severity_rank": 3,
    "status": "new",
    "category": "Execution",
    "service_source": "microsoftDefenderForEndpoint",
    "device_name": "ws-014.contoso.example",
    "device_id": "11a22b33c44d55e66f7788990011aabbccddeeff",
    "device_group": "Servers",
    "user_name": "CONTOSO\\kim",
    "mitre_techniques": ["T1059.001"],
    "event_time": at(8, 15, 42, microsecond=128_375),
    "created_at": at(8, 17, 2, microsecond=913_000),
}


def test_one_alert_looks_the_same_from_everywhere():
    """The one alert of all samples has the same columns from each API, apart from what one of them does not know."""
    file = {"file_sha256": "abcdef0123456789" * 4}
    graph = (
        SAMPLE
        | file
        | {
            "detection_source": "microsoftDefenderForEndpoint",
            "remediation_action": "prevented",
        }
    )
    endpoint = {"detection_source": "WindowsDefenderAtp"}
    assert columns(well_formed("mde_alerts").alerts[0]) == SAMPLE | endpoint | {"incident_id": "4711"}
    assert columns(well_formed("xdr_incidents").alerts[2]) == SAMPLE | file | endpoint
    assert columns(well_formed("graph_alerts").alerts[0]) == graph
    assert columns(well_formed("graph_incidents").alerts[1]) == graph


def test_a_resolved_alert_of_the_endpoint():
    """Digest in lower case, threat, verdict in Graph's words, and the user that the evidence names."""
    alert = well_formed("mde_alerts").alerts[1]
    assert alert.last_processed_at == at(10, 0, 0, microsecond=123_456)
    assert alert.source_updated_text == "2026-10-01T10:00:00.1234567Z"
    assert alert.resolved_at == at(10, 0, 0)
    assert (alert.status, alert.severity_rank) == ("resolved", 4)
    assert (alert.classification, alert.determination) == ("truePositive", "multiStagedAttack")
    assert (alert.assigned_to, alert.threat_name) == ("soc@mssp.example", "Trojan:Win32/Wacatac.B!ml")
    assert (alert.user_name, alert.file_sha256) == ("CONTOSO\\ada", "abcdef0123456789" * 4)
    assert alert.mitre_techniques is None
    assert "räksmörgås 😀.exe" in alert.raw.decode()
    bare = well_formed("mde_alerts").alerts[2]
    assert (bare.status, bare.severity_rank, bare.incident_id) == ("in_progress", 0, None)
    assert (bare.event_time, bare.user_name, bare.device_group) == (None, None, None)


def test_alerts_of_other_products():
    """Alerts of Office keep their shared id in Graph and XDR alike, with the product in one vocabulary."""
    xdr, apps, _ = well_formed("xdr_incidents").alerts
    graph = well_formed("graph_alerts").alerts[1]
    assert xdr.alert_id == graph.alert_id == "fa11112222-3333-4444-5555-666677778888"
    assert xdr.service_source == graph.service_source == "microsoftDefenderForOffice365"
    assert xdr.resolved_at == graph.resolved_at
    assert (xdr.user_name, graph.user_name) == ("ada@contoso.example", "ada")
    assert (graph.remediation_action, graph.classification, graph.determination) == (
        "blocked",
        "truePositive",
        "phishing",
    )
    assert apps.service_source == "microsoftDefenderForCloudApps"
    assert (apps.device_id, apps.user_name, apps.mitre_techniques) == (None, None, None)


def test_what_graph_does_not_know():
    """Unknown words, null lists, a family for a threat and a list of categories: stored, and unknown where unknown."""
    alert = well_formed("graph_alerts").alerts[2]
    assert (alert.status, alert.severity_rank, alert.threat_name) == ("unknown", 0, "Wacatac")
    assert (alert.category, alert.incident_id, alert.mitre_techniques) == ("Malware", None, None)
    assert json.loads(alert.raw)["status"] == "unknownFutureValue"


def test_the_incidents():
    """Every field of an incident that has a column, from both APIs."""
    for name, status in (("xdr_incidents", None), ("graph_incidents", "unknown")):
        page = well_formed(name)
        resolved, active, merged = page.incidents[:3]
        assert [incident.incident_id for incident in page.incidents[:3]] == ["31400", "31337", "31000"]
        assert [incident.status for incident in page.incidents[:3]] == ["resolved", "active", "redirected"]
        assert [incident.status for incident in page.incidents[3:]] == ([status] if status else [])
        assert (resolved.classification, resolved.determination) == ("truePositive", "phishing")
        assert (resolved.assigned_to, resolved.severity_rank, resolved.tags) == ("soc@mssp.example", 4, None)
        assert resolved.title == "Phishing reported by a user"
        assert active.last_update == at(8, 30, 12, microsecond=440_000)
        assert active.source_updated_text == "2026-10-01T08:30:12.44Z"
        assert active.created_at == at(8, 17, 3, microsecond=926_666)
        assert (active.redirect_incident_id, merged.redirect_incident_id) == (None, "31337")
        assert (active.alert_ids, merged.alert_ids) == ([ALERT], [])
        assert page.times == tuple(incident.last_update for incident in page.incidents)
    graph = well_formed("graph_incidents").incidents
    assert graph[1].tags == ["vip", "Defender Experts"]
    assert graph[1].incident_url == f"https://security.microsoft.com/incidents/31337?tid={TENANT}"
    assert graph[3].alert_ids is None


@pytest.mark.parametrize(
    ("of", "provider", "expected"),
    [
        ("microsoftDefenderForEndpoint", "da7_1", "da7_1"),
        ("microsoftDefenderForEndpoint", None, "x1"),
        ("microsoftDefenderForEndpoint", "x" * 600, "x1"),
        ("microsoftDefenderForOffice365", "other", "x1"),
        (None, "other", "x1"),
    ],
)
def test_the_id_that_all_sources_share(of, provider, expected):
    """The record's own id, or that of the endpoint's own API where Graph names another one; the key stays the own."""
    alert = one("graph_alerts", serviceSource=of, providerAlertId=provider)
    assert (alert.full_id, alert.alert_id) == ("x1", expected)


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("New", "new"),
        ("inProgress", "in_progress"),
        ("INPROGRESS", "in_progress"),
        (" resolved ", "resolved"),
        ("Redirected", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
        (5, "unknown"),
        ({"a": 1}, "unknown"),
    ],
)
@pytest.mark.parametrize("name", sorted(UPDATED))
def test_one_vocabulary_of_status(name, written, expected):
    """Words of both APIs in any case; anything else is unknown, and stays in raw."""
    alert = one(name, status=written)
    assert alert.status == expected
    assert json.loads(alert.raw)["status"] == written


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (4711, "4711"),
        ("4711", "4711"),
        (4711.0, "4711"),
        (None, None),
        ("", None),
        (True, None),
        ([], None),
        ("9" * 600, None),
    ],
)
@pytest.mark.parametrize("name", sorted(UPDATED))
def test_incident_ids_are_text(name, written, expected):
    """A number in one API, a text in another: the same text in the column."""
    assert one(name, incidentId=written).incident_id == expected


def test_users_and_evidence_of_any_shape():
    """What is no object or no text is passed over; a user may be an account, a full name or a principal."""
    odd = [5, None, "x", [], {"accountName": 7, "domainName": {}, "sha256": 5}]
    assert one("mde_alerts", evidence=odd).user_name == "7"
    assert one("mde_alerts", relatedUser={"userName": "a\\b", "domainName": "C"}).user_name == "a\\b"
    assert one("mde_alerts", relatedUser={"userName": "a@b", "domainName": "C"}).user_name == "a@b"
    assert one("mde_alerts", relatedUser="kim", evidence={"a": 1}).user_name is None
    odd = [
        {"@odata.type": 5, "userAccount": "x"},
        {"userAccount": {"userPrincipalName": "kim@contoso.example"}},
    ]
    assert one("graph_alerts", evidence=odd).user_name == "kim@contoso.example"
    assert (
        one("graph_alerts", evidence=[{"imageFile": 5, "fileDetails": [], "mdeDeviceId": "d"}]).device_id
        == "d"
    )
    assert one("graph_alerts", evidence=[{"loggedOnUsers": [{"accountName": "x"}]}]).user_name is None


def test_evidence_of_any_amount():
    """A thousand pieces of evidence are as good as one."""
    evidence = [{"entityType": "Ip", "ipAddress": f"10.0.0.{n}"} for n in range(1000)]
    evidence.append({"entityType": "File", "sha256": "0" * 64, "accountName": "kim"})
    alert = one("mde_alerts", evidence=evidence)
    assert (alert.file_sha256, alert.user_name) == ("0" * 64, "kim")


def test_an_id_of_3000_characters():
    """No key can be that long: a reject that says so, on its own."""
    for name, time in UPDATED.items():
        page = read(
            name, {"id": "x" * 3000, time: "2026-10-01T08:00:00Z"}, {"id": "y", time: "2026-10-01T08:00:00Z"}
        )
        assert [alert.full_id for alert in page.alerts] == ["y"]
        assert page.rejects[0].reason == "id too long: 3000 bytes, 512 at most"


def test_an_alert_without_its_update_time():
    """It could not be put in order: a reject that names the field, in the spelling of the record."""
    for name, time in UPDATED.items():
        (reject,) = read(name, {"id": "x"}).rejects
        assert reject.reason == f"{time} missing"
    nested = {
        "incidentId": 1,
        "lastUpdateTime": "2026-10-01T08:00:00Z",
        "alerts": [{"alertId": "x", "lastUpdateTime": "y"}],
    }
    page = read("xdr_incidents", nested)
    assert [reject.reason for reject in page.rejects] == ["lastUpdatedTime missing"]
    assert page.incidents[0].alert_ids == []

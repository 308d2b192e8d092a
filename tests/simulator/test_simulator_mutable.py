"""What is particular to Defender for Endpoint, Defender XDR and Microsoft Graph, each as documented."""

from __future__ import annotations

import urllib.parse

import pytest

from service.simulator import ticks

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
NOON = ticks.parse("2026-10-01T12:00:00Z")
INCIDENTS = "/graph/v1.0/security/incidents"
MDE_FIELDS = {
    "id", "incidentId", "investigationId", "assignedTo", "severity", "status", "classification",
    "determination", "investigationState", "detectionSource", "detectorId", "category", "threatFamilyName",
    "threatName", "title", "description", "alertCreationTime", "firstEventTime", "lastEventTime",
    "lastUpdateTime", "resolvedTime", "machineId", "computerDnsName", "rbacGroupName", "aadTenantId",
    "mitreTechniques", "relatedUser", "comments", "evidence",
}  # fmt: skip
XDR_FIELDS = {
    "incidentId", "redirectIncidentId", "incidentName", "createdTime", "lastUpdateTime", "assignedTo",
    "classification", "determination", "status", "severity", "tags", "comments", "alerts",
}  # fmt: skip
XDR_ALERT_FIELDS = {
    "alertId", "incidentId", "serviceSource", "creationTime", "lastUpdatedTime", "resolvedTime",
    "firstActivity", "lastActivity", "title", "description", "category", "status", "severity",
    "investigationId", "investigationState", "classification", "determination", "detectionSource",
    "assignedTo", "actorName", "threatFamilyName", "mitreTechniques", "devices", "entities",
}  # fmt: skip
GRAPH_FIELDS = {
    "id", "providerAlertId", "incidentId", "status", "severity", "classification", "determination",
    "serviceSource", "detectionSource", "productName", "detectorId", "tenantId", "title", "description",
    "recommendedActions", "category", "assignedTo", "alertWebUrl", "incidentWebUrl", "actorDisplayName",
    "threatDisplayName", "threatFamilyName", "mitreTechniques", "createdDateTime", "lastUpdateDateTime",
    "resolvedDateTime", "firstActivityDateTime", "lastActivityDateTime", "investigationState",
    "alertPolicyId", "systemTags", "additionalData", "customDetails", "comments", "evidence",
}  # fmt: skip


async def pages(client, query, path=None, **options):
    """Every page's envelope, by nextLink."""
    found = [(await client.read("graph", CONTOSO, query, path=path, **options)).json()]
    while link := found[-1].get("@odata.nextLink"):
        assert link.startswith(client.simulator.graph_url + "/")
        found.append(
            (await client.read("graph", path=link.removeprefix(client.simulator.url), **options)).json()
        )
    return found


async def test_mde_alerts_have_the_documented_fields(client):
    """Exactly those of the sample; evidence only where it is expanded; times written in the API's form."""
    bare = await client.values("mde", query={"$top": "200"})
    full = await client.values("mde", query={"$top": "200", "$expand": "evidence"})
    assert all(set(row) == MDE_FIELDS for row in full)
    assert all(row["evidence"] == [] for row in bare)
    assert [{**row, "evidence": []} for row in full] == bare
    assert {each["entityType"] for row in full for each in row["evidence"]} >= {
        "User",
        "Process",
        "File",
        "Ip",
        "Url",
    }
    assert all(len({*row["evidence"][0]}) == 24 for row in full)
    for row in full:
        assert ticks.text(ticks.parse(row["lastUpdateTime"])) == row["lastUpdateTime"]
        assert len(row["alertCreationTime"]) == 28
        assert row["aadTenantId"] == CONTOSO
        assert (row["resolvedTime"] is None) == (row["status"] != "Resolved")


async def test_mde_pages_by_skip_and_links_only_without_top(simulator, client):
    """$top up to 10,000, 400 beyond; no nextLink with $top; without it one per 10,000."""
    simulator.world.add_alert_backlog(
        FABRIKAM, 10_050, since=NOON - ticks.DAY, until=NOON - ticks.HOUR, longest=0
    )
    response = await client.read("mde", FABRIKAM, {"$top": "10000"})
    assert (len(response.json()["value"]), "@odata.nextLink" in response.json()) == (10_000, False)
    rest = await client.values("mde", FABRIKAM, {"$top": "10000", "$skip": "10000"})
    assert len({row["id"] for row in response.json()["value"] + rest}) == 10_050
    assert (await client.read("mde", FABRIKAM, {"$top": "10001"})).status == 400
    unbounded = (await client.read("mde", FABRIKAM)).json()
    assert len(unbounded["value"]) == 10_000
    link = unbounded["@odata.nextLink"]
    assert link.startswith(simulator.mde_url + "/api/alerts?")
    follow = (await client.read("mde", FABRIKAM, path=link.removeprefix(simulator.url))).json()
    assert (follow["value"], "@odata.nextLink" in follow) == (rest, False)


async def test_mde_expands_nothing_but_evidence(client):
    """Anything else is 400; $top=0 is an empty page."""
    assert (await client.read("mde", query={"$expand": "machine"})).status == 400
    assert await client.values("mde", query={"$top": "0"}) == []


async def test_xdr_incidents_have_the_documented_fields(client):
    """Exactly those of the sample, devices and entities too; what does not fit an entity is left out."""
    rows = await client.values("xdr")
    assert len(rows) == 100
    assert all(set(row) == XDR_FIELDS for row in rows)
    alerts = [alert for row in rows for alert in row["alerts"]]
    assert all(set(alert) == XDR_ALERT_FIELDS for alert in alerts)
    assert {"Active", "InProgress"} <= {row["status"] for row in rows}
    assert all(isinstance(row["incidentId"], int) for row in rows)
    entities = [entity for alert in alerts for entity in alert["entities"]]
    assert {entity["entityType"] for entity in entities} >= {"User", "Process", "File", "Ip", "Url"}
    assert all("sha1" not in entity for entity in entities if entity["entityType"] == "User")


async def test_xdr_pages_hold_a_hundred(client):
    """$top over 100 is 400; a link comes only without $top; severity cannot be filtered on."""
    assert (await client.read("xdr", query={"$top": "101"})).status == 400
    assert "@odata.nextLink" not in (await client.read("xdr", query={"$top": "100"})).json()
    assert "@odata.nextLink" in (await client.read("xdr")).json()
    assert (await client.read("xdr", query={"$filter": "severity eq 'High'"})).status == 400


async def test_graph_alerts_have_the_documented_fields(client):
    """Exactly those of the sample; every evidence names its type."""
    rows = await client.values("graph", query={"$top": "300"})
    assert all(set(row) == GRAPH_FIELDS for row in rows)
    types = {each["@odata.type"].rpartition(".")[2] for row in rows for each in row["evidence"]}
    assert types >= {
        "deviceEvidence",
        "userEvidence",
        "processEvidence",
        "fileEvidence",
        "ipEvidence",
        "urlEvidence",
    }
    assert {row["status"] for row in rows} <= {"new", "inProgress", "resolved"}
    assert all(row["tenantId"] == CONTOSO and row["alertWebUrl"].endswith(f"tid={CONTOSO}") for row in rows)


async def test_graph_alerts_are_clamped_to_a_thousand_and_linked(simulator, client):
    """A greater $top is taken as 1,000; the links lead through everything once, with a token that says nothing."""
    found = await pages(client, {"$top": "5000", "$count": "true"})
    assert len(found[0]["value"]) == 1000
    ids = [row["id"] for page in found for row in page["value"]]
    truth = simulator.world.truth_alerts(CONTOSO, "graph")
    assert len(ids) == len(set(ids)) == found[0]["@odata.count"] == len(truth)
    assert set(ids) == set(truth)
    query = urllib.parse.parse_qs(urllib.parse.urlsplit(found[0]["@odata.nextLink"]).query)
    assert query["$top"] == ["5000"]
    assert not query["$skiptoken"][0].isdigit()
    assert (await client.read("graph", query={"$skiptoken": "nonsense!"})).status == 400
    assert "@odata.count" not in (await client.read("graph")).json()


async def test_graph_links_keep_the_filter(client):
    """Every page is of the same window, oldest update first where it was asked for."""
    query = {
        "$filter": "lastUpdateDateTime ge 2026-10-01T10:00:00Z and lastUpdateDateTime lt 2026-10-01T11:30:00Z",
        "$orderby": "lastUpdateDateTime asc",
        "$top": "40",
    }
    found = await pages(client, query)
    times = [ticks.parse(row["lastUpdateDateTime"]) for page in found for row in page["value"]]
    assert len(found) > 2
    assert times == sorted(times)
    assert NOON - 2 * ticks.HOUR <= times[0] <= times[-1] < NOON - ticks.HOUR // 2


async def test_graph_alerts_skip_no_more_than_five_hundred(client):
    """501 is 400."""
    assert len(await client.values("graph", query={"$skip": "500", "$top": "10"})) == 10
    assert (await client.read("graph", query={"$skip": "501"})).status == 400
    assert (await client.read("graph", query={"$skip": "501"}, path=INCIDENTS)).status == 200


@pytest.mark.parametrize(("order", "status"), [("createdDateTime desc", 200), ("title", 400), ("a b c", 400)])
async def test_graph_orders(client, order, status):
    """Update and creation time can be ordered by, nothing else."""
    assert (await client.read("graph", query={"$orderby": order})).status == status


async def test_graph_incidents_hold_fifty_and_say_so(client):
    """The documented body, its code empty."""
    response = await client.read("graph", query={"$top": "100"}, path=INCIDENTS)
    assert response.status == 400
    error = response.json()["error"]
    assert (error["code"], error["details"]) == ("", [])
    assert error["message"] == (
        "The query specified in the URI is not valid. The limit of '50' for Top query has been exceeded. "
        "The value from the incoming request is '100'."
    )
    assert error["innerError"]["date"] == "2026-10-01T12:00:00"
    assert len(await client.values("graph", query={"$top": "50"}, path=INCIDENTS)) == 50


async def test_graph_incidents_and_their_alerts(simulator, client):
    """Alerts come only where they are expanded, or under the incident's own path; through links all incidents come."""
    bare = [row for page in await pages(client, {}, INCIDENTS) for row in page["value"]]
    full = [row for page in await pages(client, {"$expand": "alerts"}, INCIDENTS) for row in page["value"]]
    assert len(full) == len(simulator.world.truth_incidents(CONTOSO, "graph"))
    assert all("alerts" not in row for row in bare)
    assert [{key: row[key] for key in row if key != "alerts"} for row in full] == bare
    for row in full[:8]:
        own = await client.values("graph", path=f"{INCIDENTS}/{row['id']}/alerts")
        assert sorted(each["id"] for each in own) == sorted(each["id"] for each in row["alerts"])
    merged = next(row for row in full if row["status"] == "redirected")
    assert await client.values("graph", path=f"{INCIDENTS}/{merged['id']}/alerts") == []
    assert (await client.read("graph", path=f"{INCIDENTS}/17/alerts")).status == 404
    assert (await client.read("graph", path=f"{INCIDENTS}/x'y/alerts")).status == 404
    assert (await client.read("graph", query={"$expand": "comments"}, path=INCIDENTS)).status == 400


async def test_later_members_of_enumerations_want_a_header(client, desk):
    """Without Prefer they are unknownFutureValue; a filter compares what is meant."""
    desk.add_alert(at=NOON - 1, source="MicrosoftSentinel")
    prefer = {"Prefer": "include-unknown-enum-members"}
    assert (await client.values("graph", FABRIKAM))[0]["serviceSource"] == "unknownFutureValue"
    assert (await client.values("graph", FABRIKAM, headers=prefer))[0]["serviceSource"] == "microsoftSentinel"
    query = {"$filter": "serviceSource eq 'microsoftSentinel'"}
    assert len(await client.values("graph", FABRIKAM, query)) == 1
    words = {row["status"] for page in await pages(client, {}, INCIDENTS) for row in page["value"]}
    known = {
        row["status"] for page in await pages(client, {}, INCIDENTS, headers=prefer) for row in page["value"]
    }
    assert words - known == {"unknownFutureValue"}
    assert known - words == {"awaitingAction"}

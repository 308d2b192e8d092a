"""What the APIs of mutable records have in common over HTTP: tokens, roles, quotas, options, faults."""

from __future__ import annotations

import contextlib
import json
import re

import aiohttp
import pytest

from service.simulator import chaos, defender, directory, graph, mde, quotas, server, ticks, xdr

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
NOON = ticks.parse("2026-10-01T12:00:00Z")
SURFACES = ("mde", "xdr", "graph")
KEYS = {"mde": "id", "xdr": "incidentId", "graph": "id"}
UPDATED = {"mde": "lastUpdateTime", "xdr": "lastUpdateTime", "graph": "lastUpdateDateTime"}
KINDS = {"mde": "alerts", "xdr": "incidents", "graph": "alerts"}


def message(answer):
    """The code and message of an error body, which has the documented members."""
    error = answer.json()["error"]
    assert "target" in error or set(error["innerError"]) == {"date", "request-id", "client-request-id"}
    return error["code"], error["message"]


@pytest.mark.parametrize("surface", SURFACES)
async def test_an_answer_is_an_envelope_of_what_is_true(simulator, client, surface):
    """Context and value; the records of a window are those that the world says were updated in it."""
    response = await client.read(
        surface, CONTOSO, {"$filter": f"{UPDATED[surface]} ge 2026-10-01T11:00:00Z", "$top": "50"}
    )
    assert (response.status, response.content_type) == (200, "application/json")
    assert "$metadata#" in response.json()["@odata.context"]
    rows = response.json()["value"]
    book = simulator.world.casebook(CONTOSO)
    expected = book.select(KINDS[surface], surface, NOON - ticks.HOUR, NOON, NOON, "creation")
    if surface == "xdr":
        told = [each.incident().incident for each in expected.all()]
    else:
        told = [each.alert().alert_id for each in expected.all()]
    assert len(told) > 50
    assert [row[KEYS[surface]] for row in rows] == told[:50]
    assert simulator.counters[f"{surface}_records"] == 50
    assert simulator.api_requests[surface, CONTOSO] == 1


@pytest.mark.parametrize("surface", SURFACES)
async def test_nothing_is_an_empty_list(client, surface):
    """Where nothing matches value is [], without a link."""
    response = await client.read(surface, FABRIKAM)
    assert response.json()["value"] == []
    assert "@odata.nextLink" not in response.json()


@pytest.mark.parametrize(
    ("surface", "prefix"), [("mde", "Unauthorized"), ("xdr", "Unauthorized"), ("graph", "Inv")]
)
async def test_tokens_that_are_refused(simulator, clock, client, surface, prefix):
    """No token, a foreign audience, one of another signer, an expired one: 401 with the documented code."""
    path = {"mde": "/mde/api/alerts", "xdr": "/xdr/api/incidents", "graph": "/graph/v1.0/security/alerts_v2"}[
        surface
    ]
    siem = await client.bearer(CONTOSO)
    for headers in ({}, siem, {"Authorization": "Bearer x.y.z"}, {"Authorization": "Basic eA=="}):
        response = await client.get(path, headers=headers)
        assert response.status == 401
        assert message(response)[0].startswith(prefix)
    assert (await client.read(surface)).status == 200
    clock.advance(4000)
    assert (await client.read(surface)).status == 401
    assert simulator.counters[f"{surface}:401"] == 5


@pytest.mark.parametrize(
    ("surface", "resource", "needed"),
    [
        ("mde", directory.MDE_RESOURCE, "Alert.Read.All,Alert.ReadWrite.All"),
        ("xdr", directory.XDR_RESOURCE, "Incident.Read.All,Incident.ReadWrite.All"),
        (
            "graph",
            directory.GRAPH_RESOURCE,
            "SecurityAlert.Read.All,SecurityAlert.ReadWrite.All,SecurityIncident.Read.All,SecurityIncident.ReadWrite.All",
        ),
    ],
)
async def test_roles_are_looked_at(simulator, client, surface, resource, needed):
    """A token without the role is 403 in the service's words; one with any of them is enough."""
    simulator.world.tenants[CONTOSO].roles[resource] = ("Machine.Read.All",)
    response = await client.read(surface)
    assert response.status == 403
    assert message(response) == (
        "Forbidden",
        f"Missing application roles. API required roles: {needed}, application roles: Machine.Read.All.",
    )
    simulator.world.tenants[FABRIKAM].roles[resource] = (needed.split(",")[-1],)
    assert (await client.read(surface, FABRIKAM)).status == 200


async def test_graph_incidents_need_their_own_role(simulator, client):
    """SecurityAlert.Read.All opens alerts and not incidents."""
    simulator.world.tenants[CONTOSO].roles[directory.GRAPH_RESOURCE] = ("SecurityAlert.Read.All",)
    assert (await client.read("graph")).status == 200
    assert (await client.read("graph", path="/graph/v1.0/security/incidents")).status == 403


@pytest.mark.parametrize("surface", SURFACES)
async def test_deleted_tenants_methods_and_paths(simulator, client, surface):
    """403 for a deleted tenant, 405 for other methods; paths in any casing, with a slash; others 404."""
    path = {
        "mde": "/MDE/api/v1.0/Alerts/",
        "xdr": "/xdr/API/Incidents/",
        "graph": "/graph/v1.0/Security/Alerts_v2/",
    }
    assert (await client.read(surface, path=path[surface])).status == 200
    assert (await client.read(surface, path=f"/{surface}/nothing")).status == 404
    headers = {"Authorization": client.tokens[surface, CONTOSO]}
    assert (await client.post(path[surface].lower().rstrip("/"), headers=headers)).status == 405
    simulator.world.tenants[CONTOSO].deleted = True
    assert (await client.read(surface)).status == 403


@pytest.mark.parametrize(("surface", "most"), [("mde", 100), ("xdr", 50), ("graph", 150)])
async def test_the_call_beyond_the_quota_of_a_minute(clock, client, surface, most):
    """It is 429 with Retry-After; another tenant is not concerned; after that time calls go through again."""
    query = {"$top": "1"}
    for _ in range(most):
        assert (await client.read(surface, FABRIKAM, query)).status == 200
    clock.advance(15.5)
    response = await client.read(surface, FABRIKAM, query)
    assert response.status == 429
    code, text = message(response)
    assert code == "TooManyRequests"
    assert int(response.headers["Retry-After"]) == 45
    if surface == "xdr":
        assert re.search(r"2026-10-01T12:01:00Z", text)
    assert (await client.read(surface, CONTOSO, query)).status == 200
    clock.advance(45)
    assert (await client.read(surface, FABRIKAM, query)).status == 200


def test_quotas_slide():
    """Minute and hour bind together; what was refused counts only where it is said to."""
    limits = (2, ticks.MINUTE), (3, ticks.HOUR)
    quota = quotas.Quota(limits, refused_count=False)
    waits = [
        quota.take("app", "tenant", second * ticks.SECOND) // ticks.SECOND
        for second in (0, 1, 2, 60, 61, 3600)
    ]
    assert waits == [0, 0, 58, 0, 3539, 0]
    strict = quotas.Quota(limits[:1], refused_count=True)
    waits = [
        strict.take("app", "tenant", second * ticks.SECOND) // ticks.SECOND for second in (0, 1, 30, 60, 90)
    ]
    assert waits == [0, 0, 31, 30, 0]
    assert quotas.Quota(((None, ticks.MINUTE),), refused_count=True).take("app", "tenant", 0) == 0


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize(
    "query",
    [
        {"$top": "-1"},
        {"$top": "ten"},
        {"$skip": "-5"},
        {"$skip": "1e3"},
        {"$filter": "title eq 'x'"},
        {"$filter": "status ne 'New'"},
        {"$filter": ""},
    ],
)
async def test_options_that_cannot_be_read(client, surface, query):
    """400 with the documented body."""
    response = await client.read(surface, query=query)
    assert response.status == 400
    assert message(response)[1]


@pytest.mark.parametrize("surface", SURFACES)
async def test_filters_on_more_than_the_update_time(client, surface):
    """Each documented property is compared, together with the time."""
    rows = await client.values(surface, query={"$top": "40"})
    words = {row["status"] for row in rows}
    assert len(words) > 1
    for word in words:
        query = {
            "$filter": f"status eq '{word}' and {UPDATED[surface]} ge 2026-10-01T04:00:00Z",
            "$top": "30",
        }
        found = await client.values(surface, query=query)
        assert found
        assert {row["status"] for row in found} == {word}
    query = {"$filter": f"assignedTo eq null and {UPDATED[surface]} ge 2026-10-01T10:00:00Z"}
    assert {row["assignedTo"] for row in await client.values(surface, query=query)} == {None}


@pytest.mark.parametrize("surface", SURFACES)
async def test_limits_compare_to_the_tick(client, desk, surface):
    """ge and gt, le and lt differ by one tick of 100 ns."""
    at = ticks.parse("2026-10-01T11:00:00.1234567Z")
    desk.add_incident(at=at, alerts=1)
    text = ticks.text(at)
    for word, count in (("ge", 1), ("gt", 0), ("le", 1), ("lt", 0), ("eq", 1)):
        query = {"$filter": f"{UPDATED[surface]} {word} {text}"}
        assert len(await client.values(surface, FABRIKAM, query)) == count


@pytest.mark.parametrize("surface", SURFACES)
async def test_a_record_that_changes_between_two_requests_moves(clock, client, desk, surface):
    """It leaves its old place in the window, so that what follows it moves up; it shows its newest version alone."""
    ids = [desk.add_alert(at=NOON - 1000 + number) for number in range(6)]
    ordered = {"mde": {}, "xdr": {}, "graph": {"$orderby": "lastUpdateDateTime asc"}}[surface]
    window = {"$filter": f"{UPDATED[surface]} lt 2026-10-01T12:00:00Z"}
    first = await client.values(surface, FABRIKAM, window | ordered | {"$top": "3"})
    changed = ids[0] if surface == "graph" else ids[-1]
    clock.advance(5)
    desk.update_alert(changed, at=NOON + 1, status="InProgress")
    second = await client.values(surface, FABRIKAM, window | ordered | {"$top": "3", "$skip": "3"})
    assert (len(first), len(second)) == (3, 2)
    every = await client.values(surface, FABRIKAM)
    assert len(every) == len({row[KEYS[surface]] for row in every}) == 6
    assert sum(row["status"].lower() == "inprogress" for row in every) == 1


@pytest.mark.parametrize("surface", SURFACES)
async def test_ties_over_a_page(simulator, client, surface):
    """A hundred and twenty records of one instant come whole over pages of fifty, each once."""
    simulator.world.add_alert_backlog(FABRIKAM, 120, since=NOON - 5, until=NOON - 5)
    seen = []
    for skip in (0, 50, 100):
        seen += await client.values(surface, FABRIKAM, {"$top": "50", "$skip": str(skip)})
    assert len({row[KEYS[surface]] for row in seen}) == len(seen) == 120
    assert {row[UPDATED[surface]] for row in seen} == {ticks.text(NOON - 5)}


@pytest.mark.parametrize("surface", SURFACES)
async def test_planned_statuses_have_the_documented_body(simulator, client, surface):
    """Status, Retry-After and an error body; the answer after it is right again."""
    for name in ("429", "500", "503-retry", "401", "403", "404", "410"):
        simulator.plan(surface, CONTOSO, name)
        response = await client.read(surface)
        assert response.status == int(name[:3])
        assert message(response)[1]
        assert response.headers.get("Retry-After") == {"429": "7", "503-retry": "3"}.get(name)
    simulator.plan(surface, CONTOSO, "html")
    assert (await client.read(surface)).content_type == "text/html"
    assert (await client.read(surface)).status == 200


@pytest.mark.parametrize("surface", SURFACES)
async def test_faults_of_content(simulator, client, surface):
    """Empty, doubled, older, strange and partial answers, a wrong type, a foreign link, a value that is no list."""
    query = {"$top": "20"}
    right = (await client.read(surface, query=query)).json()["value"]
    answers = {}
    for name in ("empty", "twice", "older", "strange", "206", "wrong-type", "foreign-link", "not-a-list"):
        simulator.plan(surface, CONTOSO, name)
        answers[name] = await client.read(surface, query=query)
    assert answers["empty"].json()["value"] == []
    twice = answers["twice"].json()["value"]
    assert len(twice) > 20
    assert list({row[KEYS[surface]]: row for row in twice}.values()) == right
    older = answers["older"].json()["value"]
    assert older[:20] == right
    assert len(older) == 40
    for row, old in zip(right, older[20:], strict=True):
        assert ticks.parse(old[UPDATED[surface]]) < ticks.parse(row[UPDATED[surface]])
    strange = answers["strange"].json()["value"]
    assert [row for row in strange if row in right] == right
    assert None in strange
    assert answers["206"].status == 206
    assert re.fullmatch(r'199 - ".+/.+/\d+/\d+"', answers["206"].headers["Warning"])
    assert answers["206"].json()["value"] == right[::2]
    assert answers["wrong-type"].content_type == "text/plain"
    link = answers["foreign-link"].json()["@odata.nextLink"]
    assert link.startswith("https://elsewhere.invalid/")
    assert isinstance(answers["not-a-list"].json()["value"], dict)


async def test_expand_fails_for_a_tenant_as_long_as_it_is_said_to(simulator, client):
    """A standing plan answers 500 to $expand on incidents, and rightly without; other tenants are well."""
    path = "/graph/v1.0/security/incidents"
    simulator.plan("graph", CONTOSO, "expand-500", times=None)
    for _ in range(2):
        assert (await client.read("graph", CONTOSO, {"$expand": "alerts"}, path=path)).status == 500
        assert (await client.read("graph", CONTOSO, path=path)).status == 200
    assert (await client.read("graph", FABRIKAM, {"$expand": "alerts"}, path=path)).status == 200
    simulator.script.clear("graph", CONTOSO)
    assert (await client.read("graph", CONTOSO, {"$expand": "alerts"}, path=path)).status == 200


@pytest.mark.parametrize("name", ["expand-500", "foreign-link", "not-a-list"])
def test_faults_of_envelopes_are_not_for_the_siem_api(name):
    """Its answers have no envelope."""
    with pytest.raises(ValueError, match="makes no sense"):
        chaos.Script().plan("siem", CONTOSO, name)


@contextlib.asynccontextmanager
async def served(like, shown, directory, **choices):
    """A client of another simulator of the same world."""
    async with (
        server.Simulator(shown, directory=directory / "other", **choices) as other,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
    ):
        yield type(like)(other, session)


async def test_chance_strikes_every_api(shown, tmp_path, client):
    """Probabilities for API answers hold for these, too."""
    async with served(client, shown, tmp_path, chaos=chaos.Chaos(api={"500": 1.0})) as struck:
        for surface in SURFACES:
            assert (await struck.read(surface)).status == 500


async def test_choices_change_what_is_not_documented(shown, tmp_path, client):
    """Order of newest first, $orderby, quota, clamping and unknown options are for a test to say."""
    loose = defender.Choices(
        largest=5, page=2, per_minute=None, over="clamped", newest_by="update", orderby="refused"
    )
    strict = defender.Choices(largest=50, page=50, per_minute=2, undocumented="refused", retry_after=False)
    both = graph.Choices(alerts=strict, incidents=strict, expand_breaks_at=1)
    async with served(client, shown, tmp_path, mde=loose, xdr=strict, graph=both) as other:
        for _ in range(110):
            rows = await other.values("mde", query={"$top": "9"})
        times = [ticks.parse(row["lastUpdateTime"]) for row in rows]
        assert (len(times), times) == (5, sorted(times, reverse=True))
        assert (await other.read("mde", query={"$orderby": "lastUpdateTime asc"})).status == 400
        answers = [await other.read("xdr", query={"$select": "incidentId"}) for _ in range(3)]
        assert [each.status for each in answers] == [400, 400, 429]
        assert "Retry-After" not in answers[2].headers
        path = "/graph/v1.0/security/incidents"
        query = {"$expand": "alerts", "$filter": "lastUpdateDateTime ge 2026-10-01T00:00:00Z"}
        assert (await other.read("graph", query=query, path=path)).status == 500
        assert (await other.read("graph", query={"$expand": "alerts"}, path=path)).status == 200


def test_defaults_are_the_documented_limits():
    """As the reference has them."""
    documented = [mde.DOCUMENTED, xdr.DOCUMENTED, graph.ALERTS_DOCUMENTED, graph.INCIDENTS_DOCUMENTED]
    assert [(each.largest, each.over, each.per_minute, each.per_hour) for each in documented] == [
        (10_000, "refused", 100, 1500),
        (100, "refused", 50, 1500),
        (1000, "clamped", 150, None),
        (50, "refused", 150, None),
    ]


async def test_an_incident_of_two_thousand_alerts_comes_whole(client, desk):
    """Nested in XDR, expanded in Graph and paged through in …/incidents/{id}/alerts."""
    number = desk.add_incident(at=NOON - 1, alerts=2000)
    nested = (await client.values("xdr", FABRIKAM))[0]["alerts"]
    query = {"$expand": "alerts"}
    expanded = (await client.values("graph", FABRIKAM, query, path="/graph/v1.0/security/incidents"))[0][
        "alerts"
    ]
    path = f"/graph/v1.0/security/incidents/{number}/alerts"
    first = (await client.read("graph", FABRIKAM, {"$top": "5000"}, path=path)).json()
    link = first["@odata.nextLink"].removeprefix(client.simulator.url)
    second = (await client.read("graph", FABRIKAM, path=link)).json()
    assert "@odata.nextLink" not in second
    ids = {row["alertId"] for row in nested}
    assert len(ids) == 2000
    assert {row["id"] for row in expanded} == {row["id"] for row in first["value"] + second["value"]} == ids
    assert all(str(number) == row["incidentId"] for row in expanded)


async def test_raw_bytes_go_out_as_they_are(client, desk):
    """What is no JSON, names another tenant or has an odd id stands between sound records."""
    desk.add_raw({"mde": b'{"id":17,"x":"\\u0000"}', "graph": b"nonsense"}, at=NOON - 1)
    desk.add_raw({"xdr": b'{"incidentId":"' + b"9" * 3000 + b'"}'}, at=NOON - 1, kind="incidents")
    desk.add_alert(at=NOON - 2, tenant=CONTOSO)
    rows = await client.values("mde", FABRIKAM)
    assert rows[0] == {"id": 17, "x": "\0"}
    assert rows[1]["aadTenantId"] == CONTOSO
    response = await client.read("graph", FABRIKAM)
    assert b'"value":[nonsense,{' in response.body
    with pytest.raises(json.JSONDecodeError):
        response.json()
    assert len((await client.values("xdr", FABRIKAM))[0]["incidentId"]) == 3000

"""The SIEM API as documented, and the choices it states where the documents are silent."""

from __future__ import annotations

import gzip
import json
import ssl

import aiohttp
import pytest

from service.simulator import chaos, server, siem, ticks, tokens
from tests.simulator import keys

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"
FIELDS = [
    "AlertTime", "ComputerDnsName", "AlertTitle", "Category", "Severity", "AlertId", "Actor",
    "LinkToWDATP", "IocName", "IocValue", "CreatorIocName", "CreatorIocValue", "Sha1", "FileName",
    "FilePath", "IpAddress", "Url", "IoaDefinitionId", "UserName", "AlertPart", "FullId",
    "LastProcessedTimeUtc", "ThreatCategory", "ThreatFamily", "ThreatName", "RemediationAction",
    "RemediationIsSuccess", "Source", "Md5", "Sha256", "WasExecutingWhileDetected", "UserDomain",
    "LogOnUsers", "MachineDomain", "MachineName", "InternalIPv4List", "InternalIPv6List", "FileHash",
    "DeviceID", "MachineGroup", "Description", "DeviceCreatedMachineTags", "CloudCreatedMachineTags",
    "CommandLine", "IncidentLinkToWDATP", "ReportID", "LinkToMTP", "IncidentLinkToMTP", "ExternalId",
    "IocUniqueId",
]  # fmt: skip
NOON = "2026-10-01T12:00:00Z"


async def test_an_answer_is_a_bare_array_of_every_field(client):
    """Each record has exactly the documented fields, its FullId made of AlertId and IocUniqueId."""
    response = await client.alerts(CONTOSO)
    assert (response.status, response.content_type) == (200, "application/json")
    rows = response.json()
    assert rows
    for row in rows:
        assert sorted(row) == sorted(FIELDS)
        assert row["FullId"] == f"{row['AlertId']}:{row['IocUniqueId']}"
        assert ticks.text(ticks.parse(row["LastProcessedTimeUtc"])) == row["LastProcessedTimeUtc"]
        assert ticks.parse(row["AlertTime"]) < ticks.parse(row["LastProcessedTimeUtc"])
        assert row["Source"] in ("EDR", "Antivirus")
        assert row["Severity"] in ("Informational", "Low", "Medium", "High")


async def test_without_parameters_the_last_two_hours_newest_first(simulator, client):
    """The default span is two hours up to now, ordered from new to old."""
    rows = (await client.alerts(CONTOSO)).json()
    times = [ticks.parse(row["LastProcessedTimeUtc"]) for row in rows]
    assert times == sorted(times, reverse=True)
    noon = ticks.parse(NOON)
    assert noon - 2 * ticks.HOUR <= times[-1] <= times[0] <= noon
    everything = simulator.world.select(CONTOSO, noon - 2 * ticks.HOUR, noon)
    assert len(rows) == len(everything)


async def test_nothing_is_an_empty_array(client):
    """Where nothing matches the body is []."""
    assert (await client.alerts(FABRIKAM)).body == b"[]"


async def test_both_limits_are_inclusive_to_the_tick(client, file):
    """since <= LastProcessedTimeUtc <= until, compared in ticks of 100 ns."""
    before, first, last, after = (
        file(f"2026-10-01T11:{rest}Z")
        for rest in ("00:00.1234566", "00:00.1234567", "30:00", "30:00.0000001")
    )
    query = {"sinceTimeUtc": "2026-10-01T11:00:00.1234567", "untilTimeUtc": "2026-10-01T11:30:00.000"}
    assert await client.ids(FABRIKAM, query) == [last, first]
    query = {"sinceTimeUtc": "2026-10-01T11:00:00.1234566Z", "untilTimeUtc": "2026-10-01T11:30:00.0000001Z"}
    assert await client.ids(FABRIKAM, query) == [after, last, first, before]


@pytest.mark.parametrize(
    ("query", "hours"),
    [
        ({"sinceTimeUtc": "2026-10-01T09:00:00"}, [11, 10, 9]),
        ({"sinceTimeUtc": "2026-10-01T09:00:00Z"}, [11, 10, 9]),
        ({"sinceTimeUtc": "2026-10-01T11:00:00+02:00"}, [11, 10, 9]),
        ({"sinceTimeUtc": "2026-10-01T09:00:00.000", "untilTimeUtc": "2026-10-01T10:30"}, [10, 9]),
        ({"untilTimeUtc": "2026-10-01T10:30:00"}, [10]),
        ({"sinceTimeUtc": "2026-10-01"}, [11, 10, 9, 8]),
        ({"sinceTimeUtc": "2026-10-02"}, []),
        ({"sinceTimeUtc": "2026-10-01T11:00:00", "untilTimeUtc": "2026-10-01T10:00:00"}, []),
        ({"ago": "PT1H"}, [11]),
        ({"ago": "pt150m"}, [11, 10]),
        ({"ago": "P1D"}, [11, 10, 9, 8]),
        ({"ago": "P1W", "untilTimeUtc": "2026-10-01T09:00:00"}, [9, 8]),
        ({"ago": "P1D", "limit": "2"}, [11, 10]),
        ({"limit": "99"}, [11, 10]),
        ({"SINCEtimeUTC": "2026-10-01T09:00:00", "Limit": "1"}, [11]),
        ({"unknown": "x"}, [11, 10]),
    ],
)
async def test_spans_and_limits(client, file, query, hours):
    """Times with and without zone, durations and limit (the newest N) choose what the documents say."""
    for hour in (8, 9, 10, 11):
        file(f"2026-10-01T{hour:02d}:00:00Z", str(hour))
    assert [int(each) for each in await client.ids(FABRIKAM, query)] == hours


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"ago": "PT1H", "sinceTimeUtc": "2026-10-01T09:00:00"}, 400),
        ({"sinceTimeUtc": "yesterday"}, 401),
        ({"sinceTimeUtc": "2026-02-31T00:00:00"}, 401),
        ({"untilTimeUtc": ""}, 401),
        ({"ago": "P1M"}, 401),
        ({"ago": "P"}, 401),
        ({"ago": "-PT1H"}, 401),
        ({"limit": "0"}, 401),
        ({"limit": "many"}, 401),
    ],
)
async def test_malformed_requests_have_a_bare_status(client, query, status):
    """What cannot be read is refused with an empty body."""
    response = await client.alerts(FABRIKAM, query)
    assert (response.status, response.body) == (status, b"")


@pytest.mark.parametrize(
    "path", ["/api/alerts", "/api/alerts/", "/api/Alerts/", "/API/ALERTS", "/siem/api/alerts"]
)
async def test_the_path_in_any_casing(client, path):
    """Casing and a trailing slash do not matter."""
    assert (await client.get(path, headers=await client.bearer(FABRIKAM))).status == 200


async def test_other_paths_and_methods(client):
    """/api/alert does not exist, and alerts cannot be posted."""
    headers = await client.bearer(FABRIKAM)
    assert (await client.get("/api/alert", headers=headers)).status == 404
    assert (await client.post("/api/alerts", headers=headers)).status == 405


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ([("machinegroups", "A")], ["a"]),
        ([("machinegroups", "A"), ("machinegroups", "B")], ["b", "a"]),
        ([("MachineGroups", "none")], []),
        ([("DeviceCreatedMachineTags", "Kiosk")], ["b"]),
        ([("CloudCreatedMachineTags", "VIP")], ["c", "a"]),
        ([("CloudCreatedMachineTags", "Managed"), ("machinegroups", "A")], ["a"]),
        ([("CloudCreatedMachineTags", "VIP"), ("limit", "1")], ["c"]),
    ],
)
async def test_groups_and_tags(client, file, query, expected):
    """Groups are alternatives, tags one of a comma-separated list, limit counts what is left."""
    file("2026-10-01T11:01:00Z", "a", MachineGroup="A", CloudCreatedMachineTags="VIP,Managed")
    file("2026-10-01T11:02:00Z", "b", MachineGroup="B", DeviceCreatedMachineTags="Kiosk")
    file("2026-10-01T11:03:00Z", "c", MachineGroup=None, CloudCreatedMachineTags="VIP")
    assert await client.ids(FABRIKAM, query) == expected


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer rubbish"},
        {"Authorization": "Bearer e30.e30.e30"},
    ],
)
async def test_without_a_token_401(client, header):
    """No token, another scheme or rubbish is 401 with an empty body."""
    response = await client.get("/api/alerts", headers=header)
    assert (response.status, response.body) == (401, b"")


async def test_tokens_that_are_not_for_it(simulator, clock, client):
    """A foreign key, another audience, a token of the future or the past: 401; a tenant unknown or deleted: 403."""

    async def status(signer=None, ahead=0, **changes):
        claims = {"tenant_id": CONTOSO, "audience": "https://graph.windows.net", "app_id": "app", "roles": ()}
        signer = signer or simulator.signer
        token = signer.sign(**(claims | changes), now=clock() + ahead * ticks.SECOND)
        return (await client.get("/api/alerts", headers={"Authorization": f"Bearer {token}"})).status

    assert await status() == 200
    assert await status(audience="https://graph.windows.net/") == 200
    assert await status(version="2.0") == 200
    assert await status(signer=tokens.Signer(keys.pair().key)) == 401
    assert await status(audience="https://graph.microsoft.com") == 401
    assert await status(ahead=10) == 401
    assert await status(ahead=-3599) == 401
    assert await status(ahead=-3598) == 200
    assert await status(tenant_id="99999999-9999-9999-9999-999999999999") == 403
    simulator.world.tenants[CONTOSO].deleted = True
    assert await status() == 403


async def test_the_tenant_is_the_tokens(client, file):
    """One tenant's token never brings another tenant's alerts."""
    filed = file("2026-10-01T11:00:00Z")
    assert await client.ids(FABRIKAM) == [filed]
    assert filed not in await client.ids(CONTOSO)


async def test_late_arrivals_appear_when_they_are_visible(clock, client, file):
    """An alert can be read from its visible_at on, under the time it was processed."""
    late = file("2026-10-01T11:58:00Z", visible_at="2026-10-01T12:03:00Z")
    query = {"sinceTimeUtc": "2026-10-01T11:57:00", "untilTimeUtc": "2026-10-01T11:59:00"}
    assert await client.ids(FABRIKAM, query) == []
    clock.advance(179.9999999)
    assert await client.ids(FABRIKAM, query) == []
    clock.advance(0.0000001)
    assert await client.ids(FABRIKAM, query) == [late]


async def test_equal_times_are_all_there(simulator, client):
    """Five thousand detections of one instant come in one answer, each once."""
    at = ticks.parse("2026-10-01T11:00:00.1234567Z")
    simulator.world.add_backlog(FABRIKAM, 5000, since=at, until=at)
    query = {"sinceTimeUtc": "2026-10-01T11:00:00.1234567", "untilTimeUtc": "2026-10-01T11:00:00.1234567"}
    found = await client.ids(FABRIKAM, query)
    assert len(found) == len(set(found)) == 5000


async def test_bytes_go_out_as_they_were_filed(simulator, clock, client):
    """Records that are not even JSON are passed on untouched."""
    odd = [b'{"a":"\\u0000"}', b'{"b":"\\ud800"}', b'{"FullId"', b"\xff\xfe", b'{"c":1,"c":2}']
    for raw in odd:
        simulator.world.add_record(FABRIKAM, raw, at=clock(), full_id=None)
    assert (await client.alerts(FABRIKAM)).body == b"[" + b",".join(reversed(odd)) + b"]"


async def test_large_answers_are_compressed_where_accepted(simulator, clock, client):
    """gzip from 16 KiB on and only if asked for; the content is the same."""
    simulator.world.add_backlog(FABRIKAM, 3000, since=clock() - ticks.HOUR, until=clock())
    headers = await client.bearer(FABRIKAM)
    context = ssl.create_default_context(cafile=simulator.ca_file)
    connector = aiohttp.TCPConnector(ssl=context)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as raw:
        bodies = {}
        for accepted in ("gzip", "identity"):
            async with raw.get(
                f"{simulator.siem_url}/api/alerts", headers=headers | {"Accept-Encoding": accepted}
            ) as response:
                bodies[accepted] = await response.read()
                assert response.headers.get("Content-Encoding", "identity") == accepted
        small = await raw.get(f"{simulator.siem_url}/api/alerts", params={"limit": 1}, headers=headers)
        assert "Content-Encoding" not in small.headers
        await small.read()
    assert gzip.decompress(bodies["gzip"]) == bodies["identity"]
    assert len(bodies["gzip"]) * 4 < len(bodies["identity"])
    assert len(json.loads(bodies["identity"])) == 3000


async def test_the_date_header_is_the_worlds_clock_and_its_skew(simulator, client):
    """Every answer carries the Date of the world's clock, shifted by the skew."""
    assert (await client.alerts(FABRIKAM)).headers["Date"] == "Thu, 01 Oct 2026 12:00:00 GMT"
    simulator.skew = -90
    assert (await client.alerts(FABRIKAM)).headers["Date"] == "Thu, 01 Oct 2026 11:58:30 GMT"
    assert (await client.get("/api/alerts")).headers["Date"] == "Thu, 01 Oct 2026 11:58:30 GMT"


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        (siem.Choices(since_inclusive=False), ["12", "11"]),
        (siem.Choices(until_inclusive=False), ["11", "10"]),
        (siem.Choices(newest_first=False), ["10", "11", "12"]),
        (siem.Choices(cap=2), ["12", "11"]),
        (siem.Choices(reach=3600), ["12", "11"]),
    ],
)
async def test_undocumented_behaviour_can_be_chosen(shown, tmp_path, file, choices, expected):
    """Limits, order, cap and reach can be other than the usual choice."""
    for hour in (10, 11, 12):
        file(f"2026-10-01T{hour}:00:00Z", str(hour))
    async with server.Simulator(shown, directory=tmp_path / "other", choices=choices) as simulator:
        context = ssl.create_default_context(cafile=simulator.ca_file)
        token = simulator.signer.sign(
            tenant_id=FABRIKAM,
            audience="https://graph.windows.net",
            app_id="app",
            roles=(),
            now=shown.clock(),
        )
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
            session.get(
                f"{simulator.siem_url}/api/alerts",
                params={"sinceTimeUtc": "2026-10-01T10:00:00", "untilTimeUtc": "2026-10-01T12:00:00"},
                headers={"Authorization": f"Bearer {token}"},
            ) as response,
        ):
            assert [row["FullId"] for row in await response.json()] == expected


async def test_a_token_that_is_expired_on_arrival(simulator, client):
    """A planned token that claims to live but is expired is refused by the API; the next one works."""
    simulator.plan("token", CONTOSO, chaos.FAULTS["expired-token"])
    assert (await client.alerts(CONTOSO)).status == 401
    assert (await client.alerts(CONTOSO)).status == 200

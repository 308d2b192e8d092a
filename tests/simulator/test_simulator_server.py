"""Lifecycle, certificates, counters, the control surface and what the command line gets."""

from __future__ import annotations

import asyncio
import base64
import csv
import errno
import hashlib
import json
import socket
import ssl
import stat

import aiohttp
import pytest
from cryptography import x509

from service.simulator import certificates, server, standalone, ticks, world

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"


def test_certificates_cover_the_names_and_keep_the_key_private(tmp_path):
    """localhost, loopback addresses and extra names are covered; the key is 0600 and the CA's is nowhere."""
    issued = certificates.issue(tmp_path, ["simulator", "192.0.2.7"])
    names = (
        x509.load_pem_x509_certificate(issued.chain_file.read_bytes())
        .extensions.get_extension_for_class(x509.SubjectAlternativeName)
        .value
    )
    assert names.get_values_for_type(x509.DNSName) == ["localhost", "simulator"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == [
        "127.0.0.1",
        "::1",
        "192.0.2.7",
    ]
    assert stat.S_IMODE(issued.key_file.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ca.pem", "server-key.pem", "server.pem"]


def test_certificates_are_kept_while_they_serve(tmp_path):
    """The second start keeps the CA; a further name or a damaged file makes a new one."""
    first = certificates.issue(tmp_path).ca_file.read_bytes()
    assert certificates.issue(tmp_path).ca_file.read_bytes() == first
    second = certificates.issue(tmp_path, ["simulator"]).ca_file.read_bytes()
    assert second != first
    assert certificates.issue(tmp_path).ca_file.read_bytes() == second
    (tmp_path / "server-key.pem").write_text("rubbish")
    assert certificates.issue(tmp_path, ["simulator"]).ca_file.read_bytes() != second


async def test_it_starts_again_on_its_port_with_its_ca(shown, tmp_path):
    """A stopped simulator can be started again: clients that trust it notice nothing but old tokens."""
    async with server.Simulator(shown, directory=tmp_path) as first:
        context = ssl.create_default_context(cafile=first.ca_file)
        with pytest.raises(OSError, match="address already in use"):
            await server.Simulator(shown, directory=tmp_path, port=first.port).__aenter__()
    async with (
        server.Simulator(shown, directory=tmp_path, port=first.port) as second,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session,
        session.get(f"{second.url}/api/alerts") as response,
    ):
        assert (first.url, response.status) == (second.url, 401)


async def test_what_it_writes_is_there_before_anybody_can_connect(shown, tmp_path):
    """`prepare` knows the real port while connections are still refused, and they are taken after it."""
    seen = []

    def prepare(simulator: server.Simulator) -> None:
        with socket.socket() as early:
            seen.append((simulator.port, early.connect_ex(("127.0.0.1", simulator.port))))

    async with server.Simulator(shown, directory=tmp_path, prepare=prepare) as running:
        assert seen == [(running.port, errno.ECONNREFUSED)]
        with socket.socket() as late:
            assert late.connect_ex(("127.0.0.1", running.port)) == 0


async def test_further_host_names(shown, tmp_path):
    """On all interfaces and under another name, as in a container, the certificate fits that name."""
    async with server.Simulator(shown, directory=tmp_path, host="0.0.0.0", names=["simulator"]) as running:
        assert running.url == f"https://simulator:{running.port}"
        context = ssl.create_default_context(cafile=running.ca_file)
        _, writer = await asyncio.open_connection(
            "127.0.0.1", running.port, ssl=context, server_hostname="simulator"
        )
        writer.close()
        await writer.wait_closed()


async def test_counters(simulator, client):
    """Requests are counted by kind and tenant, records as they are sent."""
    rows = (await client.alerts(CONTOSO)).json()
    await client.alerts(CONTOSO)
    simulator.plan("siem", CONTOSO, "500")
    await client.alerts(CONTOSO)
    await client.get("/api/alerts")
    await client.get("/nothing")
    assert simulator.counters == {
        "token": 3,
        "siem": 4,
        "siem_records": 2 * len(rows),
        "fault:status": 1,
        "status:500": 1,
        "siem:401": 1,
        "elsewhere": 1,
    }
    assert simulator.siem_requests == {CONTOSO: 3}
    assert simulator.token_requests == {CONTOSO: 3}


async def test_waiting_for_a_counter(simulator, client):
    """`reached` returns when the counter gets there, and at once where it has been."""
    waiting = asyncio.create_task(simulator.reached("siem", 2))
    await client.alerts(FABRIKAM)
    assert not waiting.done()
    await client.alerts(FABRIKAM)
    await waiting
    await simulator.reached("siem", 1)


async def test_control_tells_the_truth(simulator, client):
    """/_sim/truth names every FullId with its digest, and its bytes if asked for."""
    truth = simulator.world.truth(CONTOSO)
    response = await client.get("/_sim/truth", params={"tenant": CONTOSO, "raw": "1"})
    lines = [json.loads(line) for line in response.body.splitlines()]
    assert {line["full_id"]: base64.b64decode(line["raw"]) for line in lines} == truth
    assert all(line["sha256"] == hashlib.sha256(truth[line["full_id"]]).hexdigest() for line in lines)
    short = await client.get("/_sim/truth", params={"tenant": CONTOSO})
    assert [*json.loads(short.body.splitlines()[0])] == ["full_id", "sha256"]


async def test_control_shows_the_state(simulator, client):
    """/_sim/state lists tenants; for one of them it says what is visible."""
    state = (await client.get("/_sim/state")).json()
    assert state["now"] == "2026-10-01T12:00:00Z"
    assert [each["name"] for each in state["tenants"]] == ["Contoso", "Fabrikam"]
    one = (await client.get("/_sim/state", params={"tenant": CONTOSO})).json()["tenants"]
    assert one[0]["visible"]["full_ids"] == len(simulator.world.full_ids(CONTOSO))


async def test_control_changes_chaos_and_files_backlogs(client):
    """Probabilities, plans and backlogs can be set from another process."""
    change = {
        "api": {"500": 1.0},
        "plan": [{"surface": "siem", "tenant": CONTOSO, "fault": "404", "times": 2}],
    }
    assert (await client.post("/_sim/chaos", json=change)).json()["planned"] == 1
    assert [(await client.alerts(CONTOSO)).status for _ in range(3)] == [404, 404, 500]
    await client.post("/_sim/chaos", json={"api": {}, "clear": True})
    backlog = {
        "tenant": FABRIKAM,
        "count": 300,
        "since": "2026-10-01T11:00:00Z",
        "until": "2026-10-01T12:00:00Z",
    }
    assert (await client.post("/_sim/backlog", json=backlog)).json() == {"added": 300}
    assert len(await client.ids(FABRIKAM)) == 300


async def test_control_knows_the_other_apis(simulator, client):
    """Truth of alerts and incidents, backlogs of alerts, requests and plans, by API."""
    backlog = {
        "tenant": FABRIKAM,
        "count": 12,
        "since": "2026-09-30",
        "until": "2026-10-01",
        "per_incident": 4,
    }
    assert (await client.post("/_sim/backlog", json=backlog)).json() == {"added": 12}
    for api, kind, count in (("mde", "alerts", 12), ("xdr", "incidents", 3), ("graph", "alerts", 12)):
        query = {"tenant": FABRIKAM, "api": api, "kind": kind, "raw": "1"}
        lines = (await client.get("/_sim/truth", params=query)).body.splitlines()
        assert len(lines) == count
        told = simulator.world.truth_incidents if kind == "incidents" else simulator.world.truth_alerts
        held = {row["full_id"]: base64.b64decode(row["raw"]) for row in map(json.loads, lines)}
        assert held == told(FABRIKAM, api)
    assert (await client.get("/_sim/truth", params={"tenant": FABRIKAM, "api": "x"})).status == 400
    plan = {"plan": [{"surface": "graph", "tenant": FABRIKAM, "fault": "expand-500", "times": None}]}
    assert (await client.post("/_sim/chaos", json=plan)).status == 200
    query = {"$expand": "alerts"}
    assert (await client.read("graph", FABRIKAM, query, path="/graph/v1.0/security/incidents")).status == 500
    one = (await client.get("/_sim/state", params={"tenant": FABRIKAM})).json()["tenants"][0]
    assert one["api_requests"] == {"mde": 0, "xdr": 0, "graph": 1}


async def test_control_tells_since_when_things_are_shown(simulator, client, clock):
    """Sightings have what the truth has, each with its newest version and since when; a world held still shows no more."""
    now = clock()
    simulator.world.add_record(CONTOSO, b'{"FullId":"later"}', at=now, full_id="later", visible_at=now + 5)
    clock.advance(1)
    plan = {"surface": "siem", "tenant": CONTOSO, "times": None}
    await client.post("/_sim/chaos", json={"plan": [{**plan, "fault": "500"}]})
    assert (await client.alerts(CONTOSO)).status == 500
    await client.post("/_sim/chaos", json={"plan": [{**plan, "fault": None}]})
    assert (await client.alerts(CONTOSO)).status == 200
    for query in (
        {"tenant": CONTOSO},
        {"tenant": FABRIKAM, "api": "mde"},
        {"tenant": FABRIKAM, "api": "xdr", "kind": "incidents"},
    ):
        seen = [*map(json.loads, (await client.get("/_sim/sightings", params=query)).body.splitlines())]
        truth = [*map(json.loads, (await client.get("/_sim/truth", params=query)).body.splitlines())]
        assert {each["id"] for each in seen} == {each["full_id"] for each in truth}
        assert all(each["first"] <= each["visible"] <= clock() for each in seen)
    query = {"tenant": CONTOSO, "at": str(now)}
    before = [*map(json.loads, (await client.get("/_sim/sightings", params=query)).body.splitlines())]
    assert "later" not in {each["id"] for each in before}
    assert (await client.post("/_sim/still", json={})).json() == {"now": ticks.text(clock())}
    simulator.world.add_record(CONTOSO, b'{"FullId":"never"}', at=clock() + 1, full_id="never")
    clock.advance(10)
    shown = await client.ids(CONTOSO)
    assert "later" in shown
    assert "never" not in shown


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/_sim/chaos", b"{"),
        ("/_sim/chaos", b'{"unknown":1}'),
        ("/_sim/chaos", b'{"api":{"nonsense":1}}'),
        ("/_sim/chaos", b'{"plan":[{"surface":"siem","tenant":"x","fault":"nonsense"}]}'),
        ("/_sim/chaos", b'{"api":{"500":1},"plan":[{"surface":"siem","tenant":"x","fault":"no-roles"}]}'),
        ("/_sim/backlog", b'{"tenant":"nobody","count":1,"since":"2026-10-01","until":"2026-10-01"}'),
        ("/_sim/backlog", b'{"tenant":"contoso.onmicrosoft.com","count":1,"since":"x","until":"2026-10-01"}'),
    ],
)
async def test_control_refuses_what_does_not_fit(client, path, body):
    """A bad body is 400 with what is wrong, and changes nothing."""
    response = await client.post(path, data=body)
    assert response.status == 400
    assert response.json()["error"]
    assert (await client.alerts(CONTOSO)).status == 200


async def test_control_is_off_unless_asked_for(shown, tmp_path):
    """Without control /_sim/ is a page like any other that does not exist."""
    async with (
        server.Simulator(shown, directory=tmp_path) as simulator,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session,
        session.get(f"{simulator.url}/_sim/state") as response,
    ):
        assert response.status == 404


async def test_serve_tells_a_collector_what_it_needs(tmp_path):
    """The settings, tenants.csv and secrets that are written name a simulator that works, until it is cancelled."""
    shown = world.World(5, ticks.HandClock("2026-10-01T12:00:00Z"))
    shown.populate(3)
    own = shown.add_tenant(FABRIKAM, "Fabrikam, Inc.", own_app=True)
    lines: asyncio.Queue[str] = asyncio.Queue()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    serving = asyncio.create_task(
        standalone.serve(shown, directory=tmp_path / "new", port=port, write=lines.put_nowait)
    )
    written = [await lines.get() for _ in range(9)]
    settings = dict(line.split("=", 1) for line in written[:8])
    assert [*settings] == [
        "ALERTWELL_AUTHORITY_URL",
        "ALERTWELL_SIEM_URL",
        "ALERTWELL_MDE_URL",
        "ALERTWELL_XDR_URL",
        "ALERTWELL_GRAPH_URL",
        "ALERTWELL_CA_FILE",
        "ALERTWELL_CLIENT_ID",
        "ALERTWELL_CLIENT_SECRET_FILE",
    ]
    assert (tmp_path / "new" / "settings.env").read_text().splitlines() == written[:8]
    assert written[8] == f"# 4 tenants: {tmp_path / 'new' / 'tenants.csv'}"
    with (tmp_path / "new" / "tenants.csv").open(newline="") as file:
        rows = [*csv.DictReader(file)]
    assert [row["tenant_id"] for row in rows] == [*shown.tenants]
    assert (rows[3]["name"], rows[3]["client_id"]) == ("Fabrikam, Inc.", own.app.app_id)
    assert (rows[0]["client_id"], rows[0]["secret_file"]) == ("", "")
    secret_file = tmp_path / "new" / "client_secret"
    assert settings["ALERTWELL_CLIENT_SECRET_FILE"] == str(secret_file)
    assert secret_file.with_name("client_id").read_text().strip() == settings["ALERTWELL_CLIENT_ID"]
    assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600
    assert shown.app.secret not in "".join(written)
    context = ssl.create_default_context(cafile=settings["ALERTWELL_CA_FILE"])
    form = {
        "grant_type": "client_credentials",
        "client_id": settings["ALERTWELL_CLIENT_ID"],
        "client_secret": secret_file.read_text(),
        "resource": "https://graph.windows.net",
    }
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        url = f"{settings['ALERTWELL_AUTHORITY_URL']}/{rows[0]['tenant_id']}/oauth2/token"
        async with session.post(url, data=form) as response:
            token = (await response.json())["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        async with session.get(f"{settings['ALERTWELL_SIEM_URL']}/api/alerts", headers=headers) as response:
            assert response.status == 200
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving

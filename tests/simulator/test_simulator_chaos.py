"""Faults of answers, planned one by one and drawn by chance."""

from __future__ import annotations

import asyncio
import collections
import json
import zlib

import aiohttp
import pytest

from service.simulator import chaos, runs, server, ticks, world

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"


@pytest.mark.parametrize(
    ("name", "status", "header"),
    [
        ("429", 429, ("Retry-After", "7")),
        ("429-date", 429, ("Retry-After", "Thu, 01 Oct 2026 12:00:07 GMT")),
        ("429-bare", 429, ("Retry-After", None)),
        ("503-retry", 503, ("Retry-After", "3")),
        *(
            (str(status), status, ("Retry-After", None))
            for status in (204, 401, 403, 404, 410, 500, 502, 503, 504)
        ),
        ("301", 301, ("Location", "https://elsewhere.invalid/api/alerts")),
        ("302", 302, ("Location", "https://elsewhere.invalid/api/alerts")),
    ],
)
async def test_a_status_in_place_of_the_answer(simulator, client, name, status, header):
    """The status, its header and an empty body; the answer after it is right again."""
    simulator.plan("siem", CONTOSO, name)
    response = await client.alerts(CONTOSO)
    assert (response.status, response.headers.get(header[0]), response.body) == (status, header[1], b"")
    assert (await client.alerts(CONTOSO)).status == 200


async def test_html_in_place_of_the_answer(simulator, client):
    """A page with 200 or with 503."""
    simulator.plan("siem", CONTOSO, "html")
    simulator.plan("siem", CONTOSO, "503-html")
    for status in (200, 503):
        response = await client.alerts(CONTOSO)
        assert (response.status, response.content_type) == (status, "text/html")
        assert response.body.startswith(b"<!DOCTYPE html>")


async def test_resets(simulator, client):
    """The connection is dropped before the answer or inside the body; the next request works."""
    # Twice, as aiohttp asks once more by itself where a kept connection is dropped without an answer.
    simulator.plan("siem", CONTOSO, "reset", times=2)
    with pytest.raises(aiohttp.ClientConnectionError):
        await client.alerts(CONTOSO)
    for tenant_id in (CONTOSO, FABRIKAM):
        simulator.plan("siem", tenant_id, "reset-inside")
        headers = await client.bearer(tenant_id)
        with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ClientConnectionError)):
            await client.get("/api/alerts", headers=headers)
    assert (await client.alerts(CONTOSO)).status == 200


async def test_a_hang_lasts_until_the_client_gives_up(simulator, client):
    """No byte comes; other requests are answered meanwhile."""
    simulator.plan("siem", CONTOSO, "hang")
    headers = await client.bearer(CONTOSO)
    hanging = asyncio.create_task(client.get("/api/alerts", headers=headers))
    await simulator.reached("fault:hang", 1)
    assert (await client.alerts(CONTOSO)).status == 200
    assert not hanging.done()
    hanging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hanging


async def test_a_hang_ends_with_the_simulator(shown, tmp_path):
    """Closing the simulator cuts off whoever still waits."""
    simulator = server.Simulator(shown, directory=tmp_path / "own")
    simulator.plan("metadata", CONTOSO, "hang")
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
        async with simulator:
            url = f"{simulator.url}/{CONTOSO}/v2.0/.well-known/openid-configuration"
            hanging = asyncio.create_task(session.get(url))
            await simulator.reached("fault:hang", 1)
        with pytest.raises(aiohttp.ClientConnectionError):
            await hanging


@pytest.mark.parametrize("accepted", ["gzip", "identity"])
async def test_a_truncated_body_is_sound_http_and_unsound_json(simulator, client, accepted):
    """The body ends half-way and the transfer does not say so."""
    for tenant_id in (CONTOSO, FABRIKAM):
        simulator.plan("siem", tenant_id, "truncated")
        response = await client.alerts(tenant_id, headers={"Accept-Encoding": accepted})
        assert response.status == 200
        assert response.body.startswith(b"[")
        with pytest.raises(json.JSONDecodeError):
            response.json()


async def test_a_slow_body_comes_whole(simulator, client):
    """The body arrives in pieces and is complete."""
    simulator.plan("siem", CONTOSO, chaos.Fault("slow", seconds=0.1))
    slow = await client.alerts(CONTOSO)
    assert slow.json() == (await client.alerts(CONTOSO)).json()


async def test_wrong_type_and_partial(simulator, client):
    """The right body as text/plain, and as 206 with a Warning."""
    right = (await client.alerts(CONTOSO)).body
    simulator.plan("siem", CONTOSO, "wrong-type")
    simulator.plan("siem", CONTOSO, "206")
    wrong, partial = await client.alerts(CONTOSO), await client.alerts(CONTOSO)
    assert (wrong.status, wrong.content_type, wrong.body) == (200, "text/plain", right)
    assert (partial.status, "Warning" in partial.headers, partial.body) == (206, True, right)


async def test_a_gzip_bomb_is_small_on_the_wire_and_valid(simulator, client):
    """Some kilobytes that decompress to megabytes of JSON blanks."""
    simulator.plan("siem", CONTOSO, chaos.Fault("bomb", size=8 * 1024 * 1024))
    headers = await client.bearer(CONTOSO)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False), auto_decompress=False) as raw:
        response = await raw.get(f"{simulator.siem_url}/api/alerts", headers=headers)
        packed = await response.read()
    assert len(packed) < 100_000
    assert json.loads(zlib.decompress(packed, 31)) == []


async def test_a_wrongly_empty_answer(simulator, client):
    """[] although there are alerts."""
    simulator.plan("siem", CONTOSO, "empty")
    assert (await client.alerts(CONTOSO)).body == b"[]"


async def test_records_twice_older_and_strange(simulator, client):
    """Doubled ids, replayed older versions and records of wrong shape leave the truth derivable from the answer."""
    right = (await client.alerts(CONTOSO)).json()
    for fault in ("twice", "older", "strange"):
        simulator.plan("siem", CONTOSO, fault)
    twice, older, strange = [(await client.alerts(CONTOSO)).json() for _ in range(3)]
    assert len(twice) > len(right)
    assert list({row["FullId"]: row for row in twice}.values()) == right
    assert older[: len(right)] == right
    newest = {row["FullId"]: row for row in right}
    for row in older[len(right) :]:
        assert ticks.parse(row["LastProcessedTimeUtc"]) < ticks.parse(
            newest[row["FullId"]]["LastProcessedTimeUtc"]
        )
        assert row["Description"] == "An earlier version."
    assert len(older) > len(right)
    assert [row for row in strange if row in right] == right
    assert len(strange) == 2 * len(right)
    assert None in strange


async def test_plans_stand_queue_and_are_cleared(simulator, client):
    """A standing fault yields to queued ones, None among them, and ends when cleared."""
    simulator.plan("siem", CONTOSO, "500", times=None)
    simulator.plan("siem", CONTOSO, "502")
    simulator.plan("siem", CONTOSO, None)
    headers = await client.bearer(CONTOSO)
    seen = [(await client.get("/api/alerts", headers=headers)).status for _ in range(4)]
    assert seen == [502, 200, 500, 500]
    other = await client.bearer(FABRIKAM)
    assert (await client.get("/api/alerts", headers=other)).status == 200
    simulator.script.clear("siem", CONTOSO)
    assert (await client.get("/api/alerts", headers=headers)).status == 200


@pytest.mark.parametrize(
    ("surface", "fault"), [("siem", "no-roles"), ("token", "twice"), ("metadata", "empty")]
)
def test_faults_have_their_place(surface, fault):
    """A plan that could not do anything is refused."""
    with pytest.raises(ValueError, match="makes no sense"):
        chaos.Script().plan(surface, CONTOSO, fault)


async def test_a_client_that_leaves_is_no_error(simulator, clock, client, caplog):
    """Nothing is logged where a client closes in the middle of a large answer."""
    simulator.world.add_backlog(FABRIKAM, 20_000, since=clock() - ticks.HOUR, until=clock())
    headers = await client.bearer(FABRIKAM)
    async with client.session.get(f"{simulator.siem_url}/api/alerts", headers=headers) as response:
        await response.content.readany()
        response.close()
    assert len(await client.ids(FABRIKAM, {"limit": "5"})) == 5
    assert caplog.records == []


def test_chance_is_deterministic_and_about_as_often_as_said():
    """One seed draws one series, near its probabilities; metadata is left alone."""
    drawn = []
    for _ in range(2):
        script = chaos.Script(chaos.Chaos(api={"500": 0.2, "429": 0.1}, seed=5))
        drawn.append([script.take("siem", CONTOSO) for _ in range(5000)])
        assert script.take("metadata", CONTOSO) is None
        assert script.take("token", CONTOSO) is None
    assert drawn[0] == drawn[1]
    counts = collections.Counter(fault.status for fault in drawn[0] if fault)
    assert 900 < counts[500] < 1100
    assert 420 < counts[429] < 580


@pytest.mark.parametrize(
    "shares", [{"nonsense": 0.1}, {"500": 1.2}, {"500": -0.1}, {"500": 0.6, "429": 0.6}, {"no-roles": 1}]
)
def test_bad_probabilities_are_refused(shares):
    """Unknown names and impossible shares are a ValueError."""
    with pytest.raises(ValueError, match=r"no such fault|probabilities|no sense"):
        chaos.Chaos(api=shares)


async def test_under_passing_chaos_a_patient_reader_ends_with_the_truth(tmp_path):
    """Every fault of PASSING can be got over by asking again and keeping the newest version of each id."""
    clock = ticks.HandClock("2026-10-01T12:00:00Z")
    shown = world.World(7, clock, runs.Quirks(late_share=0.1, revised_share=0.1, tied_share=0.1))
    shown.add_tenant(CONTOSO, "Contoso", rate=1.0, history=3600.0)
    faults = chaos.Chaos(api={name: 0.9 / len(chaos.PASSING) for name in chaos.PASSING if name != "slow"})
    held = {}
    async with server.Simulator(shown, directory=tmp_path, chaos=faults) as simulator:
        token = simulator.signer.sign(
            tenant_id=CONTOSO, audience="https://graph.windows.net", app_id="app", roles=(), now=clock()
        )
        headers = {"Authorization": f"Bearer {token}"}
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False)) as session:
            for _ in range(120):
                try:
                    async with session.get(
                        f"{simulator.siem_url}/api/alerts", headers=headers, allow_redirects=False
                    ) as response:
                        rows = json.loads(await response.read()) if response.status == 200 else []
                except (aiohttp.ClientError, json.JSONDecodeError):
                    continue
                for row in rows:
                    try:
                        full_id, at = row["FullId"], ticks.parse(row["LastProcessedTimeUtc"])
                    except (TypeError, KeyError, ValueError):
                        continue
                    if full_id and isinstance(full_id, str) and at >= held.get(full_id, (0,))[0]:
                        held[full_id] = at, row
    truth = shown.truth(CONTOSO)
    assert {full_id: row for full_id, (_, row) in held.items()} == {
        full_id: json.loads(record) for full_id, record in truth.items()
    }
    assert sum(count for name, count in simulator.counters.items() if name.startswith("fault:")) > 60

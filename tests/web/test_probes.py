from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from service import errors, metrics, model
from service.web import healthcheck, probes
from service.web import server as web_server

GOOD = [probes.Check("scheduler", ok=True, detail="0.2 s ago")]


@pytest.fixture
def measured() -> metrics.Metrics:
    return metrics.Metrics("1.2.3")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


def serving(measured, live=lambda: GOOD, ready=lambda: GOOD, port=0) -> web_server.Server:
    return web_server.Server(
        "127.0.0.1", port, web_server.application(probes.Probes(live=live, ready=ready), measured)
    )


async def test_checks_decide_the_status(measured, session):
    """200 where every check is good, 503 where one is not; the checks stand in the answer, in both cases."""
    bad = [*GOOD, probes.Check("database", ok=False, detail="cannot be reached")]
    async with serving(measured, ready=lambda: bad) as server:
        async with session.get(f"http://127.0.0.1:{server.port}/livez") as live:
            assert live.status == 200
            assert await live.json() == {
                "status": "ok",
                "checks": [{"name": "scheduler", "ok": True, "detail": "0.2 s ago"}],
            }
        async with session.get(f"http://127.0.0.1:{server.port}/readyz") as ready:
            assert ready.status == 503
            body = await ready.json()
            assert body["status"] == "failing"
            assert [check["ok"] for check in body["checks"]] == [True, False]


async def test_a_check_that_breaks_is_a_failed_check(measured, session):
    """The error of a broken probe is in the log, not in the answer."""

    def broken() -> list[probes.Check]:
        raise RuntimeError("hunter2")

    with structlog.testing.capture_logs() as logged:
        async with (
            serving(measured, live=broken) as server,
            session.get(f"http://127.0.0.1:{server.port}/livez") as answer,
        ):
            assert answer.status == 503
            assert "hunter2" not in await answer.text()
    assert "probe_broke" in [line["event"] for line in logged]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/livez", 200),
        ("HEAD", "/metrics", 200),
        ("GET", "/", 404),
        ("GET", "/livez/x", 404),
        ("GET", "/%2e%2e/etc/passwd", 404),
        ("POST", "/nothing", 404),
        ("POST", "/livez", 405),
        ("DELETE", "/metrics", 405),
        ("OPTIONS", "/readyz", 405),
    ],
)
async def test_only_known_paths_and_reading(method, path, status, measured, session):
    """Anything but GET and HEAD of the three paths is a JSON error that repeats nothing of the request."""
    async with (
        serving(measured) as server,
        session.request(method, f"http://127.0.0.1:{server.port}{path}?hunter2") as answer,
    ):
        assert answer.status == status
        assert "Server" not in answer.headers
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        if status >= 400:
            assert await answer.json() == {"error": {404: "not found", 405: "method not allowed"}[status]}


async def test_a_request_that_is_not_http(measured, caplog):
    """Garbage gets a 400 without anything of the inside and no line in the log, and the server goes on."""
    async with serving(measured) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"\x16\x03\x01 hunter2\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()

        assert b" 400 " in answer.splitlines()[0]
        assert b"Traceback" not in answer
        assert [record.name for record in caplog.records if record.levelname == "ERROR"] == []
        assert await asyncio.to_thread(healthcheck.check, healthcheck.url("127.0.0.1", server.port))


async def test_metrics_are_exposed(measured, session):
    """What was counted is there in Prometheus' text format, with the process's own metrics."""
    source, service = measured.source("siem"), measured.service("siem")
    source.poll("complete")
    source.poll("complete")
    source.poll("throttled")
    source.counts(model.Counts(items=6, inserted=3, updated=2, rejected=1))
    source.counts(model.Counts())
    source.rejected(1)
    service.request(200, 0.2, 1000)
    service.request("timeout", 60.0)
    async with serving(measured) as server, session.get(f"http://127.0.0.1:{server.port}/metrics") as answer:
        assert answer.content_type == "text/plain"
        text = await answer.text()

    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["alertwell_polls_total", "complete", "siem"] == 2
    assert samples["alertwell_polls_total", "siem", "throttled"] == 1
    assert samples["alertwell_items_total", "siem"] == 6
    assert samples["alertwell_rejects_total", "siem"] == 1
    results = [samples["alertwell_alerts_total", *sorted(["siem", result])] for result in metrics.RESULTS]
    assert results == [3, 2, 0, 0, 0, 1]
    assert samples["alertwell_requests_total", "200", "siem"] == 1
    assert samples["alertwell_request_seconds_count", "siem"] == 2
    assert samples["alertwell_body_bytes_total", "siem"] == 1000
    assert samples["alertwell_streams", "retired"] == 0
    assert samples["alertwell_build_info", "1.2.3"] == 1
    assert ("process_cpu_seconds_total",) in samples


def test_every_metric_of_the_design_is_declared(measured):
    """Names are a contract with dashboards; each has a help text, none a label for tenants."""
    names = [
        "polls",
        "alerts",
        "items",
        "requests",
        "request_seconds",
        "body_bytes",
        "bytes_in_flight",
        "polls_running",
        "poll_lag_seconds",
        "poll_seconds",
        "streams",
        "data_age_seconds_max",
        "gap_seconds_total",
        "feed_unnumbered",
        "feed_oldest_unnumbered_seconds",
        "owned_tenants",
        "replicas",
        "database_up",
        "rejects",
        "tokens",
        "leases_lost",
        "clock_skew_seconds",
        "build",
    ]

    families = {family.name: family for family in measured.registry.collect()}

    assert [name for name in names if f"alertwell_{name}" not in families] == []
    assert [name for name, family in families.items() if not family.documentation] == []
    labels = {label for family in families.values() for sample in family.samples for label in sample.labels}
    assert [label for label in labels if "tenant" in label] == []


def test_two_metrics_do_not_share_anything():
    """A second composition root in one process starts at nought."""
    first, second = metrics.Metrics("a"), metrics.Metrics("b")

    first.leases_lost.inc()

    assert second.registry.get_sample_value("alertwell_leases_lost_total") == 0


async def test_a_port_in_use_is_a_bad_setting(measured):
    """The line names ALERTWELL_HTTP_PORT and what to do, and nothing is left open."""
    async with serving(measured) as server:
        with pytest.raises(
            errors.BadSetting, match=rf"ALERTWELL_HTTP_PORT={server.port} is in use on 127.0.0.1"
        ):
            await serving(measured, port=server.port).__aenter__()


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_an_address_of_others_is_a_bad_setting(host, measured):
    """An address that is not this machine's, or no address, names ALERTWELL_HTTP_HOST."""
    nothing = probes.Probes(live=lambda: GOOD, ready=lambda: GOOD)
    with pytest.raises(errors.BadSetting, match=f"ALERTWELL_HTTP_HOST='{host}'"):
        await web_server.Server(host, 0, web_server.application(nothing, measured)).__aenter__()


async def test_the_port_is_free_afterwards(measured):
    """The end closes the socket: the same port can be taken at once, and each start is logged."""
    with structlog.testing.capture_logs() as logged:
        async with serving(measured) as first:
            pass
        async with serving(measured, port=first.port) as second:
            assert second.port == first.port > 0
    assert [line["port"] for line in logged if line["event"] == "http_listening"] == [first.port] * 2


async def test_healthcheck_says_what_livez_says(measured):
    """True for 200, False for 503, for a wrong path and where nobody listens."""
    async with serving(measured) as server:
        assert await asyncio.to_thread(healthcheck.check, healthcheck.url("0.0.0.0", server.port))
        assert not await asyncio.to_thread(
            healthcheck.check, healthcheck.url("127.0.0.1", server.port, "/other")
        )
    assert not await asyncio.to_thread(healthcheck.check, healthcheck.url("127.0.0.1", server.port))
    async with serving(measured, live=lambda: [probes.Check("x", ok=False)]) as server:
        assert not await asyncio.to_thread(healthcheck.check, healthcheck.url("localhost", server.port))


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:1/livez"),
        ("0.0.0.0", "http://127.0.0.1:1/livez"),
        ("10.1.2.3", "http://10.1.2.3:1/livez"),
        ("::", "http://[::1]:1/livez"),
        ("fd00::1", "http://[fd00::1]:1/livez"),
        ("localhost", "http://localhost:1/livez"),
    ],
)
def test_the_address_for_a_healthcheck(host, address):
    """A server on all addresses is asked on the loopback one."""
    assert healthcheck.url(host, 1) == address


@pytest.mark.parametrize(("age", "ok"), [(None, False), (0.0, True), (15.0, True), (15.1, False)])
def test_fresh(age, ok):
    """Something that never happened, or too long ago, is not fresh."""
    assert probes.fresh("heartbeat", age, 15.0).ok is ok

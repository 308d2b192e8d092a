"""The client against real HTTP over TLS: a raw server for what a server can do wrong, the simulator for the whole way."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import socket
import ssl
import traceback
import uuid
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import stamina
import structlog
import trustme
from aiohttp import abc, web

from service import clouds, errors, model
from service.auth import modes, tokens
from service.simulator import server, world
from service.transport import budget, client, pace

TENANT = uuid.UUID("11111111-1111-1111-1111-111111111111")
CONTOSO = model.Access(model.Tenant(TENANT, "Contoso", region="eu"))
GET = model.Request("siem", "/api/alerts", (("sinceTimeUtc", "2026-10-01T00:00:00.000Z"),))
MIB = 1024 * 1024

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Purse:
    """Tokens t1, t2 …: the next one where the last was discarded."""

    def __init__(self) -> None:
        self.number = 1
        self.discarded: list[str] = []

    async def token(self, _access: model.Access, _service: str) -> str:
        return f"t{self.number}"

    def discard(self, _access: model.Access, _service: str, token: str) -> None:
        self.discarded.append(token)
        self.number += 1


class Api:
    """A server that answers what a test says: one handler after the other, the last one for ever."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []
        self.seen: list[web.Request] = []
        self.url = ""
        self.ca_file = Path()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        handler = self.handlers.pop(0) if len(self.handlers) > 1 else self.handlers[0]
        return await handler(request)


@pytest.fixture(autouse=True)
def no_backoff() -> Iterator[None]:
    """Quick retries come at once."""
    with stamina.set_testing(testing=True, attempts=3):
        yield


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    """A running server."""
    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    made = Api()
    made.ca_file = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(made.ca_file))
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    made.url = f"https://localhost:{runner.addresses[0][1]}"
    yield made
    await runner.cleanup()


@pytest.fixture
async def session(api: Api) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that trusts the server."""
    async with client.open_session(api.ca_file) as opened:
        yield opened


@pytest.fixture
def purse() -> Purse:
    """Tokens without an Entra."""
    return Purse()


@pytest.fixture
def bytes_() -> budget.ByteBudget:
    """4 MiB for all, 1 MiB for one."""
    return budget.ByteBudget(4 * MIB, MIB)


@pytest.fixture
def sender(
    api: Api, session: aiohttp.ClientSession, purse: Purse, bytes_: budget.ByteBudget
) -> client.Client:
    """The client under test."""
    return client.Client(session, purse, clouds.Endpoints({"siem": api.url}), bytes_)


def answering(body: bytes = b"[]", status: int = 200, **headers: str) -> Handler:
    async def handle(_request: web.Request) -> web.Response:
        named = {"Content-Type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
        return web.Response(status=status, body=body, headers=named)

    return handle


async def cut(request: web.Request) -> web.StreamResponse:
    """Ends the connection without an answer."""
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def cut_inside(request: web.Request) -> web.StreamResponse:
    """Promises more than it sends."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b"[1,")
    assert request.transport is not None
    request.transport.close()
    return response


async def get(sender: client.Client, request: model.Request = GET) -> model.Answer:
    async with sender.send(CONTOSO, request) as answer:
        return answer


async def fails(sender: client.Client, request: model.Request = GET) -> errors.PollFailure:
    with pytest.raises(errors.PollFailure) as failed:
        await get(sender, request)
    return failed.value


async def test_request_and_answer(api: Api, sender: client.Client) -> None:
    """The request goes out as the source describes it, the answer comes back whole with the server's clock."""
    api.handlers = [answering(b'[{"a":1}]', Date="Thu, 01 Oct 2026 08:30:00 GMT")]
    request = model.Request(
        "siem",
        "/api/alerts",
        (("machinegroups", "A & B"), ("machinegroups", "C+D/é"), ("$top", "2026-10-01T00:00:00Z")),
        (("Prefer", "x"), ("authorization", "Bearer stolen")),
    )
    answer = await get(sender, request)
    assert answer == model.Answer(b'[{"a":1}]', datetime(2026, 10, 1, 8, 30, tzinfo=UTC), api.url)
    seen = api.seen[0]
    assert seen.query.getall("machinegroups") == ["A & B", "C+D/é"]
    assert "$top=2026-10-01T00:00:00Z" in seen.path_qs
    assert "%20" in seen.path_qs
    assert seen.headers["Prefer"] == "x"
    assert seen.headers.getall("Authorization")[-1] == "Bearer t1"
    assert seen.headers["Accept-Encoding"] == "gzip, deflate"
    assert seen.headers["User-Agent"] == "alertwell"


async def test_a_link_goes_out_word_for_word(api: Api, sender: client.Client) -> None:
    """A path with a query of its own, as a source makes it of the service's link, is sent as it is."""
    api.handlers = [answering(b"[]")]
    path = "/v1.0/security/alerts_v2?$top=1&$skiptoken=a+b%2Fc%252B=='"
    await get(sender, model.Request("siem", path))
    assert api.seen[0].raw_path == path


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)]
)
async def test_encodings(
    api: Api, sender: client.Client, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    """Compressed answers come out as they were."""
    body = json.dumps([{"number": number} for number in range(20_000)]).encode()
    api.handlers = [answering(pack(body), Content_Encoding=encoding)]
    assert (await get(sender)).body == body


async def test_accounting(api: Api, sender: client.Client, bytes_: budget.ByteBudget) -> None:
    """A body counts as in flight exactly as long as its context is open."""
    api.handlers = [answering(b"[" + b" " * 500_000 + b"]")]
    free = bytes_.free
    async with sender.send(CONTOSO, GET) as answer:
        assert bytes_.free <= free - len(answer.body) + 2 * budget.UNCOUNTED
    assert bytes_.free == free


@pytest.mark.parametrize("compressed", [False, True])
async def test_too_large(
    api: Api, sender: client.Client, bytes_: budget.ByteBudget, compressed: bool
) -> None:
    """A body over its bound is given up as soon as that is clear, and all its bytes come back."""
    body = b"[" + b" " * (100 * MIB) + b"]" if compressed else b"[" + b" " * (2 * MIB)
    api.handlers = [
        answering(gzip.compress(body, 1), Content_Encoding="gzip") if compressed else answering(body)
    ]
    assert isinstance(await fails(sender), errors.TooLarge)
    assert bytes_.free == 3 * MIB


async def test_too_large_unannounced(api: Api, sender: client.Client) -> None:
    """A body without a length is given up at its bound too."""

    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        await response.write(b"[")
        while request.transport is not None and not request.transport.is_closing():
            await response.write(b" " * 64 * 1024)
            await asyncio.sleep(0)  # or the end of the connection would never be seen
        return response

    api.handlers = [endless]
    assert isinstance(await fails(sender), errors.TooLarge)


async def test_renewed_token(api: Api, sender: client.Client, purse: Purse) -> None:
    """A token that the API refuses is renewed once."""
    api.handlers = [answering(b"", 401), answering()]
    assert (await get(sender)).body == b"[]"
    assert purse.discarded == ["t1"]


async def test_refused_twice(api: Api, sender: client.Client, purse: Purse) -> None:
    """A fresh token that is refused too needs a person, after two requests."""
    api.handlers = [answering(b"", 401)]
    failed = await fails(sender)
    assert isinstance(failed, errors.Attention)
    assert failed.code == "unauthorized"
    assert len(api.seen) == 2
    assert purse.discarded == ["t1", "t2"]


@pytest.mark.parametrize(
    "fault", [answering(b"", 502), answering(b"", 503), answering(b"", 504), cut, cut_inside]
)
async def test_quick_retries(api: Api, sender: client.Client, fault: Handler) -> None:
    """What passes by itself is tried again at once, twice."""
    api.handlers = [fault, fault, answering(b"[1]")]
    assert (await get(sender)).body == b"[1]"


@pytest.mark.parametrize("fault", [answering(b"", 503), cut_inside])
async def test_quick_retries_end(
    api: Api, sender: client.Client, bytes_: budget.ByteBudget, fault: Handler
) -> None:
    """After the third time it is the next poll's business."""
    api.handlers = [fault]
    assert isinstance(await fails(sender), errors.Transient)
    assert len(api.seen) == 3
    assert bytes_.free == 3 * MIB


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (answering(b"", 429, Retry_After="7"), errors.Throttled),
        (answering(b"", 503, Retry_After="30"), errors.Transient),
        (answering(b"", 500), errors.Transient),
        (answering(b"", 400), errors.Refused),
        (answering(b"", 403), errors.Attention),
        (answering(b"", 404), errors.Gone),
        (answering(b"", 410), errors.Gone),
        (answering(b"", 204), errors.BadBody),
        (answering(b"[1]", 203), errors.BadBody),
        (answering(b"<html>", Content_Type="text/html"), errors.BadBody),
        (answering(b"<html>"), errors.BadBody),
        (answering(b"[]", Content_Encoding="br"), errors.BadBody),
        (answering(b"not gzip", Content_Encoding="gzip"), errors.BadBody),
    ],
)
async def test_no_quick_retries(api: Api, sender: client.Client, handler: Handler, kind: type) -> None:
    """What does not pass in a second is one request and one error."""
    api.handlers = [handler]
    assert type(await fails(sender)) is kind
    assert len(api.seen) == 1


async def test_a_part_is_an_answer(api: Api, sender: client.Client) -> None:
    """206 comes as it is, and says that it is a part; one that is not JSON is a bad body."""
    api.handlers = [answering(b"[1]", 206, Warning='199 - "Microsoft/WDATP/504/10000"')]
    answer = await get(sender)
    assert answer.body == b"[1]"
    assert answer.partial == "the API brought a part only (206): Microsoft/WDATP answered 504"
    api.handlers = [answering(b"<html>", 206)]
    assert type(await fails(sender)) is errors.BadBody


async def test_throttled_until(api: Api, sender: client.Client) -> None:
    """The longest of header and body says when to come again."""
    api.handlers = [answering(b'{"error":{"message":"Retry after 30 seconds."}}', 429, Retry_After="7")]
    assert (await fails(sender)).retry_after == 30


async def test_compressed_error(api: Api, sender: client.Client) -> None:
    """The text of an error is understood in any encoding, and an endless one is not read."""
    text = b'{"error":{"message":"Missing application roles. API required roles: Alert.Read.All, application roles: ."}}'
    api.handlers = [answering(gzip.compress(text + b" " * 50 * MIB), 403, Content_Encoding="gzip")]
    failed = await fails(sender)
    assert isinstance(failed, errors.Attention)
    assert failed.code == "role_missing"


async def test_truncated_gzip(api: Api, sender: client.Client) -> None:
    """A compressed body that ends early, though HTTP says it is whole, is transient and never an answer."""
    whole = gzip.compress(json.dumps(list(range(10_000))).encode())
    api.handlers = [answering(whole[:-20], Content_Encoding="gzip")]
    failed = await fails(sender)
    assert isinstance(failed, errors.Transient)
    assert len(api.seen) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects(api: Api, sender: client.Client, status: int) -> None:
    """A redirect is never followed, and the host that it names never sees the token."""
    api.handlers = [answering(b"", status, Location=f"{api.url}/elsewhere"), answering()]
    failed = await fails(sender)
    assert "localhost" in str(failed)
    assert isinstance(failed, errors.Attention) == (status in (301, 308))
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    "path", ["@elsewhere.example/", ".elsewhere.example/", ":1@elsewhere.example", "api"]
)
async def test_other_host(sender: client.Client, path: str) -> None:
    """A path cannot lead the token to another host."""
    assert isinstance(await fails(sender, model.Request("siem", path)), errors.Refused)


async def test_wrong_region(session: aiohttp.ClientSession, purse: Purse, bytes_: budget.ByteBudget) -> None:
    """A tenant that no host is known for needs a person."""
    sender = client.Client(session, purse, clouds.Endpoints(), bytes_)
    tenant = model.Tenant(TENANT, "Contoso", region="mars")
    with pytest.raises(errors.Attention, match="eu us uk") as failed:
        async with sender.send(model.Access(tenant), GET):
            pass
    assert failed.value.code == "wrong_cloud"


async def test_time_out(
    api: Api, session: aiohttp.ClientSession, purse: Purse, bytes_: budget.ByteBudget
) -> None:
    """A server that does not answer, or stops in the middle, costs REQUEST_TIMEOUT once."""
    let_go = asyncio.Event()

    async def hang(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if len(api.seen) == 2:
            await response.prepare(request)
            await response.write(b"[")
        await let_go.wait()
        return response

    api.handlers = [hang]
    sender = client.Client(session, purse, clouds.Endpoints({"siem": api.url}), bytes_, timeout=0.5)
    try:
        for count in (1, 2):
            failed = await fails(sender)
            assert isinstance(failed, errors.Transient)
            assert "in time" in str(failed)
            assert len(api.seen) == count
    finally:
        let_go.set()


class Watched(budget.ByteBudget):
    """Says when somebody has to wait."""

    def __init__(self, total: int, largest: int) -> None:
        super().__init__(total, largest)
        self.full = asyncio.Event()

    async def grow(self, share: budget.Share, size: int) -> None:
        self.full.set()
        await super().grow(share, size)


async def test_waiting_for_room_is_free(api: Api, session: aiohttp.ClientSession, purse: Purse) -> None:
    """Time spent waiting for other answers does not count as the request's."""
    bytes_ = Watched(2 * MIB, MIB)
    api.handlers = [answering(b"[" + b" " * 500_000 + b"]")]
    sender = client.Client(session, purse, clouds.Endpoints({"siem": api.url}), bytes_, timeout=1.0)
    with bytes_.share() as pool, bytes_.share() as lane:
        assert bytes_.at_once(pool, MIB)
        assert bytes_.at_once(lane, MIB)
        waiting = asyncio.create_task(get(sender))
        await bytes_.full.wait()
        await asyncio.sleep(1.1)  # longer than the request's whole time
        assert not waiting.done()
    assert len((await waiting).body) == 500_002


async def test_bounded_together(api: Api, sender: client.Client, bytes_: budget.ByteBudget) -> None:
    """Forty large answers at once all come, with no more than the total in flight."""
    api.handlers = [answering(gzip.compress(b"[" + b" " * 900_000 + b"]"), Content_Encoding="gzip")]
    held = peak = 0

    async def one() -> None:
        nonlocal held, peak
        async with sender.send(CONTOSO, GET) as answer:
            held += len(answer.body)
            peak = max(peak, held)
            await asyncio.sleep(0)
            held -= len(answer.body)

    await asyncio.gather(*(one() for _ in range(40)))
    assert peak <= 4 * MIB + 40 * budget.UNCOUNTED
    assert (bytes_.free, bytes_.waiting) == (3 * MIB, 0)


class NoName(abc.AbstractResolver):
    """A DNS that fails in one way."""

    def __init__(self, code: int) -> None:
        self.code = code

    async def resolve(self, *_args: Any, **_kwargs: Any) -> Any:
        raise socket.gaierror(self.code, "no such host")

    async def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("code", "kind"), [(socket.EAI_NONAME, errors.Gone), (socket.EAI_AGAIN, errors.Transient)]
)
async def test_dns(purse: Purse, bytes_: budget.ByteBudget, code: int, kind: type) -> None:
    """A name that does not exist is gone, a DNS fault alone is transient."""
    connector = aiohttp.TCPConnector(resolver=NoName(code))
    async with aiohttp.ClientSession(connector=connector) as session:
        assert type(await fails(client.Client(session, purse, clouds.Endpoints(), bytes_))) is kind


async def test_nobody_listens(
    session: aiohttp.ClientSession, purse: Purse, bytes_: budget.ByteBudget, unused_tcp_port: int
) -> None:
    """A refused connection is transient."""
    endpoints = clouds.Endpoints({"siem": f"https://localhost:{unused_tcp_port}"})
    assert isinstance(await fails(client.Client(session, purse, endpoints, bytes_)), errors.Transient)


async def test_untrusted(api: Api, purse: Purse, bytes_: budget.ByteBudget) -> None:
    """A certificate of an unknown CA gets no token, and the message says where to set one."""
    api.handlers = [answering()]
    async with client.open_session(None) as session:
        failed = await fails(client.Client(session, purse, clouds.Endpoints({"siem": api.url}), bytes_))
    assert "CA_FILE" in str(failed)
    assert not api.seen


async def test_hostile_headers(api: Api, sender: client.Client) -> None:
    """Headers without end are a fault, not memory."""
    api.handlers = [answering(b"[]", X_Long="x" * 100_000)]
    assert isinstance(await fails(sender), errors.Transient)


@pytest.mark.parametrize(
    "handler",
    [
        answering(b"secret-body", 500),
        answering(b"<secret-body>"),
        answering(b"secret-body", 403),
        answering(b"", 302, Location="https://x.example/?secret-body"),
        answering(b"secret-body", Content_Encoding="gzip"),
        cut,
        cut_inside,
    ],
)
async def test_nothing_gets_out(
    api: Api, sender: client.Client, purse: Purse, caplog: pytest.LogCaptureFixture, handler: Handler
) -> None:
    """Neither a log at its loudest nor an error with its chain holds a token or a body."""
    purse.number = 987654321
    caplog.set_level(logging.DEBUG)
    api.handlers = [handler]
    with structlog.testing.capture_logs() as lines:
        failed = await fails(sender)
    text = "".join(traceback.format_exception(failed)) + repr(failed) + caplog.text + repr(lines)
    assert failed.__cause__ is None
    assert "987654321" not in text
    assert "secret-body" not in text


async def test_observed(
    api: Api, session: aiohttp.ClientSession, purse: Purse, bytes_: budget.ByteBudget
) -> None:
    """Each request is counted with its outcome and size."""
    seen: list[tuple[str, str, int]] = []
    sender = client.Client(
        session,
        purse,
        clouds.Endpoints({"siem": api.url}),
        bytes_,
        observe=lambda service, outcome, _seconds, size: seen.append((service, outcome, size)),
    )
    api.handlers = [answering(b"", 503), answering(b"[1]")]
    await get(sender)
    assert seen == [("siem", "transient", 0), ("siem", "ok", 3)]


async def test_pace(
    api: Api, session: aiohttp.ClientSession, purse: Purse, bytes_: budget.ByteBudget
) -> None:
    """A quota is kept before a request goes out."""
    api.handlers = [answering()]
    paces = pace.Pace({"default": (pace.Quota(2, 3600.0),)})
    sender = client.Client(session, purse, clouds.Endpoints({"siem": api.url}), bytes_, paces=paces)
    await get(sender)
    assert not paces._limiters[TENANT]["default"][0].has_capacity()
    sender.forget(TENANT)
    assert not paces._limiters


async def test_the_whole_way(tmp_path: Path) -> None:
    """Entra, token, request and answer against the simulator, by the same path as in production."""
    shown = world.World()
    shown.add_tenant(str(TENANT), "Contoso", rate=5.0, history=3600.0)
    async with (
        server.Simulator(shown, directory=tmp_path / "sim") as sim,
        client.open_session(sim.ca_file) as session,
    ):
        endpoints = clouds.Endpoints({"authority": sim.authority_url, "siem": sim.siem_url})
        shared = modes.SharedApp(shown.app.app_id, shown.app.secret)
        provider = tokens.Tokens(endpoints, session, shared=shared, ca_file=sim.ca_file)
        sender = client.Client(session, provider, endpoints, budget.ByteBudget(8 * MIB, 4 * MIB))
        try:
            async with sender.send(CONTOSO, model.Request("siem", "/api/alerts")) as answer:
                records = json.loads(answer.body)
            assert {each["FullId"] for each in records} <= shown.full_ids(str(TENANT))
            assert records
            assert answer.date is not None
            sim.plan("siem", str(TENANT), "401")
            async with sender.send(CONTOSO, GET) as answer:
                assert answer.body.startswith(b"[")
            assert sim.token_requests[str(TENANT)] == 2
            sim.plan("siem", str(TENANT), "bomb")
            assert isinstance(await fails(sender), errors.TooLarge)
        finally:
            await provider.close()

"""The way to an API or to Entra is broken: nothing of ours goes out, the stream says what is wrong, and heals by itself."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
import trustme

from service import clouds
from service.auth import modes, tokens
from service.transport import budget, client
from service.transport import session as sessions
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, MIB

CASES = {
    # what is wrong: what the stream says of the API, and of Entra
    "refused": ("cannot be reached", "Entra cannot be reached"),
    "dns": ("host name cannot be looked up now", "Entra cannot be reached"),
    "no-such-host": ("host name does not exist", "Entra cannot be reached"),
    "wrong-ca": ("TLS certificate is not trusted", "Entra's TLS certificate is not trusted"),
    "expired": ("TLS certificate is not trusted", "Entra's TLS certificate is not trusted"),
    "wrong-name": ("TLS certificate is not trusted", "Entra's TLS certificate is not trusted"),
    "not-tls": (
        "TLS certificate is not trusted, or TLS fails",
        "Entra's TLS certificate is not trusted, or TLS fails",
    ),
    "drops": (
        "cannot be reached, or ended the connection",
        "Entra cannot be reached, or ended the connection",
    ),
}


@dataclass
class Door:
    """Where a collector is sent to: an address, the CA that it trusts, and what came through in clear."""

    url: str
    ca_file: object
    heard: bytearray


@asynccontextmanager
async def door(case, bench, folder):
    """A listener that is wrong in one way, or none."""
    heard = bytearray()
    authority = trustme.CA()
    own = folder / f"{case}.pem"
    authority.cert_pem.write_to_path(own)
    names = {"wrong-name": "elsewhere.example"}
    ends = datetime.now(UTC) - timedelta(days=1) if case == "expired" else None
    certificate = authority.issue_cert(names.get(case, "localhost"), not_after=ends)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)

    async def listen(reader, writer):
        if case == "not-tls":
            writer.write(b"SSH-2.0-surprise\r\n")
            await writer.drain()
        elif case != "drops":
            heard.extend(await reader.read(10_000))
        writer.transport.abort()

    secure = None if case in ("not-tls", "drops") else context
    listener = await asyncio.start_server(listen, "localhost", 0, ssl=secure)
    port = listener.sockets[0].getsockname()[1]
    host = "nowhere.invalid" if case in ("dns", "no-such-host") else "localhost"
    if case == "refused":
        listener.close()
        await listener.wait_closed()
    trusted = own if case in ("expired", "wrong-name") else bench.simulator.ca_file
    yield Door(f"https://{host}:{port}", trusted, heard)
    listener.close()
    await listener.wait_closed()


@pytest.fixture
def resolver(monkeypatch):
    """A DNS that fails as it is told to for one name, and is the system's for all others."""
    real, code = socket.getaddrinfo, [socket.EAI_AGAIN]

    def looked_up(host, *args, **kwargs):
        if host == "nowhere.invalid":
            raise socket.gaierror(code[0], "not found")
        return real(host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    return code


@pytest.mark.parametrize("way", ["api", "entra"])
async def test_a_broken_way_is_said_and_heals(bench, tmp_path, resolver, way):
    """Each case in turn: nothing is heard in clear, the state says what is wrong; the next poll after it is mended is well."""
    mine = await bench.take()
    right = bench.desk
    for case, said in CASES.items():
        stages.file(bench.shown, CONTOSO, case, bench.clock())
        resolver[0] = socket.EAI_NONAME if case == "no-such-host" else socket.EAI_AGAIN
        async with door(case, bench, tmp_path) as wrong, sent_to(bench, wrong, way) as sender:
            bench.desk = replace(right, sender=sender)
            before = time.monotonic()
            await bench.turn(mine)
        assert (mine.stream.state, mine.stream.failures) == ("degraded", 1), case
        assert said[way == "entra"] in mine.stream.state_reason, (case, mine.stream.state_reason)
        assert mine.due >= before + 1
        assert case not in await bench.books.alerts()
        assert not wrong.heard
        bench.desk = right
        await bench.turn(mine)
        assert (mine.stream.state, mine.stream.failures, mine.stream.state_reason) == ("ok", 0, None), case
        await bench.books.same_as(bench.shown)
        bench.advance(60)
    assert bench.requests() == 2 * len(CASES) - len(CASES)


@asynccontextmanager
async def sent_to(bench, wrong, way):
    """A client whose API, or whose Entra, is behind the wrong door."""
    simulator, app = bench.simulator, bench.shown.app
    hosts = {"authority": simulator.authority_url, "siem": simulator.siem_url}
    hosts |= {"siem" if way == "api" else "authority": wrong.url}
    of_api, of_entra = (
        (wrong.ca_file, simulator.ca_file) if way == "api" else (simulator.ca_file, wrong.ca_file)
    )
    session = sessions.open_session(of_api)
    provider = tokens.Tokens(
        clouds.Endpoints(hosts),
        session,
        shared=modes.SharedApp(app.app_id, app.secret),
        ca_file=of_entra,
        siem_form="v2",
    )
    try:
        yield client.Client(
            session, provider, clouds.Endpoints(hosts), budget.ByteBudget(3 * MIB, MIB), timeout=5.0
        )
    finally:
        await provider.close()
        await session.close()

"""A world over HTTPS: the aiohttp server, its certificate and its counters; one port carries all surfaces.

For each request of an API: token, then a planned or chance fault, then the answer; for Entra: fault, then
the answer.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import pathlib
import types
from collections.abc import Callable, Iterable
from typing import Self

from aiohttp import web

from service.simulator import (
    answers,
    certificates,
    chaos,
    control,
    defender,
    graph,
    mde,
    siem,
    ticks,
    tokens,
    world,
    xdr,
)
from service.simulator.entra import endpoints

_Asked = tuple[chaos.Surface, str]
_Waiter = tuple[str, int, asyncio.Future[None]]


class Simulator:
    """Entra and the Defender APIs for one world, while the context is open.

    choices, mde, xdr, graph: what each API does where the documents are silent, and its limits.

    host and port: where to listen (port 0: any). names: further host names and addresses for the
    certificate; the first of them, else localhost, is what `url` says. directory: where ca.pem and the
    server's key go. skew: seconds that the `Date` header is ahead of the world's clock. token_latency: seconds
    before the token endpoint answers, of as many requests at once as come. control: open
    /_sim/ to loopback. prepare: called as soon as `url` is known, before anybody can connect. Raises OSError
    where it cannot listen.

    counters: requests and what became of them ("siem", "siem_records", "graph:429", "token", "fault:status" and, of
    planned ones, "status:503" …).
    siem_requests, token_requests: by tenant id. api_requests: of the other APIs, by (surface, tenant id).
    """

    def __init__(
        self,
        shown: world.World,
        *,
        directory: pathlib.Path,
        host: str = "127.0.0.1",
        port: int = 0,
        names: Iterable[str] = (),
        chaos: chaos.Chaos | None = None,
        choices: siem.Choices | None = None,
        mde: defender.Choices = mde.DOCUMENTED,
        xdr: defender.Choices = xdr.DOCUMENTED,
        graph: graph.Choices | None = None,
        control: bool = False,
        skew: float = 0.0,
        token_latency: float = 0.0,
        prepare: Callable[[Simulator], object] | None = None,
    ) -> None:
        self.world = shown
        self.skew = skew
        self.token_latency = token_latency
        self.script = _script(chaos)
        self.counters: collections.Counter[str] = collections.Counter()
        self.siem_requests: collections.Counter[str] = collections.Counter()
        self.token_requests: collections.Counter[str] = collections.Counter()
        self.port = port
        self._host = host
        self._names = tuple(names)
        self._directory = directory
        self._control = control
        self._prepare = prepare
        self._waiters: list[_Waiter] = []
        self.signer = tokens.Signer()
        self._entra = endpoints.Entra(shown, self.signer)
        self.siem = siem.Siem(shown, self.signer, choices or siem.Choices())
        self.api_requests: collections.Counter[_Asked] = collections.Counter()
        self._surfaces = _surfaces(shown, self.signer, mde, xdr, graph)

    @property
    def url(self) -> str:
        """Base of everything, without a path: https://localhost:PORT."""
        return f"https://{self._names[0] if self._names else 'localhost'}:{self.port}"

    @property
    def authority_url(self) -> str:
        """What stands for https://login.microsoftonline.com; the tenant follows as first segment."""
        return self.url

    @property
    def siem_url(self) -> str:
        """Base of the SIEM API; /api/alerts follows."""
        return self.url

    @property
    def mde_url(self) -> str:
        """Base of Defender for Endpoint; /api/alerts follows."""
        return f"{self.url}/mde"

    @property
    def xdr_url(self) -> str:
        """Base of Defender XDR; /api/incidents follows."""
        return f"{self.url}/xdr"

    @property
    def graph_url(self) -> str:
        """Base of Microsoft Graph; /v1.0/security/alerts_v2 follows."""
        return f"{self.url}/graph"

    @property
    def ca_file(self) -> pathlib.Path:
        """What a client must trust."""
        return self._directory / "ca.pem"

    def plan(
        self, surface: chaos.Surface, tenant_id: str, fault: chaos.Fault | str | None, times: int | None = 1
    ) -> None:
        """The tenant's next `times` answers of the surface ("siem", "mde", "xdr", "graph", "token", "metadata") are this fault;
        see `chaos.Script`.
        """
        self.script.plan(surface, tenant_id, fault, times)

    async def reached(self, counter: str, count: int) -> None:
        """Return once a counter stands at `count` or more: how a test waits for a collector without
        sleeping.
        """
        if self.counters[counter] >= count:
            return
        waiter: _Waiter = (counter, count, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            await waiter[2]
        finally:
            self._waiters.remove(waiter)

    async def __aenter__(self) -> Self:
        issued = certificates.issue(self._directory, self._names)
        self._closing = asyncio.Event()
        # Nothing is worth waiting for at the end: whoever still hangs is cut off.
        answering = web.Server(self._handle, access_log=None)
        # The port is taken first and opened last: whoever can connect finds what `prepare` wrote.
        self._listener = await asyncio.get_running_loop().create_server(
            answering, self._host, self.port, ssl=issued.server_context(), backlog=128, start_serving=False
        )
        self._runner = web.ServerRunner(answering, shutdown_timeout=0.2)
        await self._runner.setup()
        try:
            self.port = self._listener.sockets[0].getsockname()[1]
            if self._prepare is not None:
                self._prepare(self)
            await self._listener.start_serving()
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self._closing.set()
        await self._stop()

    async def _stop(self) -> None:
        self._listener.close()
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        fault: chaos.Fault | None = None
        if self.siem.place(request.path):
            answer, fault = self._siem(request)
        elif (surface_of := self._surface(request.path)) is not None:
            answer, fault = self._api(surface_of, request)
        elif (place := self._entra.place(request.method, request.path)) is not None:
            surface, name = place
            self._count(surface)
            tenant = self.world.find(name)
            tenant_id = tenant.tenant_id if tenant else name.lower()
            if surface == "token" and tenant is not None:
                self.token_requests[tenant_id] += 1
            if surface == "token" and self.token_latency > 0:
                await self._linger(self.token_latency)
            fault = self._take(surface, tenant_id)
            instead = answers.instead(fault, self._date()) if fault else None
            answer = await self._entra.answer(request, fault, instead)
        elif self._control and request.path.startswith("/_sim/"):
            answer = await control.answer(self, request)
        else:
            self._count("elsewhere")
            answer = answers.Answer(404)
        return await answers.send(request, answer, ticks.http_date(self._date()), fault, self._closing)

    def _siem(self, request: web.BaseRequest) -> tuple[answers.Answer, chaos.Fault | None]:
        self._count("siem")
        fault: chaos.Fault | None = None
        try:
            tenant_id = self.siem.tenant(request)
            self.siem_requests[tenant_id] += 1
            fault = self._take("siem", tenant_id)
            answer = answers.instead(fault, self._date()) if fault else None
            if answer is None:
                answer, count = self.siem.answer(request, tenant_id, fault)
                self._count("siem_records", count)
        except siem.Refused as refused:
            self._count(f"siem:{refused.status}")
            answer, fault = answers.Answer(refused.status), None
        return answer, fault

    def _surface(self, path: str) -> defender.Surface | None:
        return next((each for each in self._surfaces if each.place(path)), None)

    def _api(
        self, surface: defender.Surface, request: web.BaseRequest
    ) -> tuple[answers.Answer, chaos.Fault | None]:
        name = surface.surface
        self._count(name)
        fault: chaos.Fault | None = None
        try:
            claims = surface.claims(request)
            self.api_requests[name, claims.tenant_id] += 1
            fault = self._take(name, claims.tenant_id)
            answer = surface.instead(fault, self._date(), request) if fault else None
            if answer is None:
                answer, count = surface.answer(request, claims, fault)
                self._count(f"{name}_records", count)
        except defender.Refused as refused:
            self._count(f"{name}:{refused.status}")
            answer, fault = surface.error(refused, request), None
        return answer, fault

    def _count(self, counter: str, by: int = 1) -> None:
        self.counters[counter] += by
        for name, count, future in self._waiters:
            if name == counter and self.counters[name] >= count and not future.done():
                future.set_result(None)

    def _take(self, surface: chaos.Surface, tenant_id: str) -> chaos.Fault | None:
        fault = self.script.take(surface, tenant_id)
        if fault is not None:
            self._count(f"fault:{fault.kind}")
            if fault.status:
                self._count(f"status:{fault.status}")
        return fault

    async def _linger(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), seconds)

    def _date(self) -> int:
        return self.world.clock() + round(self.skew * ticks.SECOND)


def _surfaces(
    shown: world.World,
    signer: tokens.Signer,
    endpoint: defender.Choices,
    incidents: defender.Choices,
    security: graph.Choices | None,
) -> tuple[defender.Surface, ...]:
    return (
        mde.Mde(shown, signer, endpoint),
        xdr.Xdr(shown, signer, incidents),
        graph.Graph(shown, signer, security or graph.Choices()),
    )


def _script(faults: chaos.Chaos | None) -> chaos.Script:
    return chaos.Script(faults)

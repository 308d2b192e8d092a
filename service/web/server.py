"""The HTTP servers of a process, and what the private one serves: `/livez`, `/readyz`, `/metrics`.

Its answers are JSON (metrics apart) and name no tenant; the routes take GET and HEAD, and tell no software.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from types import TracebackType
from typing import Final, Self

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from service import errors, metrics
from service.web import probes

MOST: Final = 256
"""Connections that a port holds open. aiohttp waits without end for a first request: whoever opens connections and says nothing
would use up the process's files, and with them the polls' and the database's connections.
"""
log = structlog.get_logger(__name__)


class Server:
    """`async with Server(host, port, application(…)) as server:` listens; `server.port` is the real port.

    `setting` is what the port is called, for errors and the log. Raises errors.BadSetting where it cannot listen on that host
    and port. Port 0 takes any free one.
    """

    def __init__(self, host: str, port: int, served: web.Application, *, setting: str = "HTTP_PORT") -> None:
        self.host = host
        self.port = port
        self._setting = setting
        # No access log: probes and scrapes would be most of all lines. What is left for aiohttp's own logger is
        # requests that are no HTTP, an error with a trace for each port scan; our handlers' errors are logged below.
        self._strangers = logging.getLogger(f"{__name__}.strangers")
        self._strangers.setLevel(logging.CRITICAL)
        self._runner = web.AppRunner(
            served,
            access_log=None,
            logger=self._strangers,
            handle_signals=False,
            shutdown_timeout=2.0,
        )
        self._listening: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._doorman, self.host, self.port
            )
        except OSError as error:
            await self._runner.cleanup()
            raise _unusable(self.host, self.port, self._setting, error) from None
        self.port = self._listening.sockets[0].getsockname()[1]
        log.info("http_listening", host=self.host, port=self.port, setting=self._setting)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._listening:
            self._listening.close()
        await self._runner.cleanup()

    def _doorman(self) -> asyncio.Protocol:
        served = self._runner.server
        assert served is not None  # noqa: S101 - there since setup
        return _Doorman(served, self._strangers)


class _Doorman(asyncio.Protocol):
    """Lets a connection in; where it is one too many, the oldest has to go."""

    def __init__(self, served: web.Server, strangers: logging.Logger) -> None:
        self._served = served
        self._strangers = strangers

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        within = [each for each in self._served.connections if each.transport is not None]
        for oldest in within[: max(len(within) + 1 - MOST, 0)]:
            oldest.force_close()
        loop = asyncio.get_running_loop()
        quiet = self._strangers
        handler = _Handler(self._served, loop=loop, access_log=quiet, logger=quiet)
        transport.set_protocol(handler)
        handler.connection_made(transport)


class _Handler(web.RequestHandler):
    """What is no HTTP reaches no route: it is answered here, with nothing of it repeated, and no software told."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """In place of aiohttp's own page, which holds a piece of the request. Raises ConnectionError after a first byte."""
        super().handle_error(request, status, exc, message)
        # empty, since aiohttp would put its name where there is none
        answer = web.Response(status=status, headers={"Server": "", "Cache-Control": "no-store"})
        answer.force_close()
        return answer


def application(checks: probes.Probes, measured: metrics.Metrics) -> web.Application:
    """The routes, without a socket."""

    async def live(_request: web.Request) -> web.Response:
        return _report(probes.ask(checks.live))

    async def ready(_request: web.Request) -> web.Response:
        return _report(probes.ask(checks.ready))

    async def scrape(request: web.Request) -> web.Response:
        body, content_type = measured.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    app = web.Application(middlewares=[_plain_errors], client_max_size=64 * 1024)
    app.router.add_get("/livez", live)
    app.router.add_get("/readyz", ready)
    app.router.add_get("/metrics", scrape)
    app.on_response_prepare.append(_headers)
    return app


def _report(checks: list[probes.Check]) -> web.Response:
    good = all(check.ok for check in checks)
    body = {
        "status": "ok" if good else "failing",
        "checks": [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in checks],
    }
    return web.json_response(body, status=200 if good else 503)


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Errors as JSON that repeats nothing of the request and shows nothing of the inside."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        allowed = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else None
        return web.json_response({"error": error.reason.lower()}, status=error.status, headers=allowed)
    except Exception:
        log.exception("http_failed", path=request.path)
        return web.json_response({"error": "internal server error"}, status=500)


async def _headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"


def _unusable(host: str, port: int, setting: str, error: OSError) -> errors.BadSetting:
    if error.errno == errno.EADDRINUSE:
        return errors.BadSetting(
            f"ALERTWELL_{setting}={port} is in use on {host}; take a free one, or 0 for any"
        )
    if error.errno == errno.EACCES:
        return errors.BadSetting(
            f"ALERTWELL_{setting}={port} is not allowed for this user; take one above 1023"
        )
    reason = "no such host" if isinstance(error, socket.gaierror) else error.strerror
    return errors.BadSetting(
        f"ALERTWELL_HTTP_HOST={host!r} cannot be listened on ({reason}); take 127.0.0.1, or 0.0.0.0 for all"
    )

"""Where a browser on this machine is sent back to after a sign-in: on 127.0.0.1 alone, for one answer, and then it is gone.

    POST /   code=…&state=… or error=…&state=…        GET /?… is taken too; all else is 404

Any page in that browser can send something here, once it has guessed the port: what does not carry the state of the sign-in
under way is refused, and the answer still waited for. Nothing of the request is repeated or logged.
"""

from __future__ import annotations

import asyncio
import hmac
from types import TracebackType
from typing import Final, Self

from aiohttp import web

from service import errors
from service.web import callback, pages, server

HOST: Final = "127.0.0.1"
_MOST_BYTES: Final = 16 * 1024
_DONE: Final = pages.Page(
    200, "Back to the terminal", "It says whether the sign-in is complete. This page can be closed."
)
_STRANGE: Final = pages.Page(
    400,
    "Not this sign-in",
    "This answer belongs to no sign-in that is waited for here. The terminal says what is.",
)
_SECOND: Final = pages.Page(
    400, "Nothing here", "An answer has arrived before. The terminal says what came of it."
)


class Loopback:
    """`async with Loopback() as door:` listens at `door.address`; after `door.expect(state)`,
    `door.answer(seconds)` waits for what comes back.

    Raises errors.BadSetting where this machine lets nobody listen.
    """

    def __init__(self) -> None:
        self._state: bytes | None = None
        self._answer: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_get("/", self._take, allow_head=False)
        app.router.add_post("/", self._take)
        app.on_response_prepare.append(_headers)
        self._server = server.Server(HOST, 0, app, setting="LOGIN")

    async def __aenter__(self) -> Self:
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._answer.cancel()
        await self._server.__aexit__(kind, error, trace)

    @property
    def address(self) -> str:
        """The redirect URI: Entra compares it to `http://localhost` without the port, and not to 127.0.0.1."""
        return f"http://localhost:{self._server.port}"

    def expect(self, state: str) -> None:
        """Before this, no answer is taken; from now on, the first that carries this state."""
        self._state = state.encode()

    async def answer(self, seconds: float) -> dict[str, str]:
        """The fields of the answer. Raises errors.BadInput where none comes in time."""
        done, _ = await asyncio.wait({self._answer}, timeout=seconds)
        if not done:
            raise errors.BadInput(
                f"nobody has signed in within {seconds / 60:g} minutes: nothing is waited for any more"
            )
        return self._answer.result()

    async def _take(self, request: web.Request) -> web.Response:
        sent = await request.text() if request.method == "POST" else request.rel_url.raw_query_string
        values = callback.fields(sent)
        if values is None or not {"code", "error"} & values.keys():
            return _page(pages.PAGES["nothing"])
        if self._state is None or not hmac.compare_digest(values.get("state", "").encode(), self._state):
            return _page(_STRANGE)
        if self._answer.done():
            return _page(_SECOND)
        self._answer.set_result(values)
        return _page(_DONE)


def _page(page: pages.Page) -> web.Response:
    shown = web.Response(text=page.html, status=page.status, content_type="text/html", charset="utf-8")
    shown.force_close()
    return shown


async def _headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.popall("Server", None)
    response.headers.update(pages.HEADERS)

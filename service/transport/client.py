"""The client for Microsoft's APIs: one GET as a source describes it in, one whole answer or one error out.

A token goes only to the https host that `clouds` or the settings name: redirects are never followed. What comes
from outside is bounded in size and time, and is never logged; errors are raised where the original is out of
reach, for that one holds the request and with it the token.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final, Protocol
from urllib.parse import quote, urlencode
from uuid import UUID

import aiohttp
import stamina
import yarl

from service import clouds, errors, model, proxies
from service.transport import answers, budget, faults, inflate, pace

_ATTEMPTS: Final = 3
_RETRY_TIME: Final = 15.0
"""Seconds after the first attempt within which another may start; later the next poll is the retry."""
_SHORT_WAIT: Final = 2.0
_PREFIX: Final = 16 * 1024
_BREATH: Final = 1024 * 1024
"""Bytes after which a long decompression lets other tasks run."""


class TokenProvider(Protocol):
    """Where tokens come from; auth.tokens.Tokens in production."""

    async def token(self, access: model.Access, service: str) -> str:
        """A bearer token. Raises errors.PollFailure."""

    def discard(self, access: model.Access, service: str, token: str) -> None:
        """The API refused this token."""


class Client:
    """Sends requests of any tenant; for use by any number of tasks at once."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        tokens: TokenProvider,
        endpoints: clouds.Endpoints,
        bytes_in_flight: budget.ByteBudget,
        *,
        paces: pace.Pace | None = None,
        proxy: proxies.Proxy | None = None,
        timeout: float = 60.0,
        observe: Callable[[str, str, float, int], None] | None = None,
    ) -> None:
        """The largest body is the largest share of `bytes_in_flight`; `timeout` is the seconds of one request.

        `observe(service, outcome, seconds, size)` is called after each request, with "ok" or a failure's kind and
        the bytes of the body.
        """
        # a retry is no news, and a flood of them would be a flood of lines: what came of it is the poll's to say
        stamina.instrumentation.set_on_retry_hooks(())
        self._session = session
        self._tokens = tokens
        self._endpoints = endpoints
        self._budget = bytes_in_flight
        self._pace = paces or pace.Pace()
        self._proxy = proxy
        self._timeout = timeout
        self._observe = observe

    @asynccontextmanager
    async def send(self, access: model.Access, request: model.Request) -> AsyncIterator[model.Answer]:
        """The answer with a body that is whole and may be JSON; it counts as in flight until the context ends.

        Raises errors.PollFailure.
        """
        base = self._base(access.tenant, request.service)
        url = _url(base, request)
        with self._budget.share() as share:
            yield replace(await self._retried(access, request, url, share), base_url=base)

    def forget(self, tenant_id: UUID) -> None:
        """Drop what is kept of a tenant."""
        self._pace.forget(tenant_id)

    def _base(self, tenant: model.Tenant, service: str) -> str:
        try:
            return self._endpoints.base_url(service, tenant.cloud, tenant.region)
        except errors.BadInput as mistake:
            raise errors.Attention(str(mistake), code="wrong_cloud") from None

    async def _retried(
        self, access: model.Access, request: model.Request, url: yarl.URL, share: budget.Share
    ) -> model.Answer:
        try:
            return await self._authorised(access, request, url, share)
        except errors.Transient as failure:
            if not _is_passing(failure):
                raise
            first = failure
        # from here on: what takes no second attempt, and that is nearly all, does without the cost of retrying
        async for attempt in stamina.retry_context(
            on=_is_passing,
            attempts=_ATTEMPTS,
            timeout=_RETRY_TIME,
            wait_initial=0.2,
            wait_max=2.0,
            wait_jitter=0.3,
        ):
            with attempt:
                if attempt.num == 1:
                    raise first
                return await self._authorised(access, request, url, share)
        raise AssertionError  # the last attempt returns or raises

    async def _authorised(
        self, access: model.Access, request: model.Request, url: yarl.URL, share: budget.Share
    ) -> model.Answer:
        """With a token; one that is refused is renewed once."""
        renewed = False
        while True:
            try:
                token = await self._tokens.token(access, request.service)
            except errors.PollFailure as failure:
                failure.asked = False
                raise
            await self._pace.wait(access.tenant.tenant_id, request.quota_group)
            try:
                answer = await self._observed(request, url, token, share)
            except errors.Throttled as failure:
                self._pace.refused(access.tenant.tenant_id, request.quota_group, failure.retry_after)
                ours = self._pace.account(access.tenant.tenant_id, request.quota_group)
                said = f"{failure}; {ours}" if ours else str(failure)
                raise errors.Throttled(said, status=failure.status, retry_after=failure.retry_after) from None
            except errors.Attention as refusal:
                if refusal.status != 401:
                    raise
                self._tokens.discard(access, request.service, token)
                if renewed:
                    raise
                renewed = True
            else:
                self._pace.answered(access.tenant.tenant_id, request.quota_group)
                return answer

    async def _observed(
        self, request: model.Request, url: yarl.URL, token: str, share: budget.Share
    ) -> model.Answer:
        self._budget.give_back(share)
        started = time.monotonic()
        outcome = "transient"
        try:
            answer = await self._once(request, url, token, share)
            outcome = "ok"
        except errors.PollFailure as failure:
            outcome = failure.kind
            raise
        finally:
            if self._observe:
                self._observe(request.service, outcome, time.monotonic() - started, share.held)
        return answer

    async def _once(
        self, request: model.Request, url: yarl.URL, token: str, share: budget.Share
    ) -> model.Answer:
        headers = {
            **dict(request.headers),
            "Accept": "application/json",
            "Accept-Encoding": inflate.ACCEPTED,
            "Authorization": f"Bearer {token}",
        }
        proxy = self._proxy if self._proxy and self._proxy.for_url(str(url)) else None
        via: dict[str, Any] = {"proxy": proxy.url, "proxy_headers": proxy.headers} if proxy else {}
        try:
            async with (
                asyncio.timeout(self._timeout) as limit,
                self._session.get(
                    url, headers=headers, allow_redirects=False, auto_decompress=False, **via
                ) as response,
            ):
                if response.status not in answers.WHOLE_OR_PART:
                    await self._refused(response)
                return await self._read(response, share, limit)
        except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
            fault = faults.fault(error, url.host or "", proxy)
        # Outside of the except block: the original holds the request, and with it the token.
        raise fault

    async def _refused(self, response: aiohttp.ClientResponse) -> None:
        """Raise what a status whose body is not read means, after a look at the start of the body."""
        prefix = b""
        try:
            inflater = inflate.Inflater(response.headers.get("Content-Encoding", ""))
            async for data in response.content.iter_any():
                for piece in inflater.feed(data):
                    prefix += piece
                    if len(prefix) >= _PREFIX:
                        break
                if len(prefix) >= _PREFIX:
                    break
        except (aiohttp.ClientError, OSError, ValueError, inflate.Unreadable):
            prefix = prefix[:_PREFIX]  # the status alone has to do
        failure = answers.failure(response.status, response.headers, prefix, now=datetime.now(UTC))
        if failure is not None:
            raise failure

    async def _read(
        self, response: aiohttp.ClientResponse, share: budget.Share, limit: asyncio.Timeout
    ) -> model.Answer:
        body = io.BytesIO()  # grows without copying, and gives its bytes away without copying

        async def keep(piece: bytes) -> None:
            if body.tell() + len(piece) > self._budget.largest:
                raise errors.TooLarge(
                    f"the answer is over {self._budget.largest} bytes", status=200, sample=_sample(body)
                )
            if not self._budget.at_once(share, len(piece)):
                await self._wait_for_room(share, len(piece), limit)
            if not body.tell() and (bad := answers.content_type(response.headers, piece)):
                raise bad
            body.write(piece)
            if body.tell() % _BREATH < len(piece):
                await asyncio.sleep(0)

        if (response.content_length or 0) > self._budget.largest:
            raise errors.TooLarge(
                f"the answer is over {self._budget.largest} bytes",
                status=200,
                sample=(await response.content.readany())[: answers.SAMPLE],
            )
        try:
            inflater = inflate.Inflater(response.headers.get("Content-Encoding", ""))
            async for data in response.content.iter_any():
                for piece in inflater.feed(data):
                    await keep(piece)
            for piece in inflater.finish():
                await keep(piece)
            self._budget.grown(share)
        except (inflate.Truncated, aiohttp.ClientPayloadError):
            fault: errors.Transient = faults.Broken(
                "the answer ended in the middle", status=200, sample=_sample(body)
            )
        except inflate.Unreadable as error:
            fault = errors.BadBody(f"the answer is {error}", sample=_sample(body), status=200)
        else:
            return model.Answer(
                body.getvalue(),
                answers.date(response.headers),
                partial=answers.partial(response.status, response.headers),
            )
        raise fault

    async def _wait_for_room(self, share: budget.Share, size: int, limit: asyncio.Timeout) -> None:
        """Wait for other answers to be done with; their time is not the request's."""
        loop = asyncio.get_running_loop()
        left = (limit.when() or loop.time()) - loop.time()
        limit.reschedule(None)
        try:
            await self._budget.grow(share, size)
        finally:
            limit.reschedule(loop.time() + left)


def _url(base: str, request: model.Request) -> yarl.URL:
    address = base + request.path
    if request.query:
        address += "?" + urlencode(request.query, quote_via=quote, safe="$:")
    if request.path and not request.path.startswith("/"):  # it would go on with the host's name
        raise errors.Refused("the request's path leads to another host; it is not sent")
    return yarl.URL(address, encoded=True)


def _sample(body: io.BytesIO) -> bytes:
    return bytes(body.getbuffer()[: answers.SAMPLE])


def _is_passing(error: Exception) -> bool:
    if isinstance(error, faults.Broken):
        return True
    short = isinstance(error, errors.Transient) and (error.retry_after or 0.0) <= _SHORT_WAIT
    return short and getattr(error, "status", None) in (502, 503, 504)

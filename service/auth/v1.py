"""Tokens in the v1 form (`resource=`), which the SIEM API's pages document and MSAL does not speak."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp

from service import errors, proxies
from service.auth import clock, replies, wire

_CHUNK: Final = 16 * 1024


async def grant(
    session: aiohttp.ClientSession,
    endpoint: str,
    proof: Mapping[str, str],
    resource: str,
    seconds: float,
    now: clock.Clock,
    proxy: proxies.Proxy | None = None,
) -> replies.Grant:
    """Fetch a token for the resource within so many seconds, through the proxy where it is for Entra.

    `proof` holds the app's id and what proves it. Tells `now` what the answer is dated. Raises errors.PollFailure.
    """
    proxy = proxy if proxy and proxy.for_url(endpoint) else None
    host = urlsplit(endpoint).hostname or ""
    via: dict[str, Any] = {"proxy": proxy.url, "proxy_headers": proxy.headers} if proxy else {}
    form = {"grant_type": "client_credentials", **proof, "resource": resource}
    try:
        async with (
            asyncio.timeout(seconds),
            session.post(
                endpoint,
                data=form,
                # The session belongs to the APIs: nothing of it is decompressed unasked.
                headers={"Accept": "application/json", "Accept-Encoding": "identity"},
                allow_redirects=False,
                auto_decompress=False,
                **via,
            ) as response,
        ):
            body = await _body(response)
            status, headers = response.status, response.headers
    except TimeoutError:
        fault = errors.Transient("Entra did not answer in time")
    except (aiohttp.ClientError, OSError, ValueError) as error:
        fault = _of_proxy(error, host, proxy) if proxy else _fault(error)
    else:
        now.learn(headers.get("Date"))
        return replies.grant(replies.read(status, headers, body))
    # Outside of the except block: the original holds the request, and with it the secret.
    raise fault


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in response.content.iter_chunked(_CHUNK):
        body += part
        if len(body) > replies.LARGEST:
            raise errors.Transient(f"Entra's answer is over {replies.LARGEST} bytes; it is not read")
    return bytes(body)


def _fault(error: Exception) -> errors.Transient:
    if isinstance(error, aiohttp.ClientSSLError):
        return wire.untrusted()
    return errors.Transient(f"Entra cannot be reached, or ended the connection ({type(error).__name__})")


def _of_proxy(error: Exception, host: str, proxy: proxies.Proxy) -> errors.Transient:
    match error:
        case aiohttp.ClientHttpProxyError():
            return proxy.refused(error.status, host)
        case aiohttp.ClientSSLError():
            # the connection's key names whose certificate it was
            return proxy.inspects(host) if error.host == host else proxy.untrusted()
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientConnectorDNSError():
            return proxy.unreachable()
        case _:
            return _fault(error)

"""Tokens in the v1 form (`resource=`), which the SIEM API's pages document and MSAL does not speak."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import aiohttp

from service import errors
from service.auth import clock, replies

_CHUNK: Final = 16 * 1024


async def grant(
    session: aiohttp.ClientSession,
    endpoint: str,
    proof: Mapping[str, str],
    resource: str,
    seconds: float,
    now: clock.Clock,
) -> replies.Grant:
    """Fetch a token for the resource within so many seconds; `proof` holds the app's id and what proves it.

    Tells `now` what the answer is dated. Raises errors.PollFailure.
    """
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
            ) as response,
        ):
            body = await _body(response)
            status, headers = response.status, response.headers
    except TimeoutError:
        fault = errors.Transient("Entra did not answer in time")
    except aiohttp.ClientSSLError:
        fault = errors.Transient(
            "Entra's TLS certificate is not trusted, or TLS fails; behind an inspecting proxy set CA_FILE"
        )
    except (aiohttp.ClientError, OSError, ValueError) as error:
        fault = errors.Transient(f"Entra cannot be reached, or ended the connection ({type(error).__name__})")
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

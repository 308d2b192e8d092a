"""What a container's HEALTHCHECK asks: whether the process on this machine answers that it lives."""

from __future__ import annotations

import ipaddress

import aiohttp

TIMEOUT = aiohttp.ClientTimeout(total=3)


def url(host: str, port: int, path: str = "/livez") -> str:
    """Where a server that listens on `host` is reached from the same machine."""
    try:
        bound = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}{path}"  # a name
    if bound.version == 4:
        return f"http://{'127.0.0.1' if bound.is_unspecified else bound}:{port}{path}"
    return f"http://[{'::1' if bound.is_unspecified else bound}]:{port}{path}"


async def check(address: str) -> bool:
    """True where `address` answers 200 within three seconds; no failure to ask raises."""
    try:
        async with (
            aiohttp.ClientSession(timeout=TIMEOUT, trust_env=False) as session,
            session.get(address, allow_redirects=False) as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, TimeoutError, OSError):
        return False

"""The one HTTP session of a process, and how a request of it goes through a proxy."""

from __future__ import annotations

import ssl
from pathlib import Path

import aiohttp

from service import errors


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """TLS that trusts `ca_file`, or else what the system trusts. Raises errors.BadSetting for a file without certificates."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ValueError):
        raise errors.BadSetting(
            f"ALERTWELL_CA_FILE: {ca_file} cannot be read as certificates in PEM form"
        ) from None


def open_session(ca_file: Path | None, *, connections: int = 512) -> aiohttp.ClientSession:
    """To be closed by whoever opens it; call it inside the event loop.

    Trusts as `trusting` does; ignores proxies and netrc of the environment (the proxy of the settings goes with each request);
    keeps no cookies; decompresses nothing by itself. Raises errors.BadSetting.
    """
    return aiohttp.ClientSession(
        # Polls come every minute or so: connections are kept a little longer.
        connector=aiohttp.TCPConnector(
            ssl=trusting(ca_file), limit=connections, keepalive_timeout=75, ttl_dns_cache=60
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": "alertwell"},
        # Time is measured by whoever sends, who knows what should not count.
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=10),
        trust_env=False,
        auto_decompress=False,
    )

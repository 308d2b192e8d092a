"""What a container's HEALTHCHECK asks: whether the process on this machine answers that it lives."""

from __future__ import annotations

import ipaddress
from http.client import HTTPConnection, HTTPException
from urllib.parse import urlsplit

TIMEOUT = 3.0


def url(host: str, port: int, path: str = "/livez") -> str:
    """Where a server that listens on `host` is reached from the same machine."""
    try:
        bound = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{port}{path}"  # a name
    if bound.version == 4:
        return f"http://{'127.0.0.1' if bound.is_unspecified else bound}:{port}{path}"
    return f"http://[{'::1' if bound.is_unspecified else bound}]:{port}{path}"


def check(address: str) -> bool:
    """True where `address` answers 200 within three seconds; no failure to ask raises.

    The standard library's client: the question is asked every half minute, and a container pays for each import.
    """
    parts = urlsplit(address)
    asking = HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT)
    try:
        asking.request("GET", parts.path)
        return asking.getresponse().status == 200
    except (OSError, HTTPException):
        return False
    finally:
        asking.close()

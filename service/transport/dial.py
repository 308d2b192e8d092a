"""TLS to one host, step by step and the way that requests go, for diagnosis: what `doctor` shows of a host. No token is sent."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509

from service import errors, proxies
from service.transport import answers, session

_MOST: Final = 64 * 1024
_UNPRINTABLE: Final = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True, slots=True)
class Seen:
    """`via` is the proxy, None where there was none; `issuer` who signed the host's certificate, `ends` until when that holds.

    `date` is the Date of its answer to a HEAD, `skew` how many seconds that is ahead of our clock.
    """

    via: str | None
    issuer: str
    ends: datetime | None
    date: datetime | None
    skew: float | None


async def dial(url: str, ca_file: Path | None, proxy: proxies.Proxy | None) -> Seen:
    """Connect to the host of an https address and ask it for nothing. Raises errors.PollFailure. It waits while a host hangs."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    through = proxy if proxy and proxy.for_url(url) else None
    context = session.trusting(ca_file)
    try:
        async with _secured(host, port, context, through, context) as (reader, writer):
            secure = writer.get_extra_info("ssl_object")
            issuer, ends = _read(secure.getpeercert(binary_form=True) if secure else None)
            date = await _date(reader, writer, parts.netloc)
            skew = (date - datetime.now(UTC)).total_seconds() if date else None
            return Seen(through.name if through else None, issuer, ends, date, skew)
    except ssl.SSLCertVerificationError as error:
        reason = error.verify_message or "it is not trusted"
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError) as error:
        raise errors.Transient(f"the exchange with {host} broke off ({type(error).__name__})") from None
    issuer = await _issuer(host, port, context, through)
    if through:
        raise errors.Transient(f"{through.inspects(host)} (it is issued by {issuer})")
    raise errors.Transient(f"the certificate of {host} is not trusted: issued by {issuer}, {reason}")


@asynccontextmanager
async def _secured(
    host: str, port: int, context: ssl.SSLContext, proxy: proxies.Proxy | None, of_proxy: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await _connected(host, port, proxy, of_proxy)
    raw = writer.transport
    try:
        if proxy:
            await _tunnel(reader, writer, host, port, proxy)
        await writer.start_tls(context, server_hostname=host)
        yield reader, writer
    finally:
        writer.transport.abort()
        raw.abort()


async def _connected(
    host: str, port: int, proxy: proxies.Proxy | None, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        if proxy is None:
            return await asyncio.open_connection(host, port, limit=_MOST)
        parts = urlsplit(proxy.url)
        secure = context if parts.scheme == "https" else None
        return await asyncio.open_connection(parts.hostname, parts.port, ssl=secure, limit=_MOST)
    except ssl.SSLError as error:
        raise proxy.untrusted() if proxy else errors.Transient(str(error.reason)) from None
    except OSError as error:
        if proxy:
            raise proxy.unreachable() from None
        if isinstance(error, socket.gaierror):
            raise errors.Transient(f"the name {host} cannot be looked up (DNS: {error.strerror})") from None
        raise errors.Transient(
            f"no connection to {host}:{port} comes about ({type(error).__name__})"
        ) from None


async def _tunnel(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int, proxy: proxies.Proxy
) -> None:
    target = f"{_literal(host)}:{port}"
    lines = [
        f"CONNECT {target} HTTP/1.1",
        f"Host: {target}",
        *(f"{k}: {v}" for k, v in proxy.headers.items()),
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    found = re.match(r"HTTP/1\.[01] (\d{3})", head)
    if found is None or found[1] != "200":
        raise proxy.refused(int(found[1]) if found else 0, host)


async def _date(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, netloc: str) -> datetime | None:
    writer.write(
        f"HEAD / HTTP/1.1\r\nHost: {netloc}\r\nUser-Agent: alertwell\r\nConnection: close\r\n\r\n".encode()
    )
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    found = re.search(r"^Date:[ \t]*([^\r\n]{1,60})", head, re.IGNORECASE | re.MULTILINE)
    return answers.date({"Date": found[1].strip()}) if found else None


async def _issuer(host: str, port: int, context: ssl.SSLContext, proxy: proxies.Proxy | None) -> str:
    """Who signed a certificate that is not trusted: looked at, with nothing sent."""
    blind = ssl.create_default_context()
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE
    with contextlib.suppress(OSError, EOFError, ValueError, asyncio.LimitOverrunError, errors.PollFailure):
        async with _secured(host, port, blind, proxy, context) as (_, writer):
            return _read(writer.get_extra_info("ssl_object").getpeercert(binary_form=True))[0]
    return "nobody knows"


def _read(certificate: bytes | None) -> tuple[str, datetime | None]:
    try:
        read = x509.load_der_x509_certificate(certificate or b"")
        ends = read.not_valid_after_utc
        names = {attribute.oid: str(attribute.value) for attribute in read.issuer}
    except ValueError:
        return "an odd name", None
    oids = x509.NameOID
    name = names.get(oids.COMMON_NAME) or names.get(oids.ORGANIZATION_NAME) or read.issuer.rfc4514_string()
    return _UNPRINTABLE.sub("?", name)[:80], ends


def _literal(host: str) -> str:
    try:
        return f"[{host}]" if ipaddress.ip_address(host).version == 6 else host
    except ValueError:
        return host

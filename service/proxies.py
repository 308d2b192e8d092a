"""The proxy between us and Microsoft: for which addresses it is used, as whom, and what is said where it is the trouble. Pure.

One value serves both HTTP libraries, so that Entra and the APIs are reached the same way. Its user and password go to the proxy
alone, in the Proxy-Authorization of a CONNECT (RFC 9110 §9.3.6, §11.7): never in an address, which libraries write into errors.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, urlsplit

from service import errors

_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"\.?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_LINK_LOCAL: Final = ipaddress.ip_network("169.254.0.0/16")


@dataclass(frozen=True, slots=True)
class Proxy:
    """`url` is `http://host:port` or `https://host:port`, without a user; `bypass` is what `bypasses` made of NO_PROXY."""

    url: str
    user: str | None = None
    password: str = field(default="", repr=False)
    bypass: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Host and port, for people."""
        return self.url.partition("://")[2]

    @property
    def headers(self) -> dict[str, str]:
        """What the CONNECT carries: a secret where there is a user."""
        if self.user is None:
            return {}
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {pair}"}

    def for_url(self, url: str) -> bool:
        """Whether a request to this address goes through the proxy. Plain http (a machine's own endpoint of managed identities)
        and link-local addresses never do.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        if parts.scheme != "https" or not host:
            return False
        address = _address(host)
        if address is not None and address in _LINK_LOCAL:
            return False
        port = parts.port or _PORTS["https"]
        return not any(_matches(entry, host, address, port) for entry in self.bypass)

    def unreachable(self) -> errors.Transient:
        """The error where no connection to the proxy comes about."""
        return errors.Transient(f"the proxy {self.name} cannot be reached; check ALERTWELL_PROXY_URL")

    def untrusted(self) -> errors.Transient:
        """The error where the proxy's own certificate is not trusted (a proxy of https://)."""
        return errors.Transient(
            f"the certificate of the proxy {self.name} is not trusted; set ALERTWELL_CA_FILE to the CA of your proxy"
        )

    def inspects(self, host: str) -> errors.Transient:
        """The error where a certificate that comes through the proxy is not trusted."""
        return errors.Transient(
            f"the certificate of {host} is not trusted: it seems that the proxy {self.name} looks into TLS; "
            "set ALERTWELL_CA_FILE to the CA of your proxy"
        )

    def refused(self, status: int, host: str) -> errors.Transient:
        """The error where the proxy answers a CONNECT with this status: its trouble, not the tenant's."""
        if status == 407:
            said = "gives no user" if self.user is None else f"gives the user {self.user!r}"
            return errors.Transient(
                f"the proxy {self.name} does not accept our sign-in (407): ALERTWELL_PROXY_URL {said}; check it and "
                "ALERTWELL_PROXY_PASSWORD"
            )
        if status in (502, 503, 504):
            return errors.Transient(f"the proxy {self.name} cannot reach {host} ({status})")
        return errors.Transient(
            f"the proxy {self.name} does not let us through to {host} ({status}); it has to allow CONNECT to it"
        )


def parse(url: str, password: str = "", bypass: tuple[str, ...] = ()) -> Proxy:
    """The proxy of a setting. Raises ValueError that says what is wrong, without the value: that may hold a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ValueError("must be the address of a proxy such as http://proxy.example.com:3128") from None
    if (
        parts.scheme not in _PORTS
        or not parts.hostname
        or parts.path not in ("", "/")
        or parts.query
        or parts.fragment
        or port == 0
        or re.search(r"\s", url)
    ):
        raise ValueError(
            "must be the address of a proxy, http:// or https://, such as http://proxy.example.com:3128"
        )
    if parts.password is not None:
        raise ValueError("must not hold the password: give it as ALERTWELL_PROXY_PASSWORD_FILE")
    user = unquote(parts.username) if parts.username else None
    if user is not None and (":" in user or re.search(r"[\x00-\x1f\x7f]", user + password)):
        raise ValueError("has a user that Basic authentication cannot carry (a colon or a control character)")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Proxy(f"{parts.scheme}://{host}:{port or _PORTS[parts.scheme]}", user, password, bypass)


def bypasses(text: str) -> tuple[str, ...]:
    """The entries of NO_PROXY, separated by commas or blanks. Raises ValueError that names the one that is none.

    `*` is everything; `host.example` this host and all below it, and so is `.host.example`; `host.example:8443` only with that
    port; an address (`10.1.2.3`, `[fd00::1]:443`) or a network (`10.0.0.0/8`) where an address stands in place of a name.
    """
    entries = tuple(entry.lower() for entry in re.split(r"[,\s]+", text) if entry)
    for entry in entries:
        if not _is_entry(entry):
            raise ValueError(
                f"has the entry {entry[:60]!r}; must be names (host.example.com, .example.com, host:8443), addresses, "
                "networks (10.0.0.0/8) or *, separated by commas"
            )
    return entries


def _is_entry(entry: str) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        return _network(entry) is not None
    host, port = _split(entry)
    fits = _address(host) is not None or _HOST.fullmatch(host) is not None
    return fits and (port is None or 0 < port < 65536)


def _matches(
    entry: str, host: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address | None, port: int
) -> bool:
    if entry == "*":
        return True
    if "/" in entry:
        network = _network(entry)
        return address is not None and network is not None and address in network
    named, wanted = _split(entry)
    if wanted is not None and wanted != port:
        return False
    if address is not None:
        return _address(named) == address
    named = named.strip(".")
    return host == named or host.endswith(f".{named}")


def _split(entry: str) -> tuple[str, int | None]:
    if _address(entry) is not None:
        return entry, None
    host, colon, port = entry.rpartition(":")
    if not colon:
        return entry, None
    return host, int(port) if port.isascii() and port.isdecimal() and len(port) < 6 else -1


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None


def _network(entry: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return None

"""The HTTP session that MSAL speaks through: one host, a deadline for the whole call, no redirects, no retries, no cookies.

MSAL's own session has no time-out, follows redirects with the secret in the body, obeys any Retry-After inside the call, and
logs answers that are not JSON. Here every answer that is no success becomes an error of ours before MSAL sees it, which
also keeps MSAL's memory of a 400 (60 s, beyond a consent that was given meanwhile) out of the way.
"""

from __future__ import annotations

import http.cookiejar
import json
import re
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3

from service import errors, proxies
from service.auth import clock, replies

_CHUNK: Final = 16 * 1024
_CONNECT: Final = 5.0
_A_DAY: Final = 24 * 3600.0
_READ: Final = ("issuer", "authorization_endpoint", "token_endpoint", "device_authorization_endpoint")


@dataclass(frozen=True, slots=True)
class Reply:
    """What MSAL needs of a response; its interface is documented in msal.oauth2cli.http."""

    status_code: int
    text: str
    headers: Mapping[str, str]

    def raise_for_status(self) -> None:
        """Every reply that gets here is a success."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Metadata of a tenant, and until when (monotonic seconds) they serve."""

    reply: Reply
    until: float


Memory: TypeAlias = dict[str, Kept]
"""By URL, what a tenant's metadata said."""


class Wire:
    """MSAL's `http_client`, shared by all app objects; each call runs inside `call`, in its own thread."""

    def __init__(
        self, ca_file: Path | None, connections: int, now: clock.Clock, proxy: proxies.Proxy | None = None
    ) -> None:
        """Trusts `ca_file`, or else what the system trusts; tells `now` what the answers are dated; goes through `proxy` to the
        hosts that it is for.

        Raises errors.BadSetting where the file holds no certificates.
        """
        try:
            context = ssl.create_default_context(cafile=ca_file)
        except (OSError, ValueError):
            raise errors.BadSetting(
                f"ALERTWELL_CA_FILE: {ca_file} cannot be read as certificates in PEM form"
            ) from None
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.verify = str(ca_file) if ca_file else True
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        self._session.mount("https://", _Adapter(context, connections, proxy))
        self._session.mount("http://", _NoPlainHttp())
        self._thread = threading.local()
        self.clock = now
        self._proxy = proxy

    @contextmanager
    def call(self, host: str, seconds: float, memory: Memory) -> Iterator[None]:
        """Let this thread speak to `host` (with port) alone, for so many seconds in all, remembering metadata in `memory`."""
        self._thread.host = host
        self._thread.memory = memory
        self._thread.until = time.monotonic() + seconds
        try:
            yield
        finally:
            self._thread.host = self._thread.memory = None

    def get(
        self, url: str, params: Any = None, headers: Mapping[str, str] | None = None, **_ignored: Any
    ) -> Reply:
        """As MSAL calls it for metadata, which are asked for once a day."""
        memory: Memory = self._thread.memory
        kept = memory.get(url)
        if kept is None or kept.until < time.monotonic():
            reply = self._exchange("GET", url, params=params, headers=headers)
            kept = memory[url] = Kept(_endpoints(reply), time.monotonic() + _A_DAY)
        return kept.reply

    def post(
        self,
        url: str,
        params: Any = None,
        data: Any = None,
        headers: Mapping[str, str] | None = None,
        **_ignored: Any,
    ) -> Reply:
        """As MSAL calls it for tokens."""
        return self._exchange("POST", url, params=params, data=data, headers=headers)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _exchange(self, method: str, url: str, **content: Any) -> Reply:
        if urlsplit(url).netloc.lower() != self._thread.host:
            # Entra's metadata of a tenant name the token endpoint of the cloud that it lives in.
            raise errors.Attention(
                f"Entra sends this tenant to {shown_host(url)}: it belongs to another Microsoft cloud; set the tenant's cloud",
                code="wrong_cloud",
            )
        proxy = self._proxy if self._proxy and self._proxy.for_url(url) else None
        via = {"https": proxy.url} if proxy else {}
        try:
            with self._session.request(
                method, url, **content, proxies=via, timeout=self._left(), allow_redirects=False, stream=True
            ) as response:
                body = self._body(response)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            fault = _of_proxy(error, shown_host(url), proxy) if proxy else _fault(error)
        else:
            self.clock.learn(response.headers.get("Date"))
            replies.read(response.status_code, response.headers, body)
            return Reply(response.status_code, body.decode(errors="replace"), response.headers)
        # Outside of the except block: the original holds the request, and with it the secret.
        raise fault

    def _left(self) -> tuple[float, float]:
        left = self._thread.until - time.monotonic()
        if left <= 0:
            raise requests.Timeout
        return min(_CONNECT, left), left

    def _body(self, response: requests.Response) -> bytes:
        parts: list[bytes] = []
        size = 0
        # read1: what has come, and not so many bytes, for which a server that sends one now and then lets us wait for days
        while part := response.raw.read1(_CHUNK, decode_content=True):
            size += len(part)
            if size > replies.LARGEST:
                raise errors.Transient(f"Entra's answer is over {replies.LARGEST} bytes; it is not read")
            parts.append(part)
            self._left()
        return b"".join(parts)


def _endpoints(reply: Reply) -> Reply:
    """The few hundred bytes that MSAL reads of a tenant's metadata: there are thousands of tenants."""
    content = json.loads(reply.text)
    named = {key: content[key] for key in _READ if isinstance(content.get(key), str)}
    return Reply(reply.status_code, json.dumps(named), {})


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, context: ssl.SSLContext, connections: int, proxy: proxies.Proxy | None) -> None:
        self._context = context
        self._proxy = proxy
        super().__init__(pool_connections=4, pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs, ssl_context=self._context)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        return super().proxy_manager_for(
            proxy, **kwargs, ssl_context=self._context, proxy_ssl_context=self._context
        )

    def proxy_headers(self, _proxy: str) -> dict[str, str]:
        # requests takes them out of the address, where they would show in its errors.
        return self._proxy.headers if self._proxy else {}

    def close(self) -> None:
        # urllib3 leaves this to the garbage collector, and an error's traceback can keep a pool until then.
        for manager in (self.poolmanager, *self.proxy_manager.values()):
            pools = manager.pools
            for key in pools.keys():  # noqa: SIM118 - it is no mapping
                pools[key].close()
        super().close()


class _NoPlainHttp(requests.adapters.BaseAdapter):
    def send(self, *_args: Any, **_kwargs: Any) -> requests.Response:
        raise requests.exceptions.InvalidSchema

    def close(self) -> None:
        """Nothing is open."""


def shown_host(url: str) -> str:
    """The host of a URL from outside, cut down to what may be shown."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    return "".join(c for c in host[:100] if c.isascii() and (c.isalnum() or c in ".-")) or "another host"


def untrusted() -> errors.Transient:
    """The error where Entra's certificate is not trusted."""
    return errors.Transient(
        "Entra's TLS certificate is not trusted, or TLS fails; behind an inspecting proxy set CA_FILE"
    )


def _of_proxy(error: Exception, host: str, proxy: proxies.Proxy) -> errors.PollFailure:
    chain = list(_chain(error))
    for each in chain:
        # http.client says it in words alone
        if found := re.match(r"Tunnel connection failed: (\d{3})\b", str(each)):
            return proxy.refused(int(found[1]), host)
    if any(isinstance(each, requests.exceptions.ProxyError) for each in chain):
        secure = any(isinstance(each, ssl.SSLError | urllib3.exceptions.SSLError) for each in chain)
        return proxy.untrusted() if secure else proxy.unreachable()
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        return proxy.inspects(host)
    return _fault(error)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what it wraps, as requests (args) and urllib3 (reason, original_error) keep it."""
    waiting: list[Any] = [error]
    for _ in range(12):
        if not waiting:
            return
        each = waiting.pop()
        yield each
        inner = (*each.args, getattr(each, "reason", None), getattr(each, "original_error", None))
        waiting += [one for one in inner if isinstance(one, BaseException)]


def _fault(error: Exception) -> errors.PollFailure:
    if isinstance(error, requests.exceptions.SSLError | ssl.SSLError):
        # a connection that ends in the middle of the handshake says nothing of certificates
        if any(isinstance(each, ssl.SSLEOFError) for each in _chain(error)):
            return errors.Transient("Entra cannot be reached, or ended the connection")
        return untrusted()
    # A time-out inside the body comes wrapped in a ConnectionError.
    inner = error.args[0] if error.args else None
    late = requests.Timeout | TimeoutError | urllib3.exceptions.TimeoutError
    if isinstance(error, late) or isinstance(inner, late):
        return errors.Transient("Entra did not answer in time")
    if isinstance(error, requests.ConnectionError | urllib3.exceptions.ProtocolError):
        return errors.Transient("Entra cannot be reached, or ended the connection")
    return errors.Transient(f"the exchange with Entra failed ({type(error).__name__})")

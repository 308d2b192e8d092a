"""What a request that brought no whole answer means. Pure: the text of an error has the kind of the fault only."""

from __future__ import annotations

import aiohttp

from service import errors, proxies
from service.transport import answers


class Broken(errors.Transient):
    """The connection failed or ended in the middle of an answer: worth a quick second try."""


def fault(error: Exception, host: str, proxy: proxies.Proxy | None) -> errors.PollFailure:
    """The error for what aiohttp raised on the way to `host`; `proxy` is the one that the request went through, if any."""
    found = _fault(error, host, proxy)
    found.asked = not isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientHttpProxyError)
    return found


def _fault(error: Exception, host: str, proxy: proxies.Proxy | None) -> errors.PollFailure:
    if proxy is not None and (its := _of_proxy(error, host, proxy)):
        return its
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        if answers.unresolved(error.os_error):
            return errors.Gone("the API's host name does not exist any more")
        return errors.Transient("the API's host name cannot be looked up now")
    if isinstance(error, aiohttp.ClientSSLError):
        return errors.Transient(
            "the API's TLS certificate is not trusted, or TLS fails; behind a proxy set CA_FILE"
        )
    if isinstance(error, TimeoutError):
        return errors.Transient("the API did not answer in time")
    if isinstance(error, aiohttp.ClientResponseError):
        return errors.Transient("what answers is not HTTP as it should be")
    if isinstance(error, aiohttp.ClientError | OSError):
        return Broken(f"the API cannot be reached, or ended the connection ({type(error).__name__})")
    return errors.Transient(f"the answer cannot be used ({type(error).__name__})")


def _of_proxy(error: Exception, host: str, proxy: proxies.Proxy) -> errors.Transient | None:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return proxy.refused(error.status, host)
    if isinstance(error, aiohttp.ClientSSLError):
        # the connection's key names whose certificate it was
        return proxy.untrusted() if error.host == _bare(proxy) else proxy.inspects(host)
    if isinstance(error, aiohttp.ClientProxyConnectionError | aiohttp.ClientConnectorDNSError):
        return proxy.unreachable()
    return None


def _bare(proxy: proxies.Proxy) -> str:
    return proxy.name.rpartition(":")[0].strip("[]")

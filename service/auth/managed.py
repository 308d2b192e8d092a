"""The managed identity of an Azure machine as a source of federated tokens; MSAL knows each platform's endpoint.

The endpoints are of this machine (http to 169.254.169.254 on a VM, an address in the environment on App Service, Container
Apps and Arc): no proxy ever stands between. Source: Entra's "Configure an application to trust a managed identity".
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msal
import requests

from service import errors
from service.auth import claims, federated, wire

AUDIENCES: Final[Mapping[str, str]] = {
    "public": "api://AzureADTokenExchange",
    "gcc": "api://AzureADTokenExchange",
    "gcc-high": "api://AzureADTokenExchangeUSGov",
    "dod": "api://AzureADTokenExchangeUSGov",
    "china": "api://AzureADTokenExchangeChina",
}
"""By cloud, for whom the token is made out."""

_CONNECT: Final = 2.0
_TOTAL: Final = 5.0
_LARGEST: Final = 64 * 1024
_LEAST_LIFE: Final = 60.0
"""Seconds that a token must live on by Entra's clock; MSAL keeps it until 5 minutes before its end by ours."""


class ManagedIdentity:
    """The identity that Azure gives this machine. MSAL keeps its token; one thread asks at a time."""

    def __init__(self, client_id: str | None = None, audience: str = AUDIENCES["public"]) -> None:
        """`client_id` names a user-assigned identity; without it, the system-assigned one is meant."""
        self.paths: tuple[Path, ...] = ()
        self.version = 0
        self.expires_at: datetime | None = None  # Azure renews it, and nobody has to care
        self.overdue_at: datetime | None = None
        self._identity = (
            msal.UserAssignedManagedIdentity(client_id=client_id)
            if client_id
            else msal.SystemAssignedManagedIdentity()
        )
        self._audience = audience
        self._lock = threading.Lock()
        self._client: Any = None

    def assertion(self, now: float) -> str:
        """A token of the identity, within 5 seconds for the one that asks. Raises errors.CredentialRefused."""
        if not self._lock.acquire(timeout=_TOTAL):
            raise _refused("its endpoint does not answer in time")
        try:
            token = self._ask()
            end = federated.ends(token)
            if end is not None and end.timestamp() < now + _LEAST_LIFE:
                self._client = None
                token = self._ask()
            return token
        finally:
            self._lock.release()

    def refused(self) -> None:
        """Forget the token: the identity may have been made anew."""
        self._client = None

    def _ask(self) -> str:
        client = self._client
        if client is None:
            client = self._client = msal.ManagedIdentityClient(
                self._identity, http_client=_Local(), token_cache=msal.TokenCache()
            )
        problem: str
        try:
            result = client.acquire_token_for_client(resource=self._audience)
            token = result.get("access_token")
        except requests.ConnectionError:
            problem = (
                "no endpoint of one answers here: is this machine on Azure, with an identity assigned to it?"
            )
        except (requests.RequestException, OSError):
            problem = "its endpoint does not answer as it should, or not in time"
        except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
            problem = f"this platform's endpoint gives no token that can be used ({type(error).__name__})"
        else:
            if isinstance(token, str) and claims.usable(token):
                return token
            word = str(result.get("error", ""))
            label = f" ({word})" if re.fullmatch(r"[a-z_]{1,40}", word) else ""
            problem = f"its endpoint refuses: no such identity is assigned to this machine{label}"
        self._client = None
        # Outside of the except block: the original may quote an answer.
        raise _refused(problem)


def _refused(problem: str) -> errors.CredentialRefused:
    return errors.CredentialRefused(
        f"ALERTWELL_MANAGED_IDENTITY: {problem}", code="managed_identity_unavailable"
    )


class _Local:
    """MSAL's `http_client` towards this machine's own endpoint: no proxy, no redirects, no retries, a deadline."""

    def get(
        self, url: str, params: Any = None, headers: Mapping[str, str] | None = None, **_: Any
    ) -> wire.Reply:
        return self._exchange("GET", url, params=params, headers=headers)

    def post(
        self, url: str, data: Any = None, headers: Mapping[str, str] | None = None, **_: Any
    ) -> wire.Reply:
        return self._exchange("POST", url, data=data, headers=headers)

    def close(self) -> None:
        """Nothing stays open."""

    def _exchange(self, method: str, url: str, **content: Any) -> wire.Reply:
        until = time.monotonic() + _TOTAL
        with requests.Session() as session:
            session.trust_env = False
            with session.request(
                method, url, **content, timeout=(_CONNECT, _TOTAL), allow_redirects=False, stream=True
            ) as response:
                body = b""
                for part in response.iter_content(4096):
                    body += part
                    if len(body) > _LARGEST or time.monotonic() > until:
                        raise requests.Timeout
                return wire.Reply(response.status_code, body.decode(errors="replace"), response.headers)

"""Tokens by MSAL, in the v2 form. Everything here blocks and runs in a thread; MSAL's exceptions end here.

Each request makes an MSAL app with a cache of its own, and drops it: MSAL's cache knows a tenant only by the first path segment
of the token endpoint, and a shared one has been seen to hand a tenant another's token. Kept for thousands of tenants they would
hold hundreds of MiB, while making one costs about a millisecond where the tenant's metadata are known.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

import msal
import msal.exceptions
import requests

from service import errors
from service.auth import certificates, clock, federated, modes, replies, wire

_ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_FAMILIES: Final = (
    ValueError,  # MSAL's own complaints, and JSON that is none
    msal.exceptions.MsalError,
    requests.RequestException,
    LookupError,  # metadata without what MSAL takes for granted, or of other types
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,  # deeply nested JSON, and MSAL's of an id token
    OSError,
)


@dataclass(frozen=True, slots=True)
class App:
    """An app in one tenant with one credential. `authority` is the https address with the tenant's id at its end.

    `open` gives the credential; `memory` holds the tenant's metadata from one request to the next.
    """

    identity: modes.Identity
    authority: str
    open: Callable[[], modes.Mode] = field(repr=False)
    memory: wire.Memory = field(default_factory=dict, repr=False)

    def grant(self, session: wire.Wire, scope: str, seconds: float) -> replies.Grant:
        """Fetch a new token within so many seconds. Raises errors.PollFailure, errors.BadSetting."""
        mode = self.open()
        result = exchange(
            session, self.authority, seconds, self.memory, lambda: self._fetch(session, mode, scope)
        )
        return replies.grant(result)

    def proof(self, endpoint: str, now: clock.Clock) -> dict[str, str]:
        """What proves to the token endpoint that we are this app, as fields of a form.

        Raises errors.CredentialRefused, errors.BadSetting.
        """
        named = {"client_id": self.identity.app_id}
        match self.open():
            case modes.ClientSecret(value):
                return {**named, "client_secret": value}
            case modes.Delegated(refresh_token):
                return {**named, "grant_type": "refresh_token", "refresh_token": refresh_token}
            case mode:
                text = self._assertion(mode, endpoint, now)
                return {**named, "client_assertion_type": _ASSERTION_TYPE, "client_assertion": text}

    def refused(self) -> None:
        """Entra has refused the credential: what is cached of it is of no use. Takes no time for a shared one."""
        if self.identity.kind == "federated":
            mode = self.open()
            if isinstance(mode, federated.Federated):
                mode.source.refused()

    def _fetch(self, session: wire.Wire, mode: modes.Mode, scope: str) -> dict[str, Any]:
        if isinstance(mode, modes.Delegated):
            public = public_client(self.identity.app_id, self.authority, session)
            renewed: dict[str, Any] = public.acquire_token_by_refresh_token(mode.refresh_token, [scope])
            return dated(renewed)
        app = msal.ConfidentialClientApplication(
            self.identity.app_id,
            client_credential=self._credential(mode, session.clock),
            authority=self.authority,
            instance_discovery=False,  # on any error it would ask another host and hide the error
            azure_region=False,  # or MSAL_FORCE_REGION of the environment could move the endpoint
            http_client=session,
            token_cache=msal.TokenCache(),
        )
        result: dict[str, Any] = app.acquire_token_for_client(scopes=[scope])
        return dated(result)

    def _credential(self, mode: modes.OfApp, now: clock.Clock) -> str | dict[str, Any]:
        match mode:
            case modes.ClientSecret(value):
                return value
            case _:

                def assertion(facts: dict[str, Any]) -> str:
                    return self._assertion(mode, facts["token_endpoint"], now)

                return {"client_assertion": assertion}

    def _assertion(
        self, mode: certificates.Certificate | federated.Federated, endpoint: str, now: clock.Clock
    ) -> str:
        match mode:
            case certificates.Certificate():
                if mode.expires_at.timestamp() <= now.now():
                    raise errors.CredentialRefused(
                        f"the certificate of app {self.identity.app_id} expired on {mode.expires_at:%Y-%m-%d}; "
                        f"register a new one with the app and set it ({now.said()})",
                        code="certificate_expired",
                    )
                return mode.assertion(self.identity.app_id, endpoint, now.now())
            case federated.Federated(source):
                return source.assertion(now.now())


def public_client(app_id: str, authority: str, session: wire.Wire) -> Any:
    """MSAL's public client of one tenant: users sign in on it, and it sends no secret."""
    return msal.PublicClientApplication(
        app_id,
        authority=authority,
        instance_discovery=False,  # on any error it would ask another host and hide the error
        http_client=session,
        token_cache=msal.TokenCache(),
    )


def exchange(
    session: wire.Wire,
    authority: str,
    seconds: float,
    memory: wire.Memory,
    act: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """What MSAL brings from this authority within so many seconds. Raises errors.PollFailure, errors.BadSetting."""
    failure: errors.PollFailure
    with session.call(urlsplit(authority).netloc.lower(), seconds, memory):
        try:
            return act()
        except _FAMILIES as error:
            memory.clear()  # metadata that MSAL cannot use are not asked twice
            failure = errors.Transient(f"Entra's answer cannot be used ({type(error).__name__})")
    # Outside of the except block: the original may quote an answer.
    raise failure


def dated(result: dict[str, Any]) -> dict[str, Any]:
    """MSAL's result with Entra's advice as Entra gave it: in seconds from now."""
    if "refresh_on" in result:
        result["refresh_in"] = result["refresh_on"] - time.time()
    return result


def not_public(app_id: str) -> errors.Attention:
    """What it means that Entra asks for a secret where a user signed in."""
    return errors.Attention(
        f"app {app_id} does not allow public client flows (AADSTS7000218), which a user's sign-in needs",
        code="public_client_off",
    )

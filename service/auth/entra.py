"""Tokens by MSAL, in the v2 form. Everything here blocks and runs in a thread; MSAL's exceptions end here.

One app object and one token cache a (tenant, credential): MSAL's cache knows a tenant only by the first path segment of the
token endpoint, and a shared one has been seen to hand a tenant another's token.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Final, assert_never
from urllib.parse import urlsplit

import msal
import msal.exceptions
import requests

from service import errors
from service.auth import modes, replies, wire

_FAMILIES: Final = (
    ValueError,  # MSAL's own complaints, and JSON that is none
    msal.exceptions.MsalError,
    requests.RequestException,
    LookupError,  # metadata without what MSAL takes for granted, or of other types
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    OSError,
)


@dataclass(slots=True)
class App:
    """An app in one tenant with one credential. `authority` is the https address with the tenant's id at its end.

    MSAL's own object is made at first use, since that asks Entra for the tenant's metadata; `http_cache` keeps these for a day.
    """

    identity: modes.Identity
    authority: str
    mode: modes.Mode = field(repr=False)
    http_cache: dict[str, Any] = field(default_factory=dict, repr=False)
    _msal: Any = field(default=None, repr=False)

    def grant(self, session: wire.Wire, scope: str, seconds: float) -> replies.Grant:
        """Fetch a new token within so many seconds; never one from MSAL's cache. Raises errors.PollFailure."""
        failure: errors.PollFailure
        with session.call(urlsplit(self.authority).netloc.lower(), seconds):
            try:
                result = self._fetch(session, scope)
            except _FAMILIES as error:
                failure = errors.Transient(f"Entra's answer cannot be used ({type(error).__name__})")
            else:
                return replies.grant(result)
        # Outside of the except block: the original may quote an answer.
        raise failure

    def _fetch(self, session: wire.Wire, scope: str) -> dict[str, Any]:
        if self._msal is None:
            self._msal = msal.ConfidentialClientApplication(
                self.identity.app_id,
                client_credential=_credential(self.mode),
                authority=self.authority,
                instance_discovery=False,  # on any error it would ask another host and hide the error
                azure_region=False,  # or MSAL_FORCE_REGION of the environment could move the endpoint
                http_client=session,
                http_cache=self.http_cache,
                token_cache=msal.TokenCache(),
            )
        # When to renew is decided by Tokens; MSAL would hand out the old token until 5 minutes before its end.
        self._msal.remove_tokens_for_client()
        result: dict[str, Any] = self._msal.acquire_token_for_client(scopes=[scope])
        if "refresh_on" in result:
            result["refresh_in"] = result["refresh_on"] - time.time()
        return result


def _credential(mode: modes.Mode) -> str:
    match mode:
        case modes.ClientSecret(value):
            return value
        case _:
            assert_never(mode)

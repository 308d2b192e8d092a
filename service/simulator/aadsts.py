"""Entra's errors: the AADSTS codes that a daemon meets, with the OAuth error, status and words of each."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

from service.simulator import dice, ticks


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One code: `error` is what apps branch on; `text` may hold {fields}."""

    status: int
    error: str
    text: str


CODES: dict[int, Entry] = {
    7000215: Entry(
        401,
        "invalid_client",
        "Invalid client secret provided. Ensure the secret being sent in the request is the client secret"
        " value, not the client secret ID, for a secret added to app '{app}'.",
    ),
    7000222: Entry(
        401,
        "invalid_client",
        "The provided client secret keys for app '{app}' are expired. Visit the Azure portal to create "
        "new keys for your app.",
    ),
    7000218: Entry(
        401,
        "invalid_client",
        "The request body must contain the following parameter: 'client_assertion' or 'client_secret'.",
    ),
    700027: Entry(
        401,
        "invalid_client",
        "The certificate used to sign the client assertion is not registered on application '{app}'.",
    ),
    700016: Entry(
        400,
        "unauthorized_client",
        "Application with identifier '{app}' was not found in the directory '{tenant}'. This can happen "
        "if the application has not been installed by the administrator of the tenant or consented to by "
        "any user in the tenant.",
    ),
    7000112: Entry(400, "unauthorized_client", "Application '{app}' is disabled."),
    90002: Entry(
        400,
        "invalid_request",
        "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing "
        "into the correct cloud. Check with your subscription administrator, this may happen if there are"
        " no active subscriptions for the tenant.",
    ),
    900023: Entry(
        400,
        "invalid_request",
        "Specified tenant identifier '{tenant}' is neither a valid DNS name, nor a valid external domain.",
    ),
    90038: Entry(
        400,
        "invalid_request",
        "Tenant '{tenant}' request is being redirected to the National Cloud.",
    ),
    900144: Entry(
        400,
        "invalid_request",
        "The request body must contain the following parameter: '{parameter}'.",
    ),
    901002: Entry(400, "invalid_request", "The 'resource' request parameter is not supported."),
    70003: Entry(400, "unsupported_grant_type", "The app requested an unsupported grant type '{parameter}'."),
    500011: Entry(
        400,
        "invalid_resource",
        "The resource principal named {resource} was not found in the tenant named {tenant}. This can "
        "happen if the application has not been installed by the administrator of the tenant or consented"
        " to by any user in the tenant.",
    ),
    70011: Entry(
        400,
        "invalid_scope",
        "The provided request must include a 'scope' input parameter. The provided value for the input "
        "parameter 'scope' is not valid. The scope {resource} is not valid.",
    ),
    1002012: Entry(
        400,
        "invalid_scope",
        "The provided value for scope {resource} is not valid. Client credential flows must have a scope "
        "value with /.default suffixed to the resource identifier (application ID URI).",
    ),
    65001: Entry(
        400,
        "invalid_grant",
        "The user or administrator has not consented to use the application with ID '{app}'.",
    ),
    650052: Entry(
        400,
        "invalid_client",
        "The app needs access to a service that your organization '{tenant}' has not subscribed to or "
        "enabled.",
    ),
    53003: Entry(400, "access_denied", "Access has been blocked by Conditional Access policies."),
    90055: Entry(429, "temporarily_unavailable", "The tenant is throttled."),
    90033: Entry(503, "temporarily_unavailable", "A transient error has occurred. Please try again."),
    50000: Entry(
        500,
        "server_error",
        "There was an issue issuing a token or an issue with our sign-in service.",
    ),
}


class Problem(Exception):
    """A request that Entra refuses with a code of `CODES`; `fields` fill the text."""

    def __init__(self, code: int, **fields: str) -> None:
        super().__init__(code)
        self.code = code
        self.fields = fields

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code (400 for one that is not listed)."""
        entry = CODES.get(self.code)
        return entry.status if entry else 400

    def body(
        self, *, authority: str, now: int, rng: dice.Dice, correlation: str, error: str = ""
    ) -> dict[str, Any]:
        """The error as Entra words it; `now` in ticks. `error` replaces the OAuth error (metadata says
        invalid_tenant).
        """
        entry = CODES.get(self.code, Entry(400, "invalid_request", "Error {code}."))
        words = {
            "app": "",
            "tenant": "",
            "parameter": "",
            "resource": "",
            "code": str(self.code),
            **self.fields,
        }
        trace = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        stamp = ticks.entra(now)
        return {
            "error": error or entry.error,
            "error_description": f"AADSTS{self.code}: {entry.text.format(**words)}\r\nTrace ID: {trace}\r\n"
            f"Correlation ID: {correlation}\r\nTimestamp: {stamp}",
            "error_codes": [self.code],
            "timestamp": stamp,
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{authority}/error?code={self.code}",
        }

"""Entra's errors: the AADSTS codes that a daemon meets, with the OAuth error, status and words of each."""

from __future__ import annotations

import collections
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


_FEDERATED = (
    "No matching federated identity record found for presented assertion {claim} '{value}'. Check your federated "
    "identity credential Subject, Audience and Issuer against the presented assertion."
)

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
        "The certificate with identifier used to sign the client assertion is not registered on application "
        "'{app}'. [Reason - {reason}]",
    ),
    700024: Entry(
        401,
        "invalid_client",
        "Client assertion is not within its valid time range. Current time: {now}, assertion valid from "
        "{since}, expiry time of assertion {until}.",
    ),
    700021: Entry(
        401,
        "invalid_client",
        "Client assertion application identifier doesn't match 'client_id' parameter.",
    ),
    700023: Entry(401, "invalid_client", "Client assertion audience claim does not match Realm issuer."),
    50027: Entry(401, "invalid_client", "JWT token is invalid or malformed."),
    70025: Entry(
        401,
        "invalid_client",
        "The client '{app}' has no configured federated identity credentials.",
    ),
    **{
        code: Entry(
            401,
            "invalid_client",
            _FEDERATED.replace("{claim}", claim),
        )
        for code, claim in ((700211, "issuer"), (700212, "audience"), (700213, "subject"))
    },
    700229: Entry(
        401,
        "invalid_client",
        "Only app-only tokens can be used as Federated Identity Credentials for AAD issuer.",
    ),
    700025: Entry(
        401,
        "invalid_client",
        "Client is public so neither 'client_assertion' nor 'client_secret' should be presented.",
    ),
    70016: Entry(
        400,
        "authorization_pending",
        "OAuth 2.0 device flow error. Authorization is pending. Continue polling.",
    ),
    70018: Entry(400, "bad_verification_code", "Invalid verification code."),
    70019: Entry(400, "expired_token", "Verification code expired."),
    65004: Entry(400, "access_denied", "User declined to consent to access the app."),
    90094: Entry(400, "access_denied", "Admin consent is required for the permissions requested."),
    50011: Entry(
        400,
        "invalid_request",
        "The redirect URI '{value}' specified in the request does not match the redirect URIs configured for "
        "the application '{app}'.",
    ),
    500112: Entry(
        400,
        "invalid_grant",
        "The reply address '{value}' does not match the one provided when requesting Authorization code.",
    ),
    501481: Entry(
        400,
        "invalid_grant",
        "The Code_Verifier does not match the code_challenge supplied in the authorization request.",
    ),
    54005: Entry(
        400, "invalid_grant", "OAuth2 Authorization code was already redeemed, please retry with a new one."
    ),
    700005: Entry(
        400, "invalid_grant", "Provided Authorization Code is intended to use against other tenant."
    ),
    70000: Entry(400, "invalid_grant", "Provided grant is invalid or malformed."),
    70008: Entry(400, "invalid_grant", "The provided authorization code or refresh token has expired."),
    700082: Entry(400, "invalid_grant", "The refresh token has expired due to inactivity."),
    50173: Entry(
        400,
        "invalid_grant",
        "The provided grant has expired due to it being revoked, a fresh auth token is needed. The user might "
        "have changed or reset their password.",
    ),
    50076: Entry(
        400,
        "interaction_required",
        "Due to a configuration change made by your administrator, or because you moved to a new location, "
        "you must use multi-factor authentication to access '{resource}'.",
    ),
    50034: Entry(400, "invalid_grant", "No user account of the directory '{tenant}' is signed in."),
    50057: Entry(400, "invalid_grant", "The user account is disabled."),
    700016: Entry(
        400,
        "unauthorized_client",
        "Application with identifier '{app}' was not found in the directory '{tenant}'. This can happen "
        "if the application has not been installed by the administrator of the tenant or consented to by "
        "any user in the tenant.",
    ),
    7000229: Entry(
        401,
        "invalid_client",
        "The client application {app} is missing service principal in the tenant {tenant}.",
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


_UNKNOWN = Entry(400, "invalid_request", "Error {code}.")


class Problem(Exception):
    """A request that Entra refuses with a code of `CODES`; `fields` fill the text, `error` replaces the OAuth error."""

    def __init__(self, code: int, *, error: str = "", **fields: str) -> None:
        super().__init__(code)
        self.code = code
        self.error = error
        self.fields = fields

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code (400 for one that is not listed)."""
        entry = CODES.get(self.code)
        return entry.status if entry else 400

    def words(self, *, now: int, rng: dice.Dice, correlation: str) -> tuple[str, str]:
        """The description as Entra words it, and the trace id in it; `now` in ticks."""
        entry = CODES.get(self.code, _UNKNOWN)
        fields = collections.defaultdict(str, self.fields, code=str(self.code))
        trace = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        ids = f"Trace ID: {trace}\r\nCorrelation ID: {correlation}\r\nTimestamp: {ticks.entra(now)}"
        return f"AADSTS{self.code}: {entry.text.format_map(fields)}\r\n{ids}", trace

    def name(self) -> str:
        """The OAuth error."""
        return self.error or CODES.get(self.code, _UNKNOWN).error

    def body(
        self, *, authority: str, now: int, rng: dice.Dice, correlation: str, error: str = ""
    ) -> dict[str, Any]:
        """The error as JSON; `now` in ticks. `error` replaces the OAuth error (metadata says invalid_tenant)."""
        description, trace = self.words(now=now, rng=rng, correlation=correlation)
        return {
            "error": error or self.name(),
            "error_description": description,
            "error_codes": [self.code],
            "timestamp": ticks.entra(now),
            "trace_id": trace,
            "correlation_id": correlation,
            "error_uri": f"{authority}/error?code={self.code}",
        }

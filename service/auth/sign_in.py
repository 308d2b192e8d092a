"""Signing a user in on a public client: by device code, or by authorization code with PKCE on a loopback redirect.

For a command that waits for one person. MSAL does the protocol, in a thread, through the same `wire` as everything else. From
Entra's pages "OAuth 2.0 device authorization grant" and "OAuth 2.0 authorization code flow".
"""

from __future__ import annotations

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from service import errors, proxies
from service.auth import aadsts, claims, clock, entra, replies, threads, wire

_LONGEST: Final = 200
_SLOWER: Final = 5.0
"""Seconds that the interval grows by where Entra asks for it (RFC 8628, 3.5)."""
_LONGEST_LIFE: Final = 3600.0
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@dataclass(frozen=True, slots=True)
class SignedIn:
    """Who signed in, as Entra names them (cut down to what may be shown), and what that gave."""

    user: str
    object_id: str
    token: str = field(repr=False)
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Device:
    """What a person is told: open `address`, enter `code`, within so many `seconds`."""

    address: str
    code: str
    seconds: float
    interval: float
    flow: dict[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Visit:
    """What a browser is to open; whatever comes back has to carry `state`."""

    address: str = field(repr=False)
    state: str = field(repr=False)
    flow: dict[str, Any] = field(repr=False)


class Entrance:
    """Sign-ins of one app in one tenant. Belongs to one event loop; `close` it."""

    def __init__(
        self,
        app_id: str,
        authority: str,
        *,
        ca_file: Path | None = None,
        proxy: proxies.Proxy | None = None,
        deadline: float = 10.0,
    ) -> None:
        """`authority` is the https address with the tenant's id at its end, `deadline` the seconds of one request.

        Raises errors.BadSetting where `ca_file` cannot be used.
        """
        self._app_id = app_id
        self._authority = authority
        self._deadline = deadline
        self._wire = wire.Wire(ca_file, 1, clock.Clock(), proxy)
        self._places = threads.Places(1, deadline)
        self._memory: wire.Memory = {}

    async def device(self, scope: str) -> Device:
        """Begin with a device code. Raises errors.PollFailure."""
        flow = await self._ask(lambda app: app.initiate_device_flow([scope]))
        address, code = flow.get("verification_uri"), flow.get("user_code")
        if not isinstance(address, str) or not isinstance(code, str) or "device_code" not in flow:
            raise errors.Transient("Entra's answer holds no device code")
        seconds = min(float(flow["expires_in"]), _LONGEST_LIFE)
        return Device(_shown(address), _shown(code), seconds, max(float(flow["interval"]), 1.0), flow)

    async def by_device(
        self, device: Device, pause: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> SignedIn:
        """Wait until somebody has entered the code. `pause(seconds)` is between two looks. Raises errors.PollFailure."""
        interval = device.interval
        try:
            async with asyncio.timeout(device.seconds):
                while True:
                    await pause(interval)
                    try:
                        return await self._signed_in(lambda app: _once(app, device.flow))
                    except replies.Pending as pending:
                        interval += _SLOWER if pending.slower else 0.0
        except TimeoutError:
            refusal = aadsts.Refusal("expired_token", (70019,))
            raise replies.failure(refusal, status=400, retry_after=None) from None

    async def visit(self, scope: str, redirect_uri: str) -> Visit:
        """Begin with a browser. Raises errors.PollFailure."""
        # With form_post the code does not end up in the browser's history.
        flow = await self._ask(
            lambda app: app.initiate_auth_code_flow(
                [scope], redirect_uri=redirect_uri, response_mode="form_post", prompt="select_account"
            )
        )
        return Visit(flow["auth_uri"], flow["state"], flow)

    async def by_visit(self, visit: Visit, values: Mapping[str, str]) -> SignedIn:
        """Take what the browser brought back. Raises errors.BadInput for another state, errors.PollFailure."""
        if not hmac.compare_digest(values.get("state", "").encode(), visit.state.encode()):
            raise errors.BadInput(
                "what came back from the browser belongs to another sign-in (its state is not ours): nothing was taken from it"
            )
        refusal = aadsts.refusal(values)
        if refusal is None and not values.get("code"):
            raise errors.BadInput("what came back from the browser holds neither a code nor an error")
        if refusal is not None:
            raise _declined(replies.failure(refusal, status=400, retry_after=None))
        return await self._signed_in(
            lambda app: app.acquire_token_by_auth_code_flow(visit.flow, dict(values))
        )

    async def close(self) -> None:
        """A thread inside a hung call ends by its own deadline and is not waited for."""
        self._places.close()
        self._wire.close()

    async def _ask(self, act: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        def call() -> dict[str, Any]:
            return entra.exchange(
                self._wire,
                self._authority,
                self._deadline,
                self._memory,
                lambda: act(entra.public_client(self._app_id, self._authority, self._wire)),
            )

        async with self._places.place() as place:
            return await place.run(self._deadline, call)

    async def _signed_in(self, act: Callable[[Any], dict[str, Any]]) -> SignedIn:
        try:
            result = await self._ask(act)
        except errors.CredentialRefused as refusal:
            if refusal.code == "secret_missing":
                raise entra.not_public(self._app_id) from None
            raise
        except errors.Attention as refusal:
            raise _declined(refusal) from None
        grant = replies.grant(result)
        if grant.refresh_token is None:
            raise errors.Attention(
                "Entra gave no refresh token, so the sign-in would end within the hour", code="setup_wrong"
            )
        told = result.get("id_token_claims")
        known = told if isinstance(told, dict) else {}
        oid = known.get("oid")
        return SignedIn(
            _shown(known.get("preferred_username")) or "a user without a name",
            oid if isinstance(oid, str) and _GUID.fullmatch(oid) else "",
            grant.token,
            grant.refresh_token,
        )


def of_tenant(signed: SignedIn, tenant_id: Any, audience: str) -> None:
    """Raises errors.Attention where the user's token is for another tenant, or for another API."""
    claims.check(signed.token, tenant_id=tenant_id, audience=audience)


def _once(app: Any, flow: dict[str, Any]) -> dict[str, Any]:
    flow.pop("latest_attempt_at", None)  # whose time it is, we know
    result: dict[str, Any] = app.acquire_token_by_device_flow(flow, exit_condition=lambda _flow: True)
    return result


def _declined(refusal: errors.PollFailure) -> errors.PollFailure:
    """Entra's word for a consent that was declined is the same, whoever it was that declined."""
    if isinstance(refusal, errors.Attention) and refusal.code == "consent_declined":
        return errors.Attention("the sign-in was declined (AADSTS65004)", code="consent_declined")
    return refusal


def _shown(value: object) -> str:
    """Text of Entra's that is shown and stored: printable, and not long."""
    return "".join(c for c in value if c.isprintable())[:_LONGEST] if isinstance(value, str) else ""

"""An answer of Entra, read: the JSON object of a success, or the error that the rest of Alertwell understands. Pure.

Both ways to a token (MSAL over its session, the v1 form over aiohttp) read through here, before anything can log a body.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from service import errors
from service.auth import aadsts, claims

LARGEST: Final = 1024 * 1024
"""Bytes of one answer; tokens and metadata have a few KiB."""

LONGEST_LIFE: Final = 24 * 3600.0
"""Seconds for which a token is kept at most, whatever the answer says (long-lived ones of Entra have up to 28 h)."""

_LONGEST_WAIT: Final = 3600
_LOOP_WAIT: Final = 300.0


class FormRefused(errors.Attention):
    """Entra refuses the resource in this form of request (v2 `scope=` or v1 `resource=`); the other form may do."""


class Pending(errors.Transient):
    """A device code that nobody has taken up yet: ask again after the interval, which grows where `slower`."""

    def __init__(self, message: str, *, slower: bool) -> None:
        super().__init__(message)
        self.slower = slower


@dataclass(frozen=True, slots=True)
class Grant:
    """A token with its life from now in seconds, and when to ask for the next where Entra said so (`refresh_in`).

    `refresh_token` comes with a signed-in user's token: the newest one, while those before it stay good.
    """

    token: str = field(repr=False)
    seconds: float
    refresh_in: float | None = None
    refresh_token: str | None = field(default=None, repr=False)


def read(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The JSON object of a 200 answer; raises errors.PollFailure for every other. `headers` must be case-insensitive."""
    retry_after = _seconds(headers.get("Retry-After"))
    content = _object(body)
    refusal = aadsts.refusal(content) if content is not None and status != 200 else None
    if status == 429:
        raise errors.Throttled(
            "Entra throttles the token requests (429)", status=status, retry_after=retry_after
        )
    if status >= 500:
        label = f", {refusal.label}" if refusal else ""
        raise errors.Transient(f"Entra has a fault ({status}{label})", status=status, retry_after=retry_after)
    if refusal is not None and status >= 400:
        raise failure(refusal, status=status, retry_after=retry_after)
    if status != 200 or content is None:
        kind = "a redirect" if 300 <= status < 400 else "no JSON object"
        raise errors.Transient(
            f"what answers at Entra's address gave {kind} ({status}); is there a proxy or a portal in between?",
            status=status,
        )
    return content


def grant(content: Mapping[str, Any]) -> Grant:
    """The token of a success, in the v1 form (numbers are texts) or the v2 form. Raises errors.Transient where it is none."""
    token = content.get("access_token")
    # v1 and v2 write Bearer, MSAL hands it on; anything else could not be used with the APIs.
    if (
        not isinstance(token, str)
        or not claims.usable(token)
        or str(content.get("token_type", "")).lower() != "bearer"
    ):
        raise errors.Transient("Entra's answer holds no usable bearer token")
    life = _number(content.get("expires_in"))
    if life is None or life <= 0:
        raise errors.Transient("Entra's answer holds a token without a life (expires_in)")
    refresh_in = _number(content.get("refresh_in"))
    return Grant(token, min(life, LONGEST_LIFE), refresh_in, refresh_token(content))


def refresh_token(content: Mapping[str, Any]) -> str | None:
    """The refresh token of a success, where there is one of a sane length."""
    token = content.get("refresh_token")
    return token if isinstance(token, str) and 0 < len(token) <= claims.LONGEST else None


def failure(refusal: aadsts.Refusal, *, status: int, retry_after: float | None) -> errors.PollFailure:
    """The error for a refusal; its message holds the sentence and the number to look up, nothing of the answer's text."""
    verdict = refusal.verdict
    message = verdict.sentence(refusal.label)
    if refusal.error in ("authorization_pending", "slow_down"):
        return Pending(message, slower=refusal.error == "slow_down")
    if verdict.code in ("entra_throttles", "asked_too_often"):
        return errors.Throttled(message, status=status, retry_after=max(retry_after or 0.0, _LOOP_WAIT))
    if verdict.who == "R":
        return errors.Transient(message, status=status, retry_after=retry_after)
    if refusal.of_credential:
        return errors.CredentialRefused(message, code=verdict.code, status=status, retry_after=retry_after)
    kind = FormRefused if refusal.of_form else errors.Attention
    return kind(message, code=verdict.code, status=status, retry_after=retry_after)


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _number(value: object) -> float | None:
    if isinstance(value, str) and len(value) <= 20:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _seconds(header: str | None) -> float | None:
    # Entra writes whole seconds only (said by MSAL's authors); other forms count as none.
    if header is None or not header.isascii() or not header.isdecimal() or len(header) > 9:
        return None
    return float(min(int(header), _LONGEST_WAIT))

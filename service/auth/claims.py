"""Looking into an access token, for diagnosis and as a guard between tenants. Pure; no signature is checked.

Tokens are opaque for clients by contract: one that cannot be read is used as it is and the API decides.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from typing import Any, Final
from uuid import UUID

import jwt

from service import errors
from service.auth import clock

LONGEST: Final = 32 * 1024
"""Characters; a token travels in a header, and servers take 8 to 32 KiB of those."""

_BEARER: Final = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
_NAME: Final = re.compile(r"[A-Za-z0-9._:/-]{1,100}")
_MOST_NAMES: Final = 10
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def usable(token: object) -> bool:
    """Whether this can travel in a header as a bearer token (RFC 6750's characters, a sane length)."""
    return isinstance(token, str) and len(token) <= LONGEST and _BEARER.fullmatch(token) is not None


def check(
    token: str,
    *,
    tenant_id: UUID,
    audience: str,
    roles: Iterable[str] = (),
    scopes: Iterable[str] = (),
    now: clock.Clock | None = None,
) -> None:
    """Raise errors.PollFailure where a readable token is for another tenant or API, has ended, or lacks what is needed.

    `roles` (of an app) and `scopes` (of a signed-in user, `scp`) are alternatives each, such as Alert.Read.All or
    Alert.ReadWrite.All; none means that the API has none. `now` is Entra's clock; without it, `exp` is not looked at.
    """
    claims = _claims(token)
    if claims is None:
        return
    tid = claims.get("tid")
    if tid is not None and (not isinstance(tid, str) or tid.lower() != str(tenant_id)):
        raise errors.Attention(
            "Entra gave a token of another tenant; it is not used",
            code="wrong_tenant",
        )
    if not _fits(claims.get("aud"), audience):
        raise errors.Attention(
            f"Entra gave a token for another API than {audience}; it is not used",
            code="wrong_audience",
        )
    if now is not None:
        _alive(claims.get("exp"), now)
    if (lacking := _lacking(sorted(roles), claims.get("roles"))) is not None:
        raise errors.Attention(f"the token is fine but lacks the role {lacking}", code="role_missing")
    scp = claims.get("scp")
    if (lacking := _lacking(sorted(scopes), scp.split() if isinstance(scp, str) else None)) is not None:
        raise errors.Attention(f"the token is fine but lacks the scope {lacking}", code="scope_missing")


def _alive(exp: object, now: clock.Clock) -> None:
    if isinstance(exp, bool) or not isinstance(exp, int | float) or not math.isfinite(exp):
        return
    if exp <= now.now():
        raise errors.Transient(
            f"Entra gave a token that ended {now.now() - exp:.0f} s ago; it is not used ({now.said()})"
        )


def _lacking(wanted: list[str], granted: object) -> str | None:
    """What is missing and what is there, for people; None where one of `wanted` is there, or none is wanted."""
    held = granted if isinstance(granted, list) else []
    if not wanted or any(one in held for one in wanted):
        return None
    names = [one for one in held if isinstance(one, str) and _NAME.fullmatch(one)]
    shown = " ".join(names[:_MOST_NAMES]) + (" …" if len(names) > _MOST_NAMES else "")
    return f"{' or '.join(wanted)} (has: {shown or 'none'})"


def lacks(token: str, roles: Collection[str], scopes: Collection[str] = ()) -> bool:
    """Whether a readable token holds none of these roles (of an app), or none of these scopes (of a signed-in user): one
    service's token may do for one source alone.
    """
    claims = _claims(token)
    if claims is None:
        return False
    wanted, granted = (scopes, claims["scp"]) if "scp" in claims else (roles, claims.get("roles"))
    held = granted.split() if isinstance(granted, str) else granted
    return bool(wanted) and (not isinstance(held, list) or not any(each in held for each in wanted))


def _claims(token: str) -> dict[str, Any] | None:
    try:
        claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return None
    return claims


def _fits(aud: object, audience: str) -> bool:
    # v1 tokens name the resource as asked for, v2 tokens the API's own id, a GUID that no document lists for all clouds.
    if aud is None:
        return True
    named = aud if isinstance(aud, list) else [aud]
    return any(
        isinstance(one, str)
        and (_GUID.fullmatch(one) or one.rstrip("/").lower() == audience.rstrip("/").lower())
        for one in named
    )

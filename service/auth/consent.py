"""Links by which a customer's administrator consents, and the signed state that brings the answer back. Pure.

    v2      {authority}/{tenant or organizations}/v2.0/adminconsent   one API: grants its registered permissions
    v1      {authority}/{tenant or common}/adminconsent               several: grants all that the app has registered
    plain   v1 without state and redirect_uri                         where no callback is reachable
    legacy  {authority}/{tenant or common}/oauth2/authorize           the form of the Defender pages; has no state

Sources: "Admin consent on the Microsoft identity platform", "Construct the URL for granting tenant-wide admin consent",
"Use Microsoft Defender for Endpoint APIs" (partner access).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal
from urllib.parse import quote, urlencode
from uuid import UUID

from service import errors
from service.auth import sealing

Form = Literal["v2", "v1", "plain", "legacy"]

_MARK: Final = "consent"  # what else is sealed with the same keys never reads as a state
_STATE: Final = re.compile(r"[A-Za-z0-9_\-]{80,512}={0,2}")


@dataclass(frozen=True, slots=True)
class State:
    """What a genuine state says: which invitation, and until when its link works."""

    invitation_id: UUID
    expires_at: datetime

    def signed(self, sealer: sealing.Sealer) -> str:
        """As it travels: sealed with the newest key."""
        return sealer.seal(f"{_MARK} {self.invitation_id} {int(self.expires_at.timestamp())}").decode()


def genuine(text: str, sealer: sealing.Sealer) -> State | None:
    """The state that we have signed ourselves, None for any other text. Whether it has expired is for the caller."""
    if not _STATE.fullmatch(text):
        return None
    try:
        mark, invitation_id, expires = sealer.unseal(text.encode()).split(" ")
        if mark != _MARK:
            return None
        return State(UUID(invitation_id), datetime.fromtimestamp(int(expires), UTC))
    except (errors.BadSetting, ValueError, OverflowError, OSError):
        return None


def form(audiences: Sequence[str], *, answers: bool, legacy: bool) -> Form:
    """Which link asks for these APIs; `answers` is whether a callback can be reached."""
    if legacy:
        return "legacy"
    if not answers:
        return "plain"
    return "v2" if len(set(audiences)) == 1 else "v1"


def link(
    form: Form,
    *,
    authority: str,
    tenant_id: UUID | None,
    client_id: str,
    audience: str = "",
    callback: str = "",
    state: str = "",
) -> str:
    """The address to send. `audience` counts for v2 alone, `callback` and `state` for v2 and v1."""
    who = str(tenant_id) if tenant_id else "organizations" if form == "v2" else "common"
    query = {"client_id": client_id}
    path = "adminconsent"
    match form:
        case "v2":
            path = "v2.0/adminconsent"
            query |= {"scope": f"{audience}/.default", "redirect_uri": callback, "state": state}
        case "v1":
            query |= {"redirect_uri": callback, "state": state}
        case "legacy":
            path = "oauth2/authorize"
            query = {"prompt": "consent", **query, "response_type": "code", "sso_reload": "true"}
        case "plain":
            pass
    return f"{authority}/{who}/{path}?{urlencode(query, quote_via=quote)}"

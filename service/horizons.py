"""Until when credentials last, and when to speak of it: 60, 30, 14 and 7 days before, and when it is over. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from service import model

STEPS: Final = (7, 14, 30, 60)
"""Days before the end at which somebody is warned, the last warning first."""
FAR: Final = timedelta(days=STEPS[-1])
NAMES: Final[dict[model.CredentialKind, str]] = {
    "client_secret": "client secret",
    "certificate": "certificate",
    "federated": "federated token",
    "delegated": "sign-in",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """Until when a credential lasts: one of the shared app, or that of tenants' own which ends first.

    `expires_at` is None where it is not known, or somebody else renews it. `overdue_at` is for a token that somebody renews in a
    file: from then on nobody has. `first` names the tenant, `soon` says how many end within 60 days.
    """

    owner: Literal["shared", "tenants"]
    app_id: str
    kind: model.CredentialKind
    expires_at: datetime | None
    overdue_at: datetime | None = None
    first: str = ""
    soon: int = 0

    def end(self, now: datetime) -> datetime | None:
        """The end that is worth a thought: that of a token which is renewed as it should be is none."""
        if self.kind == "federated" and (self.overdue_at is None or now < self.overdue_at):
            return None
        return self.expires_at

    def step(self, now: datetime) -> int | None:
        """The warning that is due: 60, 30, 14 or 7 (days), 0 where it is over, None where it is far off or not known."""
        end = self.end(now)
        if end is None:
            return None
        if end <= now:
            return 0
        return next((days for days in STEPS if end - now <= timedelta(days=days)), None)

    def said(self, now: datetime) -> str:
        """For people, in a sentence."""
        what = f"{NAMES[self.kind]} of app {self.app_id}"
        if self.owner == "tenants":
            what = f"{what} of {self.first}"
        if self.expires_at is None:
            return f"the {what}: when it ends is not known here"
        if self.kind == "federated":
            return self._of_token(what, self.expires_at, now)
        others = f"; {self.soon} tenants' own end within {STEPS[-1]} days" if self.soon > 1 else ""
        day = f"{self.expires_at:%Y-%m-%d}"
        if self.expires_at <= now:
            return f"the {what} ended on {day}{others}"
        days = (self.expires_at - now).days
        return f"the {what} ends on {day}, in {days} day{'' if days == 1 else 's'}{others}"

    def _of_token(self, what: str, expires_at: datetime, now: datetime) -> str:
        if self.end(now) is None:
            return f"the {what} is renewed by whoever rotates its file"
        verb = "ended" if expires_at <= now else "ends"
        return f"the {what} {verb} at {expires_at:%Y-%m-%d %H:%M} UTC and was not renewed: its file is not rotated any more"


def remedy(ending: Ending) -> str:
    """What to do, as a sentence of instructions."""
    if ending.kind == "federated":
        return "See that ALERTWELL_FEDERATED_TOKEN_FILE is rotated again; in Kubernetes it is a projected volume of the pod"
    if ending.kind == "delegated":
        return "It is renewed while its tenant is polled: resume the tenant, or have the user sign in again: alertwell login"
    if ending.owner == "tenants":
        return "Ask the customer for a new one, and set it: alertwell tenants set-credential"
    return (
        "Make a new one in the app's registration beside the old, rehearse it: alertwell tenants check --credential FILE; "
        "then put it in the old one's place"
    )

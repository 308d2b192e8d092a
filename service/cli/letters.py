"""What can be sent to a customer with the link: what they will see, which permissions in words, how to take it back. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.cli import output
from service.sources import registry
from service.store import invitations

WORDS: Final[Mapping[str, str]] = {
    "Alert.Read.All": "read the alerts of Microsoft Defender for Endpoint",
    "Incident.Read.All": "read the incidents of Microsoft Defender XDR",
    "SecurityAlert.Read.All": "read the security alerts of Microsoft Defender",
    "SecurityIncident.Read.All": "read the security incidents of Microsoft Defender",
}
"""The least permission of each source, as a customer understands it."""

_STEPS: Final = {
    "v2": "You will see our app's name and the permissions below; Microsoft then brings you to a page of ours that says so.",
    "v1": "You will see our app's name and the permissions below; Microsoft then brings you to a page of ours that says so.",
    "plain": "You will see our app's name and the permissions below. What comes after Accept may look like an error: the "
    "consent is given all the same. Please tell us when it is done.",
    "legacy": "You will see our app's name and the permissions below. What comes after Accept may look like an error: the "
    "consent is given all the same. Please tell us when it is done.",
}


def permissions(sources: Sequence[str]) -> list[str]:
    """The least application permission of each source, each once; a source without any adds none."""
    least = [
        min(registry.get(name).roles, key=lambda role: ("Write" in role, role), default="")
        for name in sources
    ]
    return [role for role in dict.fromkeys(least) if role]


def letter(invitation: invitations.Invitation, link: str, client_id: str) -> str:
    """The text, in lines of at most 100 characters but for the link."""
    asked = [
        f"  - {WORDS[role]} ({role}, application permission)" for role in permissions(invitation.sources)
    ]
    who = (
        f"an administrator of the directory {invitation.tenant_id}"
        if invitation.tenant_id
        else "an administrator of your Microsoft Entra directory"
    )
    valid = (
        ["The link works once, until " + (output.when(invitation.expires_at) or "") + "."]
        if invitation.form in ("v2", "v1")
        else []
    )
    return "\n".join(
        [
            f"To let us read the Microsoft Defender alerts of {output.printable(invitation.name)}, please have",
            f"{who} (Global Administrator or",
            "Privileged Role Administrator) open this link, and accept:",
            "",
            f"  {link}",
            "",
            *_wrapped(_STEPS[invitation.form]),
            *valid,
            "",
            "What it allows our app, and nothing else:",
            *(asked or ["  - what Microsoft's page lists"]),
            "It changes nothing in your directory but this, signs nobody in, and reads no mail and no files.",
            "",
            "To take it back at any time: Microsoft Entra admin center > Enterprise applications > the app with the",
            f"application id {client_id} > Properties > Delete.",
        ]
    )


def _wrapped(text: str) -> list[str]:
    import textwrap

    return textwrap.wrap(text, 100)

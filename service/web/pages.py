"""The pages that a customer's administrator may see: static, without scripts, and nothing of the request in them."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_STYLE: Final = (
    "body{font:1.1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:12vh auto;padding:0 1rem;"
    "color:#222;background:#fff}"
)
_STYLE_HASH: Final = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

HEADERS: Final[Mapping[str, str]] = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Robots-Tag": "noindex",
}
"""On every answer of the callback: the address bar holds the state, so nothing may load, embed, keep or pass it on."""


@dataclass(frozen=True, slots=True)
class Page:
    """What is said, and the HTTP status that it is said with."""

    status: int
    title: str
    text: str

    @property
    def html(self) -> str:
        return (
            '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{self.title}</title><style>{_STYLE}</style></head>"
            f"<body><h1>{self.title}</h1><p>{self.text}</p></body></html>\n"
        )


_AGAIN: Final = "Please ask your security provider for a new link."

PAGES: Final[Mapping[str, Page]] = {
    "given": Page(
        200,
        "Thank you",
        "Your consent has arrived. It is being checked now, which can take some minutes; your security provider sees the "
        "result. There is nothing more to do, and you can close this page.",
    ),
    "replayed": Page(
        200,
        "This answer has arrived before",
        "Your security provider has it already. There is nothing more to do, and you can close this page.",
    ),
    "refused": Page(
        400,
        "Nothing was granted",
        "Microsoft says that the consent was declined, or that the account may not give it: it takes a Global Administrator "
        "or a Privileged Role Administrator. Nothing has changed. The same link can be opened again until it expires.",
    ),
    "contradictory": Page(
        400,
        "This answer cannot be used",
        f"It says that consent was given and refused at once, so it was not taken. {_AGAIN}",
    ),
    "expired": Page(400, "This link has expired", f"It was not taken. {_AGAIN}"),
    "withdrawn": Page(
        400,
        "This link is not valid any more",
        f"A newer one has taken its place, or it was withdrawn. {_AGAIN}",
    ),
    "wrong_tenant": Page(
        400,
        "Another organization was invited",
        "The account that was used belongs to another organization than the one that the link was made for, so the answer "
        "was not taken. Please sign in with an administrator of the right one and open the link again. What was granted in "
        "the other one can be removed there, under Enterprise applications.",
    ),
    "enrolled_elsewhere": Page(
        400,
        "This organization is known already",
        "Your security provider has it under another name, so the answer was not taken. Please tell them.",
    ),
    "stateless": Page(
        400,
        "Please tell your security provider",
        "This page was reached without the mark of an invitation, so nobody can tell whose consent it is. If you have just "
        "given it, tell your security provider: they can check it by hand.",
    ),
    "forged": Page(400, "This answer cannot be used", f"It does not belong to an invitation. {_AGAIN}"),
    "unreadable": Page(400, "This answer cannot be used", f"It is not what Microsoft sends. {_AGAIN}"),
    "unknown": Page(400, "This link is not valid any more", f"It was not taken. {_AGAIN}"),
    "too_often": Page(429, "This link was used too often", f"It was not taken. {_AGAIN}"),
    "throttled": Page(
        429, "Too many answers at once", "Please wait a minute, then reload this page: nothing is lost."
    ),
    "unavailable": Page(
        503, "Not now", "Your answer could not be kept. Please wait a minute, then reload this page."
    ),
    "nothing": Page(404, "Nothing here", "There is no such page."),
    "method": Page(405, "Nothing here", "This page can only be opened."),
    "broken": Page(500, "Something went wrong", "Please wait a minute, then reload this page."),
}
"""By outcome, as in alertwell_consent_callbacks_total; the last three are not counted."""

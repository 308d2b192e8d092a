"""Tokens of another issuer that stand in for a secret: Entra trusts them where the app has a federated credential for them.

The issuer's token travels as `client_assertion`. It comes from a file that is rotated by whoever runs us (Kubernetes swaps a
link), or from the managed identity of an Azure machine (`managed`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import jwt

from service import errors
from service.auth import claims, files

_SIGNATURES: Final = frozenset({64, 96, 132, 256, 384, 512, 1024})
"""Bytes of a signature by elliptic curves or RSA; another length is that of a half-written token."""
_PARTS: Final = re.compile(r"[\w-]+\.[\w-]+\.[\w-]+", re.ASCII)


class Source(Protocol):
    """Where the tokens come from. `assertion` may block, and is called in threads."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files whose change means another token."""

    @property
    def version(self) -> int:
        """Grows when the token has become another one by somebody else's doing."""

    @property
    def expires_at(self) -> datetime | None:
        """The end of the token of this moment, where somebody has to care for the next."""

    @property
    def overdue_at(self) -> datetime | None:
        """From when on whoever cares for the next has not: a tenth of the token's life before its end."""

    def assertion(self, now: float) -> str:
        """A token; `now` is Entra's time. Raises errors.CredentialRefused where there is none to have."""

    def refused(self) -> None:
        """Entra did not take the last one: the next must not come from a cache."""


@dataclass(frozen=True, slots=True)
class Federated:
    """An app that shows another issuer's token."""

    source: Source = field(repr=False)


class TokenFile:
    """A token in a file, read again when that changes. Safe to use from threads."""

    def __init__(self, path: Path) -> None:
        """Raises errors.BadSetting where the file holds no token."""
        self.paths = (path,)
        self._kept = files.Kept(self.paths, lambda: _token(path))

    @property
    def version(self) -> int:
        return self._kept.look()[1]

    @property
    def expires_at(self) -> datetime | None:
        return ends(self._kept.look()[0])

    @property
    def overdue_at(self) -> datetime | None:
        token = self._kept.look()[0]
        end, begin = ends(token), _moment(token, "iat")
        # Kubernetes renews at four fifths of a token's life
        return end if end is None or begin is None or begin >= end else end - (end - begin) / 10

    def assertion(self, now: float) -> str:  # noqa: ARG002  # the file's owner decides when it is renewed
        return self._kept.look()[0]

    def refused(self) -> None:
        """Each call looks at the file already."""


def ends(token: str) -> datetime | None:
    """When a token says that it ends. No signature is checked: it is for people, and decides nothing."""
    return _moment(token, "exp")


def _moment(token: str, claim: str) -> datetime | None:
    try:
        content: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
        return datetime.fromtimestamp(float(content[claim]), UTC)
    except (
        jwt.InvalidTokenError,
        LookupError,
        ValueError,
        TypeError,
        ArithmeticError,
        OSError,
        RecursionError,
    ):
        return None


def _token(path: Path) -> str:
    text = files.text(path).strip()
    if not claims.usable(text) or not _PARTS.fullmatch(text) or not _signed(text):
        raise errors.BadSetting(
            f"ALERTWELL_FEDERATED_TOKEN_FILE: {path} holds no whole token (JWT), such as Kubernetes projects into a pod"
        )
    return text


def _signed(token: str) -> bool:
    try:
        return (
            len(jwt.api_jws.decode_complete(token, options={"verify_signature": False})["signature"])
            in _SIGNATURES
        )
    except (jwt.InvalidTokenError, ValueError, RecursionError):
        return False

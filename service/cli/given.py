"""A credential as a person gives it: from a file or a prompt, never from the command line itself, to what is stored of it."""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import typer

from service import errors, horizons, model
from service.auth import certificates, files, sealing
from service.store import credentials

PASSWORD: Final = "give --certificate-password-file FILE or --ask-password"  # noqa: S105 - what to type, not a password
_GUID: Final = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Given:
    """How an app proves itself. `text` is what is to be sealed: the secret, key and certificates (PEM), or nothing."""

    def __init__(
        self, app_id: str, kind: model.CredentialKind, text: str, expires_at: datetime | None = None
    ) -> None:
        # no dataclass, whose repr would show the text
        self.app_id = app_id
        self.kind = kind
        self.text = text
        self.expires_at = expires_at

    def sealed(self, sealer: sealing.Sealer | None) -> credentials.Own:
        """As it is stored. Raises errors.BadSetting where keys are needed and not set."""
        if self.kind == "federated":
            return credentials.Own(self.app_id, self.kind, b"")
        if sealer is None:
            raise errors.BadSetting(
                "ALERTWELL_SEALING_KEYS_FILE is not set; a tenant's own secret is stored sealed with the keys in that file. "
                "Make it with: alertwell seal-key --into FILE"
            )
        return credentials.Own(self.app_id, self.kind, sealer.seal(self.text), self.expires_at)

    def is_kept(self, sealer: sealing.Sealer | None, stored: credentials.Stored) -> bool:
        """Whether this very credential is stored already: sealed again it would look like another one."""
        if (stored.credential.app_id, stored.credential.kind) != (self.app_id, self.kind):
            return False
        if self.expires_at not in (None, stored.expires_at):
            return False
        if self.kind == "federated":
            return True
        try:
            return sealer is not None and sealer.unseal(stored.credential.sealed) == self.text
        except errors.BadSetting:
            return False  # sealed with a key that is gone: sealed anew it can be opened again

    def said(self) -> str:
        """For people: what it is, of which app, and its end."""
        end = f", ends {self.expires_at:%Y-%m-%d}" if self.expires_at else ""
        return f"{horizons.NAMES[self.kind]} of app {self.app_id}{end}"


def choose(
    app_id: str,
    *,
    secret_file: Path | None = None,
    ask_secret: bool = False,
    certificate_file: Path | None = None,
    password_file: Path | None = None,
    ask_password: bool = False,
    federated: bool = False,
    expires_at: datetime | None = None,
) -> Given:
    """The credential that the options of a command name. Raises errors.UserMistake where they name none, or two."""
    ways = [secret_file is not None, ask_secret, certificate_file is not None, federated]
    if sum(ways) != 1:
        raise errors.BadInput(
            "--client-id needs one proof of its app: --secret-file FILE, --ask-secret, --certificate-file FILE or --federated"
        )
    if certificate_file is None and (password_file is not None or ask_password):
        raise errors.BadInput("a certificate's password needs --certificate-file, which it is for")
    if expires_at is not None and (certificate_file is not None or federated):
        raise errors.BadInput("--expires-at is for a secret: a certificate says itself when it ends")
    if certificate_file is not None:
        if password_file is not None and ask_password:
            raise errors.BadInput("--certificate-password-file and --ask-password exclude each other")
        password = asked("Password of the certificate", "--ask-password") if ask_password else None
        return certificate(app_id, certificate_file, password_file or password, PASSWORD)
    if federated:
        return Given(app_id, "federated", "")
    if secret_file is not None:
        return secret(app_id, secret_file, expires_at)
    text = asked("Client secret", "--ask-secret")
    return Given(app_id, "client_secret", _like_a_secret(text, "this"), expires_at)


def secret(app_id: str, file: Path, ends: datetime | None = None) -> Given:
    """From a file. Raises errors.BadSetting that names it."""
    return Given(app_id, "client_secret", _like_a_secret(sealing.read_secret_file(file), str(file)), ends)


def certificate(app_id: str, file: Path, password: Path | str | None, how: str) -> Given:
    """From PEM or PFX; `how` says how its password is given. Raises errors.BadSetting that names the file."""
    word = sealing.read_secret_file(password) if isinstance(password, Path) else password
    found = certificates.read(files.read(file), word, str(file), how=how)
    if found.expires_at <= datetime.now(UTC):
        raise errors.BadSetting(f"{file}: its certificate has expired on {found.expires_at:%Y-%m-%d}")
    return Given(app_id, "certificate", found.pem(), found.expires_at)


def asked(what: str, option: str) -> str:
    """What is typed at a prompt, unseen. Raises errors.BadInput where there is no terminal."""
    if not sys.stdin.isatty():
        raise errors.BadInput(f"{option} needs a terminal to ask on: use a file")
    return str(typer.prompt(what, hide_input=True, err=True)).strip()


def _like_a_secret(text: str, name: str) -> str:
    if "-----BEGIN " in text:
        raise errors.BadSetting(
            f"{name}: is a PEM file; a certificate is given as certificate_file, not as a secret"
        )
    if "\n" in text or "\r" in text:
        raise errors.BadSetting(f"{name}: has several lines; a client secret is one")
    if _GUID.fullmatch(text.strip()):
        raise errors.BadSetting(
            f"{name}: is a GUID, so it is the secret's id; its value is wanted, which the portal shows once"
        )
    return text

"""Options that several commands share: a credential is named by a file or asked for, and never stands on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from service import errors

if TYPE_CHECKING:
    from service.cli import given

T = TypeVar("T")

ClientId = Annotated[
    str | None, typer.Option(metavar="GUID", help="The app in the customer's own tenant, a GUID.")
]
SecretFile = Annotated[Path | None, typer.Option(metavar="FILE", help="File with that app's secret.")]
AskSecret = Annotated[bool, typer.Option("--ask-secret", help="Ask for that app's secret.")]
CertificateFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="PEM or PFX with that app's certificate and key.")
]
PasswordFile = Annotated[
    Path | None,
    typer.Option("--certificate-password-file", metavar="FILE", help="File with the certificate's password."),
]
AskPassword = Annotated[bool, typer.Option("--ask-password", help="Ask for the certificate's password.")]
Federated = Annotated[
    bool,
    typer.Option(
        "--federated",
        help="That app trusts the token of ALERTWELL_FEDERATED_TOKEN_FILE or ALERTWELL_MANAGED_IDENTITY.",
    ),
]
ExpiresAt = Annotated[
    str | None, typer.Option(metavar="DATE", help="When the secret ends: you are warned before.")
]


def own(
    client_id: str | None,
    *,
    secret_file: Path | None,
    ask_secret: bool,
    certificate_file: Path | None,
    password_file: Path | None,
    ask_password: bool,
    federated: bool,
    expires_at: str | None,
) -> given.Given | None:
    """The credential that they name together, None where none does. Raises errors.UserMistake."""
    from service.cli import enrolling, given

    named = (secret_file, certificate_file, password_file, expires_at)
    if client_id is None:
        if any(option is not None for option in named) or ask_secret or ask_password or federated:
            raise errors.BadInput("a credential needs --client-id, the app that it is of")
        return None
    return given.choose(
        of("--client-id", lambda: enrolling.app_id(client_id)),
        secret_file=secret_file,
        ask_secret=ask_secret,
        certificate_file=certificate_file,
        password_file=password_file,
        ask_password=ask_password,
        federated=federated,
        expires_at=None if expires_at is None else of("--expires-at", lambda: enrolling.end(expires_at)),
    )


def of(option: str, read: Callable[[], T]) -> T:
    """What `read` gives; its error names the option."""
    try:
        return read()
    except errors.BadInput as error:
        # "--region mars", not "--region region mars"
        raise errors.BadInput(f"{option} {str(error).removeprefix(option[2:]).lstrip()}") from None

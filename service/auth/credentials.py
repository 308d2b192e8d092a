"""The shared app's credentials of this moment, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

from service import errors, horizons, model
from service.auth import certificates, federated, files, modes

OWNER: Final = "shared"


@dataclass(frozen=True, slots=True)
class _Way:
    kind: model.CredentialKind
    look: Callable[[], tuple[modes.OfApp, int]] = field(repr=False)


class Shared:
    """Federated before certificate before secret: an operator moves from one to the next by setting both.

    One that Entra refuses makes way for the next (`tokens`), so that the end of one is not the end of all.
    """

    def __init__(self, app: modes.SharedApp) -> None:
        """Reads every file. Raises errors.BadSetting where one cannot be used."""
        self.app = app
        self._ways: list[_Way] = []
        if app.app_id is None:
            return
        if app.federated is not None:
            mode, source = federated.Federated(app.federated), app.federated
            self._ways.append(_Way("federated", lambda: (mode, source.version)))
        if app.certificate is not None:
            path, password = app.certificate, app.certificate_password
            paths = [path, password] if isinstance(password, Path) else [path]
            certificate = files.Kept(paths, lambda: _certificate(path, password))
            self._ways.append(_Way("certificate", certificate.look))
        if isinstance(app.secret, Path):
            file = app.secret
            secret = files.Kept([file], lambda: modes.ClientSecret(files.text(file)))
            self._ways.append(_Way("client_secret", secret.look))
        elif app.secret is not None:
            given = modes.ClientSecret(app.secret)
            self._ways.append(_Way("client_secret", lambda: (given, 0)))

    def read(self) -> list[tuple[modes.Identity, modes.OfApp]]:
        """The credentials with their identities, new ones where a file has changed since. Costs a stat a file."""
        found = []
        for way in self._ways:
            mode, version = way.look()
            found.append((modes.Identity(OWNER, self.app.app_id or "", way.kind, version), mode))
        return found

    def horizons(self) -> list[horizons.Ending]:
        """Until when each lasts."""
        ends = []
        for identity, mode in self.read():
            end: datetime | None
            overdue: datetime | None = None
            match mode:
                case certificates.Certificate():
                    end = mode.expires_at
                case federated.Federated(source):
                    end, overdue = source.expires_at, source.overdue_at
                case modes.ClientSecret():
                    end = self.app.secret_expires_at
            ends.append(horizons.Ending(OWNER, identity.app_id, identity.kind, end, overdue))
        return ends


def _certificate(path: Path, password: str | Path | None) -> certificates.Certificate:
    return certificates.read(
        files.read(path),
        files.text(password) if isinstance(password, Path) else password,
        f"ALERTWELL_CLIENT_CERTIFICATE_FILE: {path}",
    )


def together(
    refusals: list[tuple[model.CredentialKind, errors.CredentialRefused]],
) -> errors.CredentialRefused:
    """What to say where every one of the credentials is refused: all of it, under the word of the most preferred."""
    if len(refusals) == 1:
        return refusals[0][1]
    waits = [refusal.retry_after for _, refusal in refusals if refusal.retry_after is not None]
    _, first = refusals[0]
    return errors.CredentialRefused(
        "; ".join(f"{kind.replace('_', ' ')}: {refusal}" for kind, refusal in refusals),
        code=first.code,
        status=first.status,
        retry_after=min(waits) if waits else None,
    )

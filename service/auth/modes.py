"""How an app proves who it is, and where its secret comes from.

`Mode` is a union that grows with the credentials that Entra takes; only `unsealed` opens a stored one.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from service import errors, model
from service.auth import sealing


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret: what the portal shows once."""

    value: str = field(repr=False)


Mode: TypeAlias = ClientSecret
"""Every way to authenticate; code that depends on the way matches on the class."""


@dataclass(frozen=True, slots=True)
class SharedApp:
    """The multi-tenant app of the settings. A secret given as a file is read again when the file changes."""

    app_id: str
    secret: str | Path = field(repr=False)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which credential: equal for two accesses exactly where the same secret of the same app is used. Holds no plaintext.

    `owner` is "shared", or the tenant whose own credential it is. `version` grows when the secret changes.
    """

    owner: str
    app_id: str
    version: int
    sealed: bytes = field(default=b"", repr=False)

    def precedes(self, newer: Identity) -> bool:
        """Whether this is another version of the same app's credential of the same owner."""
        return self != newer and (self.owner, self.app_id) == (newer.owner, newer.app_id)


class SharedSecret:
    """The shared app's secret of this moment. Safe to use from threads."""

    def __init__(self, app: SharedApp) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._version = 0
        self._value: str | None = None
        self._stamp: tuple[int, int, int] | None = None

    def read(self) -> tuple[Identity, ClientSecret]:
        """The secret with its identity, new ones where the file has changed since. Costs one stat of the file.

        Raises errors.BadSetting where the file never could be read.
        """
        with self._lock:
            if isinstance(self._app.secret, str):
                self._value = self._app.secret
            else:
                self._look(self._app.secret)
                if self._value is None:
                    # The file could not be used: the reader says why.
                    self._value = sealing.read_secret_file(self._app.secret)
            return Identity("shared", self._app.app_id, self._version), ClientSecret(self._value)

    def _look(self, path: Path) -> None:
        # Size, time and inode: a mounted Kubernetes secret changes by a swapped link. Where the file is away or half
        # written for a moment, the last good secret stays in use.
        try:
            status = path.stat()
            stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
            if stamp == self._stamp:
                return
            value = sealing.read_secret_file(path)
        except (OSError, errors.BadSetting):
            return
        self._stamp = stamp
        if value != self._value:
            self._value = value
            self._version += 1


def own_identity(tenant: model.Tenant, credential: model.Credential) -> Identity:
    """The identity of a tenant's own credential."""
    return Identity(str(tenant.tenant_id), credential.app_id, credential.version, credential.sealed)


def unsealed(credential: model.Credential, sealer: sealing.Sealer | None) -> Mode:
    """Open a tenant's own credential. Raises errors.BadSetting where the keys are missing or do not fit."""
    if sealer is None:
        raise errors.BadSetting(
            "ALERTWELL_SEALING_KEYS_FILE is not set, but a tenant has a secret of its own in the database"
        )
    return ClientSecret(sealer.unseal(credential.sealed))

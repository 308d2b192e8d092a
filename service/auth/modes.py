"""How an app proves who it is, and which credential that is.

`Mode` is a union that grows with the credentials that Entra takes; only `unsealed` opens a stored one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeAlias

from service import errors, model
from service.auth import certificates, federated, sealing


@dataclass(frozen=True, slots=True)
class ClientSecret:
    """A client secret: what the portal shows once."""

    value: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Delegated:
    """A user's sign-in on a public client: the refresh token is all there is, and no secret goes with it."""

    refresh_token: str = field(repr=False)


OfApp: TypeAlias = ClientSecret | certificates.Certificate | federated.Federated
"""Every way in which an app proves itself."""
Mode: TypeAlias = OfApp | Delegated
"""Every way to authenticate; code that depends on the way matches on the class."""


@dataclass(frozen=True, slots=True)
class SharedApp:
    """The multi-tenant app of the settings, with all the credentials that are set for it.

    What is given as a file is read again when the file changes. Without an `app_id` only tenants with an app of their own use
    `federated`, the process's source of federated tokens.
    """

    app_id: str | None
    secret: str | Path | None = field(default=None, repr=False)
    secret_expires_at: datetime | None = None
    certificate: Path | None = None
    certificate_password: str | Path | None = field(default=None, repr=False)
    federated: federated.Source | None = field(default=None, repr=False)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files whose change may heal what a person had to look at."""
        named = (self.secret, self.certificate, self.certificate_password)
        of_source = self.federated.paths if self.federated else ()
        return (*(one for one in named if isinstance(one, Path)), *of_source)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which credential: equal for two accesses exactly where the same credential of the same app is used. Holds no plaintext.

    `owner` is "shared", or the tenant whose own credential it is. `version` grows when the credential changes.
    """

    owner: str
    app_id: str
    kind: model.CredentialKind
    version: int


def own_identity(tenant: model.Tenant, credential: model.Credential) -> Identity:
    """The identity of a tenant's own credential."""
    return Identity(str(tenant.tenant_id), credential.app_id, credential.kind, credential.version)


def unsealed(
    credential: model.Credential, sealer: sealing.Sealer | None, source: federated.Source | None
) -> Mode:
    """Open a tenant's own credential; `source` is the process's, for federated ones, which have nothing to open.

    Raises errors.BadSetting where keys or source are missing or do not fit. Takes some milliseconds for a certificate.
    """
    if credential.kind == "federated":
        if source is None:
            raise errors.BadSetting(
                "a tenant's own app is federated, but neither ALERTWELL_FEDERATED_TOKEN_FILE nor "
                "ALERTWELL_MANAGED_IDENTITY is set"
            )
        return federated.Federated(source)
    if sealer is None:
        raise errors.BadSetting(
            "ALERTWELL_SEALING_KEYS_FILE is not set, but a tenant has a secret of its own in the database"
        )
    match credential.kind:
        case "client_secret":
            return ClientSecret(sealer.unseal(credential.sealed))
        case "certificate":
            return certificates.read(
                sealer.unseal(credential.sealed).encode(), None, "a tenant's stored certificate"
            )
        case "delegated":
            return Delegated(sealer.unseal(credential.sealed))

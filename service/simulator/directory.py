"""What Entra keeps: app registrations, customers' directories, the people in them and what they decide."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Collection, Mapping
from typing import Literal

from service.simulator import credentials, runs, stories

SIEM_RESOURCE = "https://graph.windows.net"
MDE_RESOURCE = "https://api.securitycenter.microsoft.com"
XDR_RESOURCE = "https://api.security.microsoft.com"
GRAPH_RESOURCE = "https://graph.microsoft.com"
# The APIs that can be asked for, by cloud; China has a Graph, but nothing of Defender's in it. A tenant has the service
# principals of its cloud's unless told otherwise.
APIS: Mapping[str, Mapping[str, str]] = {
    "public": {
        "siem": SIEM_RESOURCE,
        "mde": MDE_RESOURCE,
        "xdr": XDR_RESOURCE,
        "graph": GRAPH_RESOURCE,
    },
    "gcc": {
        "siem": SIEM_RESOURCE,
        "mde": "https://api-gcc.securitycenter.microsoft.us",
        "xdr": "https://api-gcc.security.microsoft.us",
        "graph": GRAPH_RESOURCE,
    },
    "gcc-high": {
        "siem": SIEM_RESOURCE,
        "mde": "https://api-gov.securitycenter.microsoft.us",
        "xdr": "https://api-gov.security.microsoft.us",
        "graph": "https://graph.microsoft.us",
    },
    "dod": {
        "siem": SIEM_RESOURCE,
        "mde": "https://api-gov.securitycenter.microsoft.us",
        "xdr": "https://api-gov.security.microsoft.us",
        "graph": "https://dod-graph.microsoft.us",
    },
    "china": {},
}
# The app roles that an app registers, and what a customer's administrator has consented to unless told otherwise.
ROLES: Mapping[str, tuple[str, ...]] = {
    MDE_RESOURCE: ("Alert.Read.All",),
    XDR_RESOURCE: ("Incident.Read.All",),
    GRAPH_RESOURCE: ("SecurityAlert.Read.All", "SecurityIncident.Read.All"),
}
# The delegated permissions likewise. The SIEM API's own is not documented, only that users can sign in for it.
DELEGATED: Mapping[str, tuple[str, ...]] = {
    MDE_RESOURCE: ("Alert.Read",),
    XDR_RESOURCE: ("Incident.Read",),
    GRAPH_RESOURCE: ("SecurityAlert.Read.All", "SecurityIncident.Read.All"),
    SIEM_RESOURCE: ("user_impersonation",),
}


def everywhere(permissions: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What is registered for the public cloud's APIs, under each cloud's names of them."""
    return {
        named[api]: permissions[resource]
        for named in APIS.values()
        for api, resource in APIS["public"].items()
        if api in named and resource in permissions
    }


@dataclasses.dataclass(frozen=True, slots=True)
class App:
    """An app registration: one for all customers (multi-tenant), or a customer's own.

    Any of its credentials proves it. public: whether users may sign in without one. redirect_uris: exact, but
    for the port of http://localhost and http://127.0.0.1. roles, delegated: the permissions that it registers; a
    tenant has those for its own cloud's APIs alone.
    """

    app_id: str
    secrets: tuple[credentials.Secret, ...] = ()
    certificates: tuple[credentials.Certificate, ...] = ()
    federations: tuple[credentials.Federation, ...] = ()
    public: bool = False
    redirect_uris: tuple[str, ...] = ()
    roles: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: everywhere(ROLES))
    delegated: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=lambda: everywhere(DELEGATED)
    )

    @property
    def secret(self) -> str:
        """The first secret's value."""
        return self.secrets[0].value


@dataclasses.dataclass(slots=True)
class User:
    """Somebody who can sign in. Tests change the attributes to change what happens.

    decides: what they answer when asked; who waits answers nothing. may_grant: delegated permissions, by
    resource. reads: whether they hold a role that may see alerts (else API 403). mfa: a second factor is asked for
    that only a person can give (50076 when a token is renewed). disabled: 50057. session: raised by `revoke`.
    """

    name: str
    tenant_id: str
    decides: Literal["accepts", "declines", "waits"] = "accepts"
    may_grant: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=lambda: everywhere(DELEGATED))
    reads: bool = True
    mfa: bool = False
    disabled: bool = False
    session: int = 0

    @property
    def object_id(self) -> str:
        """The user's `oid`."""
        return str(uuid.uuid5(uuid.UUID(self.tenant_id), self.name))

    def revoke(self) -> None:
        """End every sign-in until now: their refresh tokens answer 50173."""
        self.session += 1


@dataclasses.dataclass(frozen=True, slots=True)
class Admin:
    """The administrator who opens a consent link, and what they and their browser make of it.

    tenant_id: who signs in where the link says organizations or common (None: the world's first tenant). roles:
    the only ones that are granted, None for all. says: the `tenant` that the callback is told, None for the
    truth. error_beside: an error comes together with admin_consent=True; nothing is granted then.
    """

    tenant_id: str | None = None
    decides: Literal["grants", "declines"] = "grants"
    roles: tuple[str, ...] | None = None
    says: str | None = None
    error_beside: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class ManagedIdentity:
    """An identity of the machine or container that the collector runs on.

    system: the one that is meant where a request names no client id.
    """

    client_id: str
    tenant_id: str
    system: bool = False

    @property
    def object_id(self) -> str:
        """The subject of its tokens."""
        return str(uuid.uuid5(uuid.UUID(self.tenant_id), self.client_id))

    @property
    def issuer(self) -> str:
        """The issuer of its tokens."""
        return f"https://login.microsoftonline.com/{self.tenant_id}/v2.0"


@dataclasses.dataclass(slots=True)
class Tenant:
    """A customer's directory. Tests change its attributes to change what Entra and the APIs say.

    app: what a collector should use for it. consented: app ids with a service principal here (without:
    700016). resources: APIs provisioned here (others: 500011). unlicensed: those of them without a subscription
    (650052). roles: app roles granted, by resource (`ROLES`; none for the SIEM API). rate: alerts a minute,
    fixed when the tenant is added. cloud: whose APIs are its own (`APIS`); a token for another one's is refused.
    v1_only: Entra refuses the v2 scope of the SIEM audience. deleted: every API answers 403. gone: Entra does
    not know it any more, either (90002).
    """

    tenant_id: str
    name: str
    region: str
    app: App
    rate: float
    consented: set[str]
    resources: set[str]
    roles: dict[str, tuple[str, ...]]
    estate: stories.Estate
    cloud: str = "public"
    unlicensed: set[str] = dataclasses.field(default_factory=set)
    v1_only: bool = False
    deleted: bool = False
    gone: bool = False
    live: runs.Live | None = None
    given: runs.Given | None = None
    backlogs: list[runs.Generated] = dataclasses.field(default_factory=list)

    @property
    def domain(self) -> str:
        """The name by which Entra knows the tenant besides its GUID."""
        return f"{self.estate.domain.removesuffix('.example')}.onmicrosoft.com"

    def grant(self, app: App, resources: Collection[str], only: Collection[str] | None = None) -> list[str]:
        """Make the app part of the tenant, with the roles that it registers for the resources (or `only`
        those); returns the roles as `{resource}/{role}`.
        """
        self.consented.add(app.app_id)
        granted = []
        for resource in resources:
            roles = tuple(role for role in app.roles.get(resource, ()) if only is None or role in only)
            held = self.roles.get(resource, ())
            self.roles[resource] = held + tuple(role for role in roles if role not in held)
            granted += [f"{resource}/{role}" for role in roles]
        return granted

    def withdraw(self, role: str | None = None) -> None:
        """Take consent back: of one role everywhere, or of all that was ever granted."""
        if role is None:
            self.consented.clear()
            self.roles.clear()
            return
        for resource, held in self.roles.items():
            self.roles[resource] = tuple(each for each in held if each != role)

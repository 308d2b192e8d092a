"""Acts of people upon the directory, for the control surface: POST /_sim/entra.

    {"tenant": T, "consent": true|false, "withdraw": [role], "gone": true|false, "unlicensed": [resource],
     "absent": [resource], "users": [{"name": N, "decides": "accepts", "reads": true, "mfa": false,
     "disabled": false, "revoke": true}], "admin": {"tenant_id": T, "decides": "declines", "roles": [role],
     "says": T, "error_beside": true}, "redirect_uris": [URL], "token_latency": seconds}

All may be left out. consent: the tenant's app gets all that it registers, or loses everything; withdraw: single roles.
unlicensed and absent replace what was so before. A user is made where the tenant has none of that name. admin
replaces the one before. redirect_uris: of the shared app, beside its loopback address.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from service.simulator import directory

if TYPE_CHECKING:
    from service.simulator import server, world


class Person(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes of a user; what is null stays. revoke: end all sign-ins."""

    name: str
    decides: Literal["accepts", "declines", "waits"] | None = None
    reads: bool | None = None
    mfa: bool | None = None
    disabled: bool | None = None
    revoke: bool = False


class Acts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body; what is null stays as it is."""

    tenant: str | None = None
    consent: bool | None = None
    withdraw: list[str] = msgspec.field(default_factory=list)
    gone: bool | None = None
    unlicensed: list[str] | None = None
    absent: list[str] | None = None
    users: list[Person] = msgspec.field(default_factory=list)
    admin: directory.Admin | None = None
    redirect_uris: list[str] | None = None
    token_latency: float | None = None


def perform(simulator: server.Simulator, body: bytes) -> dict[str, Any]:
    """Do what the body says; returns what is so now. Raises ValueError and msgspec.DecodeError."""
    acts = msgspec.json.decode(body, type=Acts)
    shown = simulator.world
    wants_tenant = (
        acts.users
        or acts.withdraw
        or any(each is not None for each in (acts.consent, acts.gone, acts.unlicensed, acts.absent))
    )
    told: dict[str, Any] = {}
    if wants_tenant:
        tenant = shown.tenants.get((acts.tenant or "").lower()) or shown.find(acts.tenant or "")
        if tenant is None:
            raise ValueError(f"no such tenant: {(acts.tenant or '')[:60]!r}")
        _change(shown, tenant, acts)
        told = {
            "tenant_id": tenant.tenant_id,
            "consented": sorted(tenant.consented),
            "roles": {resource: list(roles) for resource, roles in tenant.roles.items()},
        }
    if acts.admin is not None:
        shown.admin = acts.admin
    if acts.redirect_uris is not None:
        app = shown.apps[shown.app.app_id]
        uris = (*shown.app.redirect_uris, *acts.redirect_uris)
        shown.register(dataclasses.replace(app, redirect_uris=uris))
    if acts.token_latency is not None:
        simulator.token_latency = acts.token_latency
    return told | {"token_latency": simulator.token_latency}


def _change(shown: world.World, tenant: directory.Tenant, acts: Acts) -> None:
    if acts.consent:
        tenant.grant(shown.apps[tenant.app.app_id], tenant.resources)
    elif acts.consent is not None:
        tenant.withdraw()
    for role in acts.withdraw:
        tenant.withdraw(role)
    if acts.gone is not None:
        tenant.gone = tenant.deleted = acts.gone
    if acts.unlicensed is not None:
        tenant.unlicensed = set(acts.unlicensed)
    if acts.absent is not None:
        tenant.resources = set(directory.APIS[tenant.cloud].values()) - set(acts.absent)
    for wanted in acts.users:
        name = f"{wanted.name.partition('@')[0]}@{tenant.domain}".lower()
        user = shown.users.get(name) or shown.add_user(tenant.tenant_id, name.partition("@")[0])
        user.decides = wanted.decides or user.decides
        user.reads = user.reads if wanted.reads is None else wanted.reads
        user.mfa = user.mfa if wanted.mfa is None else wanted.mfa
        user.disabled = user.disabled if wanted.disabled is None else wanted.disabled
        if wanted.revoke:
            user.revoke()

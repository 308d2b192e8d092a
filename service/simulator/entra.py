"""Entra ID's token service, as far as an app-only daemon sees it.

    GET  /{tenant}/v2.0/.well-known/openid-configuration  metadata; unknown tenant: 400 invalid_tenant (90002)
    GET  /{tenant}/discovery/v2.0/keys                    the signing key; /common/… too
    GET  /common/discovery/instance                       what MSAL asks about hosts that it does not know
    POST /{tenant}/oauth2/v2.0/token                      client credentials, scope={resource}/.default
    POST /{tenant}/oauth2/token                           the same with resource=; numbers are strings

The tenant (GUID or domain) is the first segment of every path: MSAL takes its realm from there. Choices
where the documents are silent: parameters are checked before the app, the app before its credential, the
credential before the resource; client assertions are refused as not registered (700027); 7000222 only for
a secret that is right but expired; a tenant with `v1_only` answers the v2 scope of the SIEM audience with
70011; tokens of all known resources are of version 1.0, whichever endpoint gave them.
"""

from __future__ import annotations

import dataclasses
import re
import urllib.parse
import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from service.simulator import aadsts, answers, chaos, dice, ticks, tokens, world

# Even a busy Entra answers in JSON; a bare gateway's page is the fault "503-html".
_BUSY = {429: 90055, 500: 50000, 502: 90033, 503: 90033, 504: 90033}
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.IGNORECASE)


class Entra:
    """The token service of a world."""

    def __init__(self, shown: world.World, signer: tokens.Signer) -> None:
        self._world = shown
        self._signer = signer
        self._rng = dice.Dice(f"{shown.seed}/traces")

    def place(self, method: str, path: str) -> tuple[chaos.Surface, str] | None:
        """Which surface a request belongs to and the tenant it names; None where Entra has no such page."""
        first, _, rest = path.strip("/").partition("/")
        match method, rest.lower():
            case "GET", "v2.0/.well-known/openid-configuration" | ".well-known/openid-configuration":
                return "metadata", first
            case "GET", "discovery/v2.0/keys" | "discovery/keys" | "discovery/instance":
                return "metadata", first
            case "POST", "oauth2/v2.0/token" | "oauth2/token":
                return "token", first
        return None

    async def answer(
        self, request: web.BaseRequest, fault: chaos.Fault | None, instead: answers.Answer | None
    ) -> answers.Answer:
        """The answer to a request that `place` has recognised; `instead` is what the fault puts in its
        place.
        """
        name, _, rest = request.path.strip("/").partition("/")
        rest = rest.lower()
        authority = f"https://{request.host}"
        correlation = _guid_or_new(request.headers.get("client-request-id", ""), self._rng)
        try:
            if instead is not None:
                if fault is None or fault.kind != "status" or instead.status not in _BUSY:
                    return instead
                raise aadsts.Problem(_BUSY[instead.status])
            if fault is not None and fault.kind == "aadsts":
                raise aadsts.Problem(fault.code, tenant=name)
            if rest.startswith("oauth2/"):
                return self._token(name, _form(await request.read()), fault, v2=rest == "oauth2/v2.0/token")
            if rest.endswith("/keys"):
                return answers.json(self._signer.jwks())
            if rest == "discovery/instance":
                endpoint = request.query.get(
                    "authorization_endpoint", f"{authority}/common/oauth2/v2.0/authorize"
                )
                tenant = endpoint.removeprefix("https://").partition("/")[2].partition("/")[0]
                found = f"{authority}/{tenant}/v2.0/.well-known/openid-configuration"
                return answers.json(
                    {"tenant_discovery_endpoint": found, "api-version": "1.1", "metadata": []}
                )
            return answers.json(self._metadata(self._tenant(name).tenant_id, authority))
        except aadsts.Problem as problem:
            error = "" if rest.startswith("oauth2/") or problem.code != 90002 else "invalid_tenant"
            body = problem.body(
                authority=authority,
                now=self._world.clock(),
                rng=self._rng,
                correlation=correlation,
                error=error,
            )
            refusal = answers.json(body, instead.status if instead else problem.status)
            return dataclasses.replace(
                refusal, headers=refusal.headers | (instead.headers if instead else {})
            )

    def _token(
        self, name: str, form: Mapping[str, str], fault: chaos.Fault | None, *, v2: bool
    ) -> answers.Answer:
        tenant = self._tenant(name)
        for parameter in ("grant_type", "client_id", "scope" if v2 else "resource"):
            if not form.get(parameter) and not (v2 and "resource" in form):
                raise aadsts.Problem(900144, parameter=parameter)
        if v2 and "resource" in form:
            raise aadsts.Problem(901002)
        if form["grant_type"] != "client_credentials":
            raise aadsts.Problem(70003, parameter=form["grant_type"])
        app = self._authenticate(tenant, form)
        resource = _v2_resource(form["scope"]) if v2 else form["resource"]
        if resource.removesuffix("/") not in tenant.resources:
            raise aadsts.Problem(500011, resource=resource, tenant=tenant.name)
        if v2 and tenant.v1_only and resource == world.SIEM_RESOURCE:
            raise aadsts.Problem(70011, resource=form["scope"])
        now = self._world.clock()
        fault = fault if fault is not None and fault.kind == "token" else chaos.Fault("token")
        lifetime = tokens.LIFETIME if fault.lifetime is None else fault.lifetime
        roles = tenant.roles.get(resource.removesuffix("/"), ()) if fault.roles is None else fault.roles
        token = self._signer.sign(
            tenant_id=fault.tid or tenant.tenant_id,
            audience=fault.audience or resource,
            app_id=app.app_id,
            roles=roles,
            now=now,
            lifetime=lifetime,
        )
        # A token planned to be long expired still says that it will live: the surprise comes at the API.
        says = lifetime if lifetime > 0 else tokens.LIFETIME
        if v2:
            return answers.json(
                {"token_type": "Bearer", "expires_in": says, "ext_expires_in": says, "access_token": token}
            )
        issued = now // ticks.SECOND
        texts = {
            "expires_in": says,
            "ext_expires_in": says,
            "expires_on": issued + says,
            "not_before": issued,
        }
        body = {"token_type": "Bearer", **{key: str(value) for key, value in texts.items()}}
        return answers.json({**body, "resource": resource, "access_token": token})

    def _authenticate(self, tenant: world.Tenant, form: Mapping[str, str]) -> world.App:
        """The app that the form proves to be. Raises Problem."""
        app_id = form["client_id"]
        app = self._world.apps.get(app_id.lower())
        if app is None or app.app_id not in tenant.consented:
            raise aadsts.Problem(700016, app=app_id, tenant=tenant.name)
        if form.get("client_assertion"):
            raise aadsts.Problem(700027, app=app_id)
        given = form.get("client_secret")
        if not given:
            raise aadsts.Problem(7000218)
        fitting = [secret for secret in app.secrets if secret.value == given]
        if not fitting:
            raise aadsts.Problem(7000215, app=app_id)
        now = self._world.clock()
        if all(secret.expires_at is not None and secret.expires_at <= now for secret in fitting):
            raise aadsts.Problem(7000222, app=app_id)
        return app

    def _tenant(self, name: str) -> world.Tenant:
        tenant = self._world.find(name)
        if tenant is None:
            known_form = _is_guid(name) or _DOMAIN.fullmatch(name)
            raise aadsts.Problem(90002 if known_form else 900023, tenant=name[:100])
        return tenant

    def _metadata(self, tenant_id: str, authority: str) -> dict[str, Any]:
        base = f"{authority}/{tenant_id}"
        return {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
            "scopes_supported": ["openid", "profile", "email", "offline_access"],
            "issuer": f"{base}/v2.0",
            "request_uri_parameter_supported": False,
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "end_session_endpoint": f"{base}/oauth2/v2.0/logout",
            "tenant_region_scope": "EU",
            "cloud_instance_name": "microsoftonline.com",
        }


def _form(body: bytes) -> dict[str, str]:
    """The fields of a form, whatever it calls itself; nothing where it cannot be one."""
    try:
        return dict(urllib.parse.parse_qsl(body.decode(errors="replace"), max_num_fields=100))
    except ValueError:
        return {}


def _v2_resource(scope: str) -> str:
    """The one resource of a v2 scope. Raises Problem."""
    scopes = scope.split()
    if len(scopes) != 1:
        raise aadsts.Problem(70011, resource=scope)
    resource, found, rest = scopes[0].rpartition("/.default")
    if not found or rest:
        raise aadsts.Problem(1002012, resource=scope)
    return resource


def _is_guid(name: str) -> bool:
    try:
        uuid.UUID(name)
    except ValueError:
        return False
    return True


def _guid_or_new(text: str, rng: dice.Dice) -> str:
    return text if _is_guid(text) else str(uuid.UUID(int=rng.getrandbits(128), version=4))

"""The routes of Entra ID.

    GET  /{tenant}/v2.0/.well-known/openid-configuration  metadata; unknown tenant: 400 invalid_tenant (90002)
    GET  /{tenant}/discovery/v2.0/keys                    the signing key; /common/… too
    GET  /common/discovery/instance                       what MSAL asks about hosts that it does not know
    POST /{tenant}/oauth2/v2.0/token                      scope=; client_credentials, authorization_code,
                                                          refresh_token, device_code
    POST /{tenant}/oauth2/token                           the same with resource=; numbers are strings
    POST /{tenant}/oauth2/v2.0/devicecode                 begin a device flow
    GET  /{tenant}/oauth2/v2.0/authorize                  sign in; /oauth2/authorize too, with the legacy
                                                          consent link (prompt=consent)
    GET  /{tenant}/v2.0/adminconsent                      an administrator consents to a scope
    GET  /{tenant}/adminconsent                           … to all that the app registers

The tenant (GUID or domain) is the first segment of every path: MSAL takes its realm from there. Where people sign in
and for what they signed in to, it can be organizations or common; an app's own tokens need a tenant.
"""

from __future__ import annotations

import dataclasses
import urllib.parse
import uuid
from typing import Any

from aiohttp import web

from service.simulator import answers, chaos, dice, ticks, tokens, world
from service.simulator.entra import aadsts, browser, grants, places, sign_ins

# Even a busy Entra answers in JSON; a bare gateway's page is the fault "503-html".
_BUSY = {429: 90055, 500: 50000, 502: 90033, 503: 90033, 504: 90033}
_ROUTES: dict[tuple[str, str], chaos.Surface] = {
    ("GET", "v2.0/.well-known/openid-configuration"): "metadata",
    ("GET", ".well-known/openid-configuration"): "metadata",
    ("GET", "discovery/v2.0/keys"): "metadata",
    ("GET", "discovery/keys"): "metadata",
    ("GET", "discovery/instance"): "metadata",
    ("POST", "oauth2/v2.0/token"): "token",
    ("POST", "oauth2/token"): "token",
    ("POST", "oauth2/v2.0/devicecode"): "sign_in",
    ("GET", "oauth2/v2.0/authorize"): "sign_in",
    ("GET", "oauth2/authorize"): "sign_in",
    ("GET", "v2.0/adminconsent"): "sign_in",
    ("GET", "adminconsent"): "sign_in",
}


class Entra:
    """Entra ID of a world."""

    def __init__(self, shown: world.World, signer: tokens.Signer) -> None:
        self._world = shown
        self._signer = signer
        self._rng = dice.Dice(f"{shown.seed}/traces")
        self._signed_in = sign_ins.SignIns(shown)
        self._grants = grants.Grants(shown, signer, self._signed_in)
        self._pages = browser.Pages(shown, self._signed_in, self._rng)

    def place(self, method: str, path: str) -> tuple[chaos.Surface, str] | None:
        """Which surface a request belongs to and the tenant it names; None where Entra has no such page."""
        first, _, rest = path.strip("/").partition("/")
        surface = _ROUTES.get((method, rest.lower()))
        return None if surface is None else (surface, first)

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
                raise aadsts.Problem(fault.code, error=fault.error, tenant=name)
            match rest.rpartition("/")[2]:
                case "token":
                    form = _form(await request.read())
                    asked = grants.Asked(name, form, rest.startswith("oauth2/v2.0"), authority)
                    return self._grants.answer(asked, fault)
                case "devicecode":
                    return self._device(name, _form(await request.read()), authority)
                case "authorize":
                    v2 = rest.startswith("oauth2/v2.0")
                    return self._pages.authorize(name, _first(request), correlation, v2=v2)
                case "adminconsent":
                    v2 = rest.startswith("v2.0")
                    return self._pages.consent(name, _first(request), correlation, v2=v2)
                case "keys":
                    return answers.json(self._signer.jwks())
                case "instance":
                    return _discovered(request, authority)
            tenant = places.tenant_or_any(self._world, name)
            return answers.json(_metadata(tenant.tenant_id if tenant else "", name.lower(), authority))
        except aadsts.Problem as problem:
            if rest.endswith(("authorize", "adminconsent")) and instead is None:
                now = self._world.clock()
                return browser.refused(problem.words(now=now, rng=self._rng, correlation=correlation)[0])
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

    def _device(self, name: str, form: dict[str, str], authority: str) -> answers.Answer:
        tenant = places.tenant_or_any(self._world, name)
        for parameter in ("client_id", "scope"):
            if not form.get(parameter):
                raise aadsts.Problem(900144, parameter=parameter)
        app = places.app(self._world, form["client_id"], name)
        code, device = self._signed_in.begin_device(app, tenant.tenant_id if tenant else None, form["scope"])
        where = f"{authority}/common/oauth2/deviceauth"
        return answers.json(
            {
                "user_code": device.user_code,
                "device_code": code,
                "verification_uri": where,
                "expires_in": sign_ins.DEVICE_LIFE // ticks.SECOND,
                "interval": sign_ins.INTERVAL,
                "message": f"To sign in, use a web browser to open the page {where} and enter the code "
                f"{device.user_code} to authenticate.",
            }
        )


def _discovered(request: web.BaseRequest, authority: str) -> answers.Answer:
    endpoint = request.query.get("authorization_endpoint", f"{authority}/common/oauth2/v2.0/authorize")
    tenant = endpoint.removeprefix("https://").partition("/")[2].partition("/")[0]
    found = f"{authority}/{tenant}/v2.0/.well-known/openid-configuration"
    return answers.json({"tenant_discovery_endpoint": found, "api-version": "1.1", "metadata": []})


def _metadata(tenant_id: str, name: str, authority: str) -> dict[str, Any]:
    """The metadata of a tenant; with no tenant_id, of common or organizations: their issuer is a pattern."""
    base = f"{authority}/{tenant_id or name}"
    return {
        "token_endpoint": f"{base}/oauth2/v2.0/token",
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt"],
        "jwks_uri": f"{base}/discovery/v2.0/keys",
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": f"{authority}/{tenant_id or '{tenantid}'}/v2.0",
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


def _first(request: web.BaseRequest) -> dict[str, str]:
    """The query, each name once: the first counts."""
    return dict(reversed([*request.query.items()]))


def _guid_or_new(text: str, rng: dice.Dice) -> str:
    return text if places.is_guid(text) else str(uuid.UUID(int=rng.getrandbits(128), version=4))

"""The token endpoint: an app's own tokens, and those with which it acts for a user.

Choices where the documents are silent: parameters are checked before the app, the app before its credential, the
credential before the resource; 7000222 only for a secret that is right but expired; a tenant with `v1_only` answers
the v2 scope of the SIEM audience with 70011; tokens of all known resources are of version 1.0, whichever endpoint gave
them. Delegated: consent that was taken back is 65001; a public app's code for a loopback address needs no credential
and suffers none (700025); refresh tokens and device codes need one only where the app is not public.
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import msgspec

from service.simulator import answers, chaos, directory, ticks, tokens, world
from service.simulator.entra import aadsts, places, proofs, scopes, sign_ins

DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
_NEEDED = {"authorization_code": "code", "refresh_token": "refresh_token", DEVICE_CODE: "device_code"}
_TOKEN = chaos.Fault("token")


class Asked(NamedTuple):
    """A request of the token endpoint: the tenant as the path names it, the form, the version, the host."""

    name: str
    form: Mapping[str, str]
    v2: bool
    authority: str

    def audiences(self, tenant: directory.Tenant | None) -> Collection[str]:
        """What an assertion may be made for."""
        names = {self.name} | ({tenant.tenant_id} if tenant else set())
        paths = "oauth2/v2.0/token", "oauth2/token", "v2.0"
        return {f"{self.authority}/{name}/{path}" for name in names for path in paths}


class Grants:
    """The token endpoint of a world."""

    def __init__(self, shown: world.World, signer: tokens.Signer, signed_in: sign_ins.SignIns) -> None:
        self._world = shown
        self._signer = signer
        self._signed_in = signed_in
        self._prover = proofs.Prover(shown, signer)

    def answer(self, asked: Asked, fault: chaos.Fault | None) -> answers.Answer:
        """The tokens that a form asks for. Raises Problem."""
        fault = fault if fault is not None and fault.kind == "token" else _TOKEN
        grant = asked.form.get("grant_type", "")
        if grant not in _NEEDED:
            return self._app(asked, places.tenant(self._world, asked.name), fault)
        tenant = places.tenant_or_any(self._world, asked.name)
        for parameter in ("client_id", _NEEDED[grant]):
            if not asked.form.get(parameter):
                raise aadsts.Problem(900144, parameter=parameter)
        app = places.app(self._world, asked.form["client_id"], asked.name)
        return self._user(asked, tenant, app, fault)

    def _app(self, asked: Asked, tenant: directory.Tenant, fault: chaos.Fault) -> answers.Answer:
        form, v2 = asked.form, asked.v2
        for parameter in ("grant_type", "client_id", "scope" if v2 else "resource"):
            if not form.get(parameter) and not (v2 and "resource" in form):
                raise aadsts.Problem(900144, parameter=parameter)
        if v2 and "resource" in form:
            raise aadsts.Problem(901002)
        if form["grant_type"] != "client_credentials":
            raise aadsts.Problem(70003, parameter=form["grant_type"])
        app = places.app(self._world, form["client_id"], tenant.name)
        if app.app_id not in tenant.consented:
            raise aadsts.Problem(700016, app=form["client_id"], tenant=tenant.name)
        proof = self._prover.prove(app, form, asked.audiences(tenant))
        resource = scopes.of_app(form["scope"]) if v2 else form["resource"]
        _provisioned(tenant, resource)
        if v2 and tenant.v1_only and resource == directory.SIEM_RESOURCE:
            raise aadsts.Problem(70011, resource=form["scope"])
        now = self._world.clock()
        roles = tenant.roles.get(resource.removesuffix("/"), ()) if fault.roles is None else fault.roles
        token = self._signer.sign(
            tenant_id=fault.tid or tenant.tenant_id,
            audience=fault.audience or resource,
            app_id=app.app_id,
            roles=roles,
            now=now,
            lifetime=_lifetime(fault),
            proof=proof,
        )
        return answers.json(_body(token, resource, now, fault, v2=v2))

    def _user(
        self, asked: Asked, tenant: directory.Tenant | None, app: directory.App, fault: chaos.Fault
    ) -> answers.Answer:
        form = asked.form
        loopback = form.get("redirect_uri", "").startswith(("http://localhost", "http://127.0.0.1"))
        shown = form.get("client_secret") or form.get("client_assertion")
        if shown and app.public and loopback:
            raise aadsts.Problem(700025)
        proof = "0" if app.public and not shown else self._prover.prove(app, form, asked.audiences(tenant))
        nonce = ""
        match form["grant_type"]:
            case "authorization_code":
                code = self._signed_in.redeem(
                    form["code"],
                    app,
                    redirect_uri=form.get("redirect_uri", ""),
                    verifier=form.get("code_verifier", ""),
                )
                user, scope, nonce = code.user, code.scope, code.nonce
                if tenant is not None and tenant.tenant_id != user.tenant_id:
                    raise aadsts.Problem(700005)
            case "refresh_token":
                refresh = self._signed_in.renew(form["refresh_token"], app)
                user, scope = refresh.user, refresh.scope
            case _:
                user, scope = self._signed_in.poll(form["device_code"], app)
        home = places.tenant(self._world, user.tenant_id)
        if tenant is not None and tenant is not home:
            raise aadsts.Problem(50034, tenant=tenant.name)
        if asked.v2:
            scope = form.get("scope") or scope
        elif form.get("resource"):
            scope = all_of(form["resource"])
        wanted = scopes.of_user(scope)
        _provisioned(home, wanted.resource)
        held = scopes.granted(app, user, wanted)
        if app.app_id not in home.consented or not held:
            raise aadsts.Problem(65001, app=app.app_id)
        now = self._world.clock()
        token = self._signer.sign_delegated(
            user,
            audience=fault.audience or wanted.resource,
            app_id=app.app_id,
            scopes=held if fault.roles is None else fault.roles,
            now=now,
            lifetime=_lifetime(fault),
            proof=proof,
            tenant_id=fault.tid,
        )
        body = _body(token, wanted.resource, now, fault, v2=asked.v2)
        body["scope"] = " ".join(
            [f"{wanted.resource}/{each}" for each in held] + sorted(wanted.openid - {"offline_access"})
            if asked.v2
            else held
        )
        if "offline_access" in wanted.openid:
            body["refresh_token"] = self._signed_in.new_refresh(app, user, scope)
        if "openid" in wanted.openid:
            issuer = f"{asked.authority}/{user.tenant_id}/v2.0"
            body["id_token"] = self._signer.sign_id(
                user, app_id=app.app_id, issuer=issuer, nonce=nonce, now=now
            )
        if form.get("client_info") == "1":
            body["client_info"] = client_info(user)
        return answers.json(body)


def client_info(user: directory.User) -> str:
    """The account as MSAL keys its cache by it."""
    raw = msgspec.json.encode({"uid": user.object_id, "utid": user.tenant_id})
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def all_of(resource: str) -> str:
    """What a v1 `resource` means as a v2 scope."""
    return f"{resource.removesuffix('/')}/.default openid profile offline_access"


def _provisioned(tenant: directory.Tenant, resource: str) -> None:
    if resource.removesuffix("/") not in tenant.resources:
        raise aadsts.Problem(500011, resource=resource, tenant=tenant.name)
    if resource.removesuffix("/") in tenant.unlicensed:
        raise aadsts.Problem(650052, tenant=tenant.name)


def _lifetime(fault: chaos.Fault) -> int:
    return tokens.LIFETIME if fault.lifetime is None else fault.lifetime


def _body(token: str, resource: str, now: int, fault: chaos.Fault, *, v2: bool) -> dict[str, Any]:
    # A token planned to be long expired still says that it will live: the surprise comes at the API.
    says = _lifetime(fault) if _lifetime(fault) > 0 else tokens.LIFETIME
    if v2:
        return {"token_type": "Bearer", "expires_in": says, "ext_expires_in": says, "access_token": token}
    issued = now // ticks.SECOND
    texts = {
        "expires_in": says,
        "ext_expires_in": says,
        "expires_on": issued + says,
        "not_before": issued,
    }
    body = {"token_type": "Bearer", **{key: str(value) for key, value in texts.items()}}
    return {**body, "resource": resource, "access_token": token}

"""What a browser opens: the sign-in page (authorize) and admin consent.

Nobody clicks: the world's users and its `admin` have decided already, and the page answers at once with the redirect
(302; or, with response_mode=form_post, a page that posts itself). A mistake before the redirect_uri is known to be the
app's is a page of its own (400), never a redirect.

Choices where the documents are silent: admin consent grants app roles only for `.default` (v2), all registered ones of
the APIs that the tenant has (v1); `scope` in the answer lists what was granted, in v2 alone; a scope that cannot be
read, or an API that the tenant does not have, comes back as an error by redirect. authorize with prompt=consent (the
documents' legacy link) is answered with a code alone, prompt=admin_consent with admin_consent=True and tenant, too; both
grant as v1 does. Where no redirect_uri is given, the app's first one is meant (legacy link alone).
"""

from __future__ import annotations

import html
import urllib.parse
import uuid
from collections.abc import Mapping

from service.simulator import answers, dice, directory, world
from service.simulator.entra import aadsts, grants, places, scopes, sign_ins

_LOOPBACK = frozenset({"localhost", "127.0.0.1"})


class Pages:
    """The pages of a world's Entra."""

    def __init__(self, shown: world.World, signed_in: sign_ins.SignIns, rng: dice.Dice) -> None:
        self._world = shown
        self._signed_in = signed_in
        self._rng = rng

    def authorize(self, name: str, query: Mapping[str, str], correlation: str, *, v2: bool) -> answers.Answer:
        """The answer to a sign-in. Raises Problem where there is nowhere to send the browser back to."""
        tenant = places.tenant_or_any(self._world, name)
        legacy = not v2 and query.get("prompt") in ("consent", "admin_consent")
        needed = ("client_id", "response_type") + (() if legacy else ("redirect_uri",))
        app = self._app(name, query, needed)
        target = query.get("redirect_uri") or next(iter(app.redirect_uris), "")
        if not _registered(app, target):
            raise aadsts.Problem(50011, app=app.app_id, value=target[:200])
        mode = query.get("response_mode", "query")
        try:
            if query["response_type"] != "code":
                raise aadsts.Problem(70003, error="unsupported_response_type", parameter="response_type")
            if legacy:
                return _back(target, mode, self._legacy(app, tenant, query, target), query)
            user = self._world.present(tenant.tenant_id if tenant else None, query.get("login_hint", ""))
            if user is None:
                raise aadsts.Problem(50034, tenant=name[:100])
            scope = query.get("scope", "") if v2 else grants.all_of(query.get("resource", ""))
            self._signed_in.agree(app, user, scope)
            code = self._signed_in.new_code(
                app,
                user,
                scope=scope,
                redirect_uri=query.get("redirect_uri", ""),
                challenge=query.get("code_challenge", ""),
                method=query.get("code_challenge_method", "plain"),
                nonce=query.get("nonce", ""),
            )
            values = {"code": code, "session_state": self._guid()}
            if query.get("client_info") == "1":
                values["client_info"] = grants.client_info(user)
        except aadsts.Problem as problem:
            values = self._refusal(problem, correlation)
        return _back(target, mode, values, query)

    def consent(self, name: str, query: Mapping[str, str], correlation: str, *, v2: bool) -> answers.Answer:
        """The answer to an admin consent link. Raises Problem where there is nowhere to send the browser
        back to.
        """
        if v2 and name.lower() == "common":
            raise aadsts.Problem(900023, tenant=name)
        asked = places.tenant_or_any(self._world, name)
        app = self._app(name, query, ("client_id", "redirect_uri") + (("scope",) if v2 else ()))
        target = query["redirect_uri"]
        if target not in app.redirect_uris:
            raise aadsts.Problem(50011, app=app.app_id, value=target[:200])
        try:
            tenant = self._signs(asked)
            granted = self._grant(app, tenant, query["scope"] if v2 else None)
            values = {"admin_consent": "True", "tenant": self._world.admin.says or tenant.tenant_id}
            if v2:
                values["scope"] = " ".join(granted)
        except aadsts.Problem as problem:
            values = self._refusal(problem, correlation)
            if self._world.admin.error_beside:
                values["admin_consent"] = "True"
                values["tenant"] = self._world.admin.says or (asked.tenant_id if asked else "")
        return _back(target, "query", values, query)

    def _app(self, name: str, query: Mapping[str, str], needed: tuple[str, ...]) -> directory.App:
        for parameter in needed:
            if not query.get(parameter):
                raise aadsts.Problem(900144, parameter=parameter)
        return places.app(self._world, query["client_id"], name)

    def _signs(self, asked: directory.Tenant | None) -> directory.Tenant:
        """The tenant whose administrator sits there, willing. Raises Problem."""
        admin = self._world.admin
        if admin.decides == "declines" or admin.error_beside:
            raise aadsts.Problem(65004)
        if asked is not None:
            return asked
        name = admin.tenant_id or next(iter(self._world.tenants), "")
        return places.tenant(self._world, name)

    def _grant(self, app: directory.App, tenant: directory.Tenant, scope: str | None) -> list[str]:
        if scope is None:
            resources = [each for each in app.roles if each in tenant.resources]
            return tenant.grant(app, resources, self._world.admin.roles)
        wanted = scopes.of_user(scope)
        if wanted.resource not in tenant.resources:
            raise aadsts.Problem(650052, tenant=tenant.name)
        if wanted.permissions:  # single permissions are delegated ones: no role comes of them
            tenant.grant(app, ())
            return [f"{wanted.resource}/{each}" for each in wanted.permissions]
        return tenant.grant(app, (wanted.resource,), self._world.admin.roles)

    def _legacy(
        self, app: directory.App, asked: directory.Tenant | None, query: Mapping[str, str], target: str
    ) -> dict[str, str]:
        tenant = self._signs(asked)
        self._grant(app, tenant, None)
        user = self._world.present(tenant.tenant_id) or self._world.add_user(tenant.tenant_id, "admin")
        scope = grants.all_of(query.get("resource") or directory.GRAPH_RESOURCE)
        code = self._signed_in.new_code(
            app, user, scope=scope, redirect_uri=query.get("redirect_uri", target)
        )
        values = {"code": code, "session_state": self._guid()}
        if query["prompt"] == "admin_consent":
            says = self._world.admin.says or tenant.tenant_id
            values = {"admin_consent": "True", "tenant": says} | values
        return values

    def _refusal(self, problem: aadsts.Problem, correlation: str) -> dict[str, str]:
        description, _ = problem.words(now=self._world.clock(), rng=self._rng, correlation=correlation)
        return {"error": problem.name(), "error_description": description}

    def _guid(self) -> str:
        return str(uuid.UUID(int=self._rng.getrandbits(128), version=4))


def _registered(app: directory.App, target: str) -> bool:
    """Whether a redirect goes to the app: exactly, but for the port of a loopback address."""
    if target in app.redirect_uris:
        return True
    try:
        parts = urllib.parse.urlsplit(target)
        _ = parts.port  # a port that is no number is none
    except ValueError:
        return False
    if parts.scheme != "http" or parts.hostname not in _LOOPBACK or parts.username is not None:
        return False
    plain = f"http://{parts.hostname}{parts.path.rstrip('/')}"
    return plain in {each.rstrip("/") for each in app.redirect_uris}


def _back(target: str, mode: str, values: Mapping[str, str], query: Mapping[str, str]) -> answers.Answer:
    """Send the browser back with the values, and the state that it came with."""
    values = {**values, **({"state": query["state"]} if "state" in query else {})}
    if mode == "form_post":
        fields = "".join(
            f'<input type="hidden" name="{html.escape(name)}" value="{html.escape(value)}">'
            for name, value in values.items()
        )
        page = (
            "<!DOCTYPE html><html><head><title>Working...</title></head>"
            '<body onload="document.forms[0].submit()">'
            f'<form method="POST" action="{html.escape(target)}">{fields}</form></body></html>'
        )
        return answers.Answer(200, _HTML, (page.encode(),))
    mark = "#" if mode == "fragment" else ("&" if urllib.parse.urlsplit(target).query else "?")
    return answers.Answer(
        302, {"Location": f"{target}{mark}{urllib.parse.urlencode(values)}", "Cache-Control": "no-store"}
    )


def refused(description: str) -> answers.Answer:
    """The page that tells a person what is wrong."""
    page = (
        "<!DOCTYPE html><html><head><title>Sign in to your account</title></head>"
        f"<body><h2>Sorry, but we're having trouble signing you in.</h2><p>{html.escape(description)}</p>"
        "</body></html>"
    )
    return answers.Answer(400, _HTML, (page.encode(),))


_HTML = {"Content-Type": "text/html; charset=utf-8", "Cache-Control": "no-store"}

"""Who signed in, and what is outstanding: device codes, authorization codes and refresh tokens.

A refresh token stays valid when it was used (each use gives another one beside it), for 90 days after its last use;
it belongs to a user and an app, not to an API. An authorization code lives for ten minutes and is good once; a device
code lives for fifteen minutes and is good once. All die when the user's sessions are revoked.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import secrets

from service.simulator import directory, ticks, world
from service.simulator.entra import aadsts, scopes

CODE_LIFE = 10 * ticks.MINUTE
DEVICE_LIFE = 15 * ticks.MINUTE
IDLE_LIFE = 90 * ticks.DAY
INTERVAL = 5  # seconds between two polls of a device code


@dataclasses.dataclass(slots=True)
class Device:
    """A device code that waits for its user; tenant_id None where anybody's user may sign in."""

    app: directory.App
    tenant_id: str | None
    scope: str
    expires_at: int
    user_code: str


@dataclasses.dataclass(slots=True)
class Code:
    """An authorization code; `challenge` is what its verifier must hash to ("" where none was sent)."""

    app: directory.App
    user: directory.User
    session: int
    scope: str
    redirect_uri: str
    challenge: str
    method: str
    nonce: str
    expires_at: int
    used: bool = False


@dataclasses.dataclass(slots=True)
class Refresh:
    """A refresh token of a user's session."""

    app_id: str
    user: directory.User
    session: int
    scope: str
    used_at: int


class SignIns:
    """What a world's users have begun and not ended."""

    def __init__(self, shown: world.World) -> None:
        self._world = shown
        self._devices: dict[str, Device] = {}
        self._codes: dict[str, Code] = {}
        self._refreshes: dict[str, Refresh] = {}

    def agree(self, app: directory.App, user: directory.User, scope: str) -> None:
        """What happens on the page: the user signs in and consents, which makes the app part of the tenant.

        Raises Problem: 50057, 65004, 90094 where only an administrator may grant what is asked for.
        """
        if user.disabled:
            raise aadsts.Problem(50057)
        if user.decides == "declines":
            raise aadsts.Problem(65004)
        if not scopes.granted(app, user, scopes.of_user(scope)):
            raise aadsts.Problem(90094)
        self._world.tenants[user.tenant_id].consented.add(app.app_id)

    def begin_device(self, app: directory.App, tenant_id: str | None, scope: str) -> tuple[str, Device]:
        """A new device code, and what stands behind it."""
        scopes.of_user(scope)
        code = secrets.token_urlsafe(96)
        user_code = "".join(secrets.choice("ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(9))
        device = Device(app, tenant_id, scope, self._world.clock() + DEVICE_LIFE, user_code)
        self._devices[code] = device
        return code, device

    def poll(self, code: str, app: directory.App) -> tuple[directory.User, str]:
        """The user who took the device code up, and its scope. Raises Problem until somebody did."""
        device = self._devices.get(code)
        if device is None or device.app.app_id != app.app_id:
            raise aadsts.Problem(70018)
        if self._world.clock() >= device.expires_at:
            raise aadsts.Problem(70019)
        user = self._world.present(device.tenant_id)
        if user is None or user.decides == "waits":
            raise aadsts.Problem(70016)
        if user.decides == "declines":
            del self._devices[code]
            raise aadsts.Problem(65004, error="authorization_declined")
        self.agree(device.app, user, device.scope)
        del self._devices[code]
        return user, device.scope

    def new_code(
        self,
        app: directory.App,
        user: directory.User,
        *,
        scope: str,
        redirect_uri: str,
        challenge: str = "",
        method: str = "plain",
        nonce: str = "",
    ) -> str:
        """An authorization code for what a user agreed to."""
        code = f"1.{secrets.token_urlsafe(96)}"
        expires = self._world.clock() + CODE_LIFE
        self._codes[code] = Code(
            app, user, user.session, scope, redirect_uri, challenge, method, nonce, expires
        )
        return code

    def redeem(self, given: str, app: directory.App, *, redirect_uri: str, verifier: str) -> Code:
        """The authorization code, used up. Raises Problem."""
        code = self._codes.get(given)
        if code is None or code.app.app_id != app.app_id:
            raise aadsts.Problem(70000)
        if code.used:
            raise aadsts.Problem(54005)
        if self._world.clock() >= code.expires_at:
            raise aadsts.Problem(70008)
        if redirect_uri != code.redirect_uri:
            raise aadsts.Problem(500112, value=redirect_uri[:200])
        if code.challenge:
            if not verifier:
                raise aadsts.Problem(900144, parameter="code_verifier")
            digest = (
                base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
            )
            if code.challenge != (digest if code.method == "S256" else verifier):
                raise aadsts.Problem(501481)
        code.used = True
        _alive(code.user, code.session)
        return code

    def new_refresh(self, app: directory.App, user: directory.User, scope: str) -> str:
        """A refresh token beside those that the user has."""
        token = f"1.{secrets.token_urlsafe(96)}"
        now = self._world.clock()
        self._refreshes[token] = Refresh(app.app_id, user, user.session, scope, now)
        return token

    def renew(self, given: str, app: directory.App) -> Refresh:
        """The sign-in behind a refresh token. Raises Problem."""
        refresh = self._refreshes.get(given)
        if refresh is None or refresh.app_id != app.app_id:
            raise aadsts.Problem(70000)
        now = self._world.clock()
        if now >= refresh.used_at + IDLE_LIFE:
            raise aadsts.Problem(700082)
        _alive(refresh.user, refresh.session)
        if refresh.user.mfa:
            raise aadsts.Problem(50076, resource=refresh.scope)
        refresh.used_at = now
        return refresh


def _alive(user: directory.User, session: int) -> None:
    if user.session != session:
        raise aadsts.Problem(50173)
    if user.disabled:
        raise aadsts.Problem(50057)

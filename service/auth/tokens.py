"""Access tokens for every tenant: kept here, fetched once at a time each, renewed before they end.

`Tokens.token` is called before each request, so the common case is two dictionary look-ups. Everything else is one flight a
(tenant, service, app): callers that come meanwhile wait for it, and a caller that is cancelled does not cancel it.
A flight waits for one of a few places, passes the breaker of its credential, and then has a total deadline; MSAL's
part runs in a thread, and a place is given back only when that thread has really ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

import aiohttp
import structlog

from service import clouds, errors, model, proxies
from service.auth import breaker, claims, entra, modes, replies, sealing, slots, v1, wire

SiemForm = Literal["auto", "v2", "v1"]

_FRESH: Final = 60.0
"""Seconds: a token refused by the API at this age was not refused for its age."""

_log = structlog.get_logger()


class Tokens:
    """The only source of bearer tokens. Belongs to one event loop; `close` it before the aiohttp session."""

    def __init__(
        self,
        endpoints: clouds.Endpoints,
        session: aiohttp.ClientSession,
        *,
        shared: modes.SharedApp | None = None,
        sealer: sealing.Sealer | None = None,
        ca_file: Path | None = None,
        proxy: proxies.Proxy | None = None,
        siem_form: SiemForm = "auto",
        roles: Mapping[str, frozenset[str]] | None = None,
        deadline: float = 10.0,
        places: int = 16,
        queue_time: float = 30.0,
        observe: Callable[[str, str, float], None] | None = None,
        on_restored: Callable[[], None] | None = None,
    ) -> None:
        """`shared` is the app of tenants without a credential of their own, `sealer` opens those credentials.

        `roles` names for each service the app roles of which one is needed. `deadline` is the seconds of one request for
        a token, `places` how many run at once, `queue_time` the seconds to wait for a place. `observe(service, outcome,
        seconds)` is called after each flight, with "ok" or a failure's kind; `on_restored()` when a credential that was
        refused is accepted again. Raises errors.BadSetting for a CA file that cannot be read.
        """
        self._endpoints = endpoints
        self._session = session
        self._shared_app = shared
        self._shared = modes.SharedSecret(shared) if shared else None
        self._sealer = sealer
        self._siem_form = siem_form
        self._roles = dict(roles or {})
        self._deadline = deadline
        self._queue_time = queue_time
        self._observe = observe
        self._on_restored = on_restored
        self._wire = wire.Wire(ca_file, places, proxy)
        self._proxy = proxy
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="entra")
        self._places = asyncio.Semaphore(places)
        self._tenants: dict[UUID, slots.Holding] = {}
        self._breakers: dict[modes.Identity, breaker.Breaker] = {}
        self._flights: set[asyncio.Task[slots.Outcome]] = set()
        self._threads: set[asyncio.Future[replies.Grant]] = set()

    async def token(self, access: model.Access, service: str) -> str:
        """A token that lives on for a while. Raises errors.PollFailure where there is none to have."""
        slot = self._slot(access, service)
        now = time.monotonic()
        if slot.token is not None and now < slot.renew_at:
            return slot.token
        if slot.flight is None:
            slot.flight = asyncio.create_task(self._fly(access, service, slot), name=f"token {service}")
            self._flights.add(slot.flight)
            slot.flight.add_done_callback(self._flights.discard)
        if slot.token is not None and now < slot.dead_at:
            return slot.token  # renewed behind our back; where that fails, this one is good until its end
        flight = slot.flight
        await asyncio.wait({flight})
        if flight.cancelled():
            raise errors.Transient("stopping: no token is fetched any more")
        outcome = flight.result()
        if isinstance(outcome, errors.PollFailure):
            raise outcome.with_traceback(None)
        return outcome.token

    def discard(self, access: model.Access, service: str, token: str) -> None:
        """The API refused this token: the next call fetches another. Nothing happens where it was replaced already."""
        slot = self._slot(access, service)
        if slot.token != token:
            return
        if self._both_forms(service) and time.monotonic() - slot.fetched < _FRESH:
            # Nobody says which form of token the exporter takes: a fresh one refused speaks for the other form.
            slot.form = _other(slot.form)
        slot.drop()

    def forget(self, tenant_id: UUID) -> None:
        """Drop all that is kept of a tenant: removed, owned by another replica, or to be tried anew at once."""
        self._tenants.pop(tenant_id, None)
        for identity in [one for one in self._breakers if one.owner == str(tenant_id)]:
            del self._breakers[identity]

    async def close(self) -> None:
        """End what is under way. A thread inside a hung call ends by its own deadline and is not waited for."""
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        for thread in self._threads:
            thread.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wire.close()

    def _slot(self, access: model.Access, service: str) -> slots.Slot:
        credential = access.credential
        app_id = credential.app_id if credential else self._shared_app.app_id if self._shared_app else ""
        tenant_id = access.tenant.tenant_id
        holding = self._tenants.get(tenant_id)
        if holding is None:
            holding = self._tenants[tenant_id] = slots.Holding()
        slot = holding.slots.get((service, app_id))
        if slot is None or slot.credential != credential:
            form: slots.Form = "v1" if service == "siem" and self._siem_form == "v1" else "v2"
            slot = holding.slots[service, app_id] = slots.Slot(credential, form)
        return slot

    def _both_forms(self, service: str) -> bool:
        return service == "siem" and self._siem_form == "auto"

    async def _fly(self, access: model.Access, service: str, slot: slots.Slot) -> slots.Outcome:
        started = time.monotonic()
        try:
            outcome: slots.Outcome = await self._fetch(access, service, slot)
        except errors.PollFailure as failure:
            outcome = failure
        except errors.UserMistake as mistake:
            outcome = errors.Attention(str(mistake), code="setup_wrong")
        finally:
            slot.flight = None
        now = time.monotonic()
        result = "ok"
        if isinstance(outcome, replies.Grant):
            slot.keep(outcome, now, spread=access.tenant.tenant_id.int % 997 / 997)
        else:
            result = outcome.kind
            if slot.postpone(now, outcome.retry_after):
                _log.warning("token.renewal_failed", service=service, kind=result, reason=str(outcome))
        if self._observe:
            self._observe(service, result, now - started)
        return outcome

    async def _fetch(self, access: model.Access, service: str, slot: slots.Slot) -> replies.Grant:
        cloud, tenant_id = access.tenant.cloud, access.tenant.tenant_id
        audience = self._endpoints.audience(service, cloud)
        app = self._app(access, f"{self._endpoints.authority(cloud)}/{tenant_id}")
        try:
            grant = await self._grant(app, audience, slot.form)
        except replies.FormRefused:
            if not self._both_forms(service):
                raise
            grant = None
        if grant is None:
            grant = await self._grant(app, audience, _other(slot.form))
            slot.form = _other(slot.form)
            _log.info("token.form_changed", service=service, form=slot.form)
        claims.check(grant.token, tenant_id=tenant_id, audience=audience, roles=self._roles.get(service, ()))
        return grant

    async def _grant(self, app: entra.App, audience: str, form: slots.Form) -> replies.Grant:
        try:
            async with asyncio.timeout(self._queue_time):
                await self._places.acquire()
        except TimeoutError:
            raise errors.Transient("too many requests for tokens are under way; is Entra slow?") from None
        thread: asyncio.Future[replies.Grant] | None = None
        try:
            async with self._breaker(app.identity).guard():
                if form == "v1":
                    return await v1.grant(self._session, app, audience, self._deadline, self._proxy)
                scope = f"{audience}/.default"
                thread = asyncio.get_running_loop().run_in_executor(
                    self._pool, app.grant, self._wire, scope, self._deadline
                )
                self._threads.add(thread)
                done, _ = await asyncio.wait({thread}, timeout=self._deadline)
                if not done:
                    raise errors.Transient(f"Entra did not answer within {self._deadline:g} s")
                return thread.result()
        finally:
            # A thread outlives its caller and may outlive its deadline: its place is free when it has ended.
            if thread is None:
                self._places.release()
            else:
                thread.add_done_callback(self._ended)

    def _ended(self, thread: asyncio.Future[replies.Grant]) -> None:
        self._threads.discard(thread)
        self._places.release()
        if not thread.cancelled():
            thread.exception()  # seen, so that asyncio does not report what came too late

    def _breaker(self, identity: modes.Identity) -> breaker.Breaker:
        if identity not in self._breakers:
            self._breakers[identity] = breaker.Breaker(on_change=self._credential_changed)
        return self._breakers[identity]

    def _credential_changed(self, refusal: errors.CredentialRefused | None) -> None:
        if refusal is not None:
            _log.error("credential.refused", reason=str(refusal), code=refusal.code)
            return
        _log.info("credential.restored")
        if self._on_restored:
            self._on_restored()

    def _app(self, access: model.Access, authority: str) -> entra.App:
        """The app object for this access, made anew where the secret or the tenant's cloud has changed."""
        identity, mode = self._credential(access)
        apps = self._tenants.setdefault(access.tenant.tenant_id, slots.Holding()).apps
        app = apps.get(identity.app_id)
        if app is not None and app.identity == identity and app.authority == authority:
            return app
        metadata = app.http_cache if app is not None else {}
        app = apps[identity.app_id] = entra.App(identity, authority, mode, metadata)
        for old in [one for one in self._breakers if one.precedes(identity)]:
            del self._breakers[old]
        return app

    def _credential(self, access: model.Access) -> tuple[modes.Identity, modes.Mode]:
        if access.credential is not None:
            identity = modes.own_identity(access.tenant, access.credential)
            return identity, modes.unsealed(access.credential, self._sealer)
        if self._shared is None:
            raise errors.Attention(
                "no app to sign in with: set CLIENT_ID and CLIENT_SECRET, or give the tenant an app of its own",
                code="credential_missing",
            )
        return self._shared.read()


def _other(form: slots.Form) -> slots.Form:
    return "v1" if form == "v2" else "v2"

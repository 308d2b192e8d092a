"""Access tokens for every tenant: kept here, fetched once at a time each, renewed before they end.

`Tokens.token` is called before each request, so the common case is two dictionary look-ups. Everything else is one flight a
(tenant, service, app): callers that come meanwhile wait for it, and a caller that is cancelled does not cancel it.
A flight waits for one of a few places, passes the breaker of its credential, and then has a total deadline; MSAL's part runs in a
thread, and a place is given back only when that thread has really ended.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeAlias
from uuid import UUID

import aiohttp
import structlog

from service import clouds, errors, model
from service.auth import breaker, claims, entra, modes, replies, sealing, v1, wire

SiemForm = Literal["auto", "v2", "v1"]
_Form = Literal["v2", "v1"]
_Outcome: TypeAlias = replies.Grant | errors.PollFailure

_EARLY: Final = 600.0
"""Seconds before its end from which a token is renewed (a quarter of its life where that is shorter)."""
_MARGIN: Final = 30.0
"""Seconds before its end from which a token is not used any more (a tenth of its life where that is shorter)."""
_RENEWAL_PAUSE: Final = 30.0
_LONGEST_RENEWAL_PAUSE: Final = 300.0
_FRESH: Final = 60.0
"""Seconds: a token refused by the API at this age was not refused for its age."""

_log = structlog.get_logger()


@dataclass(slots=True)
class _Slot:
    """The token of one (tenant, service, app). Times are monotonic seconds."""

    credential: model.Credential | None
    form: _Form
    token: str | None = field(default=None, repr=False)
    fetched: float = 0.0
    renew_at: float = 0.0
    dead_at: float = 0.0
    pause: float = _RENEWAL_PAUSE
    flight: asyncio.Task[_Outcome] | None = None

    def keep(self, grant: replies.Grant, now: float, spread: float) -> None:
        early = min(_EARLY, grant.seconds / 4) * (1 + spread / 2)
        if grant.refresh_in is not None:
            early = max(early, grant.seconds - max(grant.refresh_in, 0.0))
        self.token = grant.token
        self.fetched = now
        self.dead_at = now + grant.seconds - min(_MARGIN, grant.seconds / 10)
        self.renew_at = min(now + grant.seconds - early, self.dead_at)
        self.pause = _RENEWAL_PAUSE

    def drop(self) -> None:
        self.token = None
        self.renew_at = self.dead_at = 0.0


@dataclass(slots=True)
class _Tenant:
    """All that is kept of one tenant, so that it can be forgotten at once."""

    slots: dict[tuple[str, str], _Slot] = field(default_factory=dict)
    apps: dict[str, entra.App] = field(default_factory=dict, repr=False)


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
        siem_form: SiemForm = "auto",
        roles: Mapping[str, frozenset[str]] | None = None,
        deadline: float = 10.0,
        places: int = 16,
        queue_time: float = 30.0,
        observe: Callable[[str, str, float], None] | None = None,
        on_restored: Callable[[], None] | None = None,
    ) -> None:
        """`shared` is the app of tenants without a credential of their own, `sealer` opens those credentials.

        `roles` names for each service the app roles of which one is needed. `deadline` is the seconds of one request for a token,
        `places` how many run at once, `queue_time` the seconds to wait for a place. `observe(service, outcome, seconds)` is called
        after each flight, with "ok" or a failure's kind; `on_restored()` when a credential that was refused is accepted again.
        Raises errors.BadSetting for a CA file that cannot be read.
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
        self._wire = wire.Wire(ca_file, places)
        self._pool = ThreadPoolExecutor(places, thread_name_prefix="entra")
        self._places = asyncio.Semaphore(places)
        self._tenants: dict[UUID, _Tenant] = {}
        self._breakers: dict[modes.Identity, breaker.Breaker] = {}
        self._flights: set[asyncio.Future[_Outcome]] = set()

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
        if service == "siem" and self._siem_form == "auto" and time.monotonic() - slot.fetched < _FRESH:
            # Nobody says which form of token the exporter takes: a fresh one refused speaks for the other form.
            slot.form = "v1" if slot.form == "v2" else "v2"
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
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._wire.close()

    def _slot(self, access: model.Access, service: str) -> _Slot:
        credential = access.credential
        app_id = credential.app_id if credential else self._shared_app.app_id if self._shared_app else ""
        tenant_id = access.tenant.tenant_id
        tenant = self._tenants.get(tenant_id)
        if tenant is None:
            tenant = self._tenants[tenant_id] = _Tenant()
        slot = tenant.slots.get((service, app_id))
        if slot is None or slot.credential != credential:
            form: _Form = "v1" if service == "siem" and self._siem_form == "v1" else "v2"
            slot = tenant.slots[service, app_id] = _Slot(credential, form)
        return slot

    async def _fly(self, access: model.Access, service: str, slot: _Slot) -> _Outcome:
        started = time.monotonic()
        try:
            outcome: _Outcome = await self._fetch(access, service, slot)
        except errors.PollFailure as failure:
            outcome = failure
        except errors.UserMistake as mistake:
            outcome = errors.Attention(str(mistake), code="setup_wrong")
        finally:
            slot.flight = None
        now = time.monotonic()
        if isinstance(outcome, replies.Grant):
            slot.keep(outcome, now, spread=access.tenant.tenant_id.int % 997 / 997)
        elif slot.token is not None and now < slot.dead_at:
            slot.renew_at = min(now + max(slot.pause, outcome.retry_after or 0.0), slot.dead_at)
            slot.pause = min(slot.pause * 2, _LONGEST_RENEWAL_PAUSE)
            _log.warning("token.renewal_failed", service=service, kind=outcome.kind, reason=str(outcome))
        else:
            slot.drop()
        if self._observe:
            self._observe(
                service, outcome.kind if isinstance(outcome, errors.PollFailure) else "ok", now - started
            )
        return outcome

    async def _fetch(self, access: model.Access, service: str, slot: _Slot) -> replies.Grant:
        cloud = access.tenant.cloud
        audience = self._endpoints.audience(service, cloud)
        app = self._app(access, f"{self._endpoints.authority(cloud)}/{access.tenant.tenant_id}")
        grant = await self._in_a_form(
            app, audience, slot, both=service == "siem" and self._siem_form == "auto"
        )
        claims.check(
            grant.token,
            tenant_id=access.tenant.tenant_id,
            audience=audience,
            roles=self._roles.get(service, ()),
        )
        return grant

    async def _in_a_form(self, app: entra.App, audience: str, slot: _Slot, *, both: bool) -> replies.Grant:
        try:
            return await self._grant(app, audience, slot.form)
        except replies.FormRefused:
            if not both:
                raise
        other: _Form = "v1" if slot.form == "v2" else "v2"
        grant = await self._grant(app, audience, other)
        slot.form = other
        _log.info("token.form_changed", form=other, app_id=app.identity.app_id)
        return grant

    async def _grant(self, app: entra.App, audience: str, form: _Form) -> replies.Grant:
        guard = self._breakers.setdefault(app.identity, breaker.Breaker())
        try:
            async with asyncio.timeout(self._queue_time):
                await self._places.acquire()
        except TimeoutError:
            raise errors.Transient("too many requests for tokens are under way; is Entra slow?") from None
        with self._place() as running, self._watched(guard):
            async with guard.guard():
                running.append(self._started(app, audience, form))
                done, _ = await asyncio.wait(running, timeout=self._deadline)
                if not done:
                    raise errors.Transient(f"Entra did not answer within {self._deadline:g} s")
                return running[0].result()

    def _started(self, app: entra.App, audience: str, form: _Form) -> asyncio.Future[replies.Grant]:
        if form == "v1":
            return asyncio.ensure_future(v1.grant(self._session, app, audience, self._deadline))
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._pool, app.grant, self._wire, f"{audience}/.default", self._deadline)

    @contextmanager
    def _place(self) -> Iterator[list[asyncio.Future[replies.Grant]]]:
        """Give the place back when what runs in it has ended, which may be after its deadline."""
        running: list[asyncio.Future[replies.Grant]] = []
        try:
            yield running
        finally:
            if running:
                running[0].add_done_callback(self._ended)
            else:
                self._places.release()

    def _ended(self, running: asyncio.Future[replies.Grant]) -> None:
        self._places.release()
        if not running.cancelled():
            running.exception()  # seen, so that asyncio does not report what came too late

    @contextmanager
    def _watched(self, guard: breaker.Breaker) -> Iterator[None]:
        was_open = guard.is_open
        try:
            yield
        finally:
            if guard.is_open and not was_open:
                _log.error(
                    "credential.refused",
                    reason="Entra refuses the app's credential; its tenants wait on one probe",
                )
            elif was_open and not guard.is_open:
                _log.info("credential.restored")
                if self._on_restored:
                    self._on_restored()

    def _app(self, access: model.Access, authority: str) -> entra.App:
        """The app object for this access, made anew where the secret or the tenant's cloud has changed."""
        identity, mode = self._credential(access)
        apps = self._tenants.setdefault(access.tenant.tenant_id, _Tenant()).apps
        app = apps.get(identity.app_id)
        if app is not None and app.identity == identity and app.authority == authority:
            return app
        metadata = app.http_cache if app is not None else {}
        app = apps[identity.app_id] = entra.App(identity, authority, mode, metadata)
        for old in [
            one for one in self._breakers if (one.owner, one.app_id) == (identity.owner, identity.app_id)
        ]:
            if old != identity:
                del self._breakers[old]
        return app

    def _credential(self, access: model.Access) -> tuple[modes.Identity, modes.Mode]:
        if access.credential is not None:
            return modes.own_identity(access.tenant, access.credential), modes.unsealed(
                access.credential, self._sealer
            )
        if self._shared is None:
            raise errors.Attention(
                "no app to sign in with: set CLIENT_ID and CLIENT_SECRET, or give the tenant an app of its own",
                code="credential_missing",
            )
        return self._shared.read()

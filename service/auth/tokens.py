"""Access tokens for every tenant: kept here, fetched once at a time each, renewed before they end.

`Tokens.token` is called before each request, so the common case is two dictionary look-ups. Everything else is one flight a
(tenant, service, credential): callers that come meanwhile wait for it, and a caller that is cancelled does not cancel it.
A flight waits for one of a few places, passes the breaker of its credential, and then has a total deadline. Where the shared
app has several credentials, one that is refused makes way for the next.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

import aiohttp
import structlog

from service import clouds, errors, horizons, model, proxies
from service.auth import (
    breaker,
    choosing,
    claims,
    clock,
    credentials,
    entra,
    modes,
    replies,
    sealing,
    slots,
    threads,
    v1,
    wire,
)

SiemForm = Literal["auto", "v2", "v1"]

_FRESH: Final = 60.0
"""Seconds: a token refused by the API at this age was not refused for its age."""

_log = structlog.get_logger(__name__)


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
        scopes: Mapping[str, frozenset[str]] | None = None,
        deadline: float = 10.0,
        places: int = 32,
        queue_time: float = 30.0,
        observe: Callable[[str, str, float], None] | None = None,
        on_restored: Callable[[], None] | None = None,
        on_rotated: Callable[[model.Access, bytes], None] | None = None,
        now: clock.Clock | None = None,
    ) -> None:
        """`shared` is the app of tenants without a credential of their own, `sealer` opens those credentials.

        `roles` names for each service the app roles of which one is needed, `scopes` the delegated permissions of a user.
        `deadline` is the seconds of one request for a token, `places` how many run at once, `queue_time` the seconds to wait for
        a place. `observe(service, outcome, seconds)` is called after each flight, with "ok" or a failure's kind; `on_restored()`
        when a credential that was refused is accepted again; `on_rotated(access, sealed)` when a user's sign-in got another
        refresh token, for whoever keeps it; `now` is taught Entra's time. Raises errors.BadSetting where a file cannot be used.
        """
        self._endpoints = endpoints
        self._session = session
        self._choice = choosing.Choice(shared, sealer, on_restored)
        self._sealer = sealer
        self._siem_form = siem_form
        self._roles = dict(roles or {})
        self._scopes = dict(scopes or {})
        self._deadline = deadline
        self._observe = observe
        self._on_rotated = on_rotated
        self.clock = now or clock.Clock()
        self._wire = wire.Wire(ca_file, places, self.clock, proxy)
        self._proxy = proxy
        self._places = threads.Places(places, queue_time)
        self._tenants: dict[UUID, slots.Holding] = {}
        self._flights: set[asyncio.Task[slots.Outcome]] = set()

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

    def horizons(self) -> list[horizons.Ending]:
        """Until when each of the shared app's credentials lasts. Tenants' own are in the database, with their end."""
        return self._choice.shared.horizons() if self._choice.shared else []

    async def close(self) -> None:
        """End what is under way. A thread inside a hung call ends by its own deadline and is not waited for."""
        flights = list(self._flights)
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        self._places.close()
        self._wire.close()

    def _slot(self, access: model.Access, service: str) -> slots.Slot:
        holding = self._holding(access.tenant.tenant_id)
        slot = holding.slots.get((service, access.credential))
        if slot is None:
            slot = slots.Slot("v1" if service == "siem" and self._siem_form == "v1" else "v2")
            holding.add(service, access.credential, slot)
        return slot

    def _holding(self, tenant_id: UUID) -> slots.Holding:
        holding = self._tenants.get(tenant_id)
        if holding is None:
            holding = self._tenants[tenant_id] = slots.Holding()
        return holding

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
        self._judge(access.tenant.tenant_id, outcome)
        if isinstance(outcome, replies.Grant):
            slot.keep(outcome, now, spread=access.tenant.tenant_id.int % 997 / 997)
        else:
            result = outcome.kind
            if slot.postpone(now, outcome.retry_after):
                _log.warning("token.renewal_failed", service=service, kind=result, reason=str(outcome))
        if self._observe:
            self._observe(service, result, now - started)
        return outcome

    def _judge(self, tenant_id: UUID, outcome: slots.Outcome) -> None:
        """A tenant that got no answer has fewer places until it gets one; one that got no place is as it was."""
        holding = self._tenants.get(tenant_id)
        if holding is not None and not isinstance(outcome, threads.Crowded):
            holding.probation = isinstance(outcome, errors.Transient)

    async def _fetch(self, access: model.Access, service: str, slot: slots.Slot) -> replies.Grant:
        tenant = access.tenant
        audience = self._endpoints.audience(service, tenant.cloud)
        authority = f"{self._endpoints.authority(tenant.cloud)}/{tenant.tenant_id}"
        holding = self._holding(tenant.tenant_id)
        apps = self._choice.apps(access, holding, authority)
        places = partial(self._places.place, probation=holding.probation)
        try:
            grant = await self._grant(apps, places, audience, slot.form, _subject(access))
        except replies.FormRefused:
            if not self._both_forms(service):
                raise
            grant = None
        if grant is None:
            grant = await self._grant(apps, places, audience, _other(slot.form), _subject(access))
            slot.form = _other(slot.form)
            _log.info("token.form_changed", service=service, form=slot.form)
        check = partial(
            claims.check, grant.token, tenant_id=tenant.tenant_id, audience=audience, now=self.clock
        )
        if access.credential is None or access.credential.kind != "delegated":
            check(roles=self._roles.get(service, ()))
            return grant
        check(scopes=self._scopes.get(service, ()))
        self._renew(access, access.credential, grant)
        return grant

    def _renew(self, access: model.Access, credential: model.Credential, grant: replies.Grant) -> None:
        """Hold the refresh token that came with a user's token, unless its tenant was forgotten meanwhile."""
        holding = self._tenants.get(access.tenant.tenant_id)
        if holding is None or self._sealer is None or grant.refresh_token is None:
            return
        sealed = holding.renew(credential, grant.refresh_token, self._sealer)
        if sealed is not None and self._on_rotated:
            self._on_rotated(access, sealed)

    async def _grant(
        self,
        apps: list[tuple[entra.App, breaker.Breaker]],
        places: Callable[[], AbstractAsyncContextManager[threads.Place]],
        audience: str,
        form: slots.Form,
        subject: UUID | None,
    ) -> replies.Grant:
        """A token by the first of the credentials that Entra takes."""
        refusals = []
        for app, guard in apps:
            try:
                async with places() as place, guard.guard(subject):
                    grant = await self._ask(place, app, audience, form)
            except errors.CredentialRefused as refusal:
                refusals.append((app.identity.kind, refusal))
            else:
                self._choice.note(app.identity)
                return grant
        raise credentials.together(refusals)

    async def _ask(
        self, place: threads.Place, app: entra.App, audience: str, form: slots.Form
    ) -> replies.Grant:
        skew = self.clock.skew
        try:
            return await self._once(place, app, audience, form)
        except errors.CredentialRefused as refusal:
            app.refused()
            if app.identity.kind == "delegated" and refusal.code == "secret_missing":
                raise entra.not_public(app.identity.app_id) from None
            if refusal.code != "clock_skew" or self.clock.skew == skew:
                raise
        # The refusal's own Date has told us the time.
        return await self._once(place, app, audience, form)

    async def _once(
        self, place: threads.Place, app: entra.App, audience: str, form: slots.Form
    ) -> replies.Grant:
        if form == "v2":
            return await place.run(
                self._deadline, app.grant, self._wire, f"{audience}/.default", self._deadline
            )
        endpoint = f"{app.authority}/oauth2/token"
        proof = await place.run(self._deadline, app.proof, endpoint, self.clock)
        return await v1.grant(
            self._session, endpoint, proof, audience, self._deadline, self.clock, self._proxy
        )


def _subject(access: model.Access) -> UUID | None:
    """Whose refusal it would be: a credential of its own serves nobody else."""
    return None if access.credential is not None else access.tenant.tenant_id


def _other(form: slots.Form) -> slots.Form:
    return "v1" if form == "v2" else "v2"

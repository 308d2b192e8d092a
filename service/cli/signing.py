"""`alertwell login`, without its words: whom it is for, the sign-in, the proof, and what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Final

from service import errors, line, metrics, model, parts, settings
from service.auth import claims, sign_in
from service.cli import actors, tenants
from service.ingest import proving
from service.sources import registry
from service.store import accesses, credentials, pool, provings, rotations
from service.web import loopback

WAITS: Final = 300.0
"""Seconds that the loopback redirect listens."""
_PASSING: Final = frozenset({"throttled", "transient", "too_large"})


@dataclass(frozen=True, slots=True)
class Wish:
    """Who is to be signed in for; no `sources`: all that have no app of their own. `browser`: on this machine, by redirect."""

    who: str
    sources: tuple[str, ...] = ()
    app_id: str | None = None
    browser: bool = False


@dataclass(frozen=True, slots=True)
class Subject:
    """A tenant, the app that somebody signs in to, and how each of its sources is read then.

    `rows` are the credentials that are stored: '' for all sources that have none of their own, or a source.
    """

    tenant: model.Tenant
    app_id: str
    readings: Mapping[str, accesses.Reading]
    rows: Sequence[str]

    @property
    def named(self) -> str:
        return f"{self.tenant.name} ({self.tenant.tenant_id})"


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it; `kept` says whether it was stored."""

    subject: Subject
    user: str
    object_id: str
    proof: proving.Proof
    kept: bool


@dataclass(frozen=True, slots=True)
class Voice:
    """How a person is spoken to: which code to enter where, or which address a browser is to open; and how to wait."""

    device: Callable[[Subject, sign_in.Device], None]
    visit: Callable[[Subject, sign_in.Visit], None]
    waits: Callable[[float], Awaitable[None]] = asyncio.sleep


async def login(opened: pool.Database, config: settings.Settings, wish: Wish, voice: Voice) -> Done:
    """From the wish to the stored sign-in. Raises errors.UserMistake, errors.PollFailure; then nothing is stored."""
    sealer = parts.sealer(config)
    if sealer is None:
        raise errors.BadSetting(
            "ALERTWELL_SEALING_KEYS_FILE is not set; a sign-in is stored sealed with the keys in that file. "
            "Make it with: alertwell seal-key --into FILE"
        )
    subject = await _subject(opened, config, wish)
    signed = await _signed_in(config, subject, voice, browser=wish.browser)
    sealed = sealer.seal(signed.refresh_token)
    proof = await _proven(config, subject, sealed)
    kept = all(step.ok or step.code in _PASSING for step in proof.steps)
    if kept:
        await _keep(opened, subject, signed, sealed, proof)
    return Done(subject, signed.user, signed.object_id, proof, kept)


async def _subject(opened: pool.Database, config: settings.Settings, wish: Wish) -> Subject:
    row = await tenants.one(opened, wish.who)
    named = f"{row['name']} ({row['tenant_id']})"
    if row["state"] == "removed":
        raise errors.BadInput(f"{named} was removed; enrol it again: alertwell tenants add")
    readings = (await accesses.enrolled(opened, [row["tenant_id"]]))[row["tenant_id"]]
    missing = [source for source in wish.sources if source not in readings]
    if missing or not readings:
        raise errors.BadInput(
            f"{' and '.join(missing) or 'nothing'} is {'not ' if missing else ''}read of {named}: enrol what a user is to read "
            "first, alertwell tenants add … --source graph_alerts"
        )
    chosen = {
        source: reading
        for source, reading in readings.items()
        if (source in wish.sources if wish.sources else _open_to_users(reading.access.credential))
    }
    if not chosen:
        raise errors.BadInput(
            f"all that is read of {named} has credentials of its own; name what a user is to read: "
            f"--source {next(iter(readings))}"
        )
    before = [each.access.credential for each in chosen.values() if each.access.credential is not None]
    known = next((each.app_id for each in before if each.kind == "delegated"), None)
    app_id = wish.app_id or known or config.client_id
    if app_id is None:
        raise errors.BadInput(
            "give --client-id GUID: the application (client) id of an app registration that allows public client flows"
        )
    rows = [
        source if wish.sources or _of_source(reading, source) else "" for source, reading in chosen.items()
    ]
    tenant = next(iter(chosen.values())).access.tenant
    return Subject(tenant, app_id, chosen, list(dict.fromkeys(rows)))


def _open_to_users(credential: model.Credential | None) -> bool:
    return credential is None or credential.source == "" or credential.kind == "delegated"


def _of_source(reading: accesses.Reading, source: str) -> bool:
    return reading.access.credential is not None and reading.access.credential.source == source


async def _signed_in(
    config: settings.Settings, subject: Subject, voice: Voice, *, browser: bool
) -> sign_in.SignedIn:
    endpoints = parts.endpoints(config)
    cloud = subject.tenant.cloud
    # of all APIs the SIEM API's audience is the one that Entra may refuse in the v2 form, which is all that MSAL speaks
    services = sorted((registry.SOURCES[name].service for name in subject.readings), key=_late)
    audience = endpoints.audience(services[0], cloud)
    # all that the app registers, for every API at once: a user is asked once, and one refresh token serves them all
    scope = f"{audience}/.default"
    entrance = sign_in.Entrance(
        subject.app_id,
        f"{endpoints.authority(cloud)}/{subject.tenant.tenant_id}",
        ca_file=config.ca_file,
        proxy=parts.proxy(config),
    )
    try:
        signed = await (_by_browser if browser else _by_device)(entrance, subject, scope, voice)
        try:
            sign_in.of_tenant(signed, subject.tenant.tenant_id, audience)
        except errors.Attention as refusal:
            if refusal.code != "wrong_tenant":
                raise
            raise errors.BadInput(
                f"{signed.user} signed in to another tenant than {subject.named}: nothing was stored"
            ) from None
        return signed
    finally:
        await entrance.close()


def _late(service: str) -> bool:
    return service == "siem"


async def _by_device(
    entrance: sign_in.Entrance, subject: Subject, scope: str, voice: Voice
) -> sign_in.SignedIn:
    device = await entrance.device(scope)
    voice.device(subject, device)
    return await entrance.by_device(device, voice.waits)


async def _by_browser(
    entrance: sign_in.Entrance, subject: Subject, scope: str, voice: Voice
) -> sign_in.SignedIn:
    async with loopback.Loopback() as door:
        visit = await entrance.visit(scope, door.address)
        door.expect(visit.state)
        voice.visit(subject, visit)
        values = await door.answer(WAITS)
        return await entrance.by_visit(visit, values)


async def _proven(config: settings.Settings, subject: Subject, sealed: bytes) -> proving.Proof:
    """A token for each API, and one real call a source, on the user's behalf."""
    credential = model.Credential(subject.app_id, "delegated", sealed, 0)
    readings = {
        source: replace(reading, access=replace(reading.access, credential=credential))
        for source, reading in subject.readings.items()
    }
    async with line.open_line(config, metrics.Metrics("0")) as door:
        through = proving.Line(door.tokens, door.sender, registry.SOURCES, claims.lacks)
        return await proving.prove(through, subject.tenant.tenant_id, readings)


async def _keep(
    opened: pool.Database,
    subject: Subject,
    signed: sign_in.SignedIn,
    sealed: bytes,
    proof: proving.Proof,
) -> None:
    own = credentials.Own(subject.app_id, "delegated", sealed, datetime.now(UTC) + rotations.LASTS)
    detail = {"user": signed.user, "object_id": signed.object_id}
    for row in subject.rows:
        await credentials.set_own(
            opened,
            subject.tenant.tenant_id,
            row,
            own,
            actor=actors.person(),
            action="credential.signed_in",
            detail=detail,
        )
    await provings.heal(opened, subject.tenant.tenant_id, actor=actors.person(), detail=proof.plain())

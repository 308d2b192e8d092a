"""Proving that a tenant can be read: a token of its own for each service, and one real call a source.

What nobody but Microsoft can say is asked of Microsoft: a callback's word, or a person's, proves nothing. `prove` is the same
for a fresh consent, for `alertwell tenants check`, and whatever else wants to know; `Proving` is the part of the daemon.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Protocol
from uuid import UUID

import structlog

from service import errors, model, timestamps
from service.ingest import reading, unpacking
from service.sources import contract
from service.store import accesses, audit, invitations, pool, provings

WINDOW = timedelta(minutes=1)
"""What is asked for in a proof: what it holds is counted, not stored."""
_LONGEST = 120.0
_log = structlog.get_logger(__name__)


class Tokens(Protocol):
    """`auth.tokens.Tokens`, as far as a proof needs it: it checks whose token came, and its roles."""

    async def token(self, access: model.Access, service: str) -> str:
        """Raises errors.PollFailure."""
        ...

    def forget(self, tenant_id: UUID) -> None:
        """What was kept of a tenant, refusals too: Entra is asked again."""
        ...


class Clock(Protocol):
    """The answers' clock, as `reading.Clock`."""

    def now(self) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Line:
    """What a proof speaks through."""

    tokens: Tokens
    sender: reading.Sender
    sources: Mapping[str, contract.Source]
    lacks: Callable[[str, Collection[str], Collection[str]], bool]
    """Whether a token shows none of these roles, or scopes where it is a user's, as `auth.claims.lacks`."""
    clock: Clock = field(default_factory=reading.Clock)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that was tried: the `token` for a source, or its `window`. `said` is a sentence for a person.

    `code` is the stable word of what is wrong; `items` what the window held.
    """

    source: str
    what: str
    ok: bool
    said: str
    code: str | None = None
    items: int | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """All that was tried, source by source."""

    steps: tuple[Step, ...]

    @property
    def ok(self) -> bool:
        """Every source can be read."""
        return bool(self.steps) and all(step.ok for step in self.steps)

    @property
    def reason(self) -> str:
        """What is missing, each thing once."""
        return "; ".join(dict.fromkeys(step.said for step in self.steps if not step.ok))

    @property
    def code(self) -> str:
        """The word of the first thing that is missing."""
        return next((step.code or "unknown" for step in self.steps if not step.ok), "ok")

    def plain(self) -> dict[str, Any]:
        """For the audit: the sources, and how many records each window held."""
        return {"windows": {step.source: step.items for step in self.steps if step.what == "window"}}


async def prove(line: Line, tenant_id: UUID, readings: Mapping[str, accesses.Reading]) -> Proof:
    """Ask Entra and each API anew. Raises nothing of what may be wrong: it is in the steps."""
    line.tokens.forget(tenant_id)
    steps: list[Step] = []
    try:
        async with asyncio.timeout(_LONGEST):
            for name, each in readings.items():
                steps += await _source(line, name, each)
    except TimeoutError:
        steps.append(Step("", "time", False, f"not done within {_LONGEST:g} s", "too_slow"))
    return Proof(tuple(steps))


async def _source(line: Line, name: str, each: accesses.Reading) -> list[Step]:
    source = line.sources.get(name)
    if source is None:
        said = f"this version does not know the source {name}"
        return [Step(name, "token", False, said, "source_unknown")]
    try:
        token = await line.tokens.token(each.access, source.service)
        if line.lacks(token, source.roles, source.scopes):
            raise _lacking(source, each.access)
    except errors.PollFailure as failure:
        return [_failed(name, "token", failure)]
    steps = [
        Step(
            name,
            "token",
            True,
            f"a token of the tenant for the {source.service} API, with the right to read",
        )
    ]
    until = timestamps.floor_ms(line.clock.now())
    window = model.Window(until - WINDOW, until)
    try:
        request = source.request(window, each.parameters)
        async with line.sender.send(each.access, request) as answer:
            page = await unpacking.read(source.read(answer.body, window, each.access.tenant.tenant_id))
    except errors.PollFailure as failure:
        return [*steps, _failed(name, "window", failure)]
    noun = "incident" if source.incidents else "alert"
    held = f"{page.items} {noun}{'' if page.items == 1 else 's'} in the last minute"
    return [*steps, Step(name, "window", True, f"it can be read: {held}", items=page.items)]


def _lacking(source: contract.Source, access: model.Access) -> errors.Attention:
    if access.credential is not None and access.credential.kind == "delegated":
        return errors.Attention(
            f"the sign-in does not hold the permission {' or '.join(sorted(source.scopes))}; "
            "the app registration has to list it, and the customer to consent to it",
            code="scope_missing",
        )
    return errors.Attention(
        f"the app has no role {' or '.join(sorted(source.roles))} in that tenant; "
        "an admin of the customer has to consent to it",
        code="role_missing",
    )


def _failed(name: str, what: str, failure: errors.PollFailure) -> Step:
    code = failure.code if isinstance(failure, errors.Attention) else failure.kind
    return Step(name, what, False, str(failure), code)


@dataclass(frozen=True, slots=True)
class Patience:
    """Entra takes minutes to spread a fresh consent: the pauses between attempts double from `first` to `most`."""

    first: timedelta = timedelta(seconds=5)
    most: timedelta = timedelta(minutes=5)
    total: timedelta = timedelta(days=1)

    def pause(self, attempts: int) -> timedelta:
        """After so many attempts that failed."""
        return min(self.first * (1 << min(max(attempts - 1, 0), 20)), self.most)


class Proving:
    """Proves what customers have answered, some at once; any number of replicas share the work."""

    def __init__(
        self,
        line: Line,
        database: pool.Database,
        replica_id: UUID,
        *,
        ttl: float,
        lookback: timedelta,
        patience: Patience | None = None,
        slots: int = 8,
    ) -> None:
        """`ttl` is LEASE_TTL in seconds: the work of a replica that is silent for so long is taken over."""
        self._line = line
        self._database = database
        self._replica_id = replica_id
        self._ttl = ttl
        self._lookback = lookback
        self._patience = patience or Patience()
        self._slots = slots
        self._running: dict[UUID, asyncio.Task[None]] = {}

    async def round(self) -> None:
        """Start the proofs that are due. Raises DatabaseUnavailable."""
        free = self._slots - len(self._running)
        if free <= 0:
            return
        claimed = await provings.claim(
            self._database, self._replica_id, limit=free, ttl=self._ttl, busy=list(self._running)
        )
        for invitation in claimed:
            task = asyncio.create_task(self._settle(invitation), name="proof")
            self._running[invitation.invitation_id] = task
            task.add_done_callback(partial(self._ended, invitation.invitation_id))

    async def settled(self) -> None:
        """Wait for the proofs under way."""
        if self._running:
            await asyncio.wait(self._running.values())

    async def stop(self) -> None:
        """End what is under way: whoever lives takes it over."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, invitation_id: UUID, task: asyncio.Task[None]) -> None:
        self._running.pop(invitation_id, None)
        if task.cancelled() or task.exception() is None:
            return
        if isinstance(task.exception(), errors.DatabaseUnavailable):
            _log.warning("proof_waits", error=str(task.exception()))
        else:
            _log.error("proof_bug", exc_info=task.exception())

    async def _settle(self, invitation: invitations.Invitation) -> None:
        tenant_id = invitation.tenant_id or invitation.said_tenant
        if tenant_id is None:
            return
        try:
            missing = await self._attempt(invitation, tenant_id)
        except errors.DatabaseUnavailable:
            raise
        except Exception as bug:
            # counted like any other: what is never postponed would be tried each minute, for ever
            missing = f"the proof broke ({type(bug).__name__}): the log says where", "bug"
            _log.exception("proof_bug")
        if missing is None:
            return
        reason, code = missing
        patient = await provings.postpone(
            self._database,
            invitation,
            prover=self._replica_id,
            reason=reason,
            code=code,
            delay=self._patience.pause(invitation.proofs),
            patience=self._patience.total,
        )
        _log.warning(
            "consent_unproven", tenant=str(tenant_id), code=code, reason=reason, given_up=not patient
        )

    async def _attempt(self, invitation: invitations.Invitation, tenant_id: UUID) -> tuple[str, str] | None:
        """Prove it; what is missing, as a sentence and its word, or None where it is settled."""
        tenant = invitation.tenant(tenant_id, "pending")
        readings = await accesses.of_tenant(self._database, tenant, invitation.sources)
        proof = await prove(self._line, tenant_id, readings)
        if not proof.ok:
            return proof.reason, proof.code
        try:
            settled = await provings.prove(
                self._database,
                invitation.invitation_id,
                tenant_id,
                prover=self._replica_id,
                lookback=self._lookback,
                actor=audit.DAEMON,
                detail=proof.plain(),
            )
        except errors.BadInput as busy:  # a purge, or an import, holds the tenant
            return str(busy), "busy"
        if settled.proven:
            _log.info("consent_proven", tenant=str(tenant_id), sources=list(invitation.sources))
        elif settled.enrolled_as is not None:
            _log.warning("consent_refused", why="enrolled_elsewhere", tenant=str(tenant_id))
        return None

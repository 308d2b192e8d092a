"""Rehearsing a credential: a real token of each tenant by it, before anything stands on it. Nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final, Protocol
from uuid import UUID

from service import errors, model
from service.sources import contract

_AT_ONCE: Final = 32
_ATTEMPTS: Final = 3
_LONGEST_PAUSE: Final = 20.0


class Tokens(Protocol):
    """`auth.tokens.Tokens`, opened with the credential that is rehearsed."""

    async def token(self, access: model.Access, service: str) -> str:
        """Raises errors.PollFailure."""
        ...

    def forget(self, tenant_id: UUID) -> None:
        """Ten thousand tenants' tokens are not kept."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """One tenant, as whom to ask, and the sources that would be read by the credential."""

    access: model.Access
    sources: Sequence[contract.Source]


@dataclass(frozen=True, slots=True)
class Trial:
    """Whether a source of a tenant could be read by it. `said` is a sentence for a person, `code` the stable word."""

    tenant: model.Tenant
    source: str
    ok: bool
    said: str
    code: str | None = None


async def rehearse(
    tokens: Tokens,
    lacks: Callable[[str, Collection[str]], bool],
    subjects: Sequence[Subject],
    *,
    progress: Callable[[int, int], None] = lambda _done, _all: None,
    pause: float = 1.0,
) -> list[Trial]:
    """Try every subject, some at once; `lacks` as `auth.claims.lacks`. What may pass by itself is tried three times.

    `pause` is in seconds, and doubles. `progress` is called with subjects done and all of them.
    """
    gate = asyncio.Semaphore(_AT_ONCE)
    done = 0

    async def one(subject: Subject) -> list[Trial]:
        nonlocal done
        async with gate:
            found = [await _try(tokens, lacks, subject, source, pause) for source in subject.sources]
        tokens.forget(subject.access.tenant.tenant_id)
        done += 1
        progress(done, len(subjects))
        return found

    return [trial for each in await asyncio.gather(*map(one, subjects)) for trial in each]


async def _try(
    tokens: Tokens,
    lacks: Callable[[str, Collection[str]], bool],
    subject: Subject,
    source: contract.Source,
    pause: float,
) -> Trial:
    tenant = subject.access.tenant
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            token = await tokens.token(subject.access, source.service)
        except errors.Attention as failure:
            return Trial(tenant, source.name, False, str(failure), failure.code)
        except errors.PollFailure as failure:
            if attempt == _ATTEMPTS:
                return Trial(tenant, source.name, False, str(failure), failure.kind)
            wait = max(pause * 2 ** (attempt - 1), failure.retry_after or 0.0)
            await asyncio.sleep(min(wait, _LONGEST_PAUSE))
        else:
            break
    if lacks(token, source.roles):
        said = (
            f"the token is fine but lacks the role {' or '.join(sorted(source.roles))}; "
            "an admin of the customer has to consent again"
        )
        return Trial(tenant, source.name, False, said, "role_missing")
    return Trial(tenant, source.name, True, "a token of the tenant, with a role to read with")

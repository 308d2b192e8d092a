"""The simulated APIs without a network: a sender that asks the simulator's own answers, for tests of what lies behind it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from multidict import CIMultiDict

from service import errors, model
from service.ingest import reading
from service.simulator import answers, mde, siem, ticks, tokens, world
from service.sources import contract, registry
from tests.ingest import stages

PAGE = 4
"""So many alerts an answer of Defender for Endpoint holds here: a handful of records has borders of pages."""


def sources() -> dict[str, contract.Source]:
    """All sources, Defender for Endpoint with small pages."""
    small: Any = registry.SOURCES["mde_alerts"]
    return {**registry.SOURCES, "mde_alerts": dataclasses.replace(small, most=PAGE)}


class Clock(reading.Clock):
    """A replica's clock that follows one in hand, so much ahead of it."""

    def __init__(self, hand: ticks.HandClock, ahead: timedelta = timedelta()) -> None:
        super().__init__()
        self._hand = hand
        self._ahead = ahead

    def ours(self) -> Any:
        return stages.moment(self._hand()) + self._ahead


class Api:
    """What a world answers; `faults` by (tenant, source) are what the next answers are instead. One for all replicas."""

    def __init__(self, shown: world.World) -> None:
        self.shown = shown
        signer = tokens.Signer()
        free = dataclasses.replace(mde.DOCUMENTED, page=PAGE, per_minute=None, per_hour=None)
        self.siem = siem.Siem(shown, signer, siem.Choices())
        self.mde = mde.Mde(shown, signer, free)
        self.faults: dict[tuple[str, str], list[errors.PollFailure | bytes]] = {}
        self.asked: Counter[str] = Counter()

    def answer(self, tenant_id: str, request: model.Request) -> answers.Answer:
        """The right answer."""
        asked: Any = SimpleNamespace(
            method="GET", path=request.path, query=CIMultiDict(request.query), host="api"
        )
        if request.service == "siem":
            return self.siem.answer(asked, tenant_id, None)[0]
        claims = tokens.Claims(tenant_id, "", "", frozenset({"Alert.Read.All"}), 0, 2**62)
        return self.mde.answer(asked, claims, None)[0]


@dataclasses.dataclass
class Direct:
    """A reading.Sender. What is awaited stands for the network: a request under way, and a body that comes."""

    api: Api
    hand: ticks.HandClock

    @asynccontextmanager
    async def send(self, access: model.Access, request: model.Request) -> AsyncIterator[model.Answer]:
        """See reading.Sender."""
        tenant_id = str(access.tenant.tenant_id)
        self.api.asked[tenant_id] += 1
        await asyncio.sleep(0)
        planned = self.api.faults.get((tenant_id, request.service), [])
        fault = planned.pop(0) if planned else None
        if isinstance(fault, errors.PollFailure):
            raise fault
        answer = self.api.answer(tenant_id, request)
        assert answer.status == 200, (answer, request)
        body = b"".join(answer.chunks) if fault is None else fault
        await asyncio.sleep(0)
        date = stages.moment(self.hand() // ticks.SECOND * ticks.SECOND)
        yield model.Answer(body, date, base_url="https://api")

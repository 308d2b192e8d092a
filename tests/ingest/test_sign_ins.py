"""A user's sign-in in a running collector: renewed by the tenant's owner, through a change of owners and a crash, to its end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from service import errors, line, model
from service.auth import sealing
from service.cli import signing
from service.ingest import renewals
from service.metrics import Metrics
from service.simulator import chaos, directory, filing, ticks
from service.store import credentials, enrolments, leases, pool, streams
from tests.ingest import stages
from tests.ingest.waiting import until

CONTOSO = UUID(stages.CONTOSO)


@dataclass
class Household:
    """Contoso is read by Ada's sign-in alone; its tokens live as long as a test says."""

    stage: stages.Stage
    user: directory.User
    keys: Path

    @property
    def sealer(self) -> sealing.Sealer:
        return sealing.Sealer.from_file(self.keys)

    def settings(self) -> dict[str, Any]:
        """What a collector needs beside the stage's."""
        return {"sealing_keys_file": self.keys}

    async def login(self) -> None:
        """What `alertwell login Contoso` does."""

        async def at_once(_seconds: float) -> None:
            return None

        voice = signing.Voice(lambda _subject, _device: None, lambda _subject, _visit: None, at_once)
        config = self.stage.config(**self.settings())
        assert (await signing.login(self.stage.database, config, signing.Wish("Contoso"), voice)).kept

    async def held(self) -> credentials.Stored:
        """The credential of Contoso."""
        [found] = await credentials.listed(self.stage.database, [CONTOSO])
        return found

    async def opened(self) -> str:
        """The refresh token that is stored."""
        return self.sealer.unseal((await self.held()).credential.sealed)

    def short_lived(self, seconds: int = 4) -> None:
        """Tokens that are renewed every few polls."""
        self.stage.simulator.plan("token", stages.CONTOSO, chaos.Fault("token", lifetime=seconds), None)

    async def shows(self, cause: str | None, state: str) -> asyncpg.Record:
        """Wait until the stream shows this; its row."""

        async def seen() -> asyncpg.Record | None:
            row = await self.stage.books.stream()
            return row if (row["cause"], row["state"]) == (cause, state) else None

        return await until(seen, saying=self.stage.books.stream)


@pytest.fixture
async def household(stage: stages.Stage) -> Household:
    """Enrolled, signed in, with an alert to be read; Fabrikam is not enrolled."""
    keys = stage.folder / "keys"
    keys.write_text(sealing.generate_key() + "\n")
    user = stage.shown.add_user(stages.CONTOSO)
    enrolment = enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso", region="eu"), {"graph_alerts": {}})
    await enrolments.enrol(stage.database, [enrolment], lookback=timedelta(hours=1))
    filing.Desk(stage.shown, stages.CONTOSO).add_alert(at=ticks.now() - 30 * ticks.SECOND)
    made = Household(stage, user, keys)
    await made.login()
    return made


async def test_collected_on_a_users_behalf(household: Household):
    """Alerts come by the user's token; the stored refresh token is another one at the stop than at the start."""
    first = await household.opened()
    version = (await household.held()).credential.version
    household.stage.shown.tenants[stages.CONTOSO].roles.clear()  # nothing is to be had as an app
    async with household.stage.collecting(**household.settings()):
        await until(household.stage.books.count)
        await household.shows(None, "ok")
    assert await household.opened() != first
    assert (await household.held()).credential.version == version


@pytest.mark.parametrize(
    ("spoil", "mend", "cause", "said"),
    [
        ("revoke", None, "sign_in_again", "Sign"),
        ("mfa", False, "sign_in_again", "second factor"),
        ("disabled", False, "user_refused", "disabled"),
    ],
)
async def test_its_end_is_said_and_the_next_sign_in_heals_it(
    household: Household, spoil: str, mend: bool | None, cause: str, said: str
):
    """Within a renewal the tenant says why it waits and what to do, and after a login it is read at once."""
    household.short_lived()
    async with household.stage.collecting(**household.settings()):
        await household.shows(None, "ok")
        if spoil == "revoke":
            household.user.revoke()
        else:
            setattr(household.user, spoil, True)
        row = await household.shows(cause, "needs_attention")
        assert said.lower() in row["state_reason"].lower()
        assert "alertwell login Contoso" in row["state_reason"]
        if spoil != "revoke":
            setattr(household.user, spoil, mend)
        household.stage.simulator.script.clear()
        await household.login()
        await household.shows(None, "ok")


@dataclass
class Replica:
    """A replica reduced to its sign-ins: what it takes, asks for, and writes, step by step."""

    household: Household
    door: line.Line
    renewed: renewals.Renewals
    owned: dict[UUID, model.Lease]
    replica_id: UUID
    access: model.Access | None = None

    async def take(self) -> None:
        """Own Contoso, and load it."""
        database = self.household.stage.database
        await leases.heartbeat(database, self.replica_id, host="test", version="0", ttl=60)
        [lease] = await leases.claim(database, self.replica_id, limit=1, ttl=60)
        self.owned[CONTOSO] = lease
        [loaded] = await streams.load(database, [CONTOSO])
        self.access = loaded.access

    async def token(self) -> str:
        """A token of the user."""
        assert self.access is not None
        return await self.door.tokens.token(self.access, "graph")


@asynccontextmanager
async def replica(household: Household) -> AsyncIterator[Replica]:
    """One that owns nothing yet. At its end it is gone as in a crash: nothing more is written."""
    owned: dict[UUID, model.Lease] = {}
    renewed = renewals.Renewals(household.stage.database, lambda: owned)
    config = household.stage.config(**household.settings())
    async with line.open_line(config, Metrics("0"), on_rotated=renewed.note) as door:
        yield Replica(household, door, renewed, owned, uuid4())


async def test_the_tenant_changes_owner_while_its_sign_in_is_renewed(household: Household):
    """Who lost the tenant gets its token and writes nothing; the new owner renews with what is stored, and writes."""
    stage = household.stage
    first = await household.opened()
    async with replica(household) as old, replica(household) as new:
        await old.take()
        asked = sum(stage.simulator.token_requests.values())
        stage.simulator.plan("token", stages.CONTOSO, chaos.Fault("slow", seconds=0.5))
        under_way = asyncio.create_task(old.token())
        await until(lambda: sum(stage.simulator.token_requests.values()) > asked)
        await leases.release(stage.database, old.owned.values())
        await new.take()
        await new.token()
        await new.renewed.flush()
        newest = await household.opened()
        assert await under_way
        await old.renewed.flush()  # it still believes that Contoso is its own
        assert await household.opened() == newest != first
        new.door.tokens.forget(CONTOSO)
        assert await new.token()
        await new.renewed.flush()
        assert await household.opened() not in (first, newest)


async def test_a_crash_between_renewal_and_write(household: Household):
    """What is stored is older then, and as good."""
    first = await household.opened()
    async with replica(household) as crashing:
        await crashing.take()
        await crashing.token()
        await leases.release(household.stage.database, crashing.owned.values())
    assert await household.opened() == first
    async with replica(household) as next_one:
        await next_one.take()
        assert await next_one.token()
        await next_one.renewed.flush()
    assert await household.opened() != first


async def test_a_sign_in_while_the_one_before_is_renewed(household: Household):
    """The person's stays: what the renewal brought was of another version."""
    async with replica(household) as owner:
        await owner.take()
        await owner.token()
        await household.login()
        latest = await household.opened()
        [owner.owned[CONTOSO]] = await leases.held(household.stage.database, owner.replica_id)
        await owner.renewed.flush()
    assert await household.opened() == latest


async def test_a_write_that_fails_is_tried_again(household: Household):
    """The database is away for one flush."""
    first = await household.opened()
    async with replica(household) as owner:
        await owner.take()
        await owner.token()
        async with pool.open_database(household.stage.dsn, size=1) as closed:
            owner.renewed._database = closed
        with pytest.raises(errors.DatabaseUnavailable):
            await owner.renewed.flush()
        assert await household.opened() == first
        owner.renewed._database = household.stage.database
        await owner.renewed.flush()
    assert await household.opened() != first

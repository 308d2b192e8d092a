"""A credential that Entra refuses: one probe in place of a request a tenant."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from service import errors, model
from service.auth import breaker, modes, tokens
from service.simulator import server, world
from tests.auth.trust import reopen

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"

Make = Callable[..., tokens.Tokens]


class Clock:
    """Monotonic seconds that stand still."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal() -> errors.CredentialRefused:
    return errors.CredentialRefused("the client secret has expired (AADSTS7000222)", code="secret_expired")


async def call(guard: breaker.Breaker, outcome: Exception | None = None) -> None:
    async with guard.guard():
        if outcome:
            raise outcome


async def test_pauses() -> None:
    """The first refusal opens for a minute, each refused probe doubles that up to an hour, a success ends it."""
    clock = Clock()
    guard = breaker.Breaker(clock=clock)
    pauses = []
    for _ in range(8):
        with pytest.raises(errors.CredentialRefused) as refused:
            await call(guard, refusal())
        pauses.append(refused.value.retry_after)
        with pytest.raises(errors.CredentialRefused, match="AADSTS7000222") as refused:
            await call(guard)
        assert refused.value.code == "secret_expired"
        clock.now += pauses[-1]
    assert pauses == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    await call(guard)
    await call(guard)
    assert not guard.is_open


async def test_one_probe() -> None:
    """When the pause is over one call goes, the others of that moment wait for what it brings."""
    clock = Clock()
    guard = breaker.Breaker(clock=clock)
    with pytest.raises(errors.CredentialRefused):
        await call(guard, refusal())
    clock.now += 60
    gone, answered = [], asyncio.Event()

    async def one(number: int) -> None:
        async with guard.guard():
            gone.append(number)
            if number == 0:
                await answered.wait()

    calls = [asyncio.create_task(one(number)) for number in range(5)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert gone == [0]
    answered.set()
    await asyncio.gather(*calls)
    assert sorted(gone) == [0, 1, 2, 3, 4]


async def test_probe_without_answer() -> None:
    """A probe that fails for another reason proves nothing: the next call is the next probe."""
    clock = Clock()
    guard = breaker.Breaker(clock=clock)
    with pytest.raises(errors.CredentialRefused):
        await call(guard, refusal())
    clock.now += 60
    with pytest.raises(errors.Transient):
        await call(guard, errors.Transient("no answer"))
    assert guard.is_open
    await call(guard)
    assert not guard.is_open


async def test_late_refusals() -> None:
    """Refusals of calls that were under way already do not lengthen the pause."""
    clock = Clock()
    guard = breaker.Breaker(clock=clock)
    await call(guard)
    both_in = asyncio.Barrier(2)

    async def one() -> None:
        async with guard.guard():
            await both_in.wait()
            raise refusal()

    refused = await asyncio.gather(one(), one(), return_exceptions=True)
    assert [failure.retry_after for failure in refused if isinstance(failure, errors.CredentialRefused)] == [
        60,
        60,
    ]


async def test_a_credential_that_worked() -> None:
    """It is given up for all where a second subject is refused, or the same one a minute later, and nothing worked meanwhile."""
    clock = Clock()

    async def refused(guard: breaker.Breaker, subject: str) -> bool:
        with pytest.raises(errors.CredentialRefused):
            async with guard.guard(subject):
                raise errors.CredentialRefused("refused (AADSTS7999999)", code="credential_refused")
        return guard.is_open

    one, other, fresh = (breaker.Breaker(clock=clock) for _ in range(3))
    await call(one)
    assert [await refused(one, each) for each in ("a", "a", "b")] == [False, False, True]
    await call(other)
    assert not await refused(other, "a")
    await call(other)
    clock.now += 60
    assert not await refused(other, "a")
    clock.now += 60
    assert await refused(other, "a")
    assert await refused(fresh, "a")


async def test_first_alone() -> None:
    """The very first call goes alone; where it is refused, the others are without a request, else they all go."""
    refused = breaker.Breaker(clock=Clock())
    outcomes = await asyncio.gather(*(call(refused, refusal()) for _ in range(5)), return_exceptions=True)
    assert [getattr(one, "retry_after", None) for one in outcomes] == [60] * 5
    gone = []

    async def one(guard: breaker.Breaker, number: int) -> None:
        async with guard.guard():
            gone.append(number)
            if number == 0:
                await asyncio.sleep(0)
                raise errors.Transient("no answer")

    fresh = breaker.Breaker(clock=Clock())
    await asyncio.gather(*(one(fresh, number) for number in range(3)), return_exceptions=True)
    assert sorted(gone) == [0, 1, 2]


def tenants(shown: world.World, count: int) -> list[model.Access]:
    ids = [str(uuid.UUID(int=number + 1)) for number in range(count)]
    for each in ids:
        shown.add_tenant(each, f"Tenant {each}")
    return [model.Access(model.Tenant(uuid.UUID(each), "A tenant")) for each in ids]


async def test_no_hammering(make: Make, shown: world.World, sim: server.Simulator) -> None:
    """Fifty tenants of one refused secret cost one request, and then none."""
    made = make(shared=modes.SharedApp(shown.app.app_id, "expired"))
    asked = tenants(shown, 50)
    failed = await asyncio.gather(*(made.token(each, "siem") for each in asked), return_exceptions=True)
    assert {type(failure) for failure in failed} == {errors.CredentialRefused}
    assert sim.token_requests.total() == 1
    before = sim.token_requests.total()
    with pytest.raises(errors.CredentialRefused) as refused:
        await made.token(asked[0], "siem")
    assert 0 < (refused.value.retry_after or 0) <= 60
    assert sim.token_requests.total() == before


async def test_changed_file_closes(
    make: Make, shown: world.World, tmp_path: Path, contoso: model.Access
) -> None:
    """A changed secret file is tried at once, though the old secret's pause still runs."""
    file = tmp_path / "secret"
    file.write_text("an old secret")
    made = make(shared=modes.SharedApp(shown.app.app_id, file))
    with pytest.raises(errors.CredentialRefused):
        await made.token(contoso, "siem")
    replacement = tmp_path / "new"
    replacement.write_text(shown.app.secret)
    replacement.replace(file)
    assert await made.token(contoso, "siem")


async def test_restored(
    make: Make, shown: world.World, contoso: model.Access, new_secret: Callable[[str], None]
) -> None:
    """When the probe is accepted, whoever waits for the credential is told, once."""
    told = []
    made = make(on_restored=lambda: told.append(1))
    secret = shown.app.secret
    new_secret("another")
    with pytest.raises(errors.CredentialRefused):
        await made.token(contoso, "siem")
    new_secret(secret)
    next(iter(made._choice._breakers.values()))._until = 0.0
    assert await made.token(contoso, "siem")
    made.discard(contoso, "siem", await made.token(contoso, "siem"))
    assert await made.token(contoso, "siem")
    assert told == [1]


async def test_living_tokens_stay(
    make: Make, contoso: model.Access, fabrikam: model.Access, new_secret: Callable[[str], None]
) -> None:
    """A refused credential takes no token away that still lives."""
    made = make()
    held = await made.token(contoso, "siem")
    new_secret("another")
    with pytest.raises(errors.CredentialRefused):
        await made.token(fabrikam, "siem")
    assert await made.token(contoso, "siem") == held


async def test_one_tenants_refusal(
    make: Make, sim: server.Simulator, contoso: model.Access, fabrikam: model.Access
) -> None:
    """A refusal that concerns one customer, though it says invalid_client, keeps nobody else waiting."""
    made = make()
    for code, word in ((650052, "no_licence"), (7000229, "app_not_in_tenant")):
        sim.plan("token", CONTOSO, server.chaos.Fault("aadsts", code=code, error="invalid_client"))
        with pytest.raises(errors.Attention) as refused:
            await made.token(contoso, "siem")
        assert refused.value.code == word
        reopen(made)
        assert await made.token(fabrikam, "siem")


async def test_one_tenant_does_not_speak_for_all(
    make: Make, sim: server.Simulator, contoso: model.Access, fabrikam: model.Access
) -> None:
    """A credential that works stays in use where one tenant refuses it with a number that nobody knows; two tenants end it."""
    made = make()

    async def refused(access: model.Access) -> None:
        tenant_id = access.tenant.tenant_id
        made.forget(tenant_id)
        sim.plan("token", str(tenant_id), server.chaos.Fault("aadsts", code=7999999, error="invalid_client"))
        with pytest.raises(errors.CredentialRefused):
            await made.token(access, "siem")

    for _ in range(3):
        made.forget(fabrikam.tenant.tenant_id)
        assert await made.token(fabrikam, "siem")
        await refused(contoso)
    await refused(fabrikam)
    asked = sim.token_requests.total()
    with pytest.raises(errors.CredentialRefused):
        await made.token(contoso, "siem")
    assert sim.token_requests.total() == asked

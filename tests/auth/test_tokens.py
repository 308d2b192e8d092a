"""Tokens against a simulated Entra: real MSAL, real TLS."""

from __future__ import annotations

import asyncio
import dataclasses
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest

from service import clouds, errors, model
from service.auth import modes, sealing, tokens
from service.simulator import chaos, server, world

CONTOSO = "11111111-1111-1111-1111-111111111111"
FABRIKAM = "22222222-2222-2222-2222-222222222222"

Make = Callable[..., tokens.Tokens]


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


def slot(made: tokens.Tokens, access: model.Access) -> Any:
    return made._slot(access, "siem")


async def landed(made: tokens.Tokens) -> None:
    """Wait until no flight is under way."""
    while made._flights:
        await asyncio.wait(set(made._flights))


async def test_one_tenant(make: Make, contoso: model.Access) -> None:
    """A token comes for the tenant and the audience asked for."""
    token = await make().token(contoso, "siem")
    assert claims(token)["tid"] == CONTOSO
    assert claims(token)["aud"] == "https://graph.windows.net"


async def test_single_flight(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """Twenty callers at once with nothing held cost one request."""
    made = make()
    got = await asyncio.gather(*(made.token(contoso, "siem") for _ in range(20)))
    assert len(set(got)) == 1
    assert sim.token_requests[CONTOSO] == 1


async def test_warm(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A held token is given out without any request."""
    made = make()
    first = await made.token(contoso, "siem")
    assert {await made.token(contoso, "siem") for _ in range(100)} == {first}
    assert sim.token_requests[CONTOSO] == 1


async def test_warm_never_waits(make: Make, contoso: model.Access) -> None:
    """A held token is given out without giving up control, so that a poll costs no turn of the loop."""
    made = make()
    held = await made.token(contoso, "siem")
    with pytest.raises(StopIteration) as ended:
        made.token(contoso, "siem").send(None)
    assert ended.value.value == held


async def test_tenants_apart(
    make: Make, sim: server.Simulator, contoso: model.Access, fabrikam: model.Access
) -> None:
    """Each tenant gets its own token, whatever happens at once."""
    made = make()
    asked = [contoso, fabrikam] * 10
    got = await asyncio.gather(*(made.token(each, "siem") for each in asked))
    assert [claims(token)["tid"] for token in got] == [CONTOSO, FABRIKAM] * 10
    assert sim.token_requests == {CONTOSO: 1, FABRIKAM: 1}


async def test_foreign_token(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A token that names another tenant is never used."""
    made = make()
    sim.plan("token", CONTOSO, "foreign-token")
    with pytest.raises(errors.Attention) as refused:
        await made.token(contoso, "siem")
    assert refused.value.code == "wrong_tenant"
    assert claims(await made.token(contoso, "siem"))["tid"] == CONTOSO


async def test_wrong_audience(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A token for another API is never used."""
    sim.plan("token", CONTOSO, chaos.Fault("token", audience="https://management.azure.com"))
    with pytest.raises(errors.Attention) as refused:
        await make().token(contoso, "siem")
    assert refused.value.code == "wrong_audience"


async def test_role_missing(make: Make, shown: world.World, contoso: model.Access) -> None:
    """A token without any of the roles that the API needs names them; with one of them it is used."""
    made = make(roles={"siem": frozenset({"Alert.Read.All"})})
    with pytest.raises(errors.Attention, match=r"Alert\.Read\.All") as refused:
        await made.token(contoso, "siem")
    assert refused.value.code == "role_missing"
    shown.tenants[CONTOSO].roles["https://graph.windows.net"] = ("Alert.Read.All",)
    assert claims(await made.token(contoso, "siem"))["roles"] == ["Alert.Read.All"]


async def test_renewed_early(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """Some time before its end a token is still given out while the next one is fetched behind."""
    made = make()
    first = await made.token(contoso, "siem")
    slot(made, contoso).renew_at = 0.0
    assert await made.token(contoso, "siem") == first
    await landed(made)
    second = await made.token(contoso, "siem")
    assert second != first
    assert sim.token_requests[CONTOSO] == 2


async def test_renewal_fails(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """While a token lives, failed renewals cost nothing but a request now and then."""
    made = make()
    first = await made.token(contoso, "siem")
    slot(made, contoso).renew_at = 0.0
    sim.plan("token", CONTOSO, "503", times=None)
    for _ in range(5):
        assert await made.token(contoso, "siem") == first
        await landed(made)
    assert sim.token_requests[CONTOSO] == 2


async def test_dead_token(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A token at its end is not given out: the caller waits for the next, or gets the failure."""
    made = make()
    first = await made.token(contoso, "siem")
    slot(made, contoso).renew_at = slot(made, contoso).dead_at = 0.0
    sim.plan("token", CONTOSO, "503")
    with pytest.raises(errors.Transient):
        await made.token(contoso, "siem")
    assert await made.token(contoso, "siem") != first


async def test_life(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A token is renewed before, and never used after, what Entra says of its life."""
    sim.plan("token", CONTOSO, "short-token")
    made = make()
    before = time.monotonic()
    await made.token(contoso, "siem")
    kept = slot(made, contoso)
    assert before < kept.renew_at < kept.dead_at < time.monotonic() + 301


async def test_discard(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A token that the API refused is fetched anew, once, however many saw the refusal."""
    made = make(siem_form="v2")
    first = await made.token(contoso, "siem")
    for _ in range(20):
        made.discard(contoso, "siem", first)
    got = set(await asyncio.gather(*(made.token(contoso, "siem") for _ in range(20))))
    assert len(got) == 1
    assert first not in got
    made.discard(contoso, "siem", first)
    assert {await made.token(contoso, "siem")} == got
    assert sim.token_requests[CONTOSO] == 2


async def test_cancelled_caller(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """One caller that gives up does not take the flight from the others."""
    made = make()
    gone, stays = (asyncio.create_task(made.token(contoso, "siem")) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    assert claims(await stays)["tid"] == CONTOSO
    assert gone.cancelled()
    assert sim.token_requests[CONTOSO] == 1


@pytest.mark.parametrize(
    ("code", "kind", "word"),
    [
        (7000215, errors.CredentialRefused, "secret_wrong"),
        (7000222, errors.CredentialRefused, "secret_expired"),
        (700016, errors.Attention, "app_not_in_tenant"),
        (65001, errors.Attention, "consent_missing"),
        (650052, errors.Attention, "no_licence"),
        (53003, errors.Attention, "policy_blocks"),
        (90038, errors.Attention, "wrong_cloud"),
        (123456, errors.Attention, "request_refused"),
        (90033, errors.Transient, None),
        (90055, errors.Throttled, None),
        (50000, errors.Transient, None),
    ],
)
async def test_aadsts(
    make: Make, sim: server.Simulator, contoso: model.Access, code: int, kind: type, word: str | None
) -> None:
    """Each class of Entra's errors becomes the error that fits; the sentence names the number to look up."""
    sim.plan("token", CONTOSO, chaos.Fault("aadsts", code=code))
    with pytest.raises(errors.PollFailure) as failed:
        await make().token(contoso, "siem")
    assert type(failed.value) is kind
    assert getattr(failed.value, "code", None) == word
    if word:
        assert f"AADSTS{code}" in str(failed.value)


@pytest.mark.parametrize("surface", ["token", "metadata"])
@pytest.mark.parametrize(
    ("fault", "kind", "retry_after"),
    [
        ("429", errors.Throttled, 7.0),
        ("429-bare", errors.Throttled, None),
        ("429-date", errors.Throttled, None),
        ("503-retry", errors.Transient, 3.0),
        ("500", errors.Transient, None),
        ("503-html", errors.Transient, None),
        ("html", errors.Transient, None),
        ("403", errors.Transient, None),
        ("302", errors.Transient, None),
        ("reset", errors.Transient, None),
        ("truncated", errors.Transient, None),
    ],
)
async def test_families(
    make: Make,
    sim: server.Simulator,
    contoso: model.Access,
    surface: chaos.Surface,
    fault: str,
    kind: type,
    retry_after: float | None,
) -> None:
    """Whatever breaks between here and Entra is one of our errors, and passes with the fault."""
    made = make()
    sim.plan(surface, CONTOSO, fault)
    with pytest.raises(errors.PollFailure) as failed:
        await made.token(contoso, "siem")
    assert (type(failed.value), failed.value.retry_after) == (kind, retry_after)
    assert claims(await made.token(contoso, "siem"))["tid"] == CONTOSO


async def test_unknown_tenant(make: Make) -> None:
    """A tenant id that does not exist is named at its first use."""
    stranger = model.Access(model.Tenant(uuid.UUID(int=7), "Nobody"))
    with pytest.raises(errors.Attention, match="AADSTS90002") as failed:
        await make().token(stranger, "siem")
    assert failed.value.code == "tenant_not_found"


async def test_consent_counts_at_once(make: Make, shown: world.World, contoso: model.Access) -> None:
    """MSAL's memory of a refusal does not outlive the consent."""
    made = make()
    shown.tenants[CONTOSO].consented.clear()
    with pytest.raises(errors.Attention):
        await made.token(contoso, "siem")
    shown.tenants[CONTOSO].consented.add(shown.app.app_id)
    assert await made.token(contoso, "siem")


async def test_nobody_listens(make: Make, unused_tcp_port: int, contoso: model.Access) -> None:
    """An Entra that cannot be reached is a passing fault."""
    made = make(endpoints=clouds.Endpoints({"authority": f"https://localhost:{unused_tcp_port}"}))
    with pytest.raises(errors.Transient, match="cannot be reached"):
        await made.token(contoso, "siem")


async def test_untrusted(make: Make, contoso: model.Access) -> None:
    """A certificate of an unknown CA is refused, and the message says where to set one."""
    with pytest.raises(errors.Transient, match="CA_FILE"):
        await make(ca_file=None).token(contoso, "siem")


@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_deadline(
    make: Make, sim: server.Simulator, contoso: model.Access, fabrikam: model.Access, form: str
) -> None:
    """An Entra that never answers costs the deadline, and keeps a place from nobody else for longer."""
    made = make(deadline=1.0, places=1, siem_form=form)
    sim.plan("token", CONTOSO, "hang")
    with pytest.raises(errors.Transient, match=r"in time|within"):
        await made.token(contoso, "siem")
    assert claims(await made.token(fabrikam, "siem"))["tid"] == FABRIKAM


async def test_queue(
    make: Make, sim: server.Simulator, contoso: model.Access, fabrikam: model.Access
) -> None:
    """Where all places are taken for long, a caller is told so."""
    made = make(deadline=0.5, places=1, queue_time=0.05)
    sim.plan("token", CONTOSO, "hang")
    hung = asyncio.create_task(made.token(contoso, "siem"))
    await asyncio.sleep(0)
    with pytest.raises(errors.Transient, match="under way"):
        await made.token(fabrikam, "siem")
    with pytest.raises(errors.Transient):
        await hung


async def test_no_app(make: Make, contoso: model.Access) -> None:
    """Without any credential the message says what to set."""
    with pytest.raises(errors.Attention, match="CLIENT_ID") as failed:
        await make(shared=None).token(contoso, "siem")
    assert failed.value.code == "credential_missing"


async def test_own_credential(make: Make, shown: world.World) -> None:
    """A tenant's own app is used with its sealed secret, and a changed one from its next version on."""
    wingtip = "33333333-3333-3333-3333-333333333333"
    app = shown.add_tenant(wingtip, "Wingtip", own_app=True).app
    sealer = sealing.Sealer([sealing.generate_key()])
    made = make(shared=None, sealer=sealer)

    def with_secret(value: str, version: int) -> model.Access:
        credential = model.Credential(app.app_id, "client_secret", sealer.seal(value), version)
        return model.Access(model.Tenant(uuid.UUID(wingtip), "Wingtip"), credential)

    first = await made.token(with_secret(app.secret, 1), "siem")
    assert claims(first)["appid"] == app.app_id
    with pytest.raises(errors.CredentialRefused):
        await made.token(with_secret("wrong", 2), "siem")
    assert await made.token(with_secret(app.secret, 3), "siem")
    for version in range(4, 30):
        made._slot(with_secret(app.secret, version), "siem")
    assert len(made._tenants[uuid.UUID(wingtip)].slots) == 4


@pytest.mark.parametrize("sealer", [None, sealing.Sealer([sealing.generate_key()])])
async def test_cannot_open(make: Make, contoso: model.Access, sealer: sealing.Sealer | None) -> None:
    """A sealed secret without its key needs a person, and the message names the setting."""
    sealed = sealing.Sealer([sealing.generate_key()]).seal("secret")
    own = dataclasses.replace(contoso, credential=model.Credential("app", "client_secret", sealed, 1))
    with pytest.raises(errors.Attention, match="SEALING_KEYS_FILE"):
        await make(sealer=sealer).token(own, "siem")


async def test_rotated_file(
    make: Make, shown: world.World, tmp_path: Path, contoso: model.Access, new_secret: Callable[[str], None]
) -> None:
    """A secret file that changes is used from the next request on; tokens that live stay."""
    file = tmp_path / "secret"
    file.write_text(shown.app.secret + "\n")
    made = make(shared=modes.SharedApp(shown.app.app_id, file))
    first = await made.token(contoso, "siem")
    new_secret("a new secret")
    file.write_text("a new secret\n")
    assert await made.token(contoso, "siem") == first
    made.discard(contoso, "siem", first)
    assert await made.token(contoso, "siem") != first


async def test_forget(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """Nothing of a forgotten tenant is kept."""
    made = make()
    await made.token(contoso, "siem")
    made.forget(contoso.tenant.tenant_id)
    assert not made._tenants
    await made.token(contoso, "siem")
    assert sim.token_requests[CONTOSO] == 2


async def test_observed(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """Each request for a token is counted with its outcome."""
    seen: list[tuple[str, str]] = []
    made = make(observe=lambda service, outcome, _seconds: seen.append((service, outcome)))
    sim.plan("token", CONTOSO, "503")
    with pytest.raises(errors.Transient):
        await made.token(contoso, "siem")
    await made.token(contoso, "siem")
    assert seen == [("siem", "transient"), ("siem", "ok")]


async def test_closed(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """Closing ends those who wait."""
    made = make()
    sim.plan("token", CONTOSO, "hang")
    waiting = asyncio.create_task(made.token(contoso, "siem"))
    await asyncio.sleep(0)
    await made.close()
    with pytest.raises(errors.Transient, match="stopping"):
        await waiting

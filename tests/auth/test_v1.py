"""The two forms of a SIEM token: v2 by MSAL, v1 (`resource=`) as the documents have it."""

from __future__ import annotations

from collections.abc import Callable

import jwt
import pytest

from service import errors, model
from service.auth import tokens
from service.simulator import server, world

CONTOSO = "11111111-1111-1111-1111-111111111111"

Make = Callable[..., tokens.Tokens]


async def test_v1(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """The v1 form brings a token for the resource without asking for metadata."""
    token = await make(siem_form="v1").token(contoso, "siem")
    assert jwt.decode(token, options={"verify_signature": False})["aud"] == "https://graph.windows.net"
    assert sim.counters["metadata"] == 0


async def test_v2_only(make: Make, shown: world.World, contoso: model.Access) -> None:
    """Where v2 is asked for, a tenant that refuses it is told so."""
    shown.tenants[CONTOSO].v1_only = True
    with pytest.raises(errors.Attention, match="AADSTS70011") as refused:
        await make(siem_form="v2").token(contoso, "siem")
    assert refused.value.code == "scope_refused"


async def test_auto(make: Make, shown: world.World, sim: server.Simulator, contoso: model.Access) -> None:
    """Where a tenant's Entra refuses the v2 form, v1 is used, and from then on at once."""
    shown.tenants[CONTOSO].v1_only = True
    made = make()
    first = await made.token(contoso, "siem")
    assert sim.token_requests[CONTOSO] == 2
    made._slot(contoso, "siem").drop()
    assert await made.token(contoso, "siem") != first
    assert sim.token_requests[CONTOSO] == 3


async def test_auto_both_refused(make: Make, shown: world.World, contoso: model.Access) -> None:
    """Where the API is not in the tenant, both forms say so and the message does too."""
    shown.tenants[CONTOSO].resources.clear()
    with pytest.raises(errors.Attention, match="AADSTS500011") as refused:
        await make().token(contoso, "siem")
    assert refused.value.code == "resource_missing"


async def test_fresh_token_refused(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A fresh token that the API refuses is followed by one in the other form."""
    made = make()
    made.discard(contoso, "siem", await made.token(contoso, "siem"))
    metadata = sim.counters["metadata"]
    assert made._slot(contoso, "siem").form == "v1"
    assert await made.token(contoso, "siem")
    assert sim.counters["metadata"] == metadata


async def test_aged_token_refused(make: Make, contoso: model.Access) -> None:
    """A token that lived for a while says nothing about forms when it is refused."""
    made = make()
    token = await made.token(contoso, "siem")
    made._slot(contoso, "siem").fetched -= 3600
    made.discard(contoso, "siem", token)
    assert made._slot(contoso, "siem").form == "v2"


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("429", errors.Throttled),
        ("503-html", errors.Transient),
        ("html", errors.Transient),
        ("302", errors.Transient),
        ("reset", errors.Transient),
        ("truncated", errors.Transient),
        ("foreign-token", errors.Attention),
    ],
)
async def test_families(
    make: Make, sim: server.Simulator, contoso: model.Access, fault: str, kind: type
) -> None:
    """What breaks on the way of the v1 form is one of our errors too."""
    made = make(siem_form="v1")
    sim.plan("token", CONTOSO, fault)
    with pytest.raises(errors.PollFailure) as failed:
        await made.token(contoso, "siem")
    assert type(failed.value) is kind
    assert await made.token(contoso, "siem")

"""Every credential of an app, by real MSAL over TLS against an Entra that verifies it; one that is refused makes way."""

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
from structlog.testing import capture_logs

from service import errors, model
from service.auth import certificates, clock, federated, modes, sealing, tokens
from service.simulator import credentials, server, world
from tests.auth.trust import CLUSTER, SUBJECT, issued, reopen
from tests.simulator import keys

CONTOSO = "11111111-1111-1111-1111-111111111111"

Make = Callable[..., tokens.Tokens]


@pytest.fixture
def pem(tmp_path: Path, pair: keys.Pair) -> Path:
    """The certificate as a file."""
    file = tmp_path / "app.pem"
    file.write_text(pair.key_pem + pair.certificate_pem)
    return file


def claims(token: str) -> dict[str, Any]:
    return jwt.decode(token, options={"verify_signature": False})


@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_certificate(make: Make, app: Any, pem: Path, contoso: model.Access, form: str) -> None:
    """A signed assertion brings a token in either form of request."""
    token = await make(shared=modes.SharedApp(app.app_id, certificate=pem), siem_form=form).token(
        contoso, "siem"
    )
    assert (claims(token)["tid"], claims(token)["appidacr"]) == (CONTOSO, "2")


@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_federated_token(
    make: Make, app: Any, pair: keys.Pair, tmp_path: Path, contoso: model.Access, form: str
) -> None:
    """A token file is shown as it is, re-read when it is rotated by a swapped link, and kept when it is half written."""
    (tmp_path / "1").write_text(issued(pair))
    link = tmp_path / "token"
    link.symlink_to(tmp_path / "1")
    source = federated.TokenFile(link)
    made = make(shared=modes.SharedApp(app.app_id, federated=source), siem_form=form)
    first = await made.token(contoso, "siem")
    assert claims(first)["appidacr"] == "2"
    before = source.assertion(0)

    newer = issued(pair, jti="newer", life=7200)
    for number, content in enumerate(("", "no token", newer[:-10], newer), start=2):
        (tmp_path / str(number)).write_text(content)
        fresh = tmp_path / "fresh"
        fresh.symlink_to(tmp_path / str(number))
        fresh.replace(link)
        assert source.assertion(0) == (newer if content == newer else before)
    reopen(made)
    assert await made.token(contoso, "siem") != first
    [horizon] = made.horizons()
    assert (horizon.owner, horizon.app_id, horizon.kind) == ("shared", app.app_id, "federated")
    assert horizon.expires_at is not None
    assert horizon.expires_at.timestamp() == claims(newer)["exp"]


@pytest.mark.parametrize("content", ["", "a-secret", "a.b.c", "eyJhbGciOiJub25lIn0.e30."])
def test_what_is_no_token(tmp_path_factory: pytest.TempPathFactory, content: str) -> None:
    """A file without a token ends the start with its name, and without its content."""
    file = tmp_path_factory.mktemp("mounted") / "token"
    file.write_text(content)
    with pytest.raises(errors.BadSetting, match=str(file)) as refused:
        federated.TokenFile(file)
    assert "a-secret" not in str(refused.value)


async def test_rotated_certificate(
    make: Make, shown: world.World, app: Any, pair: keys.Pair, tmp_path: Path, contoso: model.Access
) -> None:
    """Another certificate in the file is used from the next request on, in the running process."""
    file = tmp_path / "rotated.pem"
    file.write_text(pair.key_pem + pair.certificate_pem)
    made = make(shared=modes.SharedApp(app.app_id, certificate=file))
    await made.token(contoso, "siem")
    newer = keys.pair(begins="2026-01-01", ends="2098-01-01")
    shown.register(dataclasses.replace(app, certificates=(newer.registered,)))
    reopen(made)
    with pytest.raises(errors.CredentialRefused, match="AADSTS700027"):
        await made.token(contoso, "siem")
    file.write_text(newer.key_pem + newer.certificate_pem)
    assert await made.token(contoso, "siem")


async def test_expired_certificate(
    make: Make, sim: server.Simulator, app: Any, tmp_path: Path, contoso: model.Access
) -> None:
    """A certificate that has ended is said with its day, and costs no request for a token."""
    old = keys.pair(begins="2026-01-01", ends="2026-02-01")
    file = tmp_path / "old.pem"
    file.write_text(old.key_pem + old.certificate_pem)
    with pytest.raises(errors.CredentialRefused, match="expired on 2026-02-01") as refused:
        await make(shared=modes.SharedApp(app.app_id, certificate=file)).token(contoso, "siem")
    assert refused.value.code == "certificate_expired"
    assert sim.token_requests.total() == 0


@pytest.mark.parametrize("minutes", [-10, 10])
@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_wrong_clock(
    make: Make, sim: server.Simulator, app: Any, pem: Path, contoso: model.Access, form: str, minutes: int
) -> None:
    """A machine whose clock is ten minutes off gets its tokens, and knows by how much it is off."""
    ours = clock.Clock(lambda: time.time() + 60 * minutes)
    made = make(shared=modes.SharedApp(app.app_id, certificate=pem), siem_form=form, now=ours)
    assert await made.token(contoso, "siem")
    assert round(ours.skew / 60) == minutes
    # v1 asks for no metadata: the first refusal tells the time
    assert sim.token_requests[CONTOSO] <= (1 if form == "v2" else 2)


@pytest.mark.parametrize("minutes", [-10, 10])
async def test_clock_that_steps(make: Make, app: Any, pem: Path, contoso: model.Access, minutes: int) -> None:
    """Where the clock is set while we run, the next request may be refused, and is asked again with the right time."""
    now = [0.0]
    made = make(
        shared=modes.SharedApp(app.app_id, certificate=pem), now=clock.Clock(lambda: time.time() + now[0])
    )
    first = await made.token(contoso, "siem")
    now[0] = 60.0 * minutes
    reopen(made)
    assert await made.token(contoso, "siem") != first


@pytest.mark.parametrize("date", ["Fri, 01 Jan 2100 00:00:00 GMT", "Thu, 01 Jan 1970 00:00:00 GMT"])
@pytest.mark.parametrize("form", ["v2", "v1"])
async def test_a_date_from_nowhere(
    make: Make, app: Any, pem: Path, contoso: model.Access, date: str, form: str
) -> None:
    """One answer with an absurd Date ends no certificate: the next request brings the right time, and the token."""
    made = make(shared=modes.SharedApp(app.app_id, certificate=pem), siem_form=form)
    await made.token(contoso, "siem")
    made.clock.learn(date)
    reopen(made)
    assert await made.token(contoso, "siem")
    assert made.clock.skew == 0


async def test_one_makes_way_for_the_next(
    make: Make,
    shown: world.World,
    app: Any,
    pem: Path,
    pair: keys.Pair,
    tmp_path: Path,
    contoso: model.Access,
) -> None:
    """Federated before certificate before secret; each refused one is passed over, and taken again when it is good."""
    file = tmp_path / "token"
    file.write_text(issued(pair))
    made = make(
        shared=modes.SharedApp(app.app_id, app.secret, certificate=pem, federated=federated.TokenFile(file))
    )
    with capture_logs() as lines:
        await made.token(contoso, "siem")
        assert made._choice._used == "federated"
        for changes, kind in (
            ({"federations": ()}, "certificate"),
            ({"federations": (), "certificates": ()}, "client_secret"),
            ({"certificates": ()}, "federated"),
            ({}, "federated"),
        ):
            shown.register(dataclasses.replace(app, **changes))
            reopen(made)
            assert await made.token(contoso, "siem")
            assert made._choice._used == kind
    over = [(line["before"], line["now"]) for line in lines if line["event"] == "credential.changed_over"]
    assert over == [
        ("federated", "certificate"),
        ("certificate", "client_secret"),
        ("client_secret", "federated"),
    ]
    assert [line["kind"] for line in lines if line["event"] == "credential.refused"] == [
        "federated",
        "certificate",
    ]


async def test_all_refused(
    make: Make, shown: world.World, sim: server.Simulator, app: Any, pem: Path, contoso: model.Access
) -> None:
    """Where every credential is refused, all of it is said, and each rests for a minute."""
    made = make(shared=modes.SharedApp(app.app_id, "wrong", certificate=pem))
    shown.register(dataclasses.replace(app, certificates=()))
    for _ in range(3):
        with pytest.raises(
            errors.CredentialRefused, match=r"certificate: .*700027.*; client secret: .*7000215"
        ) as all_:
            await made.token(contoso, "siem")
        assert all_.value.code == "certificate_refused"
        assert 0 < (all_.value.retry_after or 0) <= 60
    assert sim.token_requests[CONTOSO] == 2


async def test_own_certificate_and_own_federated_app(
    make: Make, shown: world.World, pair: keys.Pair, tmp_path: Path
) -> None:
    """A tenant's own app with a sealed certificate, and one that shows the process's federated token."""
    wingtip = "33333333-3333-3333-3333-333333333333"
    own = shown.add_tenant(wingtip, "Wingtip", own_app=True).app
    shown.issuers[CLUSTER] = {"k1": pair.key.public_key()}
    own = shown.register(
        dataclasses.replace(
            own, certificates=(pair.registered,), federations=(credentials.Federation(CLUSTER, SUBJECT),)
        )
    )
    file = tmp_path / "token"
    file.write_text(issued(pair))
    sealer = sealing.Sealer([sealing.generate_key()])
    tenant = model.Tenant(uuid.UUID(wingtip), "Wingtip", region="eu")
    sealed = sealer.seal(pair.key_pem + pair.certificate_pem)
    made = make(shared=modes.SharedApp(None, federated=federated.TokenFile(file)), sealer=sealer)
    ways = [
        model.Access(tenant, model.Credential(own.app_id, "certificate", sealed, 1)),
        model.Access(tenant, model.Credential(own.app_id, "federated", sealer.seal(""), 1)),
    ]
    held = await asyncio.gather(*(made.token(way, "siem") for way in ways))
    assert [claims(token)["appidacr"] for token in held] == ["2", "2"]
    # Two credentials of one tenant and service: each keeps its own token.
    assert [await made.token(way, "siem") for way in ways * 3] == list(held) * 3
    assert len(set(held)) == 2
    with pytest.raises(errors.Attention, match="FEDERATED_TOKEN_FILE"):
        await make(shared=None, sealer=sealer).token(ways[1], "siem")


async def test_one_own_credential_refused_beside_another(
    make: Make, shown: world.World, sim: server.Simulator
) -> None:
    """Each of a tenant's credentials has its own breaker: a refused one rests, also while the other is used."""
    wingtip = "33333333-3333-3333-3333-333333333333"
    own = shown.add_tenant(wingtip, "Wingtip", own_app=True).app
    sealer = sealing.Sealer([sealing.generate_key()])
    tenant = model.Tenant(uuid.UUID(wingtip), "Wingtip", region="eu")
    made = make(shared=None, sealer=sealer)
    good, bad = (
        model.Access(tenant, model.Credential(own.app_id, "client_secret", sealer.seal(value), version))
        for version, value in enumerate((own.secret, "wrong"), start=1)
    )
    for _ in range(5):
        assert await made.token(good, "siem")
        made.discard(good, "siem", await made.token(good, "siem"))
        with pytest.raises(errors.CredentialRefused):
            await made.token(bad, "siem")
    assert sim.token_requests[wingtip] == 6


async def test_nothing_is_shown(
    make: Make, app: Any, pem: Path, pair: keys.Pair, tmp_path: Path, contoso: model.Access, capsys: Any
) -> None:
    """No key, token, password or secret stands in a repr, a log line or an error."""
    file = tmp_path / "token"
    given = issued(pair)
    file.write_text(given)
    shared = modes.SharedApp(
        app.app_id,
        "hunter2",
        certificate=pem,
        certificate_password="hunter3",
        federated=federated.TokenFile(file),
    )
    made = make(shared=shared)
    with capture_logs() as lines:
        token = await made.token(contoso, "siem")
        file.write_text("hunter2")
        reopen(made)
        await made.token(contoso, "siem")
    held = certificates.read((pair.key_pem + pair.certificate_pem).encode(), None, "a file")
    texts = [
        repr(shared),
        repr(made._choice.shared.read()),
        repr(vars(made)),
        repr(held),
        repr(lines),
        *capsys.readouterr(),
    ]
    body = pair.key_pem.splitlines()[1]
    for secret in ("hunter2", "hunter3", given, token, body):
        assert [text for text in texts if secret in text] == []


async def test_ended_token_is_not_used(make: Make, sim: server.Simulator, contoso: model.Access) -> None:
    """A token that had ended when it came is refused by its own claim; the next one is used."""
    made = make()
    sim.plan("token", CONTOSO, "expired-token")
    with pytest.raises(errors.Transient, match=r"ended .* ago"):
        await made.token(contoso, "siem")
    assert await made.token(contoso, "siem")

"""`alertwell login`: real MSAL, a real browser's way, the simulated Entra over TLS, and what is stored in the end."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from service import errors, model, settings
from service.auth import sealing, sign_in
from service.cli import signing
from service.simulator import chaos, directory, server, world
from service.simulator.entra import sign_ins
from service.store import credentials, enrolments, pool, tenants
from tests import browsing
from tests.cli.conftest import Alertwell

CONTOSO = UUID("11111111-1111-1111-1111-111111111111")
FABRIKAM = "22222222-2222-2222-2222-222222222222"
ROOT = Path(__file__).parents[2]
Alter = Callable[[dict[str, str]], dict[str, str]]


@dataclass
class Hall:
    """Contoso, enrolled; Entra, and whoever signs in."""

    shown: world.World
    simulator: server.Simulator
    database: pool.Database
    sealer: sealing.Sealer
    user: directory.User
    page: str = ""

    async def login(
        self,
        *sources: str,
        app_id: str | None = None,
        browser: bool = False,
        alter: Alter = lambda values: values,
        forged: Alter | None = None,
        between: Callable[[float], Any] | None = None,
    ) -> signing.Done:
        """The command without its words; `alter` is what a browser changes, `forged` what comes before it;
        `between` runs while a code is waited for."""
        visits: list[asyncio.Task[Any]] = []

        def visit(_subject: signing.Subject, visit: sign_in.Visit) -> None:
            visits.append(asyncio.create_task(asyncio.to_thread(browse, visit.address)))

        def browse(address: str) -> str:
            ca_file = str(self.simulator.ca_file)
            alters = [alter] if forged is None else [forged, alter]
            return "".join(browsing.browse(address, ca_file=ca_file, alter=each).text for each in alters)

        async def pause(seconds: float) -> None:
            if between is not None:
                between(seconds)

        voice = signing.Voice(lambda _subject, _device: None, visit, pause)
        wish = signing.Wish("Contoso", sources, app_id, browser)
        try:
            return await signing.login(self.database, settings.load(), wish, voice)
        finally:
            self.page = "".join([await each for each in visits])

    async def stored(self) -> dict[str, credentials.Stored]:
        """The credentials of Contoso, by source."""
        return {each.source: each for each in await credentials.listed(self.database, [CONTOSO])}

    async def told(self) -> list[tuple[str, Any]]:
        """The audit."""
        async with self.database.connection() as connection:
            rows = await connection.fetch("SELECT action, detail FROM alertwell.audit ORDER BY audit_id")
        return [(row["action"], row["detail"]) for row in rows]

    async def state(self) -> str:
        """Contoso's."""
        async with self.database.connection() as connection:
            return await connection.fetchval(
                "SELECT state FROM alertwell.tenant WHERE tenant_id = $1", CONTOSO
            )

    async def refuses(self, failure: type[errors.AlertwellError], match: str, **how: Any) -> None:
        """The sign-in ends with this error, and nothing is stored."""
        with pytest.raises(failure, match=match):
            await self.login(**how)
        assert await self.stored() == {}


@pytest.fixture
async def hall(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: sealing.Sealer
) -> AsyncIterator[Hall]:
    """Contoso is pending, with two streams of Graph and one of Defender for Endpoint."""
    shown = world.World()
    shown.add_tenant(str(CONTOSO), "Contoso")
    shown.add_tenant(FABRIKAM, "Fabrikam")
    user = shown.add_user(str(CONTOSO))
    monkeypatch.setenv("ALERTWELL_DATABASE_URL", database_url)
    async with (
        pool.open_database(database_url, size=3) as database,
        server.Simulator(shown, directory=tmp_path / "ca") as running,
    ):
        sources: dict[str, dict[str, Any]] = {"graph_alerts": {}, "graph_incidents": {}, "mde_alerts": {}}
        enrolment = enrolments.Enrolment(
            model.Tenant(CONTOSO, "Contoso", region="eu", state="pending"), sources
        )
        await enrolments.enrol(database, [enrolment], lookback=timedelta(hours=1))
        for name, value in {
            "CLIENT_ID": shown.app.app_id,
            "CLIENT_SECRET": shown.app.secret,
            "AUTHORITY_URL": running.authority_url,
            "SIEM_URL": running.siem_url,
            "MDE_URL": running.mde_url,
            "XDR_URL": running.xdr_url,
            "GRAPH_URL": running.graph_url,
            "CA_FILE": str(running.ca_file),
        }.items():
            monkeypatch.setenv(f"ALERTWELL_{name}", value)
        yield Hall(shown, running, database, keys, user)


async def test_a_code_on_any_device(hall: Hall):
    """Pending, then accepted: every source is tried on the user's behalf, the sign-in is sealed, the tenant is active."""
    hall.user.decides = "waits"
    looks: list[float] = []

    def between(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            hall.simulator.plan("token", str(CONTOSO), "slow-down")
        if len(looks) == 3:
            hall.user.decides = "accepts"

    done = await hall.login(between=between)
    assert done.kept
    assert looks == [5.0, 5.0, 10.0]
    assert (done.user, done.object_id) == (hall.user.name, hall.user.object_id)
    assert [(step.source, step.what) for step in done.proof.steps if step.ok] == [
        (source, what)
        for source in ("graph_alerts", "graph_incidents", "mde_alerts")
        for what in ("token", "window")
    ]
    [held] = (await hall.stored()).values()
    assert (held.source, held.credential.kind, held.credential.app_id) == (
        "",
        "delegated",
        hall.shown.app.app_id,
    )
    assert hall.sealer.unseal(held.credential.sealed).startswith("1.")
    assert held.expires_at is not None
    assert timedelta(days=89) < held.expires_at - datetime.now(UTC) <= timedelta(days=90)
    assert await hall.state() == "active"
    told = dict(await hall.told())
    assert told["credential.signed_in"] == {
        "source": None,
        "app_id": hall.shown.app.app_id,
        "kind": "delegated",
        "user": hall.user.name,
        "object_id": hall.user.object_id,
    }
    assert hall.sealer.unseal(held.credential.sealed) not in json.dumps(told)


async def test_a_browser_with_a_loopback_redirect(hall: Hall):
    """The same by authorization code; the browser is told to go back to the terminal."""
    done = await hall.login(browser=True)
    assert done.kept
    assert "Back to the terminal" in hall.page
    assert list(await hall.stored()) == [""]


async def test_a_source_of_its_own(hall: Hall):
    """--source stores a sign-in for that stream alone; a later login without it renews it where it stands."""
    assert (await hall.login("mde_alerts")).kept
    first = await hall.stored()
    assert list(first) == ["mde_alerts"]
    done = await hall.login()
    assert list(done.subject.rows) == ["", "mde_alerts"]
    second = await hall.stored()
    assert second["mde_alerts"].credential.version > first["mde_alerts"].credential.version


async def test_what_has_an_app_of_its_own_is_left_alone(hall: Hall):
    """A stream with a secret of its own keeps it, and where all have one somebody has to name the source."""
    own = credentials.Own(FABRIKAM, "client_secret", hall.sealer.seal("secret"))
    await credentials.set_own(hall.database, CONTOSO, "mde_alerts", own, actor="test")
    assert list((await hall.login()).subject.readings) == ["graph_alerts", "graph_incidents"]
    for source in ("graph_alerts", "graph_incidents"):
        await credentials.set_own(hall.database, CONTOSO, source, own, actor="test")
    with pytest.raises(
        errors.BadInput, match="credentials of its own; name what a user is to read: --source"
    ):
        await hall.login()


async def test_the_siem_api_of_a_tenant_that_wants_the_v1_form(hall: Hall):
    """The sign-in is made for another API, and its refresh token goes by the v1 form."""
    hall.shown.tenants[str(CONTOSO)].v1_only = True
    enrolment = enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso", region="eu"), {"siem": {}})
    await enrolments.enrol(hall.database, [enrolment], lookback=timedelta(hours=1))
    done = await hall.login()
    assert done.kept
    assert "siem" in {step.source for step in done.proof.steps if step.what == "window" and step.ok}


async def test_the_app_of_before_is_used_again(hall: Hall):
    """Whoever signed in to another app than the settings' need not name it the next time."""
    other = hall.shown.register(
        directory.App(
            "33333333-3333-3333-3333-333333333333", public=True, redirect_uris=("http://localhost",)
        )
    )
    assert (await hall.login(app_id=other.app_id)).kept
    assert (await hall.login()).subject.app_id == other.app_id


async def test_declined(hall: Hall):
    """By code and by browser alike: said, and nothing is stored."""
    hall.user.decides = "declines"
    for browser in (False, True):
        await hall.refuses(errors.Attention, r"the sign-in was declined \(AADSTS65004\)", browser=browser)
    assert await hall.state() == "pending"


async def test_nobody_enters_the_code_in_time(hall: Hall, monkeypatch: pytest.MonkeyPatch):
    """Entra says that it has expired, or we do when its time is over."""
    hall.user.decides = "waits"
    clock = hall.shown.clock
    later = clock() + 2 * sign_ins.DEVICE_LIFE

    def between(_seconds: float) -> None:
        monkeypatch.setattr(hall.shown, "clock", lambda: later)

    await hall.refuses(errors.Attention, r"nobody entered the code in time", between=between)


async def test_somebody_of_another_tenant_signs_in(hall: Hall):
    """A token of another tenant is refused with the name of who signed in."""
    hall.simulator.plan("token", str(CONTOSO), chaos.Fault("token", tid=FABRIKAM))
    await hall.refuses(errors.BadInput, rf"{hall.user.name} signed in to another tenant than Contoso")


async def test_what_comes_back_holds_no_code(hall: Hall):
    """An empty one: nothing is taken from it."""
    match = "neither a code nor an error"
    await hall.refuses(errors.BadInput, match, browser=True, alter=lambda values: values | {"code": ""})


@pytest.mark.parametrize(
    "forged", [lambda values: values | {"state": "another"}, lambda values: {"code": values["code"]}]
)
async def test_what_belongs_to_another_sign_in_does_not_end_ours(hall: Hall, forged: Any):
    """A wrong state and a missing one are refused, and the right answer is still taken."""
    assert (await hall.login(browser=True, forged=forged)).kept
    assert "Not this sign-in" in hall.page
    assert "Back to the terminal" in hall.page


@pytest.mark.parametrize("values", [{"code": "x"}, {"error": "access_denied", "state": "another"}])
async def test_a_state_is_compared_before_anything_is_asked(values: dict[str, str]):
    """Whoever hands an answer on, Entra is not asked with one of another sign-in."""
    entrance = sign_in.Entrance("an app", f"https://192.0.2.1/{CONTOSO}")
    try:
        with pytest.raises(errors.BadInput, match="its state is not ours"):
            await entrance.by_visit(sign_in.Visit("", "ours", {}), values)
    finally:
        await entrance.close()


async def test_a_permission_is_missing(hall: Hall):
    """What can be read is shown, what is missing is named, and nothing is stored."""
    hall.user.may_grant[directory.GRAPH_RESOURCE] = ("SecurityAlert.Read.All",)
    done = await hall.login()
    [missing] = [step for step in done.proof.steps if not step.ok]
    assert (missing.source, missing.code) == ("graph_incidents", "scope_missing")
    assert "SecurityIncident.Read.All or SecurityIncident.ReadWrite.All" in missing.said
    assert not done.kept
    assert await hall.stored() == {}
    assert (await hall.login("graph_alerts", "mde_alerts")).kept


async def test_a_user_who_may_not_read(hall: Hall):
    """The API's 403 counts as well as a missing permission."""
    hall.user.reads = False
    done = await hall.login("graph_alerts")
    assert (done.proof.code, done.kept) == ("forbidden", False)


async def test_an_api_that_fails_for_now_costs_no_sign_in(hall: Hall):
    """What passes by itself is no reason to sign in again."""
    hall.simulator.plan("graph", str(CONTOSO), "503", None)
    done = await hall.login("graph_alerts")
    assert (done.proof.ok, done.kept) == (False, True)
    assert list(await hall.stored()) == ["graph_alerts"]


async def test_an_app_without_public_client_flows(hall: Hall):
    """Where Entra asks for a secret, the switch is named."""
    hall.shown.app = hall.shown.register(dataclasses.replace(hall.shown.app, public=False))
    for browser in (False, True):
        await hall.refuses(errors.Attention, "does not allow public client flows", browser=browser)


async def test_mistakes_of_the_one_who_types(
    hall: Hall, alertwell: Alertwell, monkeypatch: pytest.MonkeyPatch
):
    """Each is one sentence, before Entra is asked."""

    async def said(*arguments: str) -> str:
        return (await asyncio.to_thread(alertwell, "login", *arguments, exit_code=2)).stderr

    assert "no tenant 'Nobody'" in await said("Nobody")
    assert "siem is not read of Contoso" in await said("Contoso", "--source", "siem")
    assert "--source 'sentinel': must be siem or" in await said("Contoso", "--source", "sentinel")
    assert "--client-id must be the application (client) id" in await said("Contoso", "--client-id", "x")
    await tenants.set_state(hall.database, CONTOSO, "removed")
    assert "was removed" in await said("Contoso")
    monkeypatch.delenv("ALERTWELL_CLIENT_ID")
    monkeypatch.delenv("ALERTWELL_CLIENT_SECRET")
    await tenants.set_state(hall.database, CONTOSO, "active")
    assert "give --client-id GUID" in await said("Contoso")
    monkeypatch.delenv("ALERTWELL_SEALING_KEYS_FILE")
    assert "ALERTWELL_SEALING_KEYS_FILE is not set" in await said("Contoso")
    assert not hall.simulator.token_requests


async def test_the_command_says_what_to_open(
    hall: Hall, alertwell: Alertwell, monkeypatch: pytest.MonkeyPatch
):
    """Address and code, then who signed in, source by source what works, and what is read from now on; no token."""
    monkeypatch.setattr(sign_ins, "INTERVAL", 1)
    done = await asyncio.to_thread(alertwell, "login", "Contoso")
    lines = done.stdout.splitlines()
    assert lines[0] == f"Contoso ({CONTOSO}): sign in as a user who may read its alerts"
    assert lines[1].split()[0] == "open"
    assert lines[2].split()[0] == "enter"
    assert f"signed in: {hall.user.name} ({hall.user.object_id})" in lines
    assert lines[-1].endswith("is read as this user; active now")
    [held] = (await hall.stored()).values()
    assert hall.sealer.unseal(held.credential.sealed) not in done.output


async def test_for_programs(hall: Hall, alertwell: Alertwell, monkeypatch: pytest.MonkeyPatch):
    """One document on stdout, what to open on stderr; exit code 1 where nothing is stored."""
    monkeypatch.setattr(sign_ins, "INTERVAL", 1)
    hall.user.reads = False
    done = await asyncio.to_thread(
        alertwell, "login", "Contoso", "--source", "graph_alerts", "--json", exit_code=1
    )
    found = json.loads(done.stdout)
    assert (found["user"], found["stored"], found["sources"]) == (hall.user.name, False, ["graph_alerts"])
    assert [step["code"] for step in found["steps"]] == [None, "forbidden"]
    assert "  enter  " in done.stderr


async def test_a_whole_process_opens_a_browser(hall: Hall):
    """--browser opens what BROWSER names, and takes the answer on a port of its own."""
    environment = {
        **os.environ,
        "BROWSER": f"{sys.executable} -m tests.browsing %s",
        "REQUESTS_CA_BUNDLE": str(hall.simulator.ca_file),
    }
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "login", "Contoso", "--browser",
        cwd=ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await command.communicate()
    assert command.returncode == 0, err.decode()
    assert f"signed in: {hall.user.name}" in out.decode()
    assert err == b""


async def test_ctrl_c_ends_the_waiting(hall: Hall):
    """Exit code 130, one line, nothing stored."""
    hall.user.decides = "waits"
    command = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "login", "Contoso",
        cwd=ROOT, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert command.stdout is not None
    while not (await command.stdout.readline()).startswith(b"waiting"):
        assert not command.stdout.at_eof()
    command.send_signal(2)
    _, err = await command.communicate()
    assert (command.returncode, err.decode()) == (130, "alertwell: ended before the sign-in was complete\n")
    assert await hall.stored() == {}

"""A customer's consent over real HTTP: link, Entra's page, redirect, callback, proof, and the first window collected."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

import aiohttp
import pytest

from service import app, errors, line, model
from service.auth import claims, sealing
from service.cli import checking, guests
from service.ingest import proving
from service.metrics import Metrics
from service.simulator import directory, filing, ticks
from service.sources import registry
from service.store import accesses, consents, enrolments, invitations, leases, tenants
from service.transport import session as sessions
from tests.ingest import processes, stages
from tests.ingest.waiting import until

CONTOSO, FABRIKAM = UUID(stages.CONTOSO), UUID(stages.FABRIKAM)
Alter = Callable[[proving.Line], proving.Line]
PUBLIC = "https://alerts.example.com/of/us"


@dataclass
class Reception:
    """A stage whose customers have consented to nothing yet, an administrator with a browser, and the way to invite them."""

    stage: stages.Stage
    browser: aiohttp.ClientSession
    consent: dict[str, Any]

    async def invite(self, name: str = "Contoso", **wanted: Any) -> guests.Sent:
        """What `tenants invite` does, link included."""
        config = self.stage.config(**self.consent)
        valid = wanted.pop("valid", timedelta(days=14))
        [sent], _ = await guests.send(
            self.stage.database, config, [guests.Guest(name, **wanted)], valid=valid, legacy=False
        )
        return sent

    async def accept(self, link: str) -> str:
        """Open the link at Entra and accept; where the browser is sent back to."""
        async with self.browser.get(link, allow_redirects=False) as answer:
            assert answer.status == 302, await answer.text()
            return answer.headers["Location"]

    async def arrive(self, running: app.Collector, back: str) -> tuple[int, str]:
        """Follow the redirect as a proxy in front of the callback does: status and page."""
        parts = urlsplit(back)
        assert f"{parts.scheme}://{parts.netloc}" == "https://alerts.example.com"
        local = f"http://127.0.0.1:{running.public_port}{parts.path}?{parts.query}"
        async with self.browser.get(local) as answer:
            return answer.status, await answer.text()

    async def invitation(self, sent: guests.Sent) -> invitations.Invitation:
        found = await invitations.get(self.stage.database, sent.invitation.invitation_id)
        assert found is not None
        return found

    async def settled(self, sent: guests.Sent, state: str = "proven") -> invitations.Invitation:
        async def seen() -> invitations.Invitation | None:
            found = await self.invitation(sent)
            return found if found.state == state else None

        return await until(seen, saying=lambda: self.invitation(sent))

    async def audited(self) -> list[tuple[str, str]]:
        rows = await self.stage.books.rows.fetch("SELECT action, actor FROM soc.audit ORDER BY audit_id")
        return [(row["action"], row["actor"]) for row in rows]

    async def enrolled(self) -> dict[str, str]:
        rows = await self.stage.books.rows.fetch("SELECT tenant_id::text, state FROM soc.tenants")
        return {row["tenant_id"]: row["state"] for row in rows}

    @asynccontextmanager
    async def proving(
        self, replica: UUID, *, alter: Alter = lambda through: through, **patience: timedelta
    ) -> AsyncIterator[proving.Proving]:
        """A replica's proofs alone, round by round; `alter` makes it another version."""
        config = self.stage.config(**self.consent)
        async with line.open_line(config, Metrics("0")) as door:
            through = proving.Line(door.tokens, door.sender, registry.SOURCES, claims.lacks)
            await leases.heartbeat(self.stage.database, replica, host="bench", version="0", ttl=60)
            made = proving.Proving(
                alter(through),
                self.stage.database,
                replica,
                ttl=60,
                lookback=timedelta(days=1),
                patience=proving.Patience(**patience),
            )
            try:
                yield made
            finally:
                await made.stop()


@pytest.fixture
async def reception(stage: stages.Stage) -> AsyncIterator[Reception]:
    """Contoso and Fabrikam exist at Microsoft, and neither knows our app."""
    keys = stage.folder / "keys"
    keys.write_text(sealing.generate_key() + "\n")
    shown = stage.shown
    shown.app = shown.register(replace(shown.app, redirect_uris=(f"{PUBLIC}/consent",)))
    for tenant in shown.tenants.values():
        tenant.withdraw()
    shown.admin = directory.Admin(stages.CONTOSO)
    consent = {"public_url": PUBLIC, "public_port": 0, "sealing_keys_file": str(keys)}
    async with sessions.open_session(stage.simulator.ca_file) as browser:
        yield Reception(stage, browser, consent)


async def given(reception: Reception, **wanted: Any) -> guests.Sent:
    """An invitation that was accepted and has reached the callback of a collector that is gone again."""
    sent = await reception.invite(**wanted)
    back = await reception.accept(sent.link)
    said = parse_qs(urlsplit(back).query)
    outcome = await consents.give(
        reception.stage.database, sent.invitation.invitation_id, UUID(said["tenant"][0])
    )
    assert outcome == "given"
    return sent


async def test_from_the_link_to_the_first_alerts(reception: Reception):
    """`invite --wait` prints the link, follows every step, and ends with 0 when the tenant's first window is read."""
    stage = reception.stage
    filing.Desk(stage.shown, stages.CONTOSO).add_alert(at=ticks.now() - 30 * ticks.SECOND)
    environment = {
        **os.environ,
        **stage.environment(),
        "ALERTWELL_PUBLIC_URL": PUBLIC,
        "ALERTWELL_SEALING_KEYS_FILE": reception.consent["sealing_keys_file"],
    }
    async with stage.collecting(**reception.consent) as running:
        command = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "service", "tenants", "invite", "Contoso", "--tenant", stages.CONTOSO, "--wait",
            cwd=processes.ROOT, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert command.stdout is not None
        said = ""
        while "waiting for Contoso" not in said:
            said += (await command.stdout.readline()).decode()
        assert (await reception.enrolled()) == {stages.CONTOSO: "pending"}
        [link] = re.findall(r"https://\S+adminconsent\S+", said)
        status, page = await reception.arrive(running, await reception.accept(link))
        assert (status, "Your consent has arrived" in page) == (200, True)
        said += (await command.stdout.read()).decode()
        assert await command.wait() == 0
    assert "SecurityAlert.Read.All" in said
    steps = [
        text
        for text in ("consent given", "proven: ", "first window of graph_alerts collected")
        if text in said
    ]
    assert len(steps) == 3, said
    assert (await reception.enrolled()) == {stages.CONTOSO: "active"}
    person = (await reception.audited())[0][1]
    assert await reception.audited() == [
        ("tenant.added", person),
        ("tenant.invited", person),
        ("consent.given", "consent callback"),
        ("tenant.changed", "daemon"),
        ("consent.proven", "daemon"),
    ]


async def test_whoever_consents_is_taken_where_nobody_was_named(reception: Reception):
    """Without a tenant id the tenant that proves itself is enrolled, under the invitation's name, and polled."""
    sent = await reception.invite("Contoso Ltd", external_ref="C-1", labels={"tier": "gold"})
    assert "/organizations/v2.0/adminconsent?" in sent.link
    assert await reception.enrolled() == {}
    async with reception.stage.collecting(**reception.consent) as running:
        assert (await reception.arrive(running, await reception.accept(sent.link)))[0] == 200
        assert (await reception.settled(sent)).tenant_id == CONTOSO
        await reception.stage.well()
    row = await reception.stage.books.rows.fetchrow("SELECT * FROM soc.tenants")
    assert (row["name"], row["external_ref"], row["sources"], row["state"]) == (
        "Contoso Ltd",
        "C-1",
        ["graph_alerts"],
        "active",
    )
    assert row["consented_at"] is not None


async def test_sources_of_several_apis_need_the_v1_link(reception: Reception):
    """One link grants all that the app has registered, and each source is proven by a call of its own."""
    sent = await reception.invite(
        tenant_id=CONTOSO, sources=("graph_alerts", "graph_incidents", "xdr_incidents")
    )
    assert f"/{stages.CONTOSO}/adminconsent?" in sent.link
    async with reception.stage.collecting(**reception.consent) as running:
        await reception.arrive(running, await reception.accept(sent.link))
        await reception.settled(sent)
    assert {reception.stage.simulator.counters[api] > 0 for api in ("graph", "xdr")} == {True}


async def test_a_refusal_changes_nothing_and_the_link_still_works(reception: Reception):
    """Declined: refused with the number to look up, nothing enrolled; the same link accepted later is proven."""
    sent = await reception.invite()
    world = reception.stage.shown
    async with reception.stage.collecting(**reception.consent) as running:
        world.admin = replace(world.admin, decides="declines")
        status, page = await reception.arrive(running, await reception.accept(sent.link))
        assert (status, "Nothing was granted" in page) == (400, True)
        refused = await reception.invitation(sent)
        assert refused.state == "refused"
        assert "AADSTS65004" in (refused.state_reason or "")
        assert await reception.enrolled() == {}
        world.admin = replace(world.admin, decides="grants")
        await reception.arrive(running, await reception.accept(sent.link))
        await reception.settled(sent)


async def test_bad_answers_store_nothing_but_the_audit(reception: Reception):
    """Another tenant, an error beside a consent, a replay, forged, expired, withdrawn: each its page and its count."""
    world = reception.stage.shown
    async with reception.stage.collecting(**reception.consent) as running:
        pages: dict[str, str] = {}

        async def answer(what: str, back: str) -> None:
            pages[what] = re.findall("<h1>(.*)</h1>", (await reception.arrive(running, back))[1])[0]

        sent = await reception.invite(tenant_id=CONTOSO)
        world.admin = directory.Admin(says=stages.FABRIKAM)
        back = await reception.accept(sent.link)
        await answer("wrong tenant", back)
        await answer("no state", re.sub("&state=.*", "", back))
        await answer("forged", back[:-4] + "AAA=")
        world.admin = directory.Admin(error_beside=True, says=stages.CONTOSO)
        await answer("error beside", await reception.accept(sent.link))
        assert (await reception.invitation(sent)).state == "open"
        await reception.invite(tenant_id=CONTOSO)
        world.admin = directory.Admin()
        await answer("withdrawn", await reception.accept(sent.link))
        late = await reception.invite("Late", valid=timedelta(seconds=-1))
        await answer("expired", await reception.accept(late.link))
        counted = {
            key: value
            for key, value in stages.series(running.metrics).items()
            if key.startswith("alertwell_consent_callbacks_total")
        }
    assert pages == {
        "wrong tenant": "Another organization was invited",
        "no state": "Please tell your security provider",
        "forged": "This answer cannot be used",
        "error beside": "This answer cannot be used",
        "withdrawn": "This link is not valid any more",
        "expired": "This link has expired",
    }
    assert sorted(re.findall("outcome=(\\w+)", " ".join(counted))) == [
        "contradictory", "expired", "forged", "stateless", "withdrawn", "wrong_tenant",
    ]  # fmt: skip
    assert await reception.enrolled() == {stages.CONTOSO: "pending"}
    refused = [row for row in await reception.audited() if row[0].startswith("consent.")]
    assert refused == [("consent.refused", "consent callback")] * 3


async def test_a_link_works_once(reception: Reception):
    """The same answer again is told so and changes nothing, before the proof and after it."""
    sent = await reception.invite()
    async with reception.stage.collecting(**reception.consent) as running:
        back = await reception.accept(sent.link)
        first, again = await asyncio.gather(*(reception.arrive(running, back) for _ in range(2)))
        assert sorted("arrived before" in page for _, page in (first, again)) == [False, True]
        await reception.settled(sent)
        assert "arrived before" in (await reception.arrive(running, back))[1]
        assert (await reception.invitation(sent)).state == "proven"


async def test_a_link_that_another_tenant_has_answered(reception: Reception):
    """Whose answer comes second is not told that all is well: it was not taken."""
    sent = await given(reception)
    outcome = await consents.give(reception.stage.database, sent.invitation.invitation_id, FABRIKAM)
    assert outcome == "wrong_tenant"
    assert (await reception.invitation(sent)).said_tenant == CONTOSO


async def test_a_tenant_that_is_enrolled_under_another_name_is_refused(reception: Reception):
    """An invitation to whoever consents takes no tenant that is a customer already."""
    await reception.stage.enrol(stages.CONTOSO)
    sent = await reception.invite("Somebody else")
    async with reception.stage.collecting(**reception.consent) as running:
        page = (await reception.arrive(running, await reception.accept(sent.link)))[1]
    assert "known already" in page
    assert (await reception.invitation(sent)).state == "open"
    row = await reception.stage.books.rows.fetchrow("SELECT name, sources FROM soc.tenants")
    assert (row["name"], row["sources"]) == ("Contoso", ["siem"])


async def test_what_is_missing_is_said_until_it_is_there(reception: Reception):
    """A role that was not granted stands in the reason; the proof is tried again, and given up in the end."""
    reception.stage.shown.admin = directory.Admin(stages.CONTOSO, roles=())
    sent = await given(reception)
    second = timedelta(seconds=1)
    async with reception.proving(
        uuid4(), first=timedelta(0), most=timedelta(0), total=second * 3600
    ) as proofs:
        for _ in range(2):
            await proofs.round()
            await proofs.settled()
        waiting = await reception.invitation(sent)
        assert (waiting.state, waiting.proofs) == ("given", 2)
        assert "SecurityAlert.Read.All" in (waiting.state_reason or "")
        assert [row[0] for row in await reception.audited()].count("consent.unproven") == 1
        assert await reception.enrolled() == {}
        tenant = reception.stage.shown.tenants[stages.CONTOSO]
        tenant.grant(reception.stage.shown.app, (directory.GRAPH_RESOURCE,))
        await proofs.round()
        await proofs.settled()
    assert (await reception.invitation(sent)).state == "proven"
    assert await reception.enrolled() == {stages.CONTOSO: "active"}


async def test_a_proof_is_given_up_after_its_time(reception: Reception):
    """Where nothing comes of an answer for long it has expired, and says why; checking by hand still proves it."""
    reception.stage.shown.admin = directory.Admin(stages.CONTOSO, roles=())
    sent = await given(reception)
    async with reception.proving(uuid4(), total=timedelta(0)) as proofs:
        await proofs.round()
        await proofs.settled()
        await proofs.round()
    assert (await reception.invitation(sent)).state == "expired"
    tenant = reception.stage.shown.tenants[stages.CONTOSO]
    tenant.grant(reception.stage.shown.app, (directory.GRAPH_RESOURCE,))
    config = reception.stage.config(**reception.consent)
    [checked] = await checking._check(reception.stage.database, config, "contoso")
    assert (checked.proof.ok, checked.healed) == (True, "proven: collected from now on")
    assert await reception.enrolled() == {stages.CONTOSO: "active"}


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        (lambda through: replace(through, sources={}), "this version does not know the source graph_alerts"),
        (lambda through: replace(through, lacks=None), "the proof broke (TypeError): the log says where"),
    ],
)
async def test_what_nobody_foresaw_counts_as_a_failed_proof(reception: Reception, alter: Alter, reason: str):
    """A source of a newer version, a bug: said as a reason, put off like any other, and given up in the end."""
    sent = await given(reception)
    async with reception.proving(uuid4(), alter=alter, first=timedelta(0), most=timedelta(0)) as proofs:
        for _ in range(2):
            await proofs.round()
            await proofs.settled()
    waiting = await reception.invitation(sent)
    assert (waiting.state, waiting.proofs, waiting.state_reason) == ("given", 2, reason)
    async with reception.proving(uuid4(), alter=alter, total=timedelta(0)) as proofs:
        await proofs.round()
        await proofs.settled()
    assert (await reception.invitation(sent)).state == "expired"


async def test_two_replicas_prove_once(reception: Reception):
    """Of two replicas that look at the same time one asks Entra, and the tenant is activated once."""
    await given(reception)
    async with reception.proving(uuid4()) as one, reception.proving(uuid4()) as other:
        await asyncio.gather(one.round(), other.round())
        await asyncio.gather(one.settled(), other.settled())
        await asyncio.gather(one.round(), other.round())
    assert reception.stage.simulator.token_requests[stages.CONTOSO] == 1
    assert [row[0] for row in await reception.audited()].count("consent.proven") == 1


async def test_a_daemon_killed_between_given_and_proven(reception: Reception):
    """Its claim ends with its heartbeat: another replica proves, and what the dead one still had in hand is not written."""
    sent = await given(reception)
    dead = uuid4()
    held = asyncio.Event()

    async def hang() -> None:
        async with reception.proving(dead) as doomed:

            class Slow:
                @asynccontextmanager
                async def send(self, *_: Any) -> AsyncIterator[model.Answer]:
                    held.set()
                    await asyncio.Event().wait()
                    yield model.Answer(b"", None)

            doomed._line = replace(doomed._line, sender=Slow())
            await doomed.round()
            await doomed.settled()

    victim = asyncio.create_task(hang())
    await asyncio.wait_for(held.wait(), 20)
    async with reception.proving(uuid4()) as other:
        await other.round()
        await other.settled()
        assert (await reception.invitation(sent)).state == "given"  # the claim of the living is respected
        await reception.stage.books.rows.execute(
            "UPDATE alertwell.replica SET heartbeat_at = now() - interval '1 hour' WHERE replica_id = $1",
            dead,
        )
        await other.round()
        await other.settled()
    victim.cancel()
    await asyncio.gather(victim, return_exceptions=True)
    assert (await reception.invitation(sent)).state == "proven"
    assert [row[0] for row in await reception.audited()].count("consent.proven") == 1


async def test_removing_a_tenant_stops_its_invitation(reception: Reception):
    """Who was removed while the answer was on its way is not taken back by it."""
    sent = await given(reception, tenant_id=CONTOSO)
    await tenants.set_state(reception.stage.database, CONTOSO, "removed")
    async with reception.proving(uuid4()) as proofs:
        await proofs.round()
        await proofs.settled()
    assert (await reception.invitation(sent)).state == "withdrawn"
    assert await reception.enrolled() == {stages.CONTOSO: "removed"}


@pytest.mark.parametrize("answered", [True, False])
async def test_removing_a_tenant_stops_links_that_named_nobody(reception: Reception, answered: bool):
    """A link to whoever consents, older than the removal, does not take the customer back either."""
    sent = await given(reception) if answered else await reception.invite()
    await reception.stage.enrol(stages.CONTOSO)
    await tenants.set_state(reception.stage.database, CONTOSO, "removed")
    assert (await reception.invitation(sent)).state == "withdrawn"
    async with reception.proving(uuid4()) as proofs:
        await proofs.round()
        await proofs.settled()
    assert await reception.enrolled() == {stages.CONTOSO: "removed"}


BROKEN = {
    "withdrawn": (lambda tenant: tenant.withdraw(), "app_not_in_tenant", "700016"),
    "role": (
        lambda tenant: tenant.roles.clear(),
        "role_missing",
        "SecurityAlert.Read.All",
    ),
    "licence": (lambda tenant: tenant.unlicensed.add(directory.GRAPH_RESOURCE), "no_licence", "650052"),
    "gone": (lambda tenant: setattr(tenant, "gone", True), "tenant_not_found", "90002"),
    "deleted": (lambda tenant: setattr(tenant, "deleted", True), "no_licence", "403"),
    "resource": (
        lambda tenant: tenant.resources.discard(directory.GRAPH_RESOURCE),
        "resource_missing",
        "500011",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_what_broke_is_found_within_a_poll_and_heals(reception: Reception, what: str):
    """Consent taken back, a role, a licence, the tenant itself: each its sentence; `check` says so, and heals it afterwards."""
    stage = reception.stage
    tenant = stage.shown.tenants[stages.CONTOSO]
    tenant.grant(stage.shown.app, tuple(tenant.resources))
    wanted = enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso"), {"graph_alerts": {}})
    await enrolments.enrol(stage.database, [wanted], lookback=timedelta(minutes=5))
    kept = replace(tenant)
    kept.roles, kept.consented, kept.resources = (
        dict(tenant.roles),
        set(tenant.consented),
        set(tenant.resources),
    )
    break_it, code, says = BROKEN[what]
    config = stage.config(**reception.consent)
    async with stage.collecting(**reception.consent) as running:
        await stage.well()
        break_it(tenant)
        [checked] = await checking._check(stage.database, config, stages.CONTOSO)
        assert not checked.proof.ok
        assert checked.proof.code == code
        assert says in checked.proof.reason
        # the token of before would do until its end: a replica that has none yet finds it with its next poll
        async with stage.database.transaction() as connection:
            await leases.changed(connection, [CONTOSO])
        await until(lambda: needs_attention(stage, says), saying=stage.books.stream)
        for name in ("roles", "consented", "resources"):
            setattr(tenant, name, getattr(kept, name))
        tenant.unlicensed.clear()
        tenant.gone = tenant.deleted = False
        [healed] = await checking._check(stage.database, config, stages.CONTOSO)
        assert healed.healed == "polled at once"
        await stage.well()
        assert running.failed.done() is False


async def needs_attention(stage: stages.Stage, says: str) -> bool:
    row = await stage.books.stream()
    return row["state"] == "needs_attention" and says in row["state_reason"]


async def test_each_source_needs_its_own_role(reception: Reception):
    """One token serves both Graph sources; a role that only the other can use does not prove this one."""
    stage = reception.stage
    tenant = stage.shown.tenants[stages.CONTOSO]
    tenant.grant(stage.shown.app, (directory.GRAPH_RESOURCE,), ("SecurityIncident.Read.All",))
    both = {"graph_alerts": {}, "graph_incidents": {}}
    wanted = enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso", state="pending"), both)
    await enrolments.enrol(stage.database, [wanted], lookback=timedelta(minutes=5))
    [checked] = await checking._check(stage.database, stage.config(), stages.CONTOSO)
    assert {step.source: step.ok for step in checked.proof.steps} == {
        "graph_alerts": False,
        "graph_incidents": True,
    }
    assert (checked.proof.code, checked.healed) == ("role_missing", None)
    assert await reception.enrolled() == {stages.CONTOSO: "pending"}


async def test_a_pending_tenant_is_healed_by_a_check(reception: Reception):
    """`tenants add --pending`, consent by some other way, then `check`: active, with its streams polled."""
    stage = reception.stage
    wanted = enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso", state="pending"), {"graph_alerts": {}})
    await enrolments.enrol(stage.database, [wanted], lookback=timedelta(minutes=5))
    config = stage.config(**reception.consent)
    [before] = await checking._check(stage.database, config, "Contoso")
    assert (before.proof.code, before.healed) == ("app_not_in_tenant", None)
    stage.shown.tenants[stages.CONTOSO].grant(stage.shown.app, (directory.GRAPH_RESOURCE,))
    [after] = await checking._check(stage.database, config, None)
    assert (after.proof.ok, after.healed) == (True, "active now")
    assert await reception.enrolled() == {stages.CONTOSO: "active"}
    assert (await reception.audited())[-1][0] == "consent.proven"


async def test_two_tenants_cannot_both_take_one_name_by_consent(reception: Reception):
    """Nobody's answer is proven for a tenant that became a customer under another name meanwhile."""
    sent = await given(reception, name="Somebody else")
    await reception.stage.enrol(stages.CONTOSO)
    async with reception.proving(uuid4()) as proofs:
        await proofs.round()
        await proofs.settled()
    refused = await reception.invitation(sent)
    assert refused.state == "refused"
    assert "is enrolled as Contoso" in (refused.state_reason or "")
    readings = await accesses.enrolled(reception.stage.database, [CONTOSO])
    assert set(readings[CONTOSO]) == {"siem"}


async def test_public_port_needs_keys_and_an_address(stage: stages.Stage):
    """Without keys nothing could be signed, without PUBLIC_URL nobody would come: the start says what is missing."""
    with pytest.raises(errors.BadSetting, match="PUBLIC_PORT=0 needs ALERTWELL_PUBLIC_URL"):
        async with stage.collecting(public_port=0):
            pass
    with pytest.raises(errors.BadSetting, match="alertwell seal-key --into FILE"):
        async with stage.collecting(public_url=PUBLIC, public_port=0):
            pass

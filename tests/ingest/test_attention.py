"""What needs a person: it is said in a sentence, concerns nobody else, and heals as soon as the cause is gone."""

from __future__ import annotations

from uuid import UUID

from service import app, model
from service.auth import sealing
from service.store import credentials, enrolments, tenants
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until


async def shows(stage, tenant_id, state):
    """Wait until the tenant's stream shows a state; its row."""

    async def seen():
        row = await stage.books.stream(tenant_id)
        return row if row["state"] == state else None

    return await until(seen, saying=lambda: stage.books.stream(tenant_id))


async def test_a_wrong_secret_is_said_and_its_file_heals_it(stage):
    """Every tenant of the app waits on one probe; the right secret in the file makes them due at once."""
    stage.secret_file.write_text("wrong~secret~value")
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    await stage.enrol(CONTOSO, FABRIKAM)
    async with stage.collecting() as collector:
        for tenant_id in (CONTOSO, FABRIKAM):
            reason = (await shows(stage, tenant_id, "needs_attention"))["state_reason"]
            assert "secret" in reason
            assert "AADSTS7000215" in reason
            assert "wrong~secret~value" not in reason
        assert sum(stage.simulator.token_requests.values()) <= 4
        stage.secret_file.write_text(stage.shown.app.secret)
        await shows(stage, CONTOSO, "ok")
        await shows(stage, FABRIKAM, "ok")
        await stage.stored()
    assert (await stage.books.stream())["state_reason"] is None
    assert "wrong~secret~value" not in collector.metrics.render()[0].decode()


async def test_a_tenant_without_consent_does_not_touch_the_others(stage):
    """700016 stays that tenant's own."""
    stage.shown.tenants[FABRIKAM].consented.clear()
    stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
    await stage.enrol(CONTOSO, FABRIKAM)
    async with stage.collecting():
        row = await shows(stage, FABRIKAM, "needs_attention")
        assert "consent" in row["state_reason"].lower()
        await stage.stored()
        await shows(stage, CONTOSO, "ok")


async def test_a_tenant_with_an_app_of_its_own_beside_the_shared_one(stage, tmp_path):
    """Its sealed secret opens its own tenant; a wrong one is replaced by enrolling again, and heals at once."""
    keys = tmp_path / "keys"
    keys.write_text(sealing.generate_key())
    sealer = sealing.Sealer.from_file(keys)
    own = "33333333-3333-3333-3333-333333333333"
    own_app = stage.shown.add_tenant(own, "Northwind Traders", own_app=True).app
    for tenant_id in (CONTOSO, own):
        stages.file(stage.shown, tenant_id, f"of {tenant_id}", stage.shown.clock())
    await stage.enrol(CONTOSO)
    await stage.enrol(own, own=credentials.Own(own_app.app_id, "client_secret", sealer.seal("wrong")))
    async with stage.collecting(sealing_keys_file=keys):
        await shows(stage, own, "needs_attention")
        await stage.stored(CONTOSO)
        await stage.enrol(
            own, own=credentials.Own(own_app.app_id, "client_secret", sealer.seal(own_app.secret))
        )
        await stage.stored(own)
        await shows(stage, own, "ok")
    assert list(await stage.books.alerts(own)) == [f"of {own}"]
    assert list(await stage.books.alerts(CONTOSO)) == [f"of {CONTOSO}"]


async def test_without_any_credential_the_tenant_says_so(stage):
    """Tenants of the shared app, where there is none."""
    await stage.enrol(CONTOSO)
    config = stage.config()
    bare = config.model_copy(update={"client_id": None, "client_secret": None})
    async with app.collector(bare, stage.dsn):
        reason = (await shows(stage, CONTOSO, "needs_attention"))["state_reason"]
    assert "CLIENT_ID" in reason


async def test_a_paused_tenant_is_not_polled_and_a_resumed_one_is_at_once(stage):
    """While Fabrikam is polled again and again, nobody asks for Contoso's alerts."""
    await stage.enrol(CONTOSO, FABRIKAM)
    async with stage.collecting() as collector:
        await stage.well(CONTOSO)
        await tenants.set_state(stage.database, UUID(CONTOSO), "paused")
        owned = "alertwell_owned_tenants"
        await until(lambda: stages.series(collector.metrics)[owned] == 1)
        asked = stage.simulator.siem_requests
        before, others = asked[CONTOSO], asked[FABRIKAM]
        await until(lambda: asked[FABRIKAM] >= others + 2)
        assert asked[CONTOSO] == before
        stages.file(stage.shown, CONTOSO, "meanwhile", stage.shown.clock())
        await tenants.set_state(stage.database, UUID(CONTOSO), "active")
        await stage.stored(CONTOSO)


async def test_a_tenant_that_is_added_is_polled_while_the_collector_runs(stage):
    """And one that is removed is let go."""
    async with stage.collecting() as collector:
        await until(lambda: stages.series(collector.metrics)["alertwell_replicas"] == 1)
        stages.file(stage.shown, CONTOSO, "a", stage.shown.clock())
        await stage.enrol(CONTOSO)
        await stage.stored(CONTOSO)
        await tenants.set_state(stage.database, UUID(CONTOSO), "removed")
        await until(lambda: stages.series(collector.metrics)["alertwell_owned_tenants"] == 0)


async def test_a_pending_tenant_is_not_polled(stage):
    """Enrolled without consent, it has a lease that nobody takes."""
    pending = enrolments.Enrolment(model.Tenant(UUID(FABRIKAM), "Fabrikam", state="pending"), {"siem": {}})
    await stage.enrol(CONTOSO)
    await enrolments.enrol(stage.database, [pending], lookback=stages.timedelta(hours=1))
    async with stage.collecting():
        await stage.well(CONTOSO)
    assert stage.simulator.siem_requests[FABRIKAM] == 0
    assert (await stage.books.stream(FABRIKAM))["state"] == "new"


async def test_the_cause_stands_beside_the_sentence_and_ends_with_it(stage):
    """A word for alarms, a sentence with the command for people; both go when consent is there."""
    stage.shown.tenants[FABRIKAM].consented.clear()
    await stage.enrol(FABRIKAM)
    async with stage.collecting() as collector:
        row = await shows(stage, FABRIKAM, "needs_attention")
        assert row["cause"] == "app_not_in_tenant"
        assert row["state_reason"].startswith("our app is not in this tenant (AADSTS700016)")
        assert row["state_reason"].endswith("Send: alertwell tenants invite Fabrikam")
        counted = "alertwell_streams_needing_attention{cause=app_not_in_tenant}"
        await until(lambda: stages.series(collector.metrics).get(counted) == 1)
        stage.shown.tenants[FABRIKAM].consented.add(stage.shown.app.app_id)
        await tenants.set_state(stage.database, UUID(FABRIKAM), "paused")
        await tenants.set_state(stage.database, UUID(FABRIKAM), "active")
        await shows(stage, FABRIKAM, "ok")
    row = await stage.books.stream(FABRIKAM)
    assert (row["cause"], row["state_reason"]) == (None, None)

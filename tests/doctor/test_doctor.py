"""Each thing that can be broken, broken for real: the doctor names it, says what to do, and goes on with the rest."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import socket
from pathlib import Path

import asyncpg
import pytest
import trustme

from service.doctor import examination, finding, premises
from service.simulator import chaos, credentials, ticks
from service.store import checkup
from tests import proxy as standins
from tests.doctor.conftest import CONTOSO, FABRIKAM, Enrol, Ward
from tests.simulator import keys


def the(findings: list[finding.Finding], area: str, subject: str = "") -> finding.Finding:
    """The one finding of an area (whose subject holds a text)."""
    [found] = [each for each in findings if each.area == area and subject in each.subject]
    return found


async def test_all_well(ward: Ward):
    """Every area has its say; nobody polls yet, which is a warning."""
    findings = await ward.examine()
    assert [found.subject for found in findings if found.ok != "ok"] == ["leases"]
    assert {found.area for found in findings} == {
        "settings",
        "database",
        "clock",
        "horizon",
        "host",
        "credential",
        "tenant",
    }
    assert re.search(r"Entra: reached, certificate by .+ until \d{4}-", the(findings, "host").sentence)
    assert "token and call work" in the(findings, "tenant", "Contoso (1111…) siem").sentence
    assert ward.simulator.siem_requests[CONTOSO] == 1


async def test_a_wrong_secret(ward: Ward):
    """One request finds it out; the tenants are not asked one by one, and nothing shows the secret."""
    ward.environ["CLIENT_SECRET"] = "wrong~secret~value"
    bad = await ward.bad()
    found = the(bad, "credential")
    assert (found.ok, found.subject) == ("broken", f"app {ward.shown.app.app_id[:8]}…")
    assert "the client secret is wrong (AADSTS7000215)" in found.sentence
    assert "No tenant waits for it yet" in found.sentence
    assert "CLIENT_SECRET_FILE" in found.remedy
    assert "2 tenants of the shared app not tried" in the(bad, "tenant").sentence
    assert sum(ward.simulator.token_requests.values()) == 1
    assert "wrong~secret~value" not in repr(bad)


async def test_an_expired_secret_and_who_waits(ward: Ward, pool: asyncpg.Pool):
    """Since when how many tenants wait comes from the database."""
    expired = credentials.Secret(ward.shown.app.secret, expires_at=ticks.now() - ticks.SECOND)
    ward.shown.register(dataclasses.replace(ward.shown.app, secrets=(expired,)))
    await pool.execute(
        "UPDATE alertwell.stream SET state = 'needs_attention', cause = 'secret_expired', state_since = '2026-01-02 03:12Z'"
    )
    found = the(await ward.bad(), "credential")
    assert found.sentence == (
        "the client secret has expired (AADSTS7000222). 2 tenants wait since 2026-01-02 03:12 UTC; "
        "their gaps heal by themselves once it is renewed"
    )


async def test_an_expired_certificate_and_who_waits(ward: Ward, pool: asyncpg.Pool, tmp_path: Path):
    """The tenants that wait for another certificate are counted as those that wait for another secret."""
    old = keys.pair(begins="2026-01-01", ends="2026-02-01")
    file = tmp_path / "old.pem"
    file.write_text(old.key_pem + old.certificate_pem)
    del ward.environ["CLIENT_SECRET"]
    ward.environ["CLIENT_CERTIFICATE_FILE"] = str(file)
    await pool.execute(
        "UPDATE alertwell.stream SET state = 'needs_attention', cause = 'certificate_expired', state_since = '2026-02-01 03:12Z'"
    )
    found = the(await ward.bad(), "credential")
    assert "expired on 2026-02-01" in found.sentence
    assert "2 tenants wait since 2026-02-01 03:12 UTC" in found.sentence


async def test_a_credential_file_of_no_use(ward: Ward, tmp_path: Path):
    """It is a finding about the credential, and the rest is examined all the same."""
    file = tmp_path / "app.pem"
    file.write_text("no certificate")
    del ward.environ["CLIENT_SECRET"]
    ward.environ["CLIENT_CERTIFICATE_FILE"] = str(file)
    findings = await ward.examine()
    found = the(findings, "credential")
    assert (found.ok, "app.pem: is neither PEM nor a whole PFX file" in found.sentence) == ("broken", True)
    assert the(findings, "database", "schema").ok == "ok"
    assert {each.ok for each in findings if each.area == "host"} == {"ok"}


async def test_a_tenant_without_consent(ward: Ward):
    """Its own finding, with the link to send; the other tenant is well."""
    ward.shown.tenants[FABRIKAM].consented.clear()
    bad = await ward.bad()
    found = the(bad, "tenant")
    assert (found.subject, found.ok) == ("Fabrikam (2222…) siem", "broken")
    assert found.sentence.startswith("our app is not in this tenant (AADSTS700016)")
    assert found.remedy == "Send: alertwell tenants invite Fabrikam"
    assert not [each for each in bad if each.area == "credential"]


async def test_a_role_that_is_missing(ward: Ward, enrol: Enrol):
    """The token is fine, and so is the credential; the role is named."""
    third = "33333333-3333-3333-3333-333333333333"
    ward.shown.add_tenant(third, "Northwind Traders")
    await enrol((third, "Northwind Traders"), source="graph_alerts")
    ward.simulator.plan("token", third, "no-roles", None)
    found = the(await ward.bad(), "tenant")
    assert "SecurityAlert.Read.All" in found.sentence
    assert found.remedy.endswith("alertwell tenants invite 'Northwind Traders'")


async def test_an_api_that_is_down(ward: Ward):
    """The host is named with what happened to it, Entra beside it is well."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        ward.environ["SIEM_URL"] = f"https://localhost:{port}"
        findings = await ward.examine()
    assert the(findings, "host", f"localhost:{port}").sentence.startswith("siem: no connection to localhost")
    assert the(findings, "host", ward.simulator.url.removeprefix("https://")).ok == "ok"
    assert the(findings, "credential").ok == "ok"
    assert "cannot be reached" in the(findings, "tenant", "Contoso").sentence


async def test_a_name_that_does_not_exist(ward: Ward):
    """The DNS is named."""
    ward.environ["SIEM_URL"] = "https://no-such-host.invalid"
    assert "cannot be looked up (DNS" in the(await ward.bad(customers=False), "host").sentence


async def test_a_host_that_hangs_does_not_hang_the_doctor(ward: Ward):
    """Whoever accepts and says nothing is given up at the deadline."""
    met: list[asyncio.StreamWriter] = []
    silent = await asyncio.start_server(lambda _reader, writer: met.append(writer), "127.0.0.1", 0)
    port = silent.sockets[0].getsockname()[1]
    ward.environ["SIEM_URL"] = f"https://127.0.0.1:{port}"
    bad = await ward.bad(deadline=1.0, customers=False)
    silent.close()
    for writer in met:
        writer.close()
    assert the(bad, "host").sentence == "no answer within 1 s"


async def test_a_ca_that_is_not_the_hosts(ward: Ward, tmp_path: Path):
    """Who issued the certificate is said."""
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    ward.environ["CA_FILE"] = str(other)
    found = the(await ward.bad(customers=False), "host")
    assert re.search(
        r"the certificate of localhost is not trusted: issued by .+, .*certificate", found.sentence
    )


async def test_a_clock_that_is_off(ward: Ward):
    """Against Entra's Date header."""
    ward.simulator.skew = -600.0
    found = the(await ward.bad(customers=False), "clock")
    assert found.ok == "broken"
    assert re.match(r"our clock is (599|60\d) s ahead of that of localhost", found.sentence)
    ward.simulator.skew = 60.0
    assert the(await ward.bad(customers=False), "clock").ok == "warning"


async def test_a_database_that_is_behind(ward: Ward, pool: asyncpg.Pool):
    """The command to run; hosts are tried all the same."""
    await pool.execute("UPDATE alertwell.schema_version SET revision = 1")
    findings = await ward.examine()
    assert the(findings, "database", "schema").sentence.endswith("Run: alertwell migrate")
    assert the(findings, "host").ok == "ok"


async def test_a_database_that_is_away(ward: Ward):
    """Without one, settings and hosts still have their say."""
    ward.environ["DATABASE_URL"] = "postgresql://u@127.0.0.1:9/d"
    findings = await ward.examine()
    assert the(findings, "database").ok == "broken"
    assert the(findings, "host").ok == "ok"


async def test_through_a_proxy(ward: Ward):
    """Said of each host; a wrong password is the hosts' and the credential's finding, and stays unsaid."""
    async with standins.serve(password=standins.PASSWORD) as running:
        ward.environ["PROXY_URL"] = running.url.replace("://", f"://{standins.USER}@")
        ward.environ["PROXY_PASSWORD"] = standins.PASSWORD
        findings = await ward.examine()
        assert "reached via proxy localhost:" in the(findings, "host").sentence
        assert {found.subject for found in findings if found.ok != "ok"} == {"leases"}
        ward.environ["PROXY_PASSWORD"] = "another-password"
        bad = await ward.bad()
    assert "does not accept our sign-in (407)" in the(bad, "host").sentence
    assert the(bad, "credential").ok == "warning"
    assert "another-password" not in repr(bad)


async def test_a_proxy_that_looks_into_tls(ward: Ward, tmp_path: Path):
    """Its CA is what is missing, and it is named."""
    mine = tmp_path / "proxy-ca.pem"
    async with standins.serve(inspect=(ward.simulator.ca_file, mine)) as running:
        ward.environ["PROXY_URL"] = running.url
        found = the(await ward.bad(customers=False), "host")
    assert "ALERTWELL_CA_FILE to the CA of your proxy" in found.sentence
    assert "issued by" in found.sentence


async def test_a_throttled_tenant(ward: Ward, pool: asyncpg.Pool):
    """Until when, and what the collector knows of it."""
    await pool.execute(
        "UPDATE alertwell.stream SET state = 'throttled', state_reason = 'we made 12 calls in the last minute' "
        "WHERE tenant_id = $1::text::uuid",
        CONTOSO,
    )
    ward.simulator.plan("siem", CONTOSO, chaos.Fault("status", 429, seconds=900, retry="seconds"))
    found = the(await ward.bad(), "tenant")
    assert found.ok == "warning"
    assert re.match(
        r"throttled by Microsoft until \d\d:\d\d UTC \(429\); the collector: we made 12 calls", found.sentence
    )


def test_old_and_new_servers():
    """PostgreSQL 15 to 18 are supported; a newer one may work."""
    assert premises._version(140012).ok == "broken"
    assert premises._version(150004).ok == premises._version(180001).ok == "ok"
    assert premises._version(190000).ok == "warning"


async def test_an_api_that_swallows_calls(ward: Ward, monkeypatch: pytest.MonkeyPatch):
    """Where it gives no answer to some, the many others are not waited for one by one."""
    monkeypatch.setattr(examination, "_AT_ONCE", 1)
    for tenant in (CONTOSO, FABRIKAM):
        ward.simulator.plan("siem", tenant, "hang")
    bad = await ward.bad(deadline=3.0)
    said = {found.subject: found.sentence for found in bad if found.area == "tenant"}
    assert said == {
        "Contoso (1111…) siem": "no answer within 3 s",
        "siem API": "1 stream not tried: 1 in a row before got no answer",
    }


async def test_a_feed_that_stands_still():
    """Changes that nobody numbers are a warning."""
    seen = checkup.Vitals(180000, None, 7, 90.0, 1, 2, 0)
    assert premises._feed(seen).sentence == "7 changes wait for a number, the oldest for 90 s"


async def test_a_stream_that_is_silent(ward: Ward, pool: asyncpg.Pool):
    """The call works and brings nothing: a warning with what to compare; one that never brought anything is asked about."""
    await pool.execute(
        "UPDATE alertwell.stream SET cause = 'silent', watermark = now() WHERE tenant_id = $1", CONTOSO
    )
    await pool.execute(
        "UPDATE alertwell.stream SET enrolled_at = now() - interval '30 days' WHERE tenant_id = $1", FABRIKAM
    )
    findings = await ward.examine()
    silent = the(findings, "tenant", "Contoso")
    assert silent.ok == "warning"
    assert silent.sentence == "token and call work, but no records come where they used to, beyond chance"
    assert silent.remedy.startswith("Compare with the customer's portal")
    never = the(findings, "tenant", "Fabrikam")
    assert never.ok == "ok"
    assert "none ever in the 30 days since it was enrolled" in never.sentence

"""Every code that Microsoft's pages and the field know of a daemon: through real MSAL to kind, state, cause and sentence."""

from __future__ import annotations

import random
from datetime import timedelta
from uuid import UUID

import pytest

from service import causes, errors, model
from service.auth import aadsts
from service.ingest import pacing
from service.simulator import chaos, server
from tests.auth.conftest import CONTOSO, Make

TABLE: dict[str, tuple[int, ...]] = {
    "secret_wrong": (7000215,),
    "secret_expired": (7000222,),
    "secret_missing": (7000218,),
    "request_refused": (900144, 901002, 70002, 700025, 50049, 50194, 9001023, 100007),
    "app_disabled": (7000112, 70001),
    "app_not_in_tenant": (700016, 700011, 7000229),
    "certificate_refused": (700027, 50012, 700030, 50013, 500133, 50027, 700021, 700023),
    "clock_skew": (700024,),
    "federated_record_missing": (70021, 70025, 700211, 700212, 700213, 7002138, 700229),
    "tenant_not_found": (90002, 900023),
    "wrong_cloud": (90038, 900382, 900432),
    "consent_missing": (65001, 90094, 90095),
    "consent_declined": (65004,),
    "resource_missing": (500011, 50001, 500014),
    "no_licence": (650052,),
    "permission_not_registered": (650054, 650056, 650057, 65005),
    "scope_refused": (70011, 1002012, 700022),
    "policy_blocks": (53000, 53001, 53002, 53003, 530032, 530035),
    "user_refused": (50034, 50055, 50057, 50126),
    "sign_in_again": (50076, 50078, 50079, 50158, 50173, 70000, 70008, 70043, 700082, 70019),
    "sign_in_pending": (70016,),
    "asked_too_often": (50196,),
    "entra_throttles": (90055,),
    "entra_unavailable": (90033, 90006, 90012, 90024, 90090, 50033, 50087),
    "entra_fault": (50000, 90036, 90092),
}
"""Microsoft's "error codes" page and the field, by the word that each has here."""

SENTENCES = {
    700016: "our app is not in this tenant (AADSTS700016): not consented, removed, or wrong tenant id. "
    "Send: alertwell tenants invite Contoso",
    7000222: "the client secret has expired (AADSTS7000222). Make a new one in the app registration and put it into "
    "CLIENT_SECRET_FILE",
    650052: "the tenant has no subscription for this API, or it is not enabled there (AADSTS650052). The customer has to buy "
    "or set up Defender; else take the source away: alertwell tenants pause Contoso",
}


def test_the_table_is_whole():
    """Each code is known by its number, in both directions."""
    assert {code: word for word, codes in TABLE.items() for code in codes} == {
        code: verdict.code for code, verdict in aadsts.BY_NUMBER.items()
    }


async def test_every_code_reaches_its_state(make: Make, sim: server.Simulator, contoso: model.Access):
    """Who can help decides the state; what a person mends has a cause, a sentence with the number, and what to do. It heals."""
    for word, codes in TABLE.items():
        for code in codes:
            made = make(siem_form="v2")
            verdict = aadsts.BY_NUMBER[code]
            sim.plan("token", CONTOSO, chaos.Fault("aadsts", code=code))
            with pytest.raises(errors.PollFailure) as failed:
                await made.token(contoso, "siem")
            failure = failed.value
            shown = pacing.failed(
                failure, failures=0, interval=timedelta(60), gone_for=timedelta(), dice=random.Random(1)
            )
            cause = causes.of(failure, shown.state)
            if isinstance(failure, errors.Attention):
                assert (shown.state, cause, verdict.who != "R") == ("needs_attention", word, True), code
                said = causes.said(str(failure), cause, contoso)
                assert f"(AADSTS{code})" in said
                assert said.endswith(causes.remedy(causes.CAUSES[word], contoso))
            else:
                passing = verdict.who == "R" or word == "entra_fault"
                assert (shown.state in ("degraded", "throttled"), cause, passing) == (True, None, True), code
            if not isinstance(failure, errors.CredentialRefused):  # that one waits for its breaker's probe
                assert await made.token(contoso, "siem")


@pytest.mark.parametrize("code", SENTENCES)
async def test_sentences(make: Make, sim: server.Simulator, code: int):
    """What happened, the number to look up, and the command to type."""
    sim.plan("token", CONTOSO, chaos.Fault("aadsts", code=code))
    contoso = model.Access(model.Tenant(UUID(CONTOSO), "Contoso", region="eu"))
    with pytest.raises(errors.Attention) as failed:
        await make().token(contoso, "siem")
    assert causes.said(str(failed.value), failed.value.code, contoso) == SENTENCES[code]


@pytest.mark.parametrize(
    ("name", "typed"),
    [
        ("Contoso", "Contoso"),
        ("Fabrikam, Inc.", "'Fabrikam, Inc.'"),
        ("O'Neill; rm", "'O'\"'\"'Neill; rm'"),
        ("--purge", CONTOSO),
    ],
)
def test_names_are_quoted_for_a_shell(name: str, typed: str):
    """A command can be pasted, whatever the customer is called."""
    access = model.Access(model.Tenant(UUID(CONTOSO), name))
    assert causes.said("x", "consent_missing", access) == f"x. Send: alertwell tenants invite {typed}"


def test_an_unknown_cause_adds_nothing():
    """And neither does none."""
    access = model.Access(model.Tenant(UUID(CONTOSO), "Contoso"))
    assert causes.said("x", None, access) == causes.said("x", "never_heard", access) == "x"

"""`alertwell tenants invite|invitations|withdraw|check`, and what commands leave in the audit."""

from __future__ import annotations

import csv
import getpass
import io
import json
import socket
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from service.cli import letters
from service.sources import registry

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
APP = "55555555-5555-5555-5555-555555555555"


@pytest.fixture
def provider(keys, monkeypatch):
    """The settings of somebody who can be reached, and has sealing keys."""
    assert keys
    monkeypatch.setenv("ALERTWELL_CLIENT_ID", APP)
    monkeypatch.setenv("ALERTWELL_CLIENT_SECRET", "sup3r~s3cret.value")
    monkeypatch.setenv("ALERTWELL_PUBLIC_URL", "https://alerts.example.com")


def link_of(text: str) -> str:
    return next(word for word in text.split() if "https://login" in word)


@pytest.mark.usefixtures("provider")
def test_the_letter_says_what_is_asked(alertwell, listed, fetch):
    """The text names the customer, the permission in words, the end of the link and the way back; the tenant is pending."""
    said = alertwell("tenants", "invite", "Contoso", "--tenant", A, "--valid", "30d").stdout
    for part in (
        "Contoso",
        A,
        "SecurityAlert.Read.All",
        "read the security alerts",
        APP,
        "Enterprise applications",
    ):
        assert part in said
    query = parse_qs(urlsplit(link_of(said)).query)
    assert query["redirect_uri"] == ["https://alerts.example.com/consent"]
    assert query["scope"] == ["https://graph.microsoft.com/.default"]
    assert (listed()["Contoso"]["state"], listed()["Contoso"]["sources"]) == ("pending", [])
    [row] = fetch("SELECT expires_at - created_at AS valid, created_by FROM alertwell.invitation")
    assert (row["valid"].days, row["created_by"]) == (30, f"{getpass.getuser()}@{socket.gethostname()}")


def test_every_source_has_its_permission_in_words():
    """What a letter asks for is the least role of each source, and said in words."""
    asked = {name: letters.permissions([name]) for name in registry.SOURCES}
    assert asked.pop("siem") == []
    assert all(role in letters.WORDS and "Write" not in role for [role] in asked.values())


@pytest.mark.usefixtures("provider")
def test_inviting_again_stops_the_link_before(alertwell, fetch):
    """One customer has one link that works, by name or by id; the command says that the others stopped."""
    alertwell("tenants", "invite", "Contoso")
    again = alertwell("tenants", "invite", "contoso", "--tenant", A)
    assert "1 older invitation of this customer stopped" in again.stderr
    alertwell("tenants", "invite", "Fabrikam")
    states = fetch("SELECT name, state FROM alertwell.invitation ORDER BY created_at")
    assert [tuple(row.values()) for row in states] == [
        ("Contoso", "withdrawn"),
        ("contoso", "open"),
        ("Fabrikam", "open"),
    ]
    table = alertwell("tenants", "invitations").stdout
    assert "invited anew" in table
    assert len(json.loads(alertwell("tenants", "invitations", "--json").stdout)) == 3
    assert alertwell("tenants", "withdraw", "FABRIKAM").stdout == "withdrawn: 1 invitation for FABRIKAM\n"
    assert "no open invitation" in alertwell("tenants", "withdraw", "Fabrikam", exit_code=2).stderr


@pytest.mark.usefixtures("provider")
def test_an_enrolled_tenant_is_invited_as_it_is(alertwell, listed, fetch):
    """Its id, cloud, region, sources and labels are those of its row, and nothing of it changes."""
    alertwell(
        "tenants",
        "add",
        A,
        "Contoso",
        "--source",
        "graph_alerts",
        "--source",
        "mde_alerts",
        "--region",
        "uk",
        "--label",
        "tier=gold",
    )
    before = listed()
    said = alertwell("tenants", "invite", "CONTOSO").stdout
    assert f"/{A}/adminconsent?" in link_of(said)
    [row] = fetch("SELECT tenant_id::text, region, sources, labels FROM alertwell.invitation")
    assert (row["tenant_id"], row["region"], row["sources"]) == (A, "uk", ["graph_alerts", "mde_alerts"])
    assert listed() == before


@pytest.mark.usefixtures("provider")
def test_many_are_invited_from_a_file(alertwell, tmp_path, fetch):
    """A CSV in, a CSV with a link each out; a file with anything wrong invites nobody, and every line is named."""
    (tmp_path / "in.csv").write_text(
        f'name,tenant_id,sources,labels\nContoso,{A},,tier=gold\n"Fabrikam, Inc.",,graph_incidents,\n'
    )
    out = list(csv.DictReader(io.StringIO(alertwell("tenants", "invite", "--csv", "in.csv").stdout)))
    assert [(row["name"], row["tenant_id"], row["sources"]) for row in out] == [
        ("Contoso", A, "graph_alerts"),
        ("Fabrikam, Inc.", "", "graph_incidents"),
    ]
    assert len({parse_qs(urlsplit(row["link"]).query)["state"][0] for row in out}) == 2
    (tmp_path / "bad.csv").write_text("name,tenant_id,sources\n,x,\nAdatum,,mail\nLitware,,\nlitware,,\n")
    refused = alertwell("tenants", "invite", "--csv", "bad.csv", exit_code=2).stderr
    for part in (
        "line 2, name",
        "line 2, tenant_id",
        "line 3, sources",
        "line 5: litware is on line 4",
        "nobody was invited; 4",
    ):
        assert part in refused
    assert len(fetch("SELECT FROM alertwell.invitation")) == 2


@pytest.mark.usefixtures("provider")
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give the NAME of one customer, or --csv FILE"),
        (["Contoso", "--csv", "x.csv"], "give the NAME of one customer, or --csv FILE"),
        (["Contoso", "--source", "siem"], "the siem source know no consent link"),
        (["Contoso", "--source", "mail"], "--source 'mail': must be siem"),
        (["Contoso", "--tenant", "contoso.com"], "--tenant 'contoso.com' must be the directory"),
        (["Contoso", "--legacy"], "--legacy links lead back to nobody"),
        (["Contoso", "--valid", "soon"], "--valid 'soon': must be a duration"),
        (["Contoso", "--valid", "1s"], "--valid '1s': must be from 1m to 366d"),
        (["Contoso", "--cloud", "china", "--source", "mde_alerts"], "the china cloud has no mde API"),
        (["Contoso", "--tenant", A, "--legacy", "--wait"], "--wait needs a callback"),
        (["Contoso", "--tenant", B], f"tenant {B} is enrolled as Fabrikam, not as Contoso"),
        (["Litware"], "is read by an app of its own"),
    ],
)  # fmt: skip
def test_bad_invitations_are_refused_in_one_line(alertwell, fetch, tmp_path, arguments, says):
    """What cannot be asked for ends with exit code 2 and one line, and nobody is invited."""
    alertwell("tenants", "add", B, "Fabrikam", "--source", "graph_alerts")
    (tmp_path / "secret").write_text("sup3r~s3cret.value")
    alertwell(
        "tenants",
        "add",
        A[:-1] + "3",
        "Litware",
        "--source",
        "graph_alerts",
        "--client-id",
        APP,
        "--secret-file",
        "secret",
    )
    result = alertwell("tenants", "invite", *arguments, exit_code=2)
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert fetch("SELECT FROM alertwell.invitation") == []


def test_without_a_callback_the_link_is_plain(alertwell, monkeypatch):
    """No PUBLIC_URL: no state, no keys needed, the tenant has to be named, and the way on is told."""
    monkeypatch.setenv("ALERTWELL_CLIENT_ID", APP)
    assert "give --tenant GUID" in alertwell("tenants", "invite", "Contoso", exit_code=2).stderr
    result = alertwell("tenants", "invite", "Contoso", "--tenant", A)
    assert link_of(result.stdout) == f"https://login.microsoftonline.com/{A}/adminconsent?client_id={APP}"
    assert f"alertwell tenants check {A}" in result.stderr
    legacy = alertwell(
        "tenants", "invite", "Contoso", "--tenant", A, "--legacy", "--source", "siem", "--region", "eu"
    )
    assert f"/{A}/oauth2/authorize?prompt=consent&client_id={APP}&" in link_of(legacy.stdout)
    assert "carries no state" in legacy.stderr


def test_what_is_missing_in_the_settings_is_named(alertwell, monkeypatch):
    """Without a client id nobody can consent, without keys nothing is signed."""
    assert "ALERTWELL_CLIENT_ID is not set" in alertwell("tenants", "invite", "Contoso", exit_code=2).stderr
    monkeypatch.setenv("ALERTWELL_CLIENT_ID", APP)
    monkeypatch.setenv("ALERTWELL_PUBLIC_URL", "https://alerts.example.com")
    refused = alertwell("tenants", "invite", "Contoso", exit_code=2).stderr
    assert "ALERTWELL_SEALING_KEYS_FILE is not set" in refused
    assert "alertwell seal-key --into FILE" in refused


@pytest.mark.usefixtures("provider")
def test_a_check_needs_somebody_to_check(alertwell):
    """Nobody, somebody unknown, an invitation that nobody has answered: one line each."""
    assert "give one TENANT, or --all" in alertwell("tenants", "check", exit_code=2).stderr
    assert "no tenant and no open invitation" in alertwell("tenants", "check", "Contoso", exit_code=2).stderr
    alertwell("tenants", "invite", "Contoso")
    assert (
        "nobody has said yet for which tenant" in alertwell("tenants", "check", "Contoso", exit_code=2).stderr
    )
    assert alertwell("tenants", "check", "--all").stdout == "0 tenants checked, 0 of them cannot be read\n"


@pytest.mark.usefixtures("provider")
def test_the_audit_has_who_did_what(alertwell, fetch, tmp_path):
    """Every act on a tenant stands there once, by whom, with old and new values; a secret nowhere, and nothing of a rehearsal."""
    (tmp_path / "secret").write_text("sup3r~s3cret.value")
    add = ("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell(*add)
    alertwell(*add)  # nothing changes, nothing is said
    alertwell(*add, "--label", "tier=gold", "--client-id", APP, "--secret-file", "secret")
    (tmp_path / "in.csv").write_text(f"tenant_id,name,region\n{B},Fabrikam,us\n")
    alertwell("tenants", "import", "in.csv", "--dry-run")
    alertwell("tenants", "import", "in.csv")
    alertwell("tenants", "pause", A)
    alertwell("tenants", "resume", A)
    alertwell("tenants", "invite", "Adatum")
    alertwell("tenants", "withdraw", "Adatum")
    alertwell("tenants", "remove", A, "--purge", "--yes")
    rows = fetch("SELECT * FROM soc.audit ORDER BY audit_id")
    assert [(row["action"], row["tenant_name"]) for row in rows] == [
        ("tenant.added", "Contoso"),
        ("tenant.changed", "Contoso"),
        ("credential.set", "Contoso"),
        ("tenant.added", "Fabrikam"),
        ("tenant.paused", "Contoso"),
        ("tenant.resumed", "Contoso"),
        ("tenant.invited", "Adatum"),
        ("tenant.withdrawn", "Adatum"),
        ("tenant.removed", "Contoso"),
        ("tenant.purged", "Contoso"),
    ]
    assert {row["actor"] for row in rows} == {f"{getpass.getuser()}@{socket.gethostname()}"}
    assert json.loads(rows[1]["detail"]) == {"labels": [{}, {"tier": "gold"}]}
    assert json.loads(rows[2]["detail"]) == {"source": None, "app_id": APP, "kind": "client_secret"}
    assert "sup3r" not in str(rows)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE alertwell.audit SET actor = 'nobody'",
        "DELETE FROM alertwell.audit",
        "TRUNCATE alertwell.audit",
    ],
)
def test_the_audit_is_append_only(alertwell, fetch, statement):
    """Not even its owner changes, deletes or empties it."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        fetch(statement)
    assert len(fetch("SELECT FROM soc.audit")) == 1

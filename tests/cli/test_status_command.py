"""`alertwell status`, for people, programs and Nagios."""

from __future__ import annotations

import json
import re

import pytest

from service.store import schema

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
NOWHERE = "postgresql://alertwell:hunter2@127.0.0.1:1/alertwell"


@pytest.fixture
def collected(alertwell, fetch):
    """Two tenants, all read until now, and a live replica that owns one of them."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell("tenants", "add", B, "Fabrikam | Sons", "--region", "us")
    fetch(
        "UPDATE alertwell.stream SET state = 'ok', coverage = tstzmultirange(tstzrange(lower(wanted), now()))"
    )
    fetch("UPDATE alertwell.stream_progress SET read_to = now(), last_success_at = now()")
    fetch(
        "INSERT INTO alertwell.replica (replica_id, host, version) VALUES ($1::text::uuid, 'box-1', '0.1.0')",
        B,
    )
    fetch("UPDATE alertwell.lease SET owner = $1::text::uuid WHERE tenant_id = $1::text::uuid", B)


@pytest.mark.usefixtures("collected")
def test_for_people(alertwell):
    """Tenants and streams by state, the oldest data, gaps, the feed, and who polls what."""
    shown = alertwell("status").stdout
    assert "tenants   2 active" in shown
    assert "streams   2 ok" in shown
    assert "gaps      none" in shown
    assert "feed      head 0" in shown
    assert "replicas  1 alive, 1 active tenant polled by nobody" in shown
    (replica,) = [line for line in shown.splitlines() if "box-1" in line]
    assert replica.split()[1:3] == [B[:8], "0.1.0"]
    assert replica.endswith("1: Fabrikam / Sons")


@pytest.mark.usefixtures("collected")
def test_who_polls_what(alertwell):
    """--json names each replica with its version, its heartbeat and all tenants that it polls."""
    (replica,) = json.loads(alertwell("status", "--json").stdout)["replicas"]
    assert (replica["replica_id"], replica["version"], replica["alive"]) == (B, "0.1.0", True)
    assert replica["heartbeat_at"] is not None
    assert (replica["tenants"], replica["polls"]) == (1, [{"name": "Fabrikam | Sons", "tenant_id": B}])


@pytest.mark.usefixtures("collected")
def test_ok(alertwell):
    """Fresh data, no gap, no attention, a replica: 0, and the first line in Nagios' form."""
    first = alertwell("status", "--max-age", "5m").stdout.splitlines()[0]
    assert first.startswith("ALERTWELL OK - 2 streams, oldest data ")
    assert first.count("|") == 1
    assert first.endswith("s;300;300;0 gaps=0s;0;;0 attention=0;0;;0 replicas=1;;1:;0")


@pytest.mark.usefixtures("collected")
def test_gaps_and_attention_warn(alertwell, fetch):
    """A gap, or a stream that needs a person, is 1, with the reason for people."""
    fetch(
        """
        UPDATE alertwell.stream
        SET coverage = coverage - tstzmultirange(tstzrange(now() - '2 h'::interval, now() - '1 h'::interval))
        WHERE tenant_id = $1::text::uuid
        """,
        A,
    )
    assert alertwell("status", "--max-age", "5m", exit_code=1).stdout.startswith(
        "ALERTWELL WARNING - 1 gap in 1 stream |"
    )
    fetch(
        """
        UPDATE alertwell.stream SET state = 'needs_attention', state_reason = 'the secret | expired'
        WHERE tenant_id = $1::text::uuid
        """,
        B,
    )
    shown = alertwell("status", "--max-age", "PT5M", exit_code=1).stdout
    assert shown.startswith("ALERTWELL WARNING - 1 stream in need of attention; 1 gap in 1 stream |")
    assert "the secret / expired" in shown
    assert shown.count("|") == 1
    assert alertwell("status").exit_code == 0


@pytest.mark.usefixtures("collected")
def test_trouble_that_passes_has_its_reason(alertwell, fetch):
    """What hits many streams alike is one line with their number: it is rarely the tenants."""
    fetch("UPDATE alertwell.stream SET state = 'degraded', state_reason = 'the proxy cannot be reached'")
    shown = alertwell("status").stdout
    assert "streams   2 degraded" in shown
    assert re.search(r"^  2 +degraded +the proxy cannot be reached$", shown, re.MULTILINE)


@pytest.mark.usefixtures("collected")
def test_old_data_are_critical(alertwell, fetch):
    """Data older than --max-age are 2, whose they are is said; those of a paused tenant do not count."""
    fetch(
        "UPDATE alertwell.stream_progress SET read_to = now() - '10 min'::interval WHERE tenant_id = $1::text::uuid",
        B,
    )
    shown = alertwell("status", "--max-age", "5m", exit_code=2).stdout
    assert shown.startswith("ALERTWELL CRITICAL - data of Fabrikam / Sons (siem) are 10 min")
    assert alertwell("status", "--max-age", "15m").exit_code == 0
    alertwell("tenants", "pause", B)
    assert alertwell("status", "--max-age", "5m").exit_code == 0


@pytest.mark.usefixtures("collected")
def test_a_stream_that_was_never_read_does_not_look_fresh(alertwell, fetch):
    """Its age is the time since it was enrolled."""
    fetch("UPDATE alertwell.stream_progress SET read_to = NULL WHERE tenant_id = $1::text::uuid", A)
    fetch(
        "UPDATE alertwell.stream SET enrolled_at = now() - '1 h'::interval WHERE tenant_id = $1::text::uuid",
        A,
    )
    assert "data of Contoso (siem) are 1 h" in alertwell("status", "--max-age", "5m", exit_code=2).stdout


@pytest.mark.usefixtures("collected")
def test_no_live_replica_is_critical(alertwell, fetch):
    """A heartbeat older than LEASE_TTL is a dead replica."""
    fetch("UPDATE alertwell.replica SET heartbeat_at = now() - '2 min'::interval")
    shown = alertwell("status", "--max-age", "5m", exit_code=2).stdout
    assert shown.startswith("ALERTWELL CRITICAL - no live replica |")
    assert "dead" in shown


@pytest.mark.usefixtures("collected")
def test_json(alertwell):
    """One document with stable keys; with --max-age it has grade and reasons, and the exit code holds as well."""
    found = json.loads(alertwell("status", "--json").stdout)
    assert set(found) == {
        "tenants", "streams", "oldest", "gaps", "attention", "troubled", "silent", "items", "feed", "replicas", "unowned",
        "ending", "backfills",
    }  # fmt: skip
    assert found["tenants"] == {"active": 2}
    assert found["oldest"]["data_age_seconds"] < 300
    assert found["replicas"][0]["tenants"] == 1
    judged = json.loads(alertwell("status", "--json", "--max-age", "0.001", exit_code=2).stdout)
    assert judged["grade"] == "CRITICAL"
    assert judged["reasons"]


def test_empty_database(alertwell, fetch):
    """Nothing enrolled: no age, and only the missing replica is critical."""
    assert "tenants   none" in alertwell("status").stdout
    assert "no live replica |" in alertwell("status", "--max-age", "5m", exit_code=2).stdout
    fetch(
        "INSERT INTO alertwell.replica (replica_id, host, version) VALUES (gen_random_uuid(), 'box-1', '0.1.0')"
    )
    assert alertwell("status", "--max-age", "5m").stdout.startswith("ALERTWELL OK - 0 streams | age=0s;")


def test_unreachable_database(alertwell):
    """Nagios gets CRITICAL on stdout, people one line on stderr; neither shows the password."""
    away = {"ALERTWELL_DATABASE_URL": NOWHERE}
    judged = alertwell("status", "--max-age", "5m", exit_code=2, env=away)
    assert judged.stdout.startswith("ALERTWELL CRITICAL - cannot reach PostgreSQL")
    plain = alertwell("status", exit_code=1, env=away)
    assert plain.stderr.startswith("alertwell: database: cannot reach PostgreSQL")
    assert plain.stderr.count("\n") == 1
    assert "hunter2" not in judged.output + plain.output


@pytest.mark.parametrize("text", ["5x", "-5m", "", "0", "5 months", "1e3"])
def test_bad_max_age(alertwell, text):
    """A duration that is none is refused before anything else, with examples of right ones."""
    said = alertwell("status", f"--max-age={text}", exit_code=2).stderr
    assert said.startswith("alertwell: --max-age")
    assert said.count("\n") == 1


def test_database_without_schema(alertwell, empty_url):
    """A database that was never migrated is said so, with the command to run."""
    bare = {"ALERTWELL_DATABASE_URL": empty_url}
    assert "Run: alertwell migrate" in alertwell("status", exit_code=2, env=bare).stderr
    assert alertwell("status", "--max-age", "5m", exit_code=2, env=bare).stdout.startswith(
        "ALERTWELL CRITICAL - the database has no"
    )
    assert alertwell("migrate", env=bare).stdout == f"the schema is at revision {schema.REVISION}\n"
    assert "tenants   none" in alertwell("status", env=bare).stdout


@pytest.mark.usefixtures("collected")
def test_silent_streams_warn_and_items_are_summed(alertwell, fetch):
    """A stream that brings nothing where it used to is listed with its cause and reason; items add up over the streams."""
    assert "items     0" in alertwell("status").stdout
    fetch(
        "UPDATE alertwell.stream_progress SET items = 7, inserted = 5, rejected = 2, idle_items = 3, idle_unchanged = 3"
    )
    fetch(
        """
        UPDATE alertwell.stream SET state_reason = 'no records since yesterday | really', cause = 'silent'
        WHERE tenant_id = $1::text::uuid
        """,
        A,
    )
    fetch(
        """
        INSERT INTO alertwell.stream_volume (tenant_id, source, began_at, weekly, silent_since)
        VALUES ($1::text::uuid, 'siem', now(), 41, '2026-01-30T08:00:00Z')
        """,
        A,
    )
    shown = alertwell("status", "--max-age", "5m", exit_code=1).stdout
    assert shown.startswith("ALERTWELL WARNING - 1 silent stream |")
    assert "items     20: 10 inserted, 6 unchanged, 4 rejected" in shown
    assert re.search(
        r"^  Contoso +siem +silent +2026-01-30T08:00:00Z +no records since yesterday / really$",
        shown,
        re.MULTILINE,
    )
    told = json.loads(alertwell("status", "--json").stdout)
    assert [(one["cause"], one["expected"]) for one in told["silent"]] == [("silent", 41)]
    assert told["items"]["items"] == 20
    one = alertwell("tenants", "show", A).stdout
    assert "records in 41 hours of a week" in one
    assert "10: 5 inserted, 3 unchanged, 2 rejected" in one

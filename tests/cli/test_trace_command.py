"""`alertwell trace`: what became of one alert, and what is proven where there is none."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
HELD = "da637291085411733957_1"


def iso(ago: timedelta) -> str:
    return (datetime.now(UTC) - ago).isoformat()


@pytest.fixture
def collected(alertwell, fetch):
    """Contoso, read but for an hour, with one alert in the feed; Fabrikam, where nothing was read yet."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell("tenants", "add", B, "Fabrikam", "--region", "us")
    fetch(
        """
        UPDATE alertwell.stream SET state = 'ok', coverage = tstzmultirange(
            tstzrange(lower(wanted), now() - '5 h'::interval), tstzrange(now() - '4 h'::interval, now() - '10 min'::interval))
        WHERE tenant_id = $1::text::uuid
        """,
        A,
    )
    fetch(
        """
        INSERT INTO alertwell.gap_reason (tenant_id, source, span, reason)
        VALUES ($1::text::uuid, 'siem', tstzrange(now() - '5 h'::interval, now() - '4 h'::interval), 'the answer is broken')
        """,
        A,
    )
    fetch(
        """
        INSERT INTO alertwell.alert (tenant_id, source, full_id, alert_id, title, last_processed_at, source_updated_text,
                                     content_hash, arrival, raw)
        VALUES ($1::text::uuid, 'siem', $2 || ':part', $2, 'Odd ' || chr(27) || 'thing', now() - '3 h'::interval, 'as written',
                1, 'catch_up', '{}')
        """,
        A,
        HELD,
    )
    fetch(
        """
        INSERT INTO alertwell.poll (tenant_id, poll_id, source, replica_id, started_at, ended_at, outcome, windows, items,
                                    inserted, updated, unchanged, stale, duplicate, rejected)
        SELECT $1::text::uuid, $2::text::uuid, 'siem', $2::text::uuid, first_seen_at - '1 s'::interval,
               first_seen_at + '1 s'::interval, 'complete', 1, 1, 1, 0, 0, 0, 0, 0 FROM alertwell.alert
        """,
        A,
        B,
    )
    fetch(
        """
        WITH change AS (
            INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, at)
            SELECT tenant_id, 7, n, n, CASE n WHEN 1 THEN 'created' ELSE 'updated' END, arrival, source, full_id,
                   first_seen_at + n * '1 s'::interval
            FROM alertwell.alert, generate_series(1, 2) n RETURNING *
        )
        INSERT INTO alertwell.feed (seq, tenant_id, batch, n) SELECT 41, tenant_id, batch, n FROM change WHERE n = 1
        """
    )
    fetch(
        """
        INSERT INTO alertwell.reject (tenant_id, source, digest, reason, raw)
        VALUES ($1::text::uuid, 'siem', '\\x01', 'FullId too long', convert_to('{"AlertId":"da9_9"}', 'UTF8'))
        """,
        A,
    )


def traced(alertwell, *arguments):
    return json.loads(alertwell("trace", *arguments, "--json").stdout)


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize("asked", [HELD, f"{HELD}:part"])
def test_an_alert_that_is_held(alertwell, asked):
    """By either id: tenant, source, arrival, poll, window and places in the feed."""
    found = traced(alertwell, asked)
    [alert] = found["alerts"]
    assert (alert["tenant_name"], alert["source"], alert["arrival"]) == ("Contoso", "siem", "catch_up")
    assert alert["poll"]["poll_id"] == B
    assert [(change["seq"], change["kind"]) for change in alert["changes"]] == [
        (41, "created"),
        (None, "updated"),
    ]
    assert alert["window"]["verdict"] == "proven"
    assert {stream["tenant_name"] for stream in found["streams"]} == {"Contoso"}
    shown = alertwell("trace", asked).stdout
    assert f"{asked} is held 1 time" in shown
    assert "41 (created), not numbered yet (updated)" in shown
    assert f"{B} of " in shown
    assert "as catch_up" in shown
    assert "\x1b" not in shown


@pytest.mark.usefixtures("collected")
def test_an_alert_that_is_held_before_it_is_proven(alertwell, fetch):
    """It lies in the live tail, and is not told of as one that may still come."""
    fetch("UPDATE alertwell.stream SET coverage = '{}'")
    window = next(
        line for line in alertwell("trace", HELD).stdout.splitlines() if line.startswith("  window")
    )
    assert window.endswith("live tail: newer than what is proven (nothing yet)")


@pytest.mark.usefixtures("collected")
def test_an_alert_that_is_a_reject(alertwell):
    """Not held, but its record is kept, with the reason."""
    found = traced(alertwell, "da9_9")
    assert (found["alerts"], [reject["reason"] for reject in found["rejects"]]) == ([], ["FullId too long"])
    shown = alertwell("trace", "da9_9").stdout
    assert "da9_9 is not held as an alert, but as a reject" in shown
    assert "FullId too long" in shown


@pytest.mark.usefixtures("collected")
@pytest.mark.parametrize(
    ("ago", "verdict", "said"),
    [
        (timedelta(hours=8), "proven", "proven: all that the source showed of that time is held"),
        (timedelta(hours=4, minutes=30), "gap", "is not proven (the answer is broken); it will be read"),
        (timedelta(minutes=1), "live tail", "it may still come"),
        (timedelta(days=90), "not wanted", "not wanted: collected from"),
    ],
)
def test_an_alert_that_is_nowhere(alertwell, ago, verdict, said):
    """With the time that it should have, each stream says what is proven of it."""
    found = traced(alertwell, "da0_0", "--tenant", "contoso", "--at", iso(ago))
    assert (found["alerts"], found["rejects"]) == ([], [])
    assert [(stream["source"], stream["verdict"]) for stream in found["streams"]] == [("siem", verdict)]
    shown = alertwell("trace", "da0_0", "--tenant", "contoso", "--at", iso(ago)).stdout
    assert "da0_0 is not held\n" in shown
    assert said in shown


@pytest.mark.usefixtures("collected")
def test_an_alert_inside_of_an_incident(alertwell, fetch):
    """Which window held it goes by the incident's update time, and what is proven is of incidents."""
    fetch(
        """
        WITH stream AS (
            INSERT INTO alertwell.stream (tenant_id, source, wanted, coverage)
            SELECT tenant_id, 'xdr_incidents', wanted, coverage FROM alertwell.stream WHERE tenant_id = $1::text::uuid
            RETURNING tenant_id, source
        )
        INSERT INTO alertwell.stream_progress (tenant_id, source) SELECT tenant_id, source FROM stream
        """,
        A,
    )
    fetch(
        "UPDATE alertwell.alert SET source = 'xdr_incidents', incident_id = '7', last_processed_at = now() - '90 d'::interval"
    )
    fetch(
        """
        INSERT INTO alertwell.incident (tenant_id, source, incident_id, last_update, content_hash, status,
                                        source_updated_text, raw)
        VALUES ($1::text::uuid, 'xdr_incidents', '7', now() - '3 h'::interval, 1, 'active', '', '{}')
        """,
        A,
    )
    [alert] = traced(alertwell, HELD)["alerts"]
    assert (alert["window"]["verdict"], alert["window"]["of_incidents"]) == ("proven", True)
    shown = alertwell("trace", HELD).stdout
    assert "proven: all incidents updated then are held" in shown
    assert "not wanted: incidents updated from" in shown


@pytest.mark.usefixtures("collected")
def test_a_gap_beyond_the_reach_of_its_source(alertwell, monkeypatch):
    """What the API cannot be asked for any more will not come."""
    from service.sources import siem

    monkeypatch.setattr(siem.Siem, "reach", timedelta(hours=2))
    found = traced(alertwell, "da0_0", "--tenant", A, "--at", iso(timedelta(hours=4, minutes=30)))
    assert [stream["verdict"] for stream in found["streams"]] == ["beyond reach"]


@pytest.mark.usefixtures("collected")
def test_without_a_time_every_tenant_says_what_it_has(alertwell):
    """All streams, how far they are proven; one that has read nothing says so."""
    found = traced(alertwell, "da0_0")
    assert [(stream["tenant_name"], stream["verdict"]) for stream in found["streams"]] == [
        ("Contoso", None),
        ("Fabrikam", None),
    ]
    assert "proven to nothing yet" in alertwell("trace", "da0_0").stdout


@pytest.mark.usefixtures("collected")
def test_another_tenants_alert_is_not_this_ones(alertwell):
    """--tenant looks nowhere else."""
    assert traced(alertwell, HELD, "--tenant", "Fabrikam")["alerts"] == []


@pytest.mark.parametrize(
    "arguments", [("x", "--at", "yesterday"), ("x", "--tenant", "nobody"), (" ",), ("x" * 3001,)]
)
def test_mistakes_are_one_line(alertwell, arguments):
    """A time that is none, an unknown tenant, no id or an endless one: exit code 2."""
    result = alertwell("trace", *arguments, exit_code=2)
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("collected")
def test_hostile_ids_find_nothing(alertwell):
    """NUL-free nonsense, quotes and patterns are looked for as they are."""
    for asked in ("' OR 1=1 --", "%", "_", "\u202e", "𝔄" * 100):
        assert traced(alertwell, asked)["alerts"] == []


@pytest.mark.usefixtures("collected")
def test_an_incident_is_found_with_its_changes(alertwell, fetch):
    """The id of an incident brings its row, its poll and its changes, and no other record's."""
    fetch(
        """
        INSERT INTO alertwell.incident (tenant_id, source, incident_id, last_update, source_updated_text, content_hash, status,
                                        redirect_incident_id, alert_ids, raw)
        VALUES ($1::text::uuid, 'siem', '7', now() - '3 h'::interval, 'as written', 1, 'redirected', '9', '{a,b}', '{}')
        """,
        A,
    )
    fetch(
        """
        INSERT INTO alertwell.alert_change (tenant_id, batch, n, revision, kind, arrival, source, full_id, record)
        SELECT tenant_id, 8, n, n, 'created', 'live', source, incident_id, r
        FROM alertwell.incident, unnest('{alert,incident}'::text[]) WITH ORDINALITY AS w (r, n)
        """
    )
    found = traced(alertwell, "7")
    [incident] = found["incidents"]
    assert (incident["redirect_incident_id"], incident["alerts"], incident["poll"]["poll_id"]) == (
        "9",
        2,
        B,
    )
    assert [change["revision"] for change in incident["changes"]] == [2]
    assert (incident["window"]["verdict"], found["alerts"]) == ("proven", [])
    said = alertwell("trace", "7").stdout
    assert "7 is an incident that is held 1 time" in said
    assert "merged into   9" in said
    assert "not numbered yet (created)" in said
    assert traced(alertwell, HELD)["incidents"] == []

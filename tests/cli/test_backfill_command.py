"""`alertwell backfill` and `alertwell rewind`: what they say, refuse and leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from service.sources import siem

A = "11111111-1111-1111-1111-111111111111"
ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC).replace(microsecond=0)


def iso(**ago: float) -> str:
    return (NOW - timedelta(**ago)).isoformat().replace("+00:00", "Z")


@pytest.fixture
def contoso(alertwell, fetch):
    """Contoso, which wants the last week and has read it."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    fetch(
        "UPDATE alertwell.stream SET state = 'ok', coverage = tstzmultirange(tstzrange(lower(wanted), now()))"
    )
    return A


@pytest.fixture
def polled(contoso, fetch):
    """A live replica has the tenant."""
    fetch(
        "INSERT INTO alertwell.replica (replica_id, host, version) VALUES ($1::text::uuid, 'box-1', '0')",
        contoso,
    )
    fetch("UPDATE alertwell.lease SET owner = $1::text::uuid", contoso)


def backfill(alertwell, *arguments, **options):
    return alertwell("backfill", "contoso", "--source", "siem", *arguments, **options)


def rewind(alertwell, *arguments, **options):
    return alertwell(
        "rewind", "contoso", "--source", "siem", "--reason", "late alerts", *arguments, **options
    )


@pytest.mark.usefixtures("polled")
def test_a_backfill_is_asked_for_once(alertwell, fetch):
    """Only what was not wanted is added; the second time there is nothing to do; it is seen where one looks."""
    said = backfill(alertwell, "--since", iso(days=10), "--budget", "5%").stdout
    assert said.startswith("asked for: Contoso (siem) " + iso(days=10))
    assert len(said.splitlines()) == 1
    again = backfill(alertwell, "--since", iso(days=10)).stdout
    assert again.startswith("nothing to do: Contoso (siem) wants all of it already, of it is not read yet")
    assert fetch("SELECT gap_share FROM alertwell.stream") == [{"gap_share": 0.05}]
    [gap] = fetch("SELECT reason FROM soc.gaps")
    assert gap["reason"] == "asked for by a backfill"
    [audited] = fetch("SELECT actor FROM soc.audit WHERE action = 'stream.backfilled'")
    assert "@" in audited["actor"]
    for shown in (alertwell("status").stdout, alertwell("tenants", "show", "contoso").stdout):
        assert "backfills under way" in shown
        assert "0 %" in shown
    assert json.loads(alertwell("status", "--json").stdout)["backfills"][0]["tenant_name"] == "Contoso"
    fetch("UPDATE alertwell.stream SET coverage = coverage + backfill")
    assert (
        "wants all of it already, and it is read"
        in backfill(alertwell, "--since", iso(days=10), "--until", iso(days=1)).stdout
    )
    assert "backfills under way" not in alertwell("status").stdout


@pytest.mark.usefixtures("contoso")
def test_trying_a_backfill_changes_nothing(alertwell, fetch):
    """--dry-run says what it would add, also for programs."""
    before = fetch("SELECT * FROM alertwell.stream")
    assert backfill(
        alertwell, "--since", "2026-01-01T00:00:00", "--dry-run", env={"ALERTWELL_RETENTION": "9999d"}
    ).stdout.startswith("would be asked for: Contoso (siem) 2026-01-01T00:00:00Z")
    found = json.loads(backfill(alertwell, "--since", iso(days=10), "--dry-run", "--json").stdout)
    assert found["added"][0][0] == found["since"] == iso(days=10)
    assert (found["dry_run"], found["share"], found["beyond_reach"]) == (True, None, [])
    assert fetch("SELECT * FROM alertwell.stream") == before


@pytest.mark.usefixtures("contoso")
def test_who_reads_it(alertwell, fetch):
    """Where nobody polls the tenant, or it is paused, that is said."""
    assert "no live replica polls this tenant" in backfill(alertwell, "--since", iso(days=10)).stdout
    alertwell("tenants", "pause", "contoso")
    assert "the tenant is paused: nothing is read" in backfill(alertwell, "--since", iso(days=12)).stdout
    assert len(fetch("SELECT FROM soc.audit WHERE action = 'stream.backfilled'")) == 2


@pytest.mark.usefixtures("polled")
def test_beyond_reach(alertwell, fetch, monkeypatch):
    """The part that the source cannot be asked for is said, and stays a gap with that reason; all of it is refused."""
    monkeypatch.setattr(siem.Siem, "reach", timedelta(days=9))
    refused = backfill(alertwell, "--since", iso(days=12), "--until", iso(days=10), exit_code=2)
    assert "siem cannot be asked for anything before" in refused.stderr
    said = backfill(alertwell, "--since", iso(days=12), "--until", iso(days=8)).stdout
    assert "beyond the reach of siem, stays a gap (beyond_reach): " + iso(days=12) in said
    fetch(
        "UPDATE alertwell.stream SET coverage = coverage + tstzmultirange(tstzrange(now() - '9 d'::interval, now()))"
    )
    [gap] = fetch("SELECT reason FROM soc.gaps")
    assert gap["reason"].startswith("beyond_reach")


@pytest.mark.usefixtures("contoso")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "yesterday"), "--since 'yesterday': must be a time such as 2026-01-31"),
        (("--since", "2026-13-01"), "--since '2026-13-01': must be a time"),
        (("--since", iso(days=-1)), "is in the future: it is"),
        (("--since", iso(days=3), "--until", iso(days=-1)), "--until"),
        (("--since", iso(days=3), "--until", iso(days=3)), "must be before --until"),
        (("--since", iso(days=2), "--until", iso(days=3)), "must be before --until"),
        (("--since", iso(days=402)), "before ALERTWELL_RETENTION ends"),
        (("--since", iso(days=9), "--budget", "0%"), "--budget '0%': must be 1% to 100%"),
        (("--since", iso(days=9), "--budget", "101%"), "must be 1% to 100%"),
        (("--since", iso(days=9), "--budget", "0.2"), "must be 1% to 100%"),
        (("--since", iso(days=9), "--source", "mde_alerts"), "Contoso (" + A + ") has siem"),
        (("--since", iso(days=9), "--source", "nonsense\x1b"), "has siem"),
    ],
)
def test_backfills_that_are_refused(alertwell, fetch, arguments, said):
    """One sentence that names the option and what would be right; nothing is written."""
    before = fetch("SELECT * FROM alertwell.stream"), fetch("SELECT count(*) FROM alertwell.audit")
    refused = backfill(alertwell, *arguments, exit_code=2).stderr
    assert said in refused
    assert len(refused.splitlines()) == 1
    assert "\x1b" not in refused
    assert (fetch("SELECT * FROM alertwell.stream"), fetch("SELECT count(*) FROM alertwell.audit")) == before


@pytest.mark.usefixtures("contoso")
def test_tenants_that_are_refused(alertwell, fetch):
    """An unknown one, one that was removed, and a stream that is disabled."""
    assert (
        "no tenant"
        in alertwell("backfill", "nobody", "--source", "siem", "--since", iso(days=9), exit_code=2).stderr
    )
    fetch("UPDATE alertwell.stream SET enabled = false")
    assert "disabled" in backfill(alertwell, "--since", iso(days=9), exit_code=2).stderr
    alertwell("tenants", "remove", "contoso", "--yes")
    assert "it was removed" in backfill(alertwell, "--since", iso(days=9), exit_code=2).stderr


@pytest.mark.usefixtures("polled")
def test_waiting_to_the_end(alertwell, fetch):
    """--wait ends when the time asked for is read, and says how many alerts it holds."""

    def read() -> None:
        while not fetch("SELECT FROM alertwell.stream WHERE NOT isempty(backfill)"):
            pass
        fetch("UPDATE alertwell.stream SET coverage = coverage + backfill")

    reading = threading.Thread(target=read)
    reading.start()
    said = backfill(alertwell, "--since", iso(days=10), "--wait").stdout
    reading.join()
    assert said.splitlines()[-1] == "read: Contoso (siem) holds 0 alerts of that time"
    assert backfill(alertwell, "--since", iso(days=10), "--wait").stdout.endswith("0 alerts of that time\n")


@pytest.mark.usefixtures("polled")
def test_ctrl_c_on_a_terminal(fetch, tmp_path):
    """A terminal shows how far it is; Ctrl-C leaves the work to the daemon, and the command says where to look."""
    ours, theirs = pty.openpty()
    seen = b""
    with subprocess.Popen(
        [sys.executable, "-m", "service", "backfill", "contoso", "--source", "siem", "--since", iso(days=10)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "160"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    ) as child:
        os.close(theirs)
        signalled = False
        with contextlib.suppress(OSError):  # the other end is closed
            while read := os.read(ours, 65536):
                seen += read
                if b"0 alerts" in seen and not signalled:
                    signalled = True
                    child.send_signal(signal.SIGINT)
        child.wait(60)
    os.close(ours)
    shown = seen.decode()
    assert child.returncode == 130
    assert "asked for: Contoso (siem)" in shown
    assert "0%" in shown
    assert "left" in shown
    assert "the daemon goes on reading; see how far it is with: alertwell tenants show" in shown
    assert "Traceback" not in shown
    assert fetch("SELECT NOT isempty(backfill) AS asked FROM alertwell.stream") == [{"asked": True}]


@pytest.mark.usefixtures("polled")
def test_a_rewind_says_what_it_costs(alertwell, fetch):
    """Windows and alerts that are read again; a dry run changes nothing, a second run finds nothing."""
    fetch(
        """
        INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, source_updated_text, content_hash,
                                     arrival, raw)
        SELECT $1::text::uuid, 'siem', n::text, now() - '2 d'::interval, '', 1, 'live', '{}' FROM generate_series(1, 3) n
        """,
        A,
    )
    span = ("--since", iso(days=3), "--until", iso(days=1))
    tried = rewind(alertwell, *span, "--dry-run").stdout
    assert tried.startswith(
        f"would be read again: Contoso (siem) {iso(days=3)} to {iso(days=1)} (2 d), about "
    )
    assert tried.endswith(" windows with 3 alerts\n")
    assert fetch("SELECT * FROM soc.gaps") == []
    found = json.loads(rewind(alertwell, *span, "--json").stdout)
    assert (found["taken_back"], found["alerts"]) == ([[iso(days=3), iso(days=1)]], 3)
    assert 1 < found["windows"] < 5
    [gap] = fetch("SELECT reason FROM soc.gaps")
    assert gap["reason"] == "rewound: late alerts"
    assert rewind(alertwell, *span).stdout.startswith(
        "nothing to do: Contoso (siem) has nothing proven of that time"
    )
    assert len(fetch("SELECT FROM soc.audit WHERE action = 'stream.rewound'")) == 1


@pytest.mark.usefixtures("contoso")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--since", iso(days=20), "--until", iso(days=15)),
            "does not want any of that time (what is wanted begins at",
        ),
        (("--since", iso(days=8)), "siem cannot be asked for anything before"),
        (("--since", iso(days=1), "--reason", " "), "--reason: must be 1 to 500 characters"),
        (("--since", iso(days=1), "--reason", "a\nb"), "--reason: must be 1 to 500 characters"),
        (("--since", iso(days=-1)), "is in the future"),
    ],
)
def test_rewinds_that_are_refused(alertwell, fetch, monkeypatch, arguments, said):
    """What could not be proven again, what is not wanted, and no reason: exit code 2, and nothing is taken back."""
    monkeypatch.setattr(siem.Siem, "reach", timedelta(days=5))
    assert said in rewind(alertwell, *arguments, exit_code=2).stderr
    assert fetch("SELECT FROM soc.gaps") == []

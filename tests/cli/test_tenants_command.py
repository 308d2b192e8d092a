"""`alertwell tenants add|list|show|pause|resume|remove` on a real database."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import urlsplit

import asyncpg
import pytest

A = "11111111-1111-1111-1111-111111111111"
B = "22222222-2222-2222-2222-222222222222"
APP = "55555555-5555-5555-5555-555555555555"
SECRET = "sup3r~s3cret.value"


def test_added_tenant_is_active_and_wants_the_lookback(alertwell, listed, fetch):
    """`add` enrols an active tenant whose stream wants everything from INITIAL_LOOKBACK on."""
    result = alertwell(
        "tenants", "add", A, "Contoso", "--region", "EU", "--label", "tier=gold", "--external-ref", "C-1"
    )
    assert result.stdout == f"added: Contoso ({A}), siem, public/eu\n"
    row = listed()["Contoso"]
    assert (row["state"], row["region"], row["labels"], row["external_ref"]) == (
        "active",
        "eu",
        {"tier": "gold"},
        "C-1",
    )
    assert row["sources"] == ["siem"]
    [wanted] = fetch("SELECT now() - lower(wanted) AS back, upper_inf(wanted) AS open FROM alertwell.stream")
    assert wanted["open"]
    assert abs(wanted["back"].total_seconds() - 7 * 86400) < 600


def test_adding_twice_changes_nothing(alertwell):
    """The same `add` again says unchanged; another name says changed."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    assert alertwell("tenants", "add", A, "Contoso", "--region", "eu").stdout.startswith("unchanged: ")
    assert alertwell("tenants", "add", A, "Contoso Ltd", "--region", "eu").stdout.startswith("changed: ")


def test_pending_tenant_waits_for_consent(alertwell, listed):
    """`--pending` enrols without polling, and `resume` makes it active."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu", "--pending")
    assert listed()["Contoso"]["state"] == "pending"
    assert listed()["Contoso"]["consented_at"] is None
    assert "pending: nothing is polled" in alertwell("tenants", "pause", A, exit_code=2).stderr
    alertwell("tenants", "resume", A)
    assert listed()["Contoso"]["state"] == "active"


def test_parameters_narrow_a_stream_and_stay(alertwell, fetch):
    """Parameters are checked by the source, stay when the tenant is added again, and go with --no-parameters."""
    add = ("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell(
        *add, "--parameter", "machinegroups=Servers", "--parameter", "siem.machinegroups=Clients, all",
        "--parameter", "DeviceCreatedMachineTags=vip",
    )  # fmt: skip
    narrowed = {"machinegroups": ["Clients, all", "Servers"], "DeviceCreatedMachineTags": "vip"}
    assert _parameters(fetch) == narrowed
    assert alertwell(*add).stdout.startswith("unchanged")
    assert _parameters(fetch) == narrowed
    alertwell(*add, "--parameter", "machinegroups=Servers")
    assert _parameters(fetch) == {"machinegroups": ["Servers"]}
    alertwell(*add, "--no-parameters")
    assert _parameters(fetch) == {}


def _parameters(fetch):
    [row] = fetch("SELECT parameters FROM alertwell.stream")
    return json.loads(row["parameters"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["contoso.com", "Contoso", "--region", "eu"], "TENANT_ID 'contoso.com' must be the directory (tenant) id, a GUID"),
        ([A, " ", "--region", "eu"], "NAME must not be empty"),
        ([A, "Con\x1btoso", "--region", "eu"], "NAME 'Con\\x1btoso' must be one line without control characters"),
        ([A, "x" * 300, "--region", "eu"], "is longer than 256 characters"),
        ([A, "Contoso"], "needs the tenant's region: eu us uk"),
        ([A, "Contoso", "--region", "mars"], "--region 'mars': the siem API of the public cloud has eu us uk"),
        ([A, "Contoso", "--cloud", "azure"], "--cloud 'azure': must be public gcc gcc-high dod china"),
        ([A, "Contoso", "--cloud", "china"], "the china cloud has no siem API"),
        ([A, "Contoso", "--source", "mail"], "--source 'mail': must be siem"),
        ([A, "Contoso", "--region", "eu", "--label", "gold"], "--label 'gold' must be key=value"),
        ([A, "Contoso", "--region", "eu", "--label", "a=1", "--label", "a=2"], "names 'a' a second time"),
        ([A, "Contoso", "--region", "eu", "--parameter", "limit=5"], "limit '5': cannot be set"),
        ([A, "Contoso", "--region", "eu", "--parameter", "machinegroups"], "must be NAME=VALUE"),
        ([A, "Contoso", "--region", "eu", "--parameter", "mail.x=1"], "must be SOURCE.NAME=VALUE"),
        ([A, "Contoso", "--region", "eu", "--client-id", APP], "--client-id needs one proof of its app: --secret-file"),
        ([A, "Contoso", "--region", "eu", "--ask-secret"], "a credential needs --client-id"),
        ([A, "Contoso", "--region", "eu", "--client-id", APP, "--ask-secret"], "--ask-secret needs a terminal"),
        ([A, "Contoso", "--region", "eu", "--client-id", APP, "--secret-file", "none"], "none: cannot be read"),
    ],
)  # fmt: skip
def test_bad_tenant_is_refused_in_one_line(alertwell, listed, arguments, says):
    """What cannot be enrolled ends with exit code 2, one line, and nothing stored."""
    result = alertwell("tenants", "add", *arguments, exit_code=2)
    assert says in result.stderr
    assert result.stderr.startswith("alertwell: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert listed() == {}


def test_client_id_that_may_be_a_secret_is_not_shown(alertwell, tmp_path):
    """A secret given in the place of the client id does not come back in the error."""
    (tmp_path / "secret").write_text(SECRET)
    result = alertwell(
        "tenants",
        "add",
        A,
        "Contoso",
        "--region",
        "eu",
        "--client-id",
        SECRET,
        "--secret-file",
        "secret",
        exit_code=2,
    )
    assert "--client-id must be the application (client) id" in result.stderr
    assert SECRET not in result.output


def test_own_secret_is_sealed_and_kept(alertwell, keys, fetch, tmp_path):
    """A tenant's own secret is stored sealed; the same one again is not sealed anew, another one is."""
    (tmp_path / "secret").write_text(SECRET + "\n")
    add = (
        "tenants",
        "add",
        A,
        "Contoso",
        "--region",
        "eu",
        "--client-id",
        APP.upper(),
        "--secret-file",
        "secret",
    )
    alertwell(*add)
    [first] = fetch("SELECT app_id, sealed, version FROM alertwell.credential")
    assert first["app_id"] == APP
    assert SECRET.encode() not in first["sealed"]
    assert keys.unseal(first["sealed"]) == SECRET
    assert alertwell(*add).stdout.startswith("unchanged")
    assert fetch("SELECT app_id, sealed, version FROM alertwell.credential") == [first]
    (tmp_path / "secret").write_text("another one")
    assert alertwell(*add).stdout.startswith("changed")
    [second] = fetch("SELECT sealed, version FROM alertwell.credential")
    assert keys.unseal(second["sealed"]) == "another one"
    assert second["version"] > first["version"]


def test_own_secret_without_keys_says_how_to_make_them(alertwell, listed, tmp_path):
    """Without SEALING_KEYS_FILE an own secret is refused, with the command that makes the file."""
    (tmp_path / "secret").write_text(SECRET)
    result = alertwell(
        "tenants",
        "add",
        A,
        "Contoso",
        "--region",
        "eu",
        "--client-id",
        APP,
        "--secret-file",
        "secret",
        exit_code=2,
    )
    assert "ALERTWELL_SEALING_KEYS_FILE is not set" in result.stderr
    assert "alertwell seal-key --into FILE" in result.stderr
    assert listed() == {}


def test_pause_resume_remove(alertwell, listed, fetch):
    """Each state change is kept, tells the owning replica, and repeating it is no error."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    [before] = fetch("SELECT epoch FROM alertwell.lease")
    assert alertwell("tenants", "pause", "CONTOSO").stdout == f"paused: Contoso ({A})\n"
    assert alertwell("tenants", "pause", "Contoso").stdout == f"paused already: Contoso ({A})\n"
    assert listed()["Contoso"]["state"] == "paused"
    # enrolled again: a pause is a person's will
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    assert listed()["Contoso"]["state"] == "paused"
    alertwell("tenants", "resume", A)
    assert listed()["Contoso"]["state"] == "active"
    alertwell("tenants", "remove", "contoso", "--yes")
    assert listed()["Contoso"]["state"] == "removed"
    assert "enrol it again" in alertwell("tenants", "resume", A, exit_code=2).stderr
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    assert listed()["Contoso"]["state"] == "active"
    [after] = fetch("SELECT epoch FROM alertwell.lease")
    assert after["epoch"] > before["epoch"]


def test_remove_asks_on_a_terminal_only(alertwell, listed):
    """Off a terminal `remove` without --yes is refused."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    assert "give --yes" in alertwell("tenants", "remove", A, exit_code=2).stderr
    assert listed()["Contoso"]["state"] == "active"


def test_purge_deletes_everything_and_leaves_a_change(alertwell, listed, fetch):
    """`remove --purge` deletes the tenant with all that is stored of it, and says how much."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell("tenants", "add", B, "Fabrikam", "--region", "eu")
    fetch(
        """
        INSERT INTO alertwell.reject (tenant_id, source, digest, reason, raw)
        SELECT unnest($1::text[])::uuid, 'siem', 'd', 'no FullId', '{}'
        """,
        [A, B],
    )
    said = alertwell("tenants", "remove", A, "--purge", "--yes").stdout
    assert said == f"removed: Contoso ({A})\ndeleted: 0 alerts, 0 incidents, 0 changes, 0 polls, 1 rejects\n"
    assert set(listed()) == {"Fabrikam"}
    assert [str(row["tenant_id"]) for row in fetch("SELECT tenant_id FROM alertwell.reject")] == [B]
    assert [row["kind"] for row in fetch("SELECT kind FROM alertwell.alert_change")] == ["purged"]


def test_names_are_found_and_ambiguity_is_told(alertwell):
    """A name used twice names nobody: the error lists the ids; an unknown one says how to list."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell("tenants", "add", B, "contoso", "--region", "eu")
    said = alertwell("tenants", "show", "Contoso", exit_code=2).stderr
    assert "names 2 tenants" in said
    assert A in said
    assert B in said
    assert (
        "no tenant 'Adatum'; see: alertwell tenants list"
        in alertwell("tenants", "pause", "Adatum", exit_code=2).stderr
    )
    assert alertwell("tenants", "show", A).stdout.startswith("Contoso\n")


def test_a_removed_tenant_gives_its_name_up(alertwell, listed):
    """A name means the tenant that is still there; but what deletes data wants to be told which of them."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell("tenants", "add", B, "Contoso", "--region", "eu")
    alertwell("tenants", "remove", A, "--yes")
    assert B in alertwell("tenants", "pause", "contoso").stdout
    said = alertwell("tenants", "remove", "contoso", "--purge", "--yes", exit_code=2).stderr
    assert f"{A} (Contoso, removed)" in said
    assert f"{B} (Contoso, paused)" in said
    alertwell("tenants", "remove", B, "--yes")
    assert "names 2 tenants" in alertwell("tenants", "show", "contoso", exit_code=2).stderr
    assert listed()["Contoso"]["state"] == "removed"


def test_show_tells_all_about_a_tenant(alertwell, fetch):
    """`show` has the streams, gaps, polls and rejects, for people and as JSON."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu", "--label", "tier=gold")
    fetch(
        """
        UPDATE alertwell.stream
        SET state = 'catching_up', watermark = now(),
            coverage = tstzmultirange(tstzrange(now() - '1 h'::interval, now()))
        """
    )
    fetch(
        """
        INSERT INTO alertwell.poll (tenant_id, poll_id, source, replica_id, started_at, outcome, error, windows, items,
                                    inserted, updated, unchanged, stale, duplicate, rejected)
        VALUES ($1::text::uuid, gen_random_uuid(), 'siem', gen_random_uuid(), now(), 'transient', 'HTTP 503', 1, 3,
                2, 0, 0, 0, 0, 1)
        """,
        A,
    )
    fetch(
        """
        INSERT INTO alertwell.reject (tenant_id, source, digest, reason, raw)
        VALUES ($1::text::uuid, 'siem', 'd', 'no FullId', '{}')
        """,
        A,
    )
    shown = alertwell("tenants", "show", "contoso").stdout
    for part in (
        "Contoso",
        "tier=gold",
        "catching_up",
        "history not read yet",
        "HTTP 503",
        "no FullId",
        "alerts held   0",
    ):
        assert part in shown
    found = json.loads(alertwell("tenants", "show", A, "--json").stdout)
    assert found["streams"][0]["state"] == "catching_up"
    assert [gap["reason"] for gap in found["gaps"]] == ["history not read yet"]
    assert found["polls"][0]["rejected"] == 1
    assert found["rejects"][0]["reason"] == "no FullId"


def test_list_filters_by_state(alertwell):
    """`--state` keeps one state, an unknown one is refused, and nothing at all is said kindly."""
    assert "no tenants" in alertwell("tenants", "list").stdout
    assert json.loads(alertwell("tenants", "list", "--json").stdout) == []
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    alertwell("tenants", "add", B, "Fabrikam", "--cloud", "gcc-high", "--pending")
    pending = alertwell("tenants", "list", "--state", "pending").stdout
    assert "Fabrikam" in pending
    assert "gcc-high" in pending
    assert "Contoso" not in pending
    assert (
        "must be pending, active, paused, removed"
        in alertwell("tenants", "list", "--state", "gone", exit_code=2).stderr
    )


def test_hostile_text_cannot_write_to_the_terminal(alertwell, fetch):
    """Control characters that got into the database another way are spelled out."""
    alertwell("tenants", "add", A, "Contoso", "--region", "eu")
    fetch("UPDATE alertwell.tenant SET name = E'Con\\x1b[31mtoso\\u202e', state_reason = E'a\\nb'")
    for command in ("list", "show"):
        shown = alertwell("tenants", command, *([A] if command == "show" else [])).stdout
        assert "\x1b" not in shown
        assert "\u202e" not in shown
        assert "Con\\x1b[31mtoso\\u202e" in shown


def test_a_role_without_rights_is_told_so(alertwell, admin_url, fetch):
    """A role that may not read Alertwell's own tables gets one line, not a stack trace; soc is open to it where granted."""
    role = f"reader_{fetch('SELECT current_database() AS name')[0]['name']}"
    asyncio.run(
        _as_superuser(
            admin_url, f"CREATE ROLE {role} LOGIN PASSWORD 'x'; GRANT USAGE ON SCHEMA soc TO {role}"
        )
    )
    try:
        parts = urlsplit(admin_url)
        host = parts.netloc.rpartition("@")[2]
        env = {"ALERTWELL_DATABASE_URL": parts._replace(netloc=f"{role}:x@{host}").geturl()}
        said = alertwell("tenants", "list", exit_code=2, env=env).stderr
        assert said.startswith(
            "alertwell: the database's role lacks a right: permission denied for schema alertwell"
        )
        assert said.count("\n") == 1
        assert (
            "permission denied" in alertwell("sql", "TABLE alertwell.credential", exit_code=2, env=env).stderr
        )
    finally:
        asyncio.run(_as_superuser(admin_url, f"DROP OWNED BY {role}; DROP ROLE {role}"))


async def _as_superuser(dsn, statement):
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()

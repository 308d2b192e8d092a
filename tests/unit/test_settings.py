from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from pydantic import SecretStr

from service import errors, settings

APP = "11111111-1111-1111-1111-111111111111"


def load(secrets_dir: Path = Path("/nonexistent"), **named: str) -> settings.Settings:
    return settings.load(
        {f"ALERTWELL_{name}": value for name, value in named.items()}, secrets_dir=secrets_dir
    )


def plain(got: settings.Settings, field: str) -> object:
    value = getattr(got, field)
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def complaint(**named: str) -> str:
    with pytest.raises(errors.BadSetting) as caught:
        load(**named)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_empty_environment_has_every_default():
    """Without any variable everything has the default of the design."""
    got = load()

    assert got.database_url is None
    assert got.dsn is None
    assert got.default_sources == ("siem",)
    assert got.poll_interval == timedelta(seconds=60)
    assert (got.max_body_bytes, got.max_bytes_in_flight) == (32 * 2**20, 64 * 2**20)
    assert (got.http_host, got.http_port) == ("127.0.0.1", 8080)


def test_settings_cannot_be_changed():
    """The model is frozen."""
    with pytest.raises(ValueError, match="frozen"):
        load().http_port = 1


def test_a_directly_built_model_ignores_the_machine(monkeypatch):
    """Only `load` looks at the environment; a Settings built in a test is the same everywhere."""
    monkeypatch.setenv("ALERTWELL_HTTP_PORT", "99")

    assert settings.Settings().http_port == 8080
    assert settings.load().http_port == 99


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("5m", 300), ("2h", 7200), ("1d", 86400), ("PT10M", 600), (" 60 \n", 60)],
)
def test_durations_are_typed_in_many_ways(text, seconds):
    """Seconds, a number with a unit and ISO 8601 are all durations."""
    assert load(RETENTION=text).retention == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("text", "number"),
    [("65536", 65536), ("1MiB", 2**20), ("64kiB", 65536), ("128kB", 128000), ("2 MB", 2_000_000)],
)
def test_sizes_are_typed_in_many_ways(text, number):
    """A plain number and a number with a unit are both sizes."""
    assert load(MAX_BODY_BYTES=text).max_body_bytes == number


def test_overrides_win_and_none_is_not_given():
    """What a command line passes beats the environment, unless it is None."""
    environ = {"ALERTWELL_HTTP_PORT": "1", "ALERTWELL_LOG_LEVEL": "ERROR"}

    got = settings.load(environ, http_port=2, log_level=None)

    assert (got.http_port, got.log_level) == (2, "error")


def test_environment_beats_file_beats_mounted_secret(tmp_path):
    """The order is environment, _FILE, /run/secrets, default; an empty variable is none."""
    named, mounted = tmp_path / "named", tmp_path / "alertwell_client_secret"
    named.write_text("from-file\n")
    mounted.write_text("from-mount\n")

    everything = load(tmp_path, CLIENT_SECRET="from-env", CLIENT_SECRET_FILE=str(named))
    files = load(tmp_path, CLIENT_SECRET="", CLIENT_SECRET_FILE=str(named))
    mount = load(tmp_path)

    got = [one.client_secret.get_secret_value() for one in (everything, files, mount)]
    assert got == ["from-env", "from-file", "from-mount"]
    assert [one.client_secret_file for one in (everything, files, mount)] == [None, named, mounted]
    assert load().client_secret is None


def test_a_changed_secret_file_is_read_the_same_way(tmp_path):
    """`read_file` drops a byte order mark and line ends, at the start as later."""
    file = tmp_path / "secret"
    file.write_bytes(b"\xef\xbb\xbfone\r\n")
    got = load(CLIENT_SECRET_FILE=str(file))

    assert got.client_secret.get_secret_value() == "one"
    file.write_text("two\n")
    assert settings.read_file(got.client_secret_file) == "two"


OTHER = {
    "database_url": "postgresql://u@h/d",
    "database_password": "p",
    "database_pool_size": "8",
    "database_pooler": "transaction",
    "data_dir": "/var/lib/alertwell",
    "client_id": APP,
    "client_secret": "s",
    "client_secret_expires_at": "2027-03-31",
    "client_certificate_file": __file__,
    "client_certificate_password": "p",
    "federated_token_file": __file__,
    "managed_identity": "System",
    "sealing_keys_file": __file__,
    "default_sources": "mde_alerts siem",
    "fallback_source": "graph_alerts",
    "cloud": "GCC-High",
    "siem_resource": "https://graph.windows.net/",
    "siem_token": "v1",
    "authority_url": "https://login.microsoftonline.us",
    "siem_url": "https://wdatp-alertexporter-eu.windows.com/",
    "mde_url": "https://eu.api.security.microsoft.com",
    "xdr_url": "https://api-eu.security.microsoft.com",
    "graph_url": "https://graph.microsoft.us",
    "ca_file": __file__,
    "proxy_url": "http://u@proxy.example.com:3128",
    "proxy_password": "p",
    "no_proxy": "localhost, .example.com",
    "poll_interval": "5m",
    "live_span": "3h",
    "overlap": "5m",
    "overlap_max": "15m",
    "sweep_span": "2d",
    "sweep_interval": "3h",
    "initial_lookback": "1d",
    "max_concurrent_polls": "100",
    "poll_budget": "30s",
    "max_body_bytes": "1MiB",
    "max_bytes_in_flight": "1GiB",
    "request_timeout": "30s",
    "lease_ttl": "30s",
    "shutdown_grace": "0",
    "retention": "30d",
    "retention_changes": "30d",
    "retention_polls": "7d",
    "retention_rejects": "30d",
    "http_host": "0.0.0.0",
    "http_port": "0",
    "public_url": "https://alerts.example.com/of/us/",
    "public_port": "8443",
    "log_format": "json",
    "log_level": "DEBUG",
}


def test_every_setting_is_tried():
    """The next test leaves no setting out."""
    assert set(OTHER) == set(settings.Settings.model_fields)


@pytest.mark.parametrize("field", OTHER)
def test_every_setting_can_come_from_everywhere(field, tmp_path):
    """Environment, NAME_FILE (unless the name ends in _FILE) and /run/secrets give the same value."""
    name = settings.env_name(field)
    file = tmp_path / name.lower()
    file.write_text(OTHER[field] + "\n")

    direct = load(**{field.upper(): OTHER[field]})

    assert plain(direct, field) != plain(load(), field)
    assert plain(load(tmp_path), field) == plain(direct, field)
    if not field.endswith("_file"):
        assert plain(load(**{f"{field}_file".upper(): str(file)}), field) == plain(direct, field)


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"POLL_INTERVAL": "often"}, ["ALERTWELL_POLL_INTERVAL='often'", "must be a duration", "PT10M"]),
        ({"POLL_INTERVAL": "0"}, ["ALERTWELL_POLL_INTERVAL='0'", "from 1s to 36500d"]),
        ({"LEASE_TTL": "2"}, ["ALERTWELL_LEASE_TTL='2'", "from 3s to 1h"]),
        ({"MAX_BODY_BYTES": "big"}, ["ALERTWELL_MAX_BODY_BYTES='big'", "32MiB"]),
        ({"MAX_BODY_BYTES": "9" * 400}, ["ALERTWELL_MAX_BODY_BYTES=", "less than or equal"]),
        ({"HTTP_PORT": "70000"}, ["ALERTWELL_HTTP_PORT='70000'", "less than or equal to 65535"]),
        ({"HTTP_PORT": "web"}, ["ALERTWELL_HTTP_PORT='web'", "must be a valid integer"]),
        ({"CLOUD": "moon"}, ["ALERTWELL_CLOUD='moon'", "'gcc-high'"]),
        ({"LOG_LEVEL": "loud"}, ["ALERTWELL_LOG_LEVEL='loud'", "'warning'"]),
        ({"SIEM_TOKEN": "v3"}, ["ALERTWELL_SIEM_TOKEN='v3'", "'auto'"]),
        ({"DEFAULT_SOURCES": "siem,other"}, ["ALERTWELL_DEFAULT_SOURCES='siem,other'", "blanks"]),
        ({"SIEM_URL": "http://example.com"}, ["ALERTWELL_SIEM_URL='http://example.com'", "https://host"]),
        ({"SIEM_URL": "https://[x"}, ["ALERTWELL_SIEM_URL", "https://host"]),
        ({"AUTHORITY_URL": "https://h:99999"}, ["ALERTWELL_AUTHORITY_URL", "https://host"]),
        ({"SIEM_RESOURCE": "graph"}, ["ALERTWELL_SIEM_RESOURCE='graph'", "https://graph.windows.net"]),
        ({"MANAGED_IDENTITY": "mine"}, ["ALERTWELL_MANAGED_IDENTITY='mine'", "system", "GUID"]),
        (
            {"CLIENT_SECRET_EXPIRES_AT": "in May"},
            ["ALERTWELL_CLIENT_SECRET_EXPIRES_AT='in May'", "2027-03-31"],
        ),
        ({"CLIENT_CERTIFICATE_FILE": "/nonexistent"}, ["ALERTWELL_CLIENT_CERTIFICATE_FILE", "is not a file"]),
        ({"CA_FILE": "/nonexistent"}, ["ALERTWELL_CA_FILE='/nonexistent'", "is not a file"]),
        ({"OVERLAP": "1h"}, ["ALERTWELL_OVERLAP=1h", "OVERLAP_MAX (30m)"]),
        ({"LIVE_SPAN": "1h"}, ["ALERTWELL_LIVE_SPAN=1h", "1.5 × POLL_INTERVAL", "3690s"]),
        ({"MAX_BODY_BYTES": "64MiB"}, ["ALERTWELL_MAX_BYTES_IN_FLIGHT=67108864", "134217728"]),
    ],
)
def test_a_bad_setting_is_one_line(named, words):
    """The line names the setting, its value, what is wrong and what would be right."""
    message = complaint(**named)

    assert [word for word in words if word not in message] == []


@pytest.mark.parametrize(
    ("named", "word"),
    [
        ({"DATABASE_URL": "mysql://root:hunter2@h/d"}, "postgresql://user@host:5432/name"),
        ({"CLIENT_ID": "hunter2"}, "a GUID"),
        ({"SIEM_URL": "http://user:hunter2@h"}, "without user"),
        ({"DATABASE_PASSWORD": "hunter2", "DATABASE_URL": "postgresql://h/d"}, "must name the user"),
    ],
)
def test_complaints_hold_no_secret(named, word):
    """A secret in the wrong place is not repeated."""
    message = complaint(**named)

    assert word in message
    assert "hunter2" not in message


@pytest.mark.parametrize(
    ("content", "word"),
    [(None, "No such file"), (b"", "empty"), (b"\xff\xfe", "UTF-8"), (b"x" * 70_000, "64 KiB")],
)
def test_an_unusable_file_is_named(content, word, tmp_path):
    """A file that is missing, empty, binary or huge is one line with its variable and path."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)

    message = complaint(CLIENT_SECRET_FILE=str(file))

    assert message.startswith(f"ALERTWELL_CLIENT_SECRET_FILE='{file}' cannot be used")
    assert word in message


@pytest.mark.parametrize(
    ("url", "dsn"),
    [
        ("postgresql://u@h:5432/d", "postgresql://u:p%40%2F%20w@h:5432/d"),
        ("postgres://u@h1:1,h2:2/d?ssl=require", "postgres://u:p%40%2F%20w@h1:1,h2:2/d?ssl=require"),
        ("postgresql://u:own@h/d", "postgresql://u:own@h/d"),
        (
            "postgresql:///d?host=/run/pg&user=u&password=own",
            "postgresql:///d?host=/run/pg&user=u&password=own",
        ),
    ],
)
def test_the_password_is_merged_where_the_address_has_none(url, dsn):
    """DATABASE_PASSWORD goes, quoted, into an address without a password, and never replaces one."""
    assert load(DATABASE_URL=url, DATABASE_PASSWORD="p@/ w").dsn == dsn
    assert load(DATABASE_URL=url).dsn == url


def test_secrets_do_not_show(tmp_path):
    """Neither repr, str nor a dump holds a secret."""
    file = tmp_path / "secret"
    file.write_text("hunter2")
    got = load(
        DATABASE_URL="postgresql://u:hunter2@h/d", DATABASE_PASSWORD="hunter2", CLIENT_SECRET_FILE=str(file)
    )

    shown = [repr(got), str(got), str(got.model_dump()), got.model_dump_json(), repr(got.client_secret)]

    assert [text for text in shown if "hunter2" in text] == []


def test_unknown_variables_are_named_with_the_closest_setting():
    """A misspelt variable is a warning; names that are none of ours are not."""
    environ = {
        "ALERTWELL_POL_INTERVAL": "60",
        "ALERTWELL_HTT_PORT": "1",
        "alertwell_cloud": "gcc",
        "ALERTWELL_ZZZ": "hunter2",
        "ALERTWELL_CA_FILE_FILE": "x",
        "ALERTWELL_CA_FILE": "x",
        "ALERTWELL_CLIENT_SECRET_FILE": "x",
        "ALERTWELL_TEST_DATABASE_URL": "x",
        "ALERTWELL_IMAGE": "x",
        "ALERTWELL_SERVICE_HOST": "10.0.0.1",
        "ALERTWELL_PORT": "tcp://10.0.0.1:8080",
        "ALERTWELL_METRICS_PORT_8080_TCP_ADDR": "10.0.0.1",
        "PATH": "/bin",
    }

    assert settings.unknown(environ) == [
        "ALERTWELL_CA_FILE_FILE is not a setting; did you mean ALERTWELL_CA_FILE?",
        "ALERTWELL_HTT_PORT is not a setting; did you mean ALERTWELL_HTTP_PORT?",
        "ALERTWELL_POL_INTERVAL is not a setting; did you mean ALERTWELL_POLL_INTERVAL?",
        "ALERTWELL_ZZZ is not a setting",
        "alertwell_cloud is not a setting; did you mean ALERTWELL_CLOUD?",
    ]

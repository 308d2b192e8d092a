"""What the settings say of the shared app's credentials, and what does not fit together."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from service import errors, parts, settings
from tests.simulator import keys

APP = "55555555-5555-5555-5555-555555555555"


@pytest.fixture(scope="module")
def pem(tmp_path_factory):
    """A certificate with its key, as a file."""
    pair = keys.pair()
    file = tmp_path_factory.mktemp("mounted") / "app.pem"
    file.write_text(pair.key_pem + pair.certificate_pem)
    return file


def load(**named):
    return settings.load({f"ALERTWELL_{name}": str(value) for name, value in named.items()})


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ({"CLIENT_ID": APP}, "ALERTWELL_CLIENT_ID is set without a credential"),
        ({"CLIENT_SECRET": "s"}, "ALERTWELL_CLIENT_SECRET is set without ALERTWELL_CLIENT_ID"),
        ({"CLIENT_CERTIFICATE_FILE": __file__}, "CERTIFICATE_FILE is set without ALERTWELL_CLIENT_ID"),
        ({"MANAGED_IDENTITY": "system"}, "MANAGED_IDENTITY is set without ALERTWELL_CLIENT_ID"),
        (
            {"CLIENT_ID": APP, "MANAGED_IDENTITY": "system", "FEDERATED_TOKEN_FILE": __file__},
            "leave one out",
        ),
        (
            {"CLIENT_ID": APP, "CLIENT_SECRET": "s", "CLIENT_CERTIFICATE_PASSWORD": "hunter2"},
            "without ALERTWELL_CLIENT_CERTIFICATE_FILE",
        ),
        (
            {"CLIENT_ID": APP, "MANAGED_IDENTITY": "system", "CLIENT_SECRET_EXPIRES_AT": "2027-03-31"},
            "without ALERTWELL_CLIENT_SECRET",
        ),
        ({"CLIENT_ID": APP, "FEDERATED_TOKEN_FILE": __file__}, "holds no whole token"),
        ({"CLIENT_ID": APP, "CLIENT_CERTIFICATE_FILE": __file__}, "neither PEM nor a whole PFX"),
    ],
)
def test_what_does_not_fit_is_one_sentence(named, words):
    """It names the settings, and no password."""
    with pytest.raises(errors.BadSetting) as refused:
        parts.shared_app(load(**named))
    assert words in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_everything_that_is_set_is_handed_on(pem, tmp_path):
    """Secret, its end, certificate and password; the files among them are watched."""
    secret, password = tmp_path / "secret", tmp_path / "password"
    secret.write_text("s")
    password.write_text("p")
    app = parts.shared_app(
        load(
            CLIENT_ID=APP,
            CLIENT_SECRET_FILE=secret,
            CLIENT_SECRET_EXPIRES_AT="2027-03-31",
            CLIENT_CERTIFICATE_FILE=pem,
            CLIENT_CERTIFICATE_PASSWORD_FILE=password,
            MANAGED_IDENTITY="system",
            CLOUD="gcc-high",
        )
    )
    assert (app.app_id, app.secret_expires_at) == (APP, dt.datetime(2027, 3, 31, tzinfo=dt.UTC))
    assert set(app.paths) == {secret, pem, password}
    assert app.federated is not None


def test_a_source_of_tokens_for_tenants_own_apps_needs_no_shared_app(tmp_path):
    """Where tenants have apps of their own, the managed identity alone is enough; nothing at all is nothing."""
    keys_file = tmp_path / "keys"
    keys_file.write_text("#")
    app = parts.shared_app(load(MANAGED_IDENTITY="system", SEALING_KEYS_FILE=keys_file))
    assert app.app_id is None
    assert parts.shared_app(load()) is None
    assert Path(keys_file) not in app.paths

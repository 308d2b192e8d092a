"""Every setting of Alertwell: one frozen model, read once at the start.

A setting NAME is looked for as ALERTWELL_NAME in the environment, then in the file that ALERTWELL_NAME_FILE
names (not for settings whose own name ends in _FILE), then as /run/secrets/alertwell_name; else it has its
default. An empty value counts as not set. Blanks and line ends around a value are dropped: secrets are often
stored with a line end that is no part of them.

What stands below each field is its text in docs/settings.md, which a test compares with this model. Durations
are `timedelta`s, typed as seconds, 30s 5m 2h 7d or ISO 8601; sizes are bytes, typed as 65536, 32MiB, 64kB.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlsplit
from uuid import UUID

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ByteSize,
    Field,
    SecretStr,
    ValidationError,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from service import errors, timestamps

PREFIX = "ALERTWELL_"
SECRETS_DIR = Path("/run/secrets")

_FILE_LIMIT = 64 * 1024
# What may stand in the environment without being a setting: the tests' own, compose's, and the addresses that
# Kubernetes gives every container for a Service named alertwell-something.
_FOREIGN_NAMES = re.compile(
    r"ALERTWELL_(TEST_\w+|IMAGE|(\w+_)?SERVICE_(HOST|PORT(_\w+)?)|(\w+_)?PORT_\d+_(TCP|UDP|SCTP)(_\w+)?)"
)


class FileSecret(SecretStr):
    """A secret that was read from a file; `path` says which, for whoever watches it."""

    def __init__(self, value: str, path: Path) -> None:
        super().__init__(value)
        self.path = path


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    try:
        return timestamps.duration(str(value))
    except ValueError:
        raise ValueError("must be a duration: seconds, 30s 5m 2h 7d, or ISO 8601 such as PT10M") from None


def _between(least: timedelta, most: timedelta) -> AfterValidator:
    def check(value: timedelta) -> timedelta:
        if not least <= value <= most:
            raise ValueError(f"must be from {_shown(least)} to {_shown(most)}")
        return value

    return AfterValidator(check)


def _lowered(value: object) -> object:
    return value.lower() if isinstance(value, str) else value


def _names(value: object) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(value.split() if isinstance(value, str) else _strings(value)))
    if not names or not all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names):
        raise ValueError("must be names of sources separated by blanks, such as: siem")
    return names


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", value.strip()):
        raise ValueError("must be the name of one source, such as: graph_alerts")
    return value.strip()


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, (tuple, list)) else []


def _app_id(value: object) -> str:
    try:
        return str(UUID(str(value)))
    except ValueError:
        raise ValueError(
            "must be the application (client) id, a GUID; the app's name or secret is not it"
        ) from None


def _https(value: object) -> str:
    text = str(value).rstrip("/")
    if not re.fullmatch(r"https://[^\s/?#@]+(/[^\s?#]*)?", text) or not _splits(text):
        raise ValueError(
            "must be an address such as https://host or https://host/path, without user or query"
        )
    return text


def _splits(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _resource(value: object) -> str:
    # Kept to the letter, a final slash too: Entra compares audiences as text.
    text = str(value)
    if not re.fullmatch(r"(https|api)://[^\s?#@]+", text):
        raise ValueError("must be a token audience such as https://graph.windows.net")
    return text


def _database_url(value: object) -> SecretStr:
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    # Not urlsplit: it takes the ports of several hosts for one. What is inside is the driver's business.
    if not re.fullmatch(r"(postgresql|postgres)://([^\s/?]+\S*|/?\S*[?&]host=\S+)", text):
        raise ValueError(
            "must look like postgresql://user@host:5432/name (hosts separated by commas for failover)"
        )
    return SecretStr(text)


def _secret(value: Any, handler: Callable[[Any], SecretStr]) -> SecretStr:
    # Pydantic would make a plain SecretStr of a FileSecret.
    return value if isinstance(value, SecretStr) else handler(value)


def _file(value: object) -> Path:
    path = Path(str(value)).expanduser()
    try:
        found = path.is_file()
    except OSError as error:
        raise ValueError(f"cannot be read ({error.strerror}); it must name a readable file") from None
    if not found:
        raise ValueError("is not a file; it must name a readable one")
    return path


def _folder(value: object) -> Path:
    return Path(str(value)).expanduser()


SECOND = timedelta(seconds=1)
MIB = 1024 * 1024
Span = Annotated[timedelta, BeforeValidator(_duration), _between(SECOND, timedelta(days=36_500))]
Size = Annotated[ByteSize, Field(ge=64 * 1024, le=64 * 1024 * MIB)]
Https = Annotated[str, BeforeValidator(_https)]
ExistingFile = Annotated[Path, BeforeValidator(_file)]
Secret = Annotated[SecretStr, WrapValidator(_secret)]


class Settings(BaseSettings):
    """All settings. Secrets never show in repr, str or a dump."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: Annotated[SecretStr, BeforeValidator(_database_url)] | None = None
    """PostgreSQL 15 or newer, as `postgresql://user@host:5432/name`; several hosts, separated by commas, for
    failover. No default: alerts belong into a database that somebody looks after."""
    database_password: Secret | None = None
    """Password for DATABASE_URL where that has none, so that only this has to be a secret."""
    database_pool_size: Annotated[int, Field(ge=2, le=1000)] = 16
    """Connections to PostgreSQL for the polls of one process, which has four more for itself. A poll needs one only
    while it stores, so few serve many; times the replicas they must stay below the server's max_connections."""
    data_dir: Annotated[Path, BeforeValidator(_folder)] = Path(".alertwell")
    """Folder of the embedded database and the demo's certificates; below the working folder, so that nothing
    else is touched."""
    client_id: Annotated[str, BeforeValidator(_app_id)] | None = None
    """Application (client) id of the multi-tenant app registration, a GUID. No default: it is yours."""
    client_secret: Secret | None = None
    """Client secret of that app. Give it as a file: a changed file is read again without a restart."""
    sealing_keys_file: ExistingFile | None = None
    """File with the keys that seal tenants' own secrets in the database, one a line, newest first; needed
    once such a secret is stored."""
    default_sources: Annotated[tuple[str, ...], BeforeValidator(_names)] = ("siem",)
    """What a new tenant is read from where none is named; names separated by blanks."""
    fallback_source: Annotated[str, BeforeValidator(_name)] | None = None
    """Source that a tenant is enrolled with by itself where one of its own is retired, such as `graph_alerts` after the
    end of the SIEM API. No default: it needs a permission of its own in each tenant."""
    cloud: Annotated[Literal["public", "gcc", "gcc-high", "dod", "china"], BeforeValidator(_lowered)] = (
        "public"
    )
    """Microsoft cloud of tenants that name none: `public` `gcc` `gcc-high` `dod` `china`."""
    siem_resource: Annotated[str, BeforeValidator(_resource)] = "https://graph.windows.net"
    """Token audience of the SIEM API, as its documents name it; the scope is this and `/.default`."""
    siem_token: Annotated[Literal["auto", "v2", "v1"], BeforeValidator(_lowered)] = Field("auto")
    """How a token for it is asked for: `v2` by scope, `v1` by `resource=`; `auto` takes v2, and v1 where a
    tenant's Entra refuses that."""
    authority_url: Https | None = None
    """Base address of Entra, https; `/{tenant}` is appended. Without it, the one of CLOUD."""
    siem_url: Https | None = None
    """Base address of the SIEM API, https; `/api/alerts` is appended. Without it, the one of CLOUD and the
    tenant's region."""
    mde_url: Https | None = None
    """Base address of the Defender for Endpoint API, https; `/api/alerts` is appended. Without it, the one of CLOUD
    and the tenant's region."""
    xdr_url: Https | None = None
    """Base address of the Defender XDR API, https; `/api/incidents` is appended. Without it, the one of CLOUD and the
    tenant's region."""
    graph_url: Https | None = None
    """Base address of Microsoft Graph, https; `/v1.0/security/alerts_v2` or `/v1.0/security/incidents` is appended.
    Without it, the one of CLOUD."""
    ca_file: ExistingFile | None = None
    """PEM file of the authorities to trust for Entra and the APIs alike, instead of the system's."""
    poll_interval: Span = timedelta(seconds=60)
    """Time between two polls of a stream. A minute is soon enough for a SOC, and little beside the
    50 requests a minute that the strictest of Microsoft's security APIs allows."""
    live_span: Span = timedelta(hours=2)
    """Longest live window; what is older is a gap, healed after it. At least 1.5 × POLL_INTERVAL +
    2 × OVERLAP_MAX, else every poll would leave a gap."""
    overlap: Span = timedelta(minutes=10)
    """How far behind the newest alert each poll reads again, since alerts arrive late and out of order."""
    overlap_max: Span = timedelta(minutes=30)
    """Greatest overlap that a stream can have; LIVE_SPAN leaves room for it. At least OVERLAP."""
    initial_lookback: Span = timedelta(days=7)
    """How far back the first poll of a stream reaches; a week shows that a new customer works."""
    max_concurrent_polls: Annotated[int, Field(ge=2, le=100_000)] = 512
    """Polls that one process runs at once; healing of gaps holds at most half. Most of a poll is waiting, so
    there may be many."""
    poll_budget: Span = timedelta(seconds=45)
    """Then a poll yields its slot and goes on later, so that a backlog does not delay the others."""
    max_body_bytes: Size = ByteSize(32 * MIB)
    """Largest answer that is read, in bytes, decompressed; the window of a larger one is split."""
    max_bytes_in_flight: Size = ByteSize(96 * MIB)
    """Bytes of answers that all polls of one process hold together: it bounds the memory. At least
    2 × MAX_BODY_BYTES."""
    request_timeout: Span = timedelta(seconds=60)
    """Longest time for one request with its answer; enough for MAX_BODY_BYTES at 5 Mbit/s."""
    lease_ttl: Annotated[timedelta, BeforeValidator(_duration), _between(3 * SECOND, 3600 * SECOND)] = (
        60 * SECOND
    )
    """A replica that is silent for this long loses its tenants to the others; it beats every quarter of it.
    At least 3 s, and the same for all replicas."""
    shutdown_grace: Annotated[timedelta, BeforeValidator(_duration), _between(0 * SECOND, 3600 * SECOND)] = (
        30 * SECOND
    )
    """Time that running polls get at a stop. Keep the container's stop period above it."""
    retention: Span = timedelta(days=400)
    """How long alerts are kept, by their update time; more than a year, so that a yearly report is whole."""
    retention_changes: Span = timedelta(days=90)
    """How long the change feed is kept; a reader that was away for longer has to start again."""
    retention_polls: Span = timedelta(days=30)
    """How long the rows of polls are kept; they answer questions about the last weeks."""
    retention_rejects: Span = timedelta(days=90)
    """How long records that could not be stored are kept, for somebody to look at them."""
    http_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that the probes and metrics listen on: this machine alone; in a container `0.0.0.0`."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the probes and metrics; 0 takes any free one, which is logged."""
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(_lowered)] = "auto"
    """`json`, `console`, or `auto`: text on a terminal, JSON elsewhere."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lowered)] = "info"
    """Least level that is logged: `debug` `info` `warning` `error`. Polls that bring nothing log at debug."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  # the name is pydantic's
        init_settings: PydanticBaseSettingsSource,
        *_args: PydanticBaseSettingsSource,
        **_named: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` found: a Settings built in a test does not change with the machine it runs on."""
        return (init_settings,)

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        _require(
            self.overlap <= self.overlap_max,
            "OVERLAP",
            self.overlap,
            f"must be at most OVERLAP_MAX ({_shown(self.overlap_max)})",
        )
        least = 1.5 * self.poll_interval + 2 * self.overlap_max
        _require(
            self.live_span >= least,
            "LIVE_SPAN",
            self.live_span,
            f"must be at least 1.5 × POLL_INTERVAL + 2 × OVERLAP_MAX ({_shown(least)})",
        )
        _require(
            self.max_bytes_in_flight >= 2 * self.max_body_bytes,
            "MAX_BYTES_IN_FLIGHT",
            self.max_bytes_in_flight,
            f"must be at least 2 × MAX_BODY_BYTES ({2 * self.max_body_bytes})",
        )
        url = self.database_url.get_secret_value() if self.database_url else ""
        if url and self.database_password and not re.match(r"\w+://[^/?@]+@|.*[?&]password=", url):
            raise ValueError(
                f"{PREFIX}DATABASE_URL must name the user that DATABASE_PASSWORD is for: postgresql://user@host/name"
            )
        return self

    @property
    def dsn(self) -> str | None:
        """DATABASE_URL with the password in it, for the driver alone: it is a secret."""
        if self.database_url is None:
            return None
        url = self.database_url.get_secret_value()
        bare = re.fullmatch(r"(\w+://[^/?@:]+)(@.+)", url)
        if self.database_password is None or bare is None or re.search(r"[?&]password=", url):
            return url
        return f"{bare[1]}:{quote(self.database_password.get_secret_value(), safe='')}{bare[2]}"

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses that are set, by what they stand for: `authority`, or a service as `clouds` names it."""
        named = {
            "authority": self.authority_url,
            "siem": self.siem_url,
            "mde": self.mde_url,
            "xdr": self.xdr_url,
            "graph": self.graph_url,
        }
        return {key: url for key, url in named.items() if url is not None}

    @property
    def client_secret_file(self) -> Path | None:
        """The file that CLIENT_SECRET came from, to be read again with `read_file` when it changes."""
        return self.client_secret.path if isinstance(self.client_secret, FileSecret) else None


class Surroundings(PydanticBaseSettingsSource):
    """Environment, files that it names, mounted secrets: the first that has a setting wins."""

    def __init__(self, environ: Mapping[str, str], secrets_dir: Path) -> None:
        super().__init__(Settings)
        self._environ = environ
        self._secrets_dir = secrets_dir

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = env_name(field_name)
        if value := self._environ.get(name, "").strip():
            return value, name, False
        pointer = "" if field_name.endswith("_file") else self._environ.get(f"{name}_FILE", "").strip()
        mounted = self._secrets_dir / f"{PREFIX}{field_name}".lower()
        if not pointer and not mounted.is_file():
            return None, name, False
        path = Path(pointer).expanduser() if pointer else mounted
        try:
            value = read_file(path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            source = f"{name}_FILE={str(path)!r}" if pointer else f"{name} from {path}"
            raise errors.BadSetting(
                f"{source} cannot be used: {reason}; it must be a readable text file with the value alone"
            ) from None
        return FileSecret(value, path) if _is_secret(field) else value, name, False

    def __call__(self) -> dict[str, Any]:
        found = {key: self.get_field_value(field, key)[0] for key, field in Settings.model_fields.items()}
        return {key: value for key, value in found.items() if value is not None}


def load(
    environ: Mapping[str, str] | None = None, *, secrets_dir: Path = SECRETS_DIR, **overrides: Any
) -> Settings:
    """Read the settings from `environ` (default: the process's); `overrides`, by field name, win unless None.

    Raises errors.BadSetting: one line with the setting, its value (never a secret's) and what would be right.
    """
    source = Surroundings(os.environ if environ is None else environ, secrets_dir)
    values = source() | {key: value for key, value in overrides.items() if value is not None}
    try:
        return Settings(**values)
    except ValidationError as error:
        raise errors.BadSetting(_one_line(error, values)) from None


def read_file(path: Path) -> str:
    """The one value in a file, without blanks and line ends around it. Raises OSError, ValueError."""
    with path.open("rb") as file:
        raw = file.read(_FILE_LIMIT + 1)
    if len(raw) > _FILE_LIMIT:
        raise ValueError("it is longer than 64 KiB")
    try:
        # Editors on Windows write a byte order mark.
        text = raw.decode("utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if not text:
        raise ValueError("it is empty")
    return text


def unknown(environ: Mapping[str, str] | None = None) -> list[str]:
    """One warning for each ALERTWELL_ variable that is no setting: the closest name, never the value."""
    known = {field.upper() for field in Settings.model_fields}
    known |= {f"{name}_FILE" for name in known if not name.endswith("_FILE")}
    warnings = []
    for name, value in sorted((os.environ if environ is None else environ).items()):
        foreign = _FOREIGN_NAMES.fullmatch(name) or (name.endswith("_PORT") and "://" in value)
        if not name.upper().startswith(PREFIX) or name.removeprefix(PREFIX) in known or foreign:
            continue
        short = name.upper().removeprefix(PREFIX)
        closest = difflib.get_close_matches(short, known, n=1)
        warnings.append(
            f"{name} is not a setting" + (f"; did you mean {PREFIX}{closest[0]}?" if closest else "")
        )
    return warnings


def env_name(field: str) -> str:
    """The name of a field as the environment spells it."""
    return f"{PREFIX}{field}".upper()


def _require(holds: bool, name: str, value: timedelta | int, right: str) -> None:
    if not holds:
        raise ValueError(f"{PREFIX}{name}={_shown(value)} {right}")


def _shown(value: timedelta | int) -> str:
    if not isinstance(value, timedelta):
        return str(int(value))
    units = {"d": timedelta(days=1), "h": timedelta(hours=1), "m": timedelta(minutes=1)}
    unit = next((name for name, length in units.items() if value and not value % length), None)
    return f"{value // units[unit]}{unit}" if unit else f"{value.total_seconds():g}s"


def _one_line(error: ValidationError, values: Mapping[str, Any]) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    message = re.sub(r"^Value error, |, unable to parse.*$", "", first["msg"]).replace(
        "Input should be", "must be"
    )
    if not first["loc"]:
        return message  # of the whole model: it names the settings itself
    field = str(first["loc"][0])
    if first["type"].startswith("byte_size"):
        message = "must be a number of bytes, or a size such as 32MiB or 64kB"
    # A client id that is no GUID may be the secret in the wrong place.
    hidden = field == "client_id" or (
        field in Settings.model_fields and _is_secret(Settings.model_fields[field])
    )
    text = re.sub(r"//[^/@]*@", "//…@", str(values.get(field, ""))[:100])
    shown = " (not shown)" if hidden else f"={text!r}"
    return f"{env_name(field)}{shown} {message}"


def _is_secret(field: FieldInfo) -> bool:
    return SecretStr.__name__ in str(field.annotation)

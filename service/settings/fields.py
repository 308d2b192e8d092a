"""The settings themselves: each field with its unit, its default and why."""

from __future__ import annotations

import re
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import quote

from pydantic import BeforeValidator, ByteSize, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from service.settings import forms


class Settings(BaseSettings):
    """All settings. Secrets never show in repr, str or a dump."""

    model_config = SettingsConfigDict(
        env_prefix=forms.PREFIX,
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        use_attribute_docstrings=True,
    )

    database_url: Annotated[SecretStr, BeforeValidator(forms.database_url)] | None = None
    """PostgreSQL 15 or newer, as `postgresql://user@host:5432/name`; several hosts, separated by commas, for
    failover. No default: alerts belong into a database that somebody looks after."""
    database_password: forms.Secret | None = None
    """Password for DATABASE_URL where that has none, so that only this has to be a secret."""
    database_pool_size: Annotated[int, Field(ge=2, le=1000)] = 16
    """Connections to PostgreSQL for the polls of one process, which has four more for itself. A poll needs one only
    while it stores, so few serve many; times the replicas they must stay below the server's max_connections."""
    database_pooler: Annotated[Literal["none", "transaction"], BeforeValidator(forms.lowered)] = "none"
    """What DATABASE_URL leads to: PostgreSQL itself (`none`), or a pooler such as PgBouncer that lends a connection for a
    `transaction`: then nothing is kept in a session, and `alertwell migrate` needs the server's own address."""
    data_dir: Annotated[Path, BeforeValidator(forms.folder)] = Path(".alertwell")
    """Folder of the embedded database and the demo's certificates; below the working folder, so that nothing
    else is touched."""
    client_id: Annotated[str, BeforeValidator(forms.app_id)] | None = None
    """Application (client) id of the multi-tenant app registration, a GUID. No default: it is yours."""
    client_secret: forms.Secret | None = None
    """Client secret of that app. Give it as a file: a changed file is read again without a restart."""
    client_secret_expires_at: Annotated[datetime, BeforeValidator(forms.moment)] | None = None
    """When that secret ends, as a date or an ISO 8601 time (UTC unless it says otherwise): the portal shows it, no API
    that we may ask does. With it, its end is warned of."""
    client_certificate_file: forms.ExistingFile | None = None
    """Certificate of that app with its private key (RSA), PEM or PFX, in place of a secret. A changed file is read again
    without a restart."""
    client_certificate_password: forms.Secret | None = None
    """Password of CLIENT_CERTIFICATE_FILE, where it has one."""
    federated_token_file: forms.ExistingFile | None = None
    """File with a token of another issuer that the app trusts as federated credential, such as Kubernetes projects into a
    pod; read again whenever it is rotated. Tenants' own federated apps use it too."""
    managed_identity: Annotated[str, BeforeValidator(forms.managed_identity)] | None = None
    """Managed identity that gives the federated token on an Azure machine: `system`, or the client id (GUID) of a
    user-assigned one."""
    sealing_keys_file: forms.ExistingFile | None = None
    """File with the keys that seal tenants' own secrets and users' sign-ins in the database and sign invitations, one a line,
    newest first; needed once there is one."""
    default_sources: Annotated[tuple[str, ...], BeforeValidator(forms.names)] = ("siem",)
    """What a new tenant is read from where none is named; names separated by blanks."""
    fallback_source: Annotated[str, BeforeValidator(forms.name)] | None = None
    """Source that a tenant is enrolled with by itself where one of its own is retired, such as `graph_alerts` after the
    end of the SIEM API. No default: it needs a permission of its own in each tenant."""
    cloud: Annotated[Literal["public", "gcc", "gcc-high", "dod", "china"], BeforeValidator(forms.lowered)] = (
        "public"
    )
    """Microsoft cloud of tenants that name none: `public` `gcc` `gcc-high` `dod` `china`."""
    siem_resource: Annotated[str, BeforeValidator(forms.resource)] = "https://graph.windows.net"
    """Token audience of the SIEM API, as its documents name it; the scope is this and `/.default`."""
    siem_token: Annotated[Literal["auto", "v2", "v1"], BeforeValidator(forms.lowered)] = Field("auto")
    """How a token for it is asked for: `v2` by scope, `v1` by `resource=`; `auto` takes v2, and v1 where a
    tenant's Entra refuses that."""
    authority_url: forms.Https | None = None
    """Base address of Entra, https; `/{tenant}` is appended. Without it, the one of CLOUD."""
    siem_url: forms.Https | None = None
    """Base address of the SIEM API, https; `/api/alerts` is appended. Without it, the one of CLOUD and the
    tenant's region."""
    mde_url: forms.Https | None = None
    """Base address of the Defender for Endpoint API, https; `/api/alerts` is appended. Without it, the one of CLOUD
    and the tenant's region."""
    xdr_url: forms.Https | None = None
    """Base address of the Defender XDR API, https; `/api/incidents` is appended. Without it, the one of CLOUD and the
    tenant's region."""
    graph_url: forms.Https | None = None
    """Base address of Microsoft Graph, https; `/v1.0/security/alerts_v2` or `/v1.0/security/incidents` is appended.
    Without it, the one of CLOUD."""
    ca_file: forms.ExistingFile | None = None
    """PEM file of the authorities to trust for Entra and the APIs alike, instead of the system's."""
    proxy_url: Annotated[str, BeforeValidator(forms.proxy)] | None = None
    """Proxy to Entra and the APIs, `http://proxy.example.com:3128` or `https://…`, with a user (`http://user@proxy…`) where
    it wants one, never the password. No default: HTTPS_PROXY and its kin of the environment are ignored."""
    proxy_password: forms.Secret | None = None
    """Password of PROXY_URL's user (Basic authentication)."""
    no_proxy: Annotated[tuple[str, ...], BeforeValidator(forms.no_proxy)] | None = None
    """Hosts to reach without the proxy, separated by commas: `host.example.com` or `.example.com` (with all below it),
    `host:8443`, addresses, networks such as `10.0.0.0/8`, `*`."""
    poll_interval: forms.Span = timedelta(seconds=60)
    """Time between two polls of a stream. A minute is soon enough for a SOC, and little beside the
    50 requests a minute that the strictest of Microsoft's security APIs allows."""
    live_span: forms.Span = timedelta(hours=2)
    """Longest live window; what is older is a gap, healed after it. At least 1.5 × POLL_INTERVAL +
    2 × OVERLAP_MAX, else every poll would leave a gap."""
    overlap: forms.Span = timedelta(minutes=10)
    """How far behind the newest alert each poll reads again, since alerts arrive late and out of order."""
    overlap_max: forms.Span = timedelta(minutes=30)
    """Greatest overlap that a stream can have; LIVE_SPAN leaves room for it. At least OVERLAP."""
    sweep_span: forms.Span = timedelta(hours=24)
    """How much of the recent past is read a second time, for what came later than the overlap. More than OVERLAP_MAX; what comes
    later than this is not found."""
    sweep_interval: forms.Span = timedelta(hours=6)
    """Time between two such readings of a stream; each stream has its own points in time."""
    initial_lookback: forms.Span = timedelta(days=7)
    """How far back the first poll of a stream reaches; a week shows that a new customer works."""
    max_concurrent_polls: Annotated[int, Field(ge=2, le=100_000)] = 512
    """Polls that one process runs at once; healing of gaps holds at most half, streams that failed last a quarter. Most of a
    poll is waiting, so there may be many."""
    poll_budget: forms.Span = timedelta(seconds=45)
    """Then a poll yields its slot and goes on later, so that a backlog does not delay the others."""
    max_body_bytes: forms.Size = ByteSize(32 * forms.MIB)
    """Largest answer that is read, in bytes, decompressed; the window of a larger one is split."""
    max_bytes_in_flight: forms.Size = ByteSize(64 * forms.MIB)
    """Bytes of answers that all polls of one process hold together: it bounds the memory. At least
    2 × MAX_BODY_BYTES."""
    request_timeout: forms.Span = timedelta(seconds=60)
    """Longest time for one request with its answer; enough for MAX_BODY_BYTES at 5 Mbit/s."""
    lease_ttl: Annotated[
        timedelta, BeforeValidator(forms.duration), forms.between(3 * forms.SECOND, 3600 * forms.SECOND)
    ] = 60 * forms.SECOND
    """A replica that is silent for this long loses its tenants to the others; it beats every quarter of it.
    At least 3 s, and the same for all replicas."""
    shutdown_grace: Annotated[
        timedelta, BeforeValidator(forms.duration), forms.between(0 * forms.SECOND, 3600 * forms.SECOND)
    ] = 30 * forms.SECOND
    """Time that running polls get at a stop. Keep the container's stop period above it."""
    retention: forms.Span = timedelta(days=400)
    """How long alerts are kept, by their update time; more than a year, so that a yearly report is whole."""
    retention_changes: forms.Span = timedelta(days=90)
    """How long the change feed is kept; a reader that was away for longer has to start again."""
    retention_polls: forms.Span = timedelta(days=30)
    """How long the rows of polls are kept; they answer questions about the last weeks."""
    retention_rejects: forms.Span = timedelta(days=90)
    """How long records that could not be stored are kept, for somebody to look at them."""
    http_host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    """Address that the probes and metrics listen on: this machine alone; in a container `0.0.0.0`."""
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    """Port of the probes and metrics; 0 takes any free one, which is logged."""
    public_url: forms.Https | None = None
    """Address of the consent callback as a customer's browser reaches it, https, such as `https://alerts.example.com`:
    `/consent` is appended, and the whole is registered with the app as a redirect URI. Without it, links lead to no callback."""
    public_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of the consent callback alone, on HTTP_HOST, plain HTTP behind whatever ends TLS for PUBLIC_URL: nothing else needs to
    face the internet. 0 takes any free one. Without it, this process serves no callback."""
    log_format: Annotated[Literal["auto", "json", "console"], BeforeValidator(forms.lowered)] = "auto"
    """`json`, `console`, or `auto`: text on a terminal, JSON elsewhere."""
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(forms.lowered)] = (
        "info"
    )
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
        forms.require(
            self.overlap <= self.overlap_max,
            "OVERLAP",
            self.overlap,
            f"must be at most OVERLAP_MAX ({forms.shown(self.overlap_max)})",
        )
        forms.require(
            self.sweep_span > self.overlap_max,
            "SWEEP_SPAN",
            self.sweep_span,
            f"must be more than OVERLAP_MAX ({forms.shown(self.overlap_max)})",
        )
        least = 1.5 * self.poll_interval + 2 * self.overlap_max
        forms.require(
            self.live_span >= least,
            "LIVE_SPAN",
            self.live_span,
            f"must be at least 1.5 × POLL_INTERVAL + 2 × OVERLAP_MAX ({forms.shown(least)})",
        )
        forms.require(
            self.max_bytes_in_flight >= 2 * self.max_body_bytes,
            "MAX_BYTES_IN_FLIGHT",
            self.max_bytes_in_flight,
            f"must be at least 2 × MAX_BODY_BYTES ({2 * self.max_body_bytes})",
        )
        if self.proxy_password and self.proxy_url and "@" not in self.proxy_url:
            raise ValueError(
                f"{forms.PREFIX}PROXY_PASSWORD is set, but {forms.PREFIX}PROXY_URL names no user: http://user@proxy.example.com:3128"
            )
        if self.public_port and self.public_port == self.http_port:
            raise ValueError(
                f"{forms.PREFIX}PUBLIC_PORT={self.public_port} must be another port than HTTP_PORT, which stays private"
            )
        url = self.database_url.get_secret_value() if self.database_url else ""
        if url and self.database_password and not re.match(r"\w+://[^/?@]+@|.*[?&]password=", url):
            raise ValueError(
                f"{forms.PREFIX}DATABASE_URL must name the user that DATABASE_PASSWORD is for: postgresql://user@host/name"
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
    def callback_url(self) -> str | None:
        """PUBLIC_URL with the callback's path, as it is registered with the app."""
        return f"{self.public_url}/consent" if self.public_url else None

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
        return self.client_secret.path if isinstance(self.client_secret, forms.FileSecret) else None

    @property
    def client_certificate_password_file(self) -> Path | None:
        """The file that CLIENT_CERTIFICATE_PASSWORD came from; it may change together with the certificate."""
        password = self.client_certificate_password
        return password.path if isinstance(password, forms.FileSecret) else None

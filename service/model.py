"""The frozen values that travel between layers. No I/O, no SQL, no HTTP; times are aware datetimes in UTC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Literal
from uuid import UUID

import msgspec

from service.intervals import Intervals

TenantState = Literal["pending", "active", "paused", "removed"]
StreamState = Literal["new", "ok", "catching_up", "throttled", "degraded", "needs_attention", "retired"]
Arrival = Literal["live", "catch_up", "initial", "backfill", "sweep", "fallback"]
WindowKind = Literal["live", "gap", "sweep"]
Pooler = Literal["none", "transaction"]
CredentialKind = Literal["client_secret", "certificate", "federated", "delegated"]

SEVERITIES = ("unknown", "informational", "low", "medium", "high")
"""soc.alerts.severity by severity_rank: 0 unknown to 4 high."""

ALERT_STATUSES = ("new", "in_progress", "resolved", "unknown")
INCIDENT_STATUSES = ("active", "in_progress", "resolved", "redirected", "unknown")
"""What a status is called whatever the source calls it; the source's own word stays in raw."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A customer's Entra directory."""

    tenant_id: UUID
    name: str
    cloud: str = "public"
    region: str | None = None
    state: TenantState = "active"
    labels: Mapping[str, str] = field(default_factory=dict)
    external_ref: str | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """How to authenticate to one tenant (or one of its streams) where that is not the shared app.

    `sealed` is the secret as stored: only `auth.sealing` opens it. `version` names the credential among all that its tenant ever
    had, so that two are equal where they are the same one, whether or not it was sealed anew in between. `source` is the stream
    that it is for, empty where it is for all of the tenant's.
    """

    app_id: str
    kind: CredentialKind
    sealed: bytes = field(repr=False, compare=False)
    version: int
    source: str = ""


@dataclass(frozen=True, slots=True)
class Access:
    """As whom a stream reads: the tenant, and its own credential where it has one (else the shared app)."""

    tenant: Tenant
    credential: Credential | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A closed-open interval [since, until) of the source's own update time, on whole milliseconds."""

    since: datetime
    until: datetime
    kind: WindowKind = "live"

    @property
    def span(self) -> timedelta:
        return self.until - self.since


@dataclass(frozen=True, slots=True)
class Lease:
    """Which replica owns a tenant; `epoch` fences late writers, `server` those whose picture is another server's."""

    tenant_id: UUID
    owner: UUID
    epoch: int
    server: str
    """The life of the server that it was taken on (store.servers): after a failover the same epoch may come twice."""


@dataclass(frozen=True, slots=True)
class Request:
    """One GET as a source describes it: `path` is appended to the base URL that `clouds` or the settings name."""

    service: str
    path: str
    query: tuple[tuple[str, str], ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    quota_group: str = "default"


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer of an API. `date` is its Date header (whole seconds), the only clock that proves coverage.

    `base_url` is where the request's path was appended to; a link in the answer that leads anywhere else is not followed.
    `partial` says, for people, why the API itself calls it a part of what was asked for (206); None where it does not.
    """

    body: bytes
    date: datetime | None
    base_url: str = ""
    partial: str | None = None


class Alert(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One record as a source read it. `raw` is the record's JSON as it came, in UTF-8; text that is empty at the source is
    None.

    `last_processed_at` is the source's own update time floored to microseconds, `source_updated_text` the same as it was written
    (up to seven fraction digits). `raw_exact` holds the record's bytes only where jsonb cannot hold them unchanged (NUL escapes,
    lone surrogates): `raw` then has U+FFFD in their place.
    """

    full_id: str
    last_processed_at: datetime
    source_updated_text: str
    content_hash: int
    raw: bytes
    raw_exact: bytes | None = None
    alert_id: str | None = None
    incident_id: str | None = None
    title: str | None = None
    severity_rank: int = 0
    status: str | None = None
    category: str | None = None
    detection_source: str | None = None
    service_source: str | None = None
    device_name: str | None = None
    device_id: str | None = None
    device_group: str | None = None
    user_name: str | None = None
    file_sha256: str | None = None
    threat_name: str | None = None
    mitre_techniques: list[str] | None = None
    assigned_to: str | None = None
    classification: str | None = None
    determination: str | None = None
    remediation_action: str | None = None
    event_time: datetime | None = None
    created_at: datetime | None = None
    resolved_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """A record or body that could not become an alert, kept whole with the reason (a short stable phrase)."""

    reason: str
    raw: bytes


class Incident(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One incident as a source read it. `last_update` is the source's own update time floored to microseconds,
    `source_updated_text` the same as it was written.

    `raw` is the record's JSON (UTF-8) without its member `alerts`: these are alerts of their own in the same page, with this
    incident's id. `alert_ids` names them by `Alert.alert_id`, None where the answer did not include them. `content_hash` is of
    `raw` (or of `raw_exact`, as in Alert) and of the ids in one order. `redirect_incident_id` is the incident that this one was
    merged into.
    """

    incident_id: str
    last_update: datetime
    source_updated_text: str
    content_hash: int
    raw: bytes
    raw_exact: bytes | None = None
    title: str | None = None
    severity_rank: int = 0
    status: str = "unknown"
    classification: str | None = None
    determination: str | None = None
    assigned_to: str | None = None
    redirect_incident_id: str | None = None
    tags: list[str] | None = None
    created_at: datetime | None = None
    incident_url: str | None = None
    alert_ids: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """What an answer held. `items` counts its top-level records, `nested` the alerts inside of incidents.

    A source of alerts has alerts as top-level records, and its pages no incidents and nothing nested:

        items == len(alerts) + len(rejects) + duplicates

    A source of incidents has incidents as top-level records; its alerts are all nested, with their `incident_id`:

        items == len(incidents) + len(rejects) - nested_rejects + duplicates
        nested == len(alerts) + nested_rejects + nested_duplicates

    So in both cases items + nested == len(incidents) + len(alerts) + len(rejects) + duplicates + nested_duplicates. Duplicates
    repeat a key of the same answer; the newest version is the one kept. The alerts of an incident that is itself rejected are in
    its reject's bytes, neither in `alerts` nor in `nested`.

    `full` means that the answer may have been cut: stored, not proven, its window split. `next` is the request that goes on from
    here where the window cannot be narrowed; it is None where the answer is not full, or where nothing safe leads on.
    `warnings` are one line each for the log, such as a link to another host: a stable phrase, ": ", detail.
    """

    items: int
    alerts: tuple[Alert, ...]
    rejects: tuple[Reject, ...] = ()
    duplicates: int = 0
    full: bool = False
    incidents: tuple[Incident, ...] = ()
    nested: int = 0
    nested_rejects: int = 0
    nested_duplicates: int = 0
    next: Request | None = None
    warnings: tuple[str, ...] = ()

    @property
    def times(self) -> tuple[datetime, ...]:
        """The update times of the top-level records: what a window asks for, and what moves a watermark."""
        if self.incidents or self.nested:
            return tuple(incident.last_update for incident in self.incidents)
        return tuple(alert.last_processed_at for alert in self.alerts)


@dataclass(frozen=True, slots=True)
class Sweep:
    """The second reading of a stream's recent past: the one under way, or the last one.

    `span` is [since, until) of what it is to read again, None before the first; `left` the part of that which it has not read
    yet, empty where none is under way. `late` and `greatest` tell of what it found that came late: how many records, and how
    late the latest of them. Of `held` records its answers did not have `missing`.
    """

    started_at: datetime
    span: tuple[datetime, datetime] | None = None
    left: Intervals = Intervals()
    late: int = 0
    greatest: timedelta = timedelta()
    held: int = 0
    missing: int = 0


@dataclass(frozen=True, slots=True)
class Volume:
    """What is usual of a stream. `hours` are hours of update time with records: bit n is the hour n before `last` (hours since
    1970). Records held since `began_at` can be asked for again; None until the owner has said it. `weekly` is in how many hours
    of a week there are records, None until enough is learned, and `silent_since` set where it is silent beyond chance.

    A sweep of `missing_span`, begun at `missing_since`, had fewer than half of what is held of it; once another one confirms it,
    `missing` of `held` records are not returned any more.
    """

    began_at: datetime | None = None
    last: int = 0
    hours: int = 0
    weekly: float | None = None
    silent_since: datetime | None = None
    missing: int = 0
    held: int = 0
    missing_since: datetime | None = None
    missing_span: tuple[datetime, datetime] | None = None


@dataclass(frozen=True, slots=True)
class Learned:
    """What an answer taught about how late a stream's records come. `late` of the records that it brought lie in what was proven
    before, `greatest` is the greatest lateness among them. `lateness` and `sweep` are the stream's from now on, `observed` is
    the lateness to reckon with.
    """

    late: int
    greatest: timedelta
    lateness: Mapping[int, int]
    observed: timedelta | None
    sweep: Sweep | None


@dataclass(frozen=True, slots=True)
class Counts:
    """Item accounting: items = inserted + updated + unchanged + stale + duplicate + rejected, for every poll.

    All of them are top-level records: incidents where a source has these, and then `nested` counts the alerts inside.
    """

    items: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    stale: int = 0
    duplicate: int = 0
    rejected: int = 0
    nested: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.items + other.items,
            self.inserted + other.inserted,
            self.updated + other.updated,
            self.unchanged + other.unchanged,
            self.stale + other.stale,
            self.duplicate + other.duplicate,
            self.rejected + other.rejected,
            self.nested + other.nested,
        )

    @property
    def balanced(self) -> bool:
        parts = self.inserted + self.updated + self.unchanged + self.stale + self.duplicate + self.rejected
        return self.items == parts


@dataclass(frozen=True, slots=True)
class Stream:
    """One tenant's feed from one source, as its row and its progress say. The owner's copy moves on with what it stores.

    `coverage` holds all that is proven; `unfolded` is the part of it that stands in stream_progress (or nowhere yet) and
    joins the stream's row with the next storing transaction or flush. `overlap` is None until one was learned. `gone_since` is
    when the source was first missing without having been back since; `cause` the word (of `causes`) for what a person must mend;
    `history` how alerts from before `enrolled_at` arrive. `gap_share` is what reading `backfill` may take of the source's quota,
    None where nobody said. `lateness` counts what came late, by how late, as `ingest.lateness` does. `sweep` is None until the
    row says when the last one began. `idle` counts the items of all answers of which nothing had to be stored, since it was
    enrolled.
    """

    tenant_id: UUID
    source: str
    parameters: Mapping[str, Any]
    enrolled_at: datetime
    wanted: Intervals
    backfill: Intervals = Intervals()
    coverage: Intervals = Intervals()
    unfolded: Intervals = Intervals()
    watermark: datetime | None = None
    overlap: timedelta | None = None
    failures: int = 0
    state: StreamState = "new"
    state_reason: str | None = None
    cause: str | None = None
    gone_since: datetime | None = None
    history: Arrival = "initial"
    gap_share: float | None = None
    lateness: Mapping[int, int] = field(default_factory=dict)
    sweep: Sweep | None = None
    volume: Volume = Volume()
    idle: Counts = Counts()

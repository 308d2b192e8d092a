"""The Defender for Endpoint SIEM API ("pull detections"): GET /api/alerts, a bare array of detections.

From the page "Pull detections using SIEM REST API" and its field tables. A detection never changes. There is
no paging: `limit` keeps the newest N and drops the rest, so it is never sent. Nobody says whether the limits
of time are inclusive, so both go a millisecond beyond the window.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import Any, Final
from uuid import UUID

import msgspec

from service import errors, model, timestamps
from service.sources import contract, records

_MARGIN: Final = timedelta(milliseconds=1)
_SINGLE_TAGS: Final = ("DeviceCreatedMachineTags", "CloudCreatedMachineTags")
_OURS: Final = ("sinceTimeUtc", "untilTimeUtc", "ago", "limit")
_PARAMETERS: Final = (
    "machinegroups (a list of names), DeviceCreatedMachineTags, CloudCreatedMachineTags (a tag each)"
)

# No page names a cap; an answer with exactly so many records is taken for one that was cut.
_FULL: Final = frozenset({1_000, 5_000, 10_000})


class Detection(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A record with documented fields and types alone: flat, no tenant, no number that a row could not hold.

    So its decoding is all its checks, and any other record is read field by field. In the order of the API's
    answers, for which the decoder is quickest.
    """

    AlertTime: str | None = None
    ComputerDnsName: str | None = None
    AlertTitle: str | None = None
    Category: str | None = None
    Severity: str | None = None
    AlertId: str | None = None
    Actor: str | None = None
    LinkToWDATP: str | None = None
    IocName: str | None = None
    IocValue: str | None = None
    CreatorIocName: str | None = None
    CreatorIocValue: str | None = None
    Sha1: str | None = None
    FileName: str | None = None
    FilePath: str | None = None
    IpAddress: str | None = None
    Url: str | None = None
    IoaDefinitionId: str | None = None
    IoaDefinitiondId: str | None = None  # the spelling of samples from 2017
    UserName: str | None = None
    AlertPart: int | None = None
    FullId: str | None = None
    LastProcessedTimeUtc: str | None = None
    ThreatCategory: str | None = None
    ThreatFamily: str | None = None
    ThreatName: str | None = None
    RemediationAction: str | None = None
    RemediationIsSuccess: bool | None = None
    Source: str | None = None
    Md5: str | None = None
    Sha256: str | None = None
    WasExecutingWhileDetected: bool | None = None
    UserDomain: str | None = None
    LogOnUsers: str | None = None
    MachineDomain: str | None = None
    MachineName: str | None = None
    InternalIPv4List: str | None = None
    InternalIPv6List: str | None = None
    FileHash: str | None = None
    DeviceID: str | None = None
    MachineGroup: str | None = None
    Description: str | None = None
    DeviceCreatedMachineTags: str | None = None
    CloudCreatedMachineTags: str | None = None
    CommandLine: str | None = None
    IncidentLinkToWDATP: str | None = None
    ReportID: int | None = None
    LinkToMTP: str | None = None
    IncidentLinkToMTP: str | None = None
    ExternalId: str | None = None
    IocUniqueId: str | None = None


_COLUMNS: Final = (
    "FullId",
    "LastProcessedTimeUtc",
    "AlertTime",
    "AlertId",
    "AlertTitle",
    "Category",
    "Severity",
    "Source",
    "ComputerDnsName",
    "MachineName",
    "MachineGroup",
    "DeviceID",
    "UserName",
    "UserDomain",
    "Sha256",
    "ThreatName",
    "RemediationAction",
)
_documented: Final[Callable[[msgspec.Raw], Detection]] = msgspec.json.Decoder(Detection).decode


class Siem:
    """See sources.contract.Source."""

    name: Final = "siem"
    service: Final = "siem"
    quota: Final[tuple[tuple[int, float], ...]] = ()  # not documented
    reach: Final = None  # not documented
    roles: Final[frozenset[str]] = frozenset()  # the portal makes the app; there is no role to grant
    scopes: Final[frozenset[str]] = frozenset()  # users can sign in, no page names the permission
    mutable: Final = False
    incidents: Final = False
    most: Final = None  # no page names a cap
    relief: Final[Mapping[str, Any]] = MappingProxyType({})
    narrowing: Final = frozenset({"machinegroups", *_SINGLE_TAGS})

    def check_parameters(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Device groups and tags that narrow the tenant's detections; see sources.contract.Source."""
        checked: dict[str, Any] = {}
        for name, value in parameters.items():
            if name == "machinegroups":
                if not isinstance(value, list | tuple) or not value:
                    raise errors.BadInput(
                        f"machinegroups {_shown(value)}: must be a list of names such as ['Servers']"
                    )
                checked[name] = sorted({_name(name, group) for group in value})
            elif name in _SINGLE_TAGS:
                checked[name] = _name(name, value)
            elif name in _OURS:
                raise errors.BadInput(
                    f"{name} {_shown(value)}: cannot be set, each request's window says what it asks for"
                )
            else:
                raise errors.BadInput(
                    f"parameter {name[:40]!r} {_shown(value)}: the SIEM API has {_PARAMETERS}"
                )
        return checked

    def request(self, window: model.Window, parameters: Mapping[str, Any]) -> model.Request:
        """GET /api/alerts for the window and a millisecond around it; see sources.contract.Source."""
        query = [
            ("sinceTimeUtc", timestamps.iso_ms(window.since - _MARGIN)),
            ("untilTimeUtc", timestamps.iso_ms(window.until + _MARGIN)),
        ]
        query += [("machinegroups", group) for group in parameters.get("machinegroups", ())]
        query += [(tag, parameters[tag]) for tag in _SINGLE_TAGS if tag in parameters]
        return model.Request(service=self.service, path="/api/alerts", query=tuple(query))

    def read(
        self,
        body: bytes,
        window: model.Window,
        tenant_id: UUID,
        *,
        asked: model.Request | None = None,
        base_url: str = "",
    ) -> contract.Steps:
        """Detections as alerts; see sources.contract.Source."""
        # An answer's records are taken as they are, whatever was asked for; and there is no way to go on.
        del window, asked, base_url
        return records.page(body, lambda record: _alert(record, tenant_id), full_counts=_FULL)


def _alert(record: msgspec.Raw, tenant_id: UUID) -> model.Alert:
    try:
        it = _documented(record)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        it = _lenient(record, tenant_id)
    full_id = it.FullId
    if not full_id or len(full_id) > 128:  # characters: at most a quarter of the bytes allowed
        full_id = records.key(full_id, "FullId")
    written = it.LastProcessedTimeUtc
    updated = records.update_time(written, "LastProcessedTimeUtc")
    happened = records.optional_time(it.AlertTime)
    user = it.UserName or None
    if user and it.UserDomain and "\\" not in user:
        user = f"{it.UserDomain}\\{user}"
    return model.Alert(
        full_id=full_id,
        last_processed_at=updated,
        source_updated_text=written or "",
        content_hash=records.content_hash(record),
        raw=bytes(record),
        # FullId is AlertId:IocUniqueId
        alert_id=it.AlertId or full_id.partition(":")[0] or None,
        title=it.AlertTitle or None,
        severity_rank=records.severity_rank(it.Severity),
        category=it.Category or None,
        detection_source=it.Source or None,
        service_source="microsoftDefenderForEndpoint",
        device_name=it.ComputerDnsName or it.MachineName or None,
        device_id=it.DeviceID or None,
        device_group=it.MachineGroup or None,
        user_name=user,
        file_sha256=records.sha256(it.Sha256),
        threat_name=it.ThreatName or None,
        remediation_action=it.RemediationAction or None,
        event_time=happened,
        created_at=happened,  # Microsoft's own table maps AlertTime to Graph's createdDateTime
    )


def _lenient(record: msgspec.Raw, tenant_id: UUID) -> Detection:
    """What there is of the fields. Raises records.Unstorable where the record cannot be stored."""
    found = records.fields(record, tenant_id)
    records.key(found.get("FullId"), "FullId")
    records.update_time(found.get("LastProcessedTimeUtc"), "LastProcessedTimeUtc")
    return msgspec.convert({name: records.text(found.get(name)) for name in _COLUMNS}, Detection)


def _name(parameter: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 256 or not value.isprintable():
        raise errors.BadInput(f"{parameter} {_shown(value)}: must be a text of 1 to 256 printable characters")
    return value.strip()


def _shown(value: object) -> str:
    return repr(value)[:80]

"""Alert stories rendered as the SIEM API's detections, the same bytes for the same story at any time.

A detection is known by four numbers (story, begin, processed, place); everything else follows from
them and the tenant, so that nothing but the numbers is kept in memory and a record is written in a few
microseconds when it is asked for: the text that it shares with others (of the step, of the device) is made
once and put together. The 64-bit story number is random; its bits choose playbook, device, user and the
rest.
"""

from __future__ import annotations

import binascii
import dataclasses
import functools
import hashlib
import re
import struct
from typing import Any, NamedTuple

import msgspec

from service.simulator import playbooks, ticks

PORTAL = "https://securitycenter.windows.com"
XDR_PORTAL = "https://security.microsoft.com"
# A place is one byte: the part of the story, and whether this is the later version of it.
PART = 0x0F
REVISED = 0x10

BOOKS = len(playbooks.PLAYBOOKS)
MEAN_PARTS = sum((len(book.steps) + 1) / 2 for book in playbooks.PLAYBOOKS) / BOOKS

_TO_MTP = f'&source=SIEM","LinkToMTP":"{XDR_PORTAL}/alerts/'.encode()
_TO_MTP_INCIDENT = f'","IncidentLinkToMTP":"{XDR_PORTAL}/incidents/byalert?alertId='.encode()
_NOTE = b" Automated investigation has added details to this detection."
_WORD = 2**64 - 1


class Estate(NamedTuple):
    """What a tenant's alerts have in common: its DNS domain, NetBIOS name and number of devices."""

    domain: str
    netbios: str
    devices: int

    @classmethod
    def of(cls, name: str, tenant_id: str) -> Estate:
        """The estate that belongs to a tenant's name; between 20 and 400 devices."""
        label = re.sub(r"[^a-z0-9]+", "", name.lower())[:24] or "tenant"
        size = int.from_bytes(hashlib.blake2b(tenant_id.encode(), digest_size=4).digest(), "big")
        return cls(f"{label}.example", label.upper()[:15], 20 + size % 381)


class Detection(NamedTuple):
    """One detection in numbers: 64 bits, two times in ticks, its part of the story (plus REVISED, if it
    is).
    """

    story: int
    begin: int
    processed: int
    place: int


def parts(story: int) -> int:
    """How many detections the story has (1 to 6)."""
    return 1 + (story >> 32) % len(playbooks.PLAYBOOKS[story % BOOKS].steps)


def full_id(story: int, begin: int, place: int) -> str:
    """`AlertId:IocUniqueId`, unique per detection and the same in each version of it."""
    return (_alert_id(story, begin) + b":" + _ioc_unique_id(story, place & PART)).decode()


def alert_id(story: int, begin: int) -> str:
    """The id of the alert that the story's detections belong to; every API uses it."""
    return _alert_id(story, begin).decode()


def render(estate: Estate, story: int, begin: int, processed: int, place: int) -> bytes:
    """The detection as the API's JSON object: every documented field in the documented casing."""
    part = place & PART
    number = (story >> 8) % estate.devices
    device = _device(estate, number)
    step = _step(estate.netbios, story % BOOKS, part, (story >> 20) % len(playbooks.USERS))
    alert_id = _alert_id(story, begin)
    ioc_id = _ioc_unique_id(story, part)
    # The event precedes its arrival in the backend by 2 to 97 seconds.
    event = processed - 2 * ticks.SECOND - (story >> 12) % (95 * ticks.SECOND)
    return b"".join(
        (
            b'{"AlertTime":"',
            ticks.raw(event),
            device.name,
            step.alert,
            alert_id,
            step.actor,
            alert_id,
            step.what,
            alert_id,
            b":",
            ioc_id,
            b'","LastProcessedTimeUtc":"',
            ticks.raw(processed),
            step.threat,
            device.network,
            step.file_hash,
            device.identity,
            step.description,
            _NOTE if place & REVISED else b"",
            device.tags,
            step.command,
            alert_id,
            _TO_MTP,
            alert_id,
            _TO_MTP_INCIDENT,
            alert_id,
            b'&source=SIEM","ReportID":%d' % ((story >> 24) % 2_000_000_000 + part),
            device.external,
            ioc_id,
            b'"}',
        )
    )


def _alert_id(story: int, begin: int) -> bytes:
    return b"da%d_%d" % (begin + ticks.DOTNET_EPOCH, (story >> 32) - 2**31)


def _ioc_unique_id(story: int, part: int) -> bytes:
    word = story ^ ((part + 1) * 0x9E3779B97F4A7C15 & _WORD)
    return binascii.b2a_base64(struct.pack(">QQ", word * 0xBF58476D1CE4E5B9 & _WORD, word), newline=False)


@dataclasses.dataclass(frozen=True, slots=True)
class _Step:
    """The text that all detections of one step by one user share, in the order in which it is written."""

    alert: bytes
    actor: bytes
    what: bytes
    threat: bytes
    file_hash: bytes
    description: bytes
    command: bytes


@functools.lru_cache(maxsize=65_536)
def _step(netbios: str, book: int, part: int, user_number: int) -> _Step:
    alert = playbooks.PLAYBOOKS[book]
    step = alert.steps[part]
    user = playbooks.USERS[user_number]
    digest = hashlib.blake2b(step.file.encode(), digest_size=64).hexdigest() if step.file else ""
    sha1 = digest[:40]
    antivirus = step.source == "Antivirus"  # only antivirus detections carry the other two hashes
    name = "" if antivirus else user  # and only behavioural ones the user
    head = {
        "AlertTitle": alert.title,
        "Category": alert.category,
        "Severity": alert.severity,
        "AlertId": None,
    }
    what = {
        "IocName": step.ioc,
        "IocValue": step.ioc_value,
        "CreatorIocName": "",
        "CreatorIocValue": "",
        "Sha1": sha1,
        "FileName": step.file,
        "FilePath": step.path.replace("{user}", user),
        "IpAddress": step.ip,
        "Url": step.url,
        "IoaDefinitionId": alert.rule,
        "UserName": name,
        "AlertPart": part,
        "FullId": None,
    }
    threat = {
        "ThreatCategory": step.threat_category,
        "ThreatFamily": step.family,
        "ThreatName": step.threat,
        "RemediationAction": step.remediation,
        "RemediationIsSuccess": step.remediated,
        "Source": step.source,
        "Md5": digest[96:] if antivirus else "",
        "Sha256": digest[40:104] if antivirus else "",
        "WasExecutingWhileDetected": step.executing,
        "UserDomain": netbios if name else "",
        "LogOnUsers": f"{netbios}\\{user}; {netbios}\\admin01",
    }
    command = {"CommandLine": step.command.replace("{user}", user)}
    return _Step(
        alert=b'",' + _members(head)[:-4] + b'"',
        actor=b'",' + _members({"Actor": alert.actor}) + f',"LinkToWDATP":"{PORTAL}/alert/'.encode(),
        what=b'",' + _members(what)[:-4] + b'"',
        threat=b'",' + _members(threat) + b",",
        file_hash=_members({"FileHash": sha1}) + b",",
        description=_members({"Description": alert.description})[:-1],
        command=_members(command) + f',"IncidentLinkToWDATP":"{PORTAL}/incidents/byalert?alertId='.encode(),
    )


@dataclasses.dataclass(frozen=True, slots=True)
class _Device:
    """The text that all detections on one device share, in the order in which it is written."""

    name: bytes
    network: bytes
    identity: bytes
    tags: bytes
    external: bytes


@functools.lru_cache(maxsize=65_536)
def _device(estate: Estate, number: int) -> _Device:
    kind, group = playbooks.DEVICE_KINDS[number % len(playbooks.DEVICE_KINDS)]
    name = f"{kind}-{number:03d}"
    digest = hashlib.blake2b(f"{estate.domain}/{number}".encode(), digest_size=40).hexdigest()
    network = {
        "MachineDomain": estate.domain,
        "MachineName": name,
        "InternalIPv4List": f"10.{number % 250}.{number // 250}.17,127.0.0.1",
        "InternalIPv6List": f"fe80::{number:x}:{digest[:4]},::1",
    }
    tags = {
        "DeviceCreatedMachineTags": playbooks.DEVICE_TAGS[number % len(playbooks.DEVICE_TAGS)],
        "CloudCreatedMachineTags": playbooks.CLOUD_TAGS[number % len(playbooks.CLOUD_TAGS)],
    }
    return _Device(
        name=f'","ComputerDnsName":"{name}.{estate.domain}'.encode(),
        network=_members(network) + b",",
        identity=_members({"DeviceID": digest[:40], "MachineGroup": group}) + b",",
        tags=b'",' + _members(tags) + b",",
        external=b"," + _members({"ExternalId": digest[40:].upper()}) + b',"IocUniqueId":"',
    )


def _members(values: dict[str, Any]) -> bytes:
    """The values as members of a JSON object, without its braces; a last value of None ends in `null`."""
    return msgspec.json.encode(values)[1:-1]

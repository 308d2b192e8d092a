"""The devices, people and files of a tenant, as every API but the SIEM one shows them; they agree with `stories`,
so that one alert names one device, user and digest wherever it is read.
"""

from __future__ import annotations

import functools
import hashlib
from typing import NamedTuple

from service.simulator import playbooks, stories

_PLATFORMS = {
    "ws": ("Windows11", "24H2", 26100),
    "lap": ("Windows11", "23H2", 22631),
    "srv": ("WindowsServer2022", "21H2", 20348),
    "dc": ("WindowsServer2025", "24H2", 26100),
}
_RISKS = ("None", "Low", "Medium", "High")


class Device(NamedTuple):
    """One device; `risk` in the words of Defender for Endpoint."""

    number: int
    device_id: str
    dns_name: str
    group: str
    group_id: int
    platform: str
    version: str
    build: int
    risk: str
    tags: tuple[str, ...]
    first_seen: str


class User(NamedTuple):
    """One account."""

    name: str
    domain: str
    sid: str
    principal: str


class File(NamedTuple):
    """The file of one detection; empty digests where it has none."""

    name: str
    path: str
    sha1: str
    sha256: str
    size: int


class Event(NamedTuple):
    """What one detection is about, besides device and user."""

    step: playbooks.Step
    file: File
    command: str
    process_id: int
    parent_id: int


@functools.lru_cache(maxsize=65_536)
def device(estate: stories.Estate, number: int) -> Device:
    """The estate's device of that number."""
    kind, group = playbooks.DEVICE_KINDS[number % len(playbooks.DEVICE_KINDS)]
    digest = hashlib.blake2b(f"{estate.domain}/{number}".encode(), digest_size=40).hexdigest()
    platform, version, build = _PLATFORMS[kind]
    tags = (
        playbooks.DEVICE_TAGS[number % len(playbooks.DEVICE_TAGS)],
        *playbooks.CLOUD_TAGS[number % len(playbooks.CLOUD_TAGS)].split(","),
    )
    return Device(
        number,
        digest[:40],
        f"{kind}-{number:03d}.{estate.domain}",
        group,
        10 + number % len(playbooks.DEVICE_KINDS),
        platform,
        version,
        build,
        _RISKS[number % len(_RISKS)],
        tuple(tag for tag in tags if tag),
        f"2026-01-{1 + number % 28:02d}T10:00:{number % 60:02d}.12Z",
    )


@functools.lru_cache(maxsize=4096)
def user(estate: stories.Estate, number: int) -> User:
    """The estate's user of that number."""
    name = playbooks.USERS[number]
    digest = hashlib.blake2b(f"{estate.domain}/{name}".encode(), digest_size=12).digest()
    parts = [int.from_bytes(digest[place : place + 4], "big") for place in (0, 4, 8)]
    sid = f"S-1-5-21-{parts[0]}-{parts[1]}-{parts[2]}-{1104 + number}"
    return User(name, estate.netbios, sid, f"{name}@{estate.domain}")


@functools.lru_cache(maxsize=4096)
def event(book: int, part: int, user_number: int) -> Event:
    """The playbook's step as it happened to that user."""
    step = playbooks.PLAYBOOKS[book].steps[part]
    name = playbooks.USERS[user_number]
    digest = hashlib.blake2b(step.file.encode(), digest_size=64).hexdigest() if step.file else ""
    file = File(
        step.file, step.path.replace("{user}", name), digest[:40], digest[40:104], 1024 * (17 + len(digest))
    )
    return Event(step, file, step.command.replace("{user}", name), 4000 + 7 * part + 4 * user_number, 512)


def device_number(estate: stories.Estate, story: int) -> int:
    """On which device the story happens."""
    return (story >> 8) % estate.devices


def user_number(story: int) -> int:
    """To which user."""
    return (story >> 20) % len(playbooks.USERS)

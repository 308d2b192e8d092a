"""What the forms share: whose record it is, times, and members put over what is rendered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from service.simulator import cases, lives, scenery, stories, ticks

PORTAL = "https://security.microsoft.com"


class Place(NamedTuple):
    """Whose records they are."""

    tenant_id: str
    estate: stories.Estate


def time(at: int | None) -> str | None:
    """A time, or null."""
    return None if at is None else ticks.text(at)


def event_time(story: int, processed: int) -> int:
    """When the event behind a detection happened, the same as the SIEM API's AlertTime."""
    return processed - 2 * ticks.SECOND - (story >> 12) % (95 * ticks.SECOND)


def members(values: Mapping[str, Any]) -> bytes:
    """The values as members of a JSON object, without its braces."""
    return msgspec.json.encode(values)[1:-1]


def events(alert: lives.Alert) -> list[tuple[int, int, int]]:
    """(part, when it happened, when it was processed) of the alert's detections, oldest first."""
    return [
        (part % len(alert.book.steps), event_time(alert.story, processed), processed)
        for part, processed in alert.parts
    ]


def device(place: Place, alert: lives.Alert) -> scenery.Device:
    """The device on which it happened."""
    return scenery.device(place.estate, scenery.device_number(place.estate, alert.story))


def family(alert: lives.Alert) -> tuple[str | None, str | None]:
    """Threat family and name, once a detection has told them."""
    for part, _ in alert.parts:
        step = alert.book.steps[part % len(alert.book.steps)]
        if step.threat:
            return step.family, step.threat
    return None, None


def techniques(alert: lives.Alert) -> list[str]:
    """MITRE techniques, by category."""
    return _TECHNIQUES.get(alert.book.category, [])


def over(values: dict[str, Any], fields: Mapping[str, Mapping[str, Any]], api: cases.Api) -> dict[str, Any]:
    """The values with what was filed over them."""
    return {**values, **fields[api]} if api in fields else values


_TECHNIQUES: Mapping[str, list[str]] = {
    "Execution": ["T1059.001"],
    "CredentialAccess": ["T1003.001"],
    "Impact": ["T1486", "T1490"],
    "CommandAndControl": ["T1071.001"],
    "Persistence": ["T1053.005"],
    "LateralMovement": ["T1021.002", "T1047"],
    "InitialAccess": ["T1566.001"],
}

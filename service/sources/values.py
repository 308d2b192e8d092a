"""From a field's value, whatever its type, to what a column holds: what the APIs with mutable records share.

One vocabulary for all of them. Enumerations are open: a word that nobody documented costs no alert, and stays in raw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from service.sources import records

_LONGEST_URL: Final = 2_048
_ALERT_STATUSES: Final = {"new": "new", "inprogress": "in_progress", "resolved": "resolved"}
_INCIDENT_STATUSES: Final = {
    "active": "active",
    "inprogress": "in_progress",
    "resolved": "resolved",
    "redirected": "redirected",
}

# Graph's words are the newest, so they are the ones that all sources share.
_PRODUCTS: Final = {
    "MicrosoftDefenderATP": "microsoftDefenderForEndpoint",
    "MicrosoftCloudAppSecurity": "microsoftDefenderForCloudApps",
    "OfficeATP": "microsoftDefenderForOffice365",
    "AzureATP": "microsoftDefenderForIdentity",
    "MTP": "microsoft365Defender",
}
ENDPOINT: Final = "microsoftDefenderForEndpoint"


def alert_status(value: object) -> str:
    """One of model.ALERT_STATUSES."""
    return _ALERT_STATUSES.get(value.strip().lower(), "unknown") if isinstance(value, str) else "unknown"


def incident_status(value: object) -> str:
    """One of model.INCIDENT_STATUSES."""
    return _INCIDENT_STATUSES.get(value.strip().lower(), "unknown") if isinstance(value, str) else "unknown"


def word(value: object) -> str | None:
    """A word of classification or determination as Graph spells it: `TruePositive` becomes `truePositive`."""
    found = records.text(value)
    return found and found[0].lower() + found[1:]


def product(value: object) -> str | None:
    """Which product an alert comes from, in Graph's words (`serviceSource`)."""
    found = records.text(value)
    return _PRODUCTS.get(found, found) if found else None


def identity(value: object) -> str | None:
    """An id that one API writes as a number and another as a text; None where it cannot be one."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    found = records.text(value)
    return found if found and len(found.encode()) <= records.MAX_KEY_BYTES else None


def alert_id(full_id: str, of: str | None, provider_alert_id: object) -> str:
    """What all sources call one alert: the XDR API and Graph share their ids, and those of the endpoint's alerts are the ids
    that the SIEM and Endpoint APIs use. Should a record name another one for an alert of the endpoint, that is theirs.
    """
    theirs = identity(provider_alert_id) if of == ENDPOINT else None
    return theirs or full_id


def texts(value: object) -> list[str] | None:
    """The texts of a list, each once; None where there is none."""
    if not isinstance(value, list):
        return None
    return list(dict.fromkeys(item for item in value if isinstance(item, str) and item)) or None


def time(value: object) -> datetime | None:
    """A time that a record can do without."""
    return records.optional_time(value) if isinstance(value, str) else None


def web_address(value: object) -> str | None:
    """A link that people may be shown: https, of a length that browsers take."""
    if isinstance(value, str) and value.startswith("https://") and len(value) <= _LONGEST_URL:
        return value if value.isprintable() and " " not in value else None
    return None


def objects(value: object) -> list[Mapping[str, Any]]:
    """The objects in a list, whatever else it holds."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def part(value: object) -> Mapping[str, Any]:
    """An object, or an empty one in the place of anything else."""
    return value if isinstance(value, dict) else {}


def user(name: object, domain: object, principal: object = None) -> str | None:
    r"""`CONTOSO\kim` where account and domain are known, else the account, else the principal's name."""
    account, of = records.text(name), records.text(domain)
    if account and of and not {"\\", "@"} & set(account):
        return f"{of}\\{account}"
    return account or records.text(principal)


def first(items: Iterable[Mapping[str, Any]], read: Callable[[Mapping[str, Any]], str | None]) -> str | None:
    """The first thing that `read` finds in one of the items."""
    return next((found for item in items if (found := read(item))), None)


def entity_user(entities: list[Mapping[str, Any]]) -> str | None:
    """The user of an alert in the Endpoint and XDR APIs' evidence: of the kind User, else of anything that names one."""
    users = [entity for entity in entities if entity.get("entityType") == "User"]
    return first(
        (*users, *entities),
        lambda entity: user(
            entity.get("accountName"), entity.get("domainName"), entity.get("userPrincipalName")
        ),
    )

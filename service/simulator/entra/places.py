"""The first segment of every path: a tenant, or the words that stand for whoever signs in."""

from __future__ import annotations

import re
import uuid

from service.simulator import directory, world
from service.simulator.entra import aadsts

_ANYBODYS = frozenset({"common", "organizations"})
_DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)+", re.IGNORECASE)


def tenant(shown: world.World, name: str) -> directory.Tenant:
    """The tenant of a GUID or domain. Raises Problem (90002, 900023)."""
    found = shown.find(name)
    if found is None:
        known_form = is_guid(name) or _DOMAIN.fullmatch(name)
        raise aadsts.Problem(90002 if known_form else 900023, tenant=name[:100])
    return found


def tenant_or_any(shown: world.World, name: str) -> directory.Tenant | None:
    """The tenant; None for common and organizations. Raises Problem."""
    return None if name.lower() in _ANYBODYS else tenant(shown, name)


def app(shown: world.World, app_id: str, name: str) -> directory.App:
    """The app registration with this client id, whether or not the tenant `name` knows it. Raises Problem."""
    found = shown.apps.get(app_id.lower())
    if found is None:
        raise aadsts.Problem(700016, app=app_id[:100], tenant=name[:100])
    return found


def is_guid(text: str) -> bool:
    """Whether a text is a GUID in any of its forms."""
    try:
        uuid.UUID(text)
    except ValueError:
        return False
    return True

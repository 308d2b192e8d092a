"""Which permissions of which API a token request asks for."""

from __future__ import annotations

from typing import NamedTuple

from service.simulator import directory
from service.simulator.entra import aadsts

_OPENID = frozenset({"openid", "profile", "email", "offline_access"})


class Wanted(NamedTuple):
    """What a user is asked for: permissions of one API (empty: all that the app registers), and of OpenID."""

    resource: str
    permissions: tuple[str, ...]
    openid: frozenset[str]


def of_app(scope: str) -> str:
    """The one resource of an app's v2 scope. Raises Problem."""
    scopes = scope.split()
    if len(scopes) != 1:
        raise aadsts.Problem(70011, resource=scope)
    resource, found, rest = scopes[0].rpartition("/.default")
    if not found or rest:
        raise aadsts.Problem(1002012, resource=scope)
    return resource


def of_user(scope: str) -> Wanted:
    """What a delegated v2 scope asks for; a permission without an API is Microsoft Graph's. Raises Problem.

    `.default` beside single permissions, two APIs, and a scope of OpenID alone are refused (70011).
    """
    resources: set[str] = set()
    permissions: list[str] = []
    openid = frozenset(each for each in scope.split() if each.lower() in _OPENID)
    for each in scope.split():
        if each in openid:
            continue
        resource, found, permission = each.rpartition("/")
        resources.add(resource.removesuffix("/") if found else directory.GRAPH_RESOURCE)
        permissions.append(permission)
    if len(resources) != 1 or (".default" in permissions and len(permissions) > 1):
        raise aadsts.Problem(70011, resource=scope)
    return Wanted(resources.pop(), () if permissions == [".default"] else tuple(permissions), openid)


def granted(app: directory.App, user: directory.User, wanted: Wanted) -> tuple[str, ...]:
    """The permissions that the app gets; none where one that was named cannot be granted by the user."""
    allowed = user.may_grant.get(wanted.resource, ())
    if wanted.permissions:
        return wanted.permissions if set(wanted.permissions) <= set(allowed) else ()
    return tuple(each for each in app.delegated.get(wanted.resource, ()) if each in allowed)

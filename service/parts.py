"""What the settings and the sources ask for, as the values that the composition root hands on."""

from __future__ import annotations

from service import clouds, errors, settings
from service.auth import modes
from service.sources import contract, registry
from service.transport import pace


def endpoints(config: settings.Settings) -> clouds.Endpoints:
    """Hosts and audiences, with what the settings put in their place."""
    return clouds.Endpoints(config.addresses, config.siem_resource)


def roles() -> dict[str, frozenset[str]]:
    """By service, the app roles of which a token must hold one: any that one of the service's sources can read with.

    A token that has only another source's role is refused by the API itself, which names what it wants.
    """
    wanted: dict[str, frozenset[str]] = {}
    for source in registry.SOURCES.values():
        wanted[source.service] = wanted.get(source.service, frozenset()) | source.roles
    return wanted


def quotas() -> dict[str, tuple[pace.Quota, ...]]:
    """By service, what its page allows an app and tenant."""
    return {
        source.service: tuple(pace.Quota(calls, seconds) for calls, seconds in source.quota)
        for source in registry.SOURCES.values()
        if source.quota
    }


def fallback(config: settings.Settings) -> contract.Source | None:
    """What stands in for sources that end, where the settings name it. Raises errors.BadSetting."""
    name = config.fallback_source
    if name is None:
        return None
    if name not in registry.SOURCES:
        raise errors.BadSetting(
            f"ALERTWELL_FALLBACK_SOURCE={name[:40]!r}: must be {' or '.join(registry.SOURCES)}"
        )
    return registry.SOURCES[name]


def shared_app(config: settings.Settings) -> modes.SharedApp | None:
    """The multi-tenant app, where the settings name one."""
    if config.client_id is None or config.client_secret is None:
        return None
    return modes.SharedApp(
        config.client_id, config.client_secret_file or config.client_secret.get_secret_value()
    )

"""What the settings and the sources ask for, as the values that the composition root hands on."""

from __future__ import annotations

from collections.abc import Callable

from service import clouds, errors, proxies, settings
from service.auth import credentials, federated, managed, modes, sealing
from service.sources import contract, registry
from service.transport import pace


def endpoints(config: settings.Settings) -> clouds.Endpoints:
    """Hosts and audiences, with what the settings put in their place."""
    return clouds.Endpoints(config.addresses, config.siem_resource)


def proxy(config: settings.Settings) -> proxies.Proxy | None:
    """What stands between us and Microsoft, for Entra and the APIs alike."""
    if config.proxy_url is None:
        return None
    password = config.proxy_password.get_secret_value() if config.proxy_password else ""
    return proxies.parse(config.proxy_url, password, config.no_proxy or ())


def roles() -> dict[str, frozenset[str]]:
    """By service, the app roles of which a token must hold one: any that one of the service's sources can read with.

    A token that has only another source's role is refused by the API itself, which names what it wants.
    """
    return _by_service(lambda source: source.roles)


def scopes() -> dict[str, frozenset[str]]:
    """The same for the delegated permissions of a signed-in user."""
    return _by_service(lambda source: source.scopes)


def _by_service(needed: Callable[[contract.Source], frozenset[str]]) -> dict[str, frozenset[str]]:
    wanted: dict[str, frozenset[str]] = {}
    for source in registry.SOURCES.values():
        wanted[source.service] = wanted.get(source.service, frozenset()) | needed(source)
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


def sealer(config: settings.Settings) -> sealing.Sealer | None:
    """What opens tenants' own secrets and signs invitations, where the settings name keys. Raises errors.BadSetting."""
    return sealing.Sealer.from_file(config.sealing_keys_file) if config.sealing_keys_file else None


def shared_app(config: settings.Settings) -> modes.SharedApp | None:
    """The multi-tenant app with what is set to prove it, where the settings name any of that.

    Raises errors.BadSetting where the settings do not fit together, or a file of theirs cannot be used.
    """
    secret = config.client_secret.get_secret_value() if config.client_secret else None
    password = config.client_certificate_password
    _fit(config)
    source = token_source(config)
    if config.client_id is None and source is None:
        return None
    app = modes.SharedApp(
        config.client_id,
        config.client_secret_file or secret,
        secret_expires_at=config.client_secret_expires_at,
        certificate=config.client_certificate_file,
        certificate_password=config.client_certificate_password_file
        or (password.get_secret_value() if password else None),
        federated=source,
    )
    credentials.Shared(app)  # reads every file
    return app


def _fit(config: settings.Settings) -> None:
    own = {
        "CLIENT_SECRET": config.client_secret,
        "CLIENT_CERTIFICATE_FILE": config.client_certificate_file,
    }
    source = {
        "FEDERATED_TOKEN_FILE": config.federated_token_file,
        "MANAGED_IDENTITY": config.managed_identity,
    }
    # Tenants with federated apps of their own need the source of tokens, and no shared app.
    needing = own if config.sealing_keys_file is not None else own | source
    homeless = [name for name, value in needing.items() if value is not None]
    if config.client_id is None and homeless:
        raise errors.BadSetting(
            f"ALERTWELL_{homeless[0]} is set without ALERTWELL_CLIENT_ID, the application (client) id"
        )
    if config.client_id is not None and all(value is None for value in (own | source).values()):
        raise errors.BadSetting(
            "ALERTWELL_CLIENT_ID is set without a credential: set ALERTWELL_CLIENT_SECRET_FILE, "
            "ALERTWELL_CLIENT_CERTIFICATE_FILE, ALERTWELL_FEDERATED_TOKEN_FILE or ALERTWELL_MANAGED_IDENTITY"
        )
    if all(value is not None for value in source.values()):
        raise errors.BadSetting(
            "ALERTWELL_FEDERATED_TOKEN_FILE and ALERTWELL_MANAGED_IDENTITY both give the federated token: leave one out"
        )
    if config.client_certificate_password is not None and config.client_certificate_file is None:
        raise errors.BadSetting(
            "ALERTWELL_CLIENT_CERTIFICATE_PASSWORD is set without ALERTWELL_CLIENT_CERTIFICATE_FILE, which it is for"
        )
    if config.client_secret_expires_at is not None and config.client_secret is None:
        raise errors.BadSetting(
            "ALERTWELL_CLIENT_SECRET_EXPIRES_AT is set without ALERTWELL_CLIENT_SECRET, whose end it is"
        )


def token_source(config: settings.Settings) -> federated.Source | None:
    """Where federated tokens come from, where the settings name that. Raises errors.BadSetting."""
    if config.federated_token_file is not None:
        return federated.TokenFile(config.federated_token_file)
    if config.managed_identity is not None:
        named = None if config.managed_identity == "system" else config.managed_identity
        return managed.ManagedIdentity(named, managed.AUDIENCES[config.cloud])
    return None

"""`alertwell tenants set-credential` and `clear-credential`: the app that a tenant, or one of its sources, has of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service import errors
from service.cli import actors, database, epilog, options, output

if TYPE_CHECKING:
    from service import model
    from service.ingest import rehearsing
    from service.settings import Settings
    from service.store import credentials, pool

SET_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell tenants set-credential Contoso --client-id 55555555-5555-5555-5555-555555555555 \\
        --secret-file secret --expires-at 2027-03-31
      alertwell tenants set-credential Contoso --source siem \\
        --client-id 66666666-6666-6666-6666-666666666666 --certificate-file app.pfx --ask-password
      alertwell tenants set-credential Fabrikam --client-id 77777777-7777-7777-7777-777777777777 --federated

    The credential of a source wins over its tenant's, and that over the shared app. Secrets and certificates are
    stored sealed (ALERTWELL_SEALING_KEYS_FILE). A credential that gives no token is not stored: exit code 1.
    """
)
CLEAR_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell tenants clear-credential Contoso
      alertwell tenants clear-credential Contoso --source siem
    """
)

Who = Annotated[
    str, typer.Argument(metavar="TENANT", help="The tenant's id, or its name where only one has it.")
]
Source = Annotated[
    str | None, typer.Option(metavar="SOURCE", help="For this source alone, not for all of the tenant.")
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of it; nothing is stored where a trial failed."""

    tenant: model.Tenant
    trials: Sequence[rehearsing.Trial]

    @property
    def ok(self) -> bool:
        """Every source gave a token, or was not tried."""
        return all(trial.ok for trial in self.trials)


def set_credential(
    who: Who,
    client_id: options.ClientId = None,
    source: Source = None,
    secret_file: options.SecretFile = None,
    ask_secret: options.AskSecret = False,
    certificate_file: options.CertificateFile = None,
    certificate_password_file: options.PasswordFile = None,
    ask_password: options.AskPassword = False,
    federated: options.Federated = False,
    expires_at: options.ExpiresAt = None,
    no_try: Annotated[
        bool, typer.Option("--no-try", help="Store it without asking Entra for a token by it first.")
    ] = False,
) -> None:
    """Give a tenant an app and credential of its own. Or one of its sources alone.

    It is tried first, by a real token for each source that is read by it; one that gives none is not stored, and the one before
    stays in use. The service hears of the new one within a second. Another app than before reads all anew.
    """
    from service import settings

    loaded = settings.load()
    database.quiet(loaded)
    own = options.own(
        client_id,
        secret_file=secret_file,
        ask_secret=ask_secret,
        certificate_file=certificate_file,
        password_file=certificate_password_file,
        ask_password=ask_password,
        federated=federated,
        expires_at=expires_at,
    )
    if own is None:
        raise errors.BadInput("--client-id is missing: the app that the credential is of")
    from service import parts

    if own.kind == "federated" and parts.token_source(loaded) is None:
        raise errors.BadSetting(
            "--federated: neither ALERTWELL_FEDERATED_TOKEN_FILE nor ALERTWELL_MANAGED_IDENTITY is set, where the token would "
            "come from"
        )
    sealed = own.sealed(parts.sealer(loaded))
    done = database.work(loaded, lambda opened: _set(opened, loaded, who, source, sealed, trying=not no_try))
    named = f"{output.printable(done.tenant.name)} ({done.tenant.tenant_id}), {source or 'all sources'}"
    for trial in done.trials:
        output.say(
            f"  {'ok    ' if trial.ok else 'FAILED'}  {trial.source:<16} {output.printable(trial.said)}"
        )
    if not done.ok:
        output.warn(f"not stored: {named}; to store it all the same: --no-try")
        raise typer.Exit(1)
    untried = "" if done.trials else "; not tried" if no_try else "; not tried: nothing is read by it yet"
    output.say(f"set: {named}: {own.said()}{untried}")


def clear_credential(who: Who, source: Source = None) -> None:
    """Forget a credential that was set. The tenant's counts again, or the shared app.

    What another app has read is read anew.
    """
    from service import settings
    from service.cli import tenants
    from service.sources import registry
    from service.store import credentials

    name = registry.get(source).name if source else ""

    async def act(opened: pool.Database) -> tuple[dict[str, Any], bool]:
        found = await tenants.one(opened, who)
        return found, await credentials.clear(opened, found["tenant_id"], name, actor=actors.person())

    found, cleared = database.work(settings.load(), act)
    named = f"{output.printable(found['name'])} ({found['tenant_id']}), {source or 'all sources'}"
    output.say(f"{'cleared' if cleared else 'there was none'}: {named}")


async def _set(
    opened: pool.Database,
    loaded: Settings,
    who: str,
    source: str | None,
    own: credentials.Own,
    *,
    trying: bool,
) -> Outcome:
    from service import parts
    from service.cli import tenants
    from service.sources import registry
    from service.store import credentials
    from service.store import tenants as stored

    found = await tenants.one(opened, who)
    tenant = await stored.get(opened, found["tenant_id"])
    if tenant.state == "removed":
        raise errors.BadInput(
            f"{tenant.name} ({tenant.tenant_id}): it was removed; enrol it again: alertwell tenants add"
        )
    if source is not None:
        parts.endpoints(loaded).check(registry.get(source).service, tenant.cloud, tenant.region)
    trials = await _try(opened, loaded, tenant, source, own) if trying else []
    done = Outcome(tenant, trials)
    if done.ok:
        await credentials.set_own(opened, tenant.tenant_id, source or "", own, actor=actors.person())
    return done


async def _try(
    opened: pool.Database, loaded: Settings, tenant: model.Tenant, source: str | None, own: credentials.Own
) -> list[rehearsing.Trial]:
    from service import line, metrics, model
    from service.auth import claims
    from service.ingest import rehearsing
    from service.sources import registry
    from service.store import credentials, streams

    names = [source] if source else []
    if source is None:
        special = {each.source for each in await credentials.listed(opened, [tenant.tenant_id])}
        read = await streams.load(opened, [tenant.tenant_id])
        names = [one.stream.source for one in read if one.stream.source not in special]
    sources = [registry.SOURCES[name] for name in names if name in registry.SOURCES]
    access = model.Access(tenant, model.Credential(own.app_id, own.kind, own.sealed, 0))
    async with line.open_line(loaded, metrics.Metrics("0")) as door:
        return await rehearsing.rehearse(door.tokens, claims.lacks, [rehearsing.Subject(access, sources)])

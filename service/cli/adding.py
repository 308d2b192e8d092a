"""`alertwell tenants add` and `import`: enrolling one tenant, or a file of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from service import errors
from service.cli import database, epilog, options, output

ADD_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell tenants add 11111111-1111-1111-1111-111111111111 Contoso --region eu --label tier=gold
      alertwell tenants add 22222222-2222-2222-2222-222222222222 Fabrikam --cloud gcc-high --external-ref C-0815

    Only some device groups of it:
      alertwell tenants add 33333333-3333-3333-3333-333333333333 Adatum --region us \\
        --parameter machinegroups=Servers --parameter machinegroups=Clients

    With an app of its own, as the portal's SIEM integration makes it (needs ALERTWELL_SEALING_KEYS_FILE):
      alertwell tenants add 44444444-4444-4444-4444-444444444444 Litware --region uk \\
        --client-id 55555555-5555-5555-5555-555555555555 --ask-secret
    """
)
IMPORT_EPILOG: Final = epilog.lines(
    """
    Columns (tenant_id and name are required):
      tenant_id     directory (tenant) id, a GUID
      name          the customer's name
      sources       separated by blanks (default: ALERTWELL_DEFAULT_SOURCES)
      cloud         public, gcc, gcc-high, dod, china (default: ALERTWELL_CLOUD)
      region        where its Defender data are stored, such as eu, us or uk
      external_ref  its number in your own systems
      labels        key=value;key=value
      client_id     the app in the customer's own tenant, which needs one of the next three;
                    names of files start at the CSV's folder
      secret_file   the file with that app's secret, and, where you know it, its end: secret_expires_at
      certificate_file  PEM or PFX with its key, and, where it has one: certificate_password_file
      federated     yes: by the token of ALERTWELL_FEDERATED_TOKEN_FILE or ALERTWELL_MANAGED_IDENTITY

    Example:
      tenant_id,name,region,labels
      11111111-1111-1111-1111-111111111111,Contoso,eu,tier=gold;team=blue
      22222222-2222-2222-2222-222222222222,"Fabrikam, Inc.",us,

      alertwell tenants import customers.csv --dry-run
    """
)


def add(
    tenant_id: Annotated[str, typer.Argument(metavar="TENANT_ID", help="Directory (tenant) id, a GUID.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="The customer's name, as your SOC knows it.")],
    source: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SOURCE", help="What to read; may be repeated.  [default: ALERTWELL_DEFAULT_SOURCES]"
        ),
    ] = None,
    cloud: Annotated[
        str | None,
        typer.Option(
            metavar="CLOUD", help="public, gcc, gcc-high, dod or china.  [default: ALERTWELL_CLOUD]"
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="REGION", help="Where its Defender data are stored, such as eu, us or uk."),
    ] = None,
    external_ref: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Its number in your own systems.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = None,
    parameter: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE", help="Narrows a stream; repeat a name for several values of it."),
    ] = None,
    no_parameters: Annotated[
        bool, typer.Option("--no-parameters", help="Drop the parameters set earlier.")
    ] = False,
    pending: Annotated[
        bool, typer.Option("--pending", help="Not consented yet: enrol, do not poll.")
    ] = False,
    client_id: options.ClientId = None,
    secret_file: options.SecretFile = None,
    ask_secret: options.AskSecret = False,
    certificate_file: options.CertificateFile = None,
    certificate_password_file: options.PasswordFile = None,
    ask_password: options.AskPassword = False,
    federated: options.Federated = False,
    expires_at: options.ExpiresAt = None,
) -> None:
    """Enrol one tenant, or change it.

    It counts as consented and is polled at once, unless --pending. Doing it twice changes nothing. What is left out gets
    its default, but a stream's parameters and a credential stay as they are, and a paused tenant stays paused.
    """
    from service import model, settings
    from service.cli import enrolling, wishes

    loaded = settings.load()
    terms = enrolling.Terms.of(loaded)
    chosen = options.of("--source", lambda: enrolling.sources(source or [], terms))
    in_cloud = options.of("--cloud", lambda: enrolling.cloud(cloud, terms))
    tenant = model.Tenant(
        tenant_id=options.of("TENANT_ID", lambda: enrolling.tenant_id(tenant_id)),
        name=options.of("NAME", lambda: enrolling.name(name)),
        cloud=in_cloud,
        region=options.of("--region", lambda: enrolling.region(region, in_cloud, chosen, terms)),
        state="pending" if pending else "active",
        labels=options.of("--label", lambda: enrolling.labels(label or [])),
        external_ref=options.of("--external-ref", lambda: enrolling.line(external_ref or "")),
    )
    parameters: Mapping[str, Mapping[str, Any]] = options.of(
        "--parameter", lambda: enrolling.parameters(parameter or [], chosen)
    )
    if no_parameters:
        if parameters:
            raise errors.BadInput("--no-parameters and --parameter exclude each other")
        parameters = {each: {} for each in chosen}
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
    asked = [wishes.Wish(tenant, chosen, parameters, own)]
    done = database.work(loaded, lambda opened: wishes.enrol(opened, loaded, asked))
    did = "added" if done.added else "changed" if done.changed else "unchanged"
    output.say(f"{did}: {tenant.name} ({tenant.tenant_id}), {' '.join(chosen)}, {enrolling.place(tenant)}")


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.csv", help="CSV with a header, UTF-8, separated by commas.")
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")
    ] = False,
) -> None:
    """Enrol many tenants from a CSV file. All of them, or none where a line is bad.

    They count as consented and are polled at once. Importing a file twice changes nothing. An empty cell, or a column that
    is left out, means the default; but a stream's parameters and a credential stay as they are. Tenants that the file does
    not name are left alone, and paused ones stay paused. One that was removed is not taken back: the file is refused.
    """
    from service import settings
    from service.cli import enrolling, importing, wishes

    loaded = settings.load()
    sheet = importing.read(importing.text_in(file), enrolling.Terms.of(loaded))
    asked, unreadable = wishes.with_credentials(sheet.rows, file.parent)
    importing.refuse(file, [*sheet.problems, *unreadable], "nothing was imported")
    done = database.work(
        loaded, lambda opened: wishes.enrol(opened, loaded, asked, dry_run=dry_run, revive=False)
    )
    would = "would be " if dry_run else ""
    output.say(f"{done.added} {would}added, {done.changed} {would}changed, {done.unchanged} unchanged")

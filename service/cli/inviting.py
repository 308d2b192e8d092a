"""`alertwell tenants invite`, `invitations`, `withdraw`: asking customers for consent."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service import errors, timestamps
from service.cli import database, epilog, options, output

if TYPE_CHECKING:
    from service.cli import guests
    from service.settings import Settings
    from service.store import pool

INVITE_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell tenants invite Contoso
      alertwell tenants invite Contoso --tenant 11111111-1111-1111-1111-111111111111 --source graph_alerts --wait
      alertwell tenants invite --csv customers.csv > links.csv

    Columns of the CSV (name is required): name tenant_id sources cloud region external_ref labels
    Without ALERTWELL_PUBLIC_URL, or with --legacy, the link leads back to nobody. Once the customer says that it is done:
      alertwell tenants check Contoso
    """
)
INVITATIONS_EPILOG: Final = epilog.lines(
    """
    Example:
      alertwell tenants invitations --json
    """
)
WITHDRAW_EPILOG: Final = epilog.lines(
    """
    Example:
      alertwell tenants withdraw Contoso
    """
)
_LEAST, _MOST = timedelta(minutes=1), timedelta(days=366)

AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def invite(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="The customer's name, as your SOC knows it.")
    ] = None,
    tenant: Annotated[
        str | None,
        typer.Option(metavar="GUID", help="Directory (tenant) id: nobody else's consent is taken."),
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(metavar="SOURCE", help="What to read; may be repeated.  [default: graph_alerts]"),
    ] = None,
    cloud: Annotated[
        str | None,
        typer.Option(
            metavar="CLOUD", help="public, gcc, gcc-high, dod or china.  [default: ALERTWELL_CLOUD]"
        ),
    ] = None,
    region: Annotated[
        str | None,
        typer.Option(metavar="REGION", help="Where its Defender data are stored, where a source needs it."),
    ] = None,
    external_ref: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Its number in your own systems.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="May be repeated.")] = None,
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Invite many; prints a CSV with the links.")
    ] = None,
    legacy: Annotated[
        bool,
        typer.Option(
            "--legacy", help="The older form of link. It carries no state: the answer belongs to nobody."
        ),
    ] = False,
    valid: Annotated[str, typer.Option(metavar="DURATION", help="How long the link works.")] = "14d",
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow it: exit code 0 when proven, 1 when refused or expired.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Ask a customer for consent, by a link. Print it, and a text to send it with.

    The running service takes the answer, proves it, and starts to collect. Inviting again makes a new link, and the ones
    before it stop. What is left out is taken from the tenant where it is enrolled already.
    """
    from service import settings
    from service.cli import enrolling, guests, importing

    loaded = settings.load()
    terms = enrolling.Terms.of(loaded)
    how_long = _valid(valid)
    if (name is None) == (csv is None):
        raise errors.BadInput("give the NAME of one customer, or --csv FILE with many")
    if csv is not None:
        given = (tenant, source, cloud, region, external_ref, label)
        if wait or any(each is not None for each in given):
            raise errors.BadInput(
                "--csv takes nothing but --legacy, --valid and --json: its columns say the rest"
            )
        rows, problems = guests.sheet(importing.text_in(csv), terms)
        importing.refuse(csv, problems, "nobody was invited")
        many = [guest for _, guest in rows]
        _print_many(_send(loaded, many, how_long, legacy=legacy)[0], as_json=as_json)
        return
    guest = guests.Guest(
        options.of("NAME", lambda: enrolling.name(name or "")),
        options.of("--tenant", lambda: enrolling.tenant_id(tenant)) if tenant is not None else None,
        options.of("--source", lambda: enrolling.sources(source, terms)) if source else (),
        options.of("--cloud", lambda: enrolling.cloud(cloud, terms)) if cloud else None,
        options.of("--region", lambda: enrolling.line((region or "").lower())),
        options.of("--external-ref", lambda: enrolling.line(external_ref or "")),
        options.of("--label", lambda: enrolling.labels(label)) if label else None,
    )
    if wait and (legacy or loaded.callback_url is None):
        raise errors.BadInput(
            "--wait needs a callback (ALERTWELL_PUBLIC_URL, and not --legacy): without one, ask with alertwell tenants check"
        )
    [sent], stopped = _send(loaded, [guest], how_long, legacy=legacy)
    if as_json:
        output.document(_plain(sent))
    else:
        _print_one(sent, stopped, loaded)
    if wait:
        from service.cli import following

        raise typer.Exit(database.work(loaded, lambda opened: following.follow(opened, sent.invitation)))


def invitations(as_json: AsJson = False) -> None:
    """How far each invitation has come. The newest is the first."""
    from service import settings
    from service.store import invitations as stored

    rows = database.work(settings.load(), stored.listed)
    if as_json:
        output.document(rows)
        return
    if not rows:
        output.say("no invitations; see: alertwell tenants invite --help")
        return
    columns = ("name", "state", "tenant_id", "sources", "created_at", "expires_at", "created_by", "reason")
    output.table(
        columns,
        [
            (
                row["name"],
                row["state"],
                row["tenant_id"],
                " ".join(row["sources"]),
                output.when(row["created_at"]),
                output.when(row["expires_at"]),
                row["created_by"],
                row["state_reason"],
            )
            for row in rows
        ],
    )


def withdraw(
    who: Annotated[
        str, typer.Argument(metavar="NAME", help="The customer's name as invited, or the tenant's id.")
    ],
) -> None:
    """Stop a link. Whoever opens it now is told that it is not valid any more."""
    from service import settings
    from service.cli import actors, enrolling
    from service.store import invitations as stored

    async def act(opened: pool.Database) -> int:
        found = await stored.unsettled(opened, enrolling.name(who))
        return sum(
            [await stored.withdraw(opened, each.invitation_id, actor=actors.person()) for each in found]
        )

    count = database.work(settings.load(), act)
    if not count:
        raise errors.BadInput(
            f"no open invitation for {enrolling.shown(who)}; see: alertwell tenants invitations"
        )
    output.say(f"withdrawn: {output.many(count, 'invitation')} for {output.printable(who)}")


def _send(
    loaded: Settings, asked: list[guests.Guest], valid: timedelta, *, legacy: bool
) -> tuple[list[guests.Sent], int]:
    from service.cli import guests

    return database.work(
        loaded, lambda opened: guests.send(opened, loaded, asked, valid=valid, legacy=legacy)
    )


def _valid(text: str) -> timedelta:
    try:
        found = timestamps.duration(text)
    except ValueError:
        raise errors.BadInput(f"--valid {text[:40]!r}: must be a duration such as 14d or 12h") from None
    if not _LEAST <= found <= _MOST:
        raise errors.BadInput(f"--valid {text[:40]!r}: must be from 1m to 366d")
    return found


def _print_one(sent: guests.Sent, stopped: int, loaded: Settings) -> None:
    from service.cli import letters

    invitation = sent.invitation
    if stopped:
        output.warn(
            f"{output.many(stopped, 'older invitation')} of this customer stopped: only the new link works"
        )
    if invitation.form == "legacy":
        output.warn(
            "the older form of link carries no state: its answer says neither for which invitation nor for which tenant it "
            f"is. When the customer says that it is done: alertwell tenants check {invitation.tenant_id}"
        )
    elif invitation.form == "plain":
        output.warn(
            "ALERTWELL_PUBLIC_URL is not set: the link leads back to nobody. When the customer says that it is done: "
            f"alertwell tenants check {invitation.tenant_id}"
        )
    output.say(letters.letter(invitation, sent.link, loaded.client_id or ""))


def _print_many(sent: list[guests.Sent], *, as_json: bool) -> None:
    if as_json:
        output.document([_plain(each) for each in sent])
        return
    output.delimited(
        ("name", "tenant_id", "sources", "expires_at", "link"),
        [
            (
                each.invitation.name,
                each.invitation.tenant_id,
                " ".join(each.invitation.sources),
                each.invitation.expires_at,
                each.link,
            )
            for each in sent
        ],
        tabs=False,
    )


def _plain(sent: guests.Sent) -> dict[str, Any]:
    invitation = sent.invitation
    return {
        "invitation_id": invitation.invitation_id,
        "name": invitation.name,
        "tenant_id": invitation.tenant_id,
        "cloud": invitation.cloud,
        "region": invitation.region,
        "sources": list(invitation.sources),
        "form": invitation.form,
        "expires_at": invitation.expires_at,
        "link": sent.link,
    }

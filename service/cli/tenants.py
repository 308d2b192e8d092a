"""`alertwell tenants …`: whom alerts are collected from."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service import errors
from service.cli import actors, adding, checking, database, epilog, inviting, output, own_credentials

if TYPE_CHECKING:
    from service import model
    from service.store import pool

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Invite, enrol, look at, pause and remove tenants.",
    epilog=epilog.lines(
        """
        Examples:
          alertwell tenants add 11111111-1111-1111-1111-111111111111 Contoso --region eu
          alertwell tenants import customers.csv --dry-run
          alertwell tenants invite Contoso
          alertwell tenants list
        """
    ),
)
app.command(epilog=adding.ADD_EPILOG)(adding.add)
app.command("import", epilog=adding.IMPORT_EPILOG)(adding.import_)
app.command(epilog=inviting.INVITE_EPILOG)(inviting.invite)
app.command(epilog=inviting.INVITATIONS_EPILOG)(inviting.invitations)
app.command(epilog=inviting.WITHDRAW_EPILOG)(inviting.withdraw)
app.command(epilog=checking.CHECK_EPILOG)(checking.check)
app.command("set-credential", epilog=own_credentials.SET_EPILOG)(own_credentials.set_credential)
app.command("clear-credential", epilog=own_credentials.CLEAR_EPILOG)(own_credentials.clear_credential)

STATES: Final = ("pending", "active", "paused", "removed")

Who = Annotated[
    str, typer.Argument(metavar="TENANT", help="The tenant's id, or its name where only one has it.")
]
AsJson = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


@app.command(
    "list",
    epilog=epilog.lines(
        """
        Examples:
          alertwell tenants list --state paused
          alertwell tenants list --json | jq -r '.[] | select(.region == "uk") | .name'
        """
    ),
)
def list_(
    state: Annotated[
        str | None, typer.Option(metavar="STATE", help=f"Only those in this state: {', '.join(STATES)}.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """All tenants, by name."""
    from service import settings
    from service.store import reports

    if state is not None and state not in STATES:
        raise errors.BadInput(f"--state {state[:40]!r}: must be {', '.join(STATES)}")
    rows = database.work(settings.load(), lambda opened: reports.roster(opened, state=state))
    if as_json:
        output.document(rows)
        return
    if not rows:
        output.say("no tenants; see: alertwell tenants add --help")
        return
    output.table(
        (
            "tenant_id",
            "name",
            "state",
            "place",
            "sources",
            "streams",
            "data age",
            "own app",
            "external_ref",
            "labels",
        ),
        [
            (
                row["tenant_id"],
                row["name"],
                row["state"],
                row["cloud"] if row["region"] is None else f"{row['cloud']}/{row['region']}",
                " ".join(row["sources"]),
                " ".join(row["stream_states"]),
                output.age(row["data_age_seconds"]),
                "yes" if row["app_id"] else "",
                row["external_ref"],
                " ".join(f"{key}={value}" for key, value in row["labels"].items()),
            )
            for row in rows
        ],
    )


@app.command(
    epilog=epilog.lines(
        """
        Examples:
          alertwell tenants show contoso
          alertwell tenants show 11111111-1111-1111-1111-111111111111 --json
        """
    )
)
def show(who: Who, as_json: AsJson = False) -> None:
    """All about one tenant.

    Its streams and what is proven, gaps, last polls and rejects.
    """
    from service import settings
    from service.cli import showing
    from service.store import credentials, reports

    async def look(opened: pool.Database) -> dict[str, Any]:
        tenant_id = (await one(opened, who))["tenant_id"]
        own = await credentials.listed(opened, [tenant_id])
        return {
            **await reports.tenant(opened, tenant_id),
            "credentials": [each.plain() for each in own],
        }

    found = database.work(settings.load(), look)
    if as_json:
        output.document(found)
    else:
        showing.tenant(found)


@app.command(
    epilog=epilog.lines(
        """
        Example:
          alertwell tenants pause contoso
        """
    )
)
def pause(who: Who) -> None:
    """Stop polling a tenant until it is resumed.

    What is stored stays, and what arrives meanwhile is read afterwards.
    """
    _set_state(
        who, "paused", refuse={"removed": "it was removed", "pending": "it is pending: nothing is polled"}
    )


@app.command(
    epilog=epilog.lines(
        """
        Example:
          alertwell tenants resume contoso
        """
    )
)
def resume(who: Who) -> None:
    """Poll a tenant again.

    One that was paused, or one that was pending and has consented.
    """
    _set_state(who, "active", refuse={"removed": "it was removed; enrol it again: alertwell tenants add"})


@app.command(
    epilog=epilog.lines(
        """
        Examples:
          alertwell tenants remove contoso
          alertwell tenants remove 11111111-1111-1111-1111-111111111111 --purge --yes
        """
    )
)
def remove(
    who: Who,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    purge: Annotated[
        bool,
        typer.Option(
            "--purge",
            help="Delete its alerts, incidents, changes, polls and rejects too; one `purged` change stays.",
        ),
    ] = False,
) -> None:
    """Stop collecting from a tenant for good. What is stored stays, unless --purge."""
    from service import settings
    from service.store import tenants as stored

    if not yes and not sys.stdin.isatty():
        raise errors.BadInput("remove asks before it acts, and there is no terminal to ask on: give --yes")
    loaded = settings.load()
    found = database.work(loaded, lambda opened: one(opened, who, removed_too=True))
    named = f"{output.printable(found['name'])} ({found['tenant_id']})"
    if not yes:
        what = "Delete everything of" if purge else "Stop collecting from"
        if not typer.confirm(f"{what} {named}?", err=True):
            output.say("nothing done")
            raise typer.Exit(1)

    async def act(opened: pool.Database) -> dict[str, int]:
        if purge:
            return await stored.purge(opened, found["tenant_id"], actor=actors.person())
        await stored.set_state(
            opened, found["tenant_id"], "removed", reason="removed by hand", actor=actors.person()
        )
        return {}

    deleted = database.work(loaded, act)
    output.say(f"removed: {named}")
    if purge:
        counts = {
            "alerts": "alert",
            "incidents": "incident",
            "changes": "alert_change",
            "polls": "poll",
            "rejects": "reject",
        }
        output.say(f"deleted: {', '.join(f'{deleted[table]} {name}' for name, table in counts.items())}")


async def one(opened: pool.Database, who: str, *, removed_too: bool = False) -> dict[str, Any]:
    """Id, name and state of the tenant that is meant. Raises errors.BadInput where there is none, or more than one.

    A removed tenant gives its name up to one that is not; with `removed_too` it does not, as where data are deleted.
    """
    from service.cli import enrolling
    from service.store import reports
    from service.store import tenants as stored

    text = enrolling.name(who)
    found = await reports.names(opened, await stored.find(opened, text))
    if not found:
        raise errors.BadInput(f"no tenant {enrolling.shown(text)}; see: alertwell tenants list")
    if len(found) > 1 and not removed_too:
        found = [row for row in found if row["state"] != "removed"] or found
    if len(found) > 1:
        listed = ", ".join(f"{row['tenant_id']} ({row['name']}, {row['state']})" for row in found)
        raise errors.BadInput(
            f"{enrolling.shown(text)} names {len(found)} tenants, give the id of one: {listed}"
        )
    return found[0]


def _set_state(who: str, state: model.TenantState, *, refuse: Mapping[str, str]) -> None:
    from service import settings
    from service.store import tenants as stored

    async def act(opened: pool.Database) -> tuple[dict[str, Any], bool]:
        found = await one(opened, who)
        if found["state"] in refuse:
            raise errors.BadInput(f"{found['name']} ({found['tenant_id']}): {refuse[found['state']]}")
        if found["state"] == state:
            return found, False
        await stored.set_state(opened, found["tenant_id"], state, actor=actors.person())
        return found, True

    found, changed = database.work(settings.load(), act)
    output.say(
        f"{state if changed else f'{state} already'}: {output.printable(found['name'])} ({found['tenant_id']})"
    )

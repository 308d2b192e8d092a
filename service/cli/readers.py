"""`alertwell readers …`: who reads which tenants' alerts from the database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service import errors
from service.cli import actors, database, epilog, options, output, tenants

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from service.store import pool, readers

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Say who reads which tenants from the database.",
    epilog=epilog.lines(
        """
        Examples:
          alertwell readers add splunk --all --password-file /etc/alertwell/splunk
          alertwell readers add blue_team --label team=blue
          alertwell readers list
        """
    ),
)

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="The database role that reads, such as `splunk`: it logs in by this name."
    ),
]
Labels = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="Tenants with this label; several: with all of them."),
]
Named = Annotated[
    list[str] | None,
    typer.Option("--tenant", metavar="TENANT", help="This tenant, by id or name; repeatable."),
]
_NAME: Final = re.compile(r"[a-z_][a-z0-9_$-]{0,62}")
_SHOWN: Final = 12


@app.command(
    epilog=epilog.lines(
        """
        Examples:
          alertwell readers add splunk --all --password-file /etc/alertwell/splunk   every tenant, now and later
          alertwell readers add blue_team --label team=blue                          as labels are given and taken
          alertwell readers add blue_eu --label team=blue --label region=eu          those that have both labels
          alertwell readers add contoso_soc --tenant contoso --tenant fabrikam

        A second `add` widens what NAME sees. Rules follow the tenants: one that gets the label tomorrow is seen from then on,
        one that loses it is not.
        NAME is made where ALERTWELL_DATABASE_URL's role may make roles; else the statements for an administrator are printed,
        and the exit code is 1. Run it as the role that owns the schema. A reader sees schema soc alone: docs/downstream.md.
        """
    )
)
def add(
    name: Name,
    label: Labels = None,
    tenant: Named = None,
    everything: Annotated[bool, typer.Option("--all", help="All tenants, now and later.")] = False,
    none_yet: Annotated[
        bool, typer.Option("--none-yet", help="Also where no tenant has the label, for those to come.")
    ] = False,
    password_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="File with the role's password (ASCII); without it, none is set."),
    ] = None,
    as_json: tenants.AsJson = False,
) -> None:
    """Let a database role read the tenants with a label, some by name, or all."""
    from service import settings
    from service.store import readers

    check(name)
    wanted = _labels(label)
    if everything and (wanted or tenant):
        raise errors.BadInput("--all goes with neither --label nor --tenant: it names them already")
    if not (everything or wanted or tenant):
        raise errors.BadInput("say which tenants: --label KEY=VALUE, --tenant TENANT, or --all")
    password = None if password_file is None else _password(password_file)

    async def act(opened: pool.Database) -> tuple[list[str], readers.Reader]:
        if wanted and not none_yet and not await readers.matching(opened, wanted):
            raise errors.BadInput(_unknown(wanted, await readers.labels(opened)))
        rules = await _rules(opened, wanted, tenant, everything=everything)
        undone = await readers.add(opened, name, rules, password=password, actor=actors.person())
        [found] = [each for each in await readers.listed(opened) if each.name == name]
        return undone, found

    undone, found = database.work(settings.load(), act)
    if as_json:
        output.document({**_plain(found), "to_be_run_by_an_administrator": undone})
    else:
        output.say(f"{name} reads {_sees(found)}: {_ruled(found)}")
    _leave(undone)


@app.command(
    "list",
    epilog=epilog.lines(
        """
        Examples:
          alertwell readers list
          alertwell readers list --json | jq -r '.[] | select(.trouble) | .name'
        """
    ),
)
def list_(as_json: tenants.AsJson = False) -> None:
    """All readers: their rules, how many tenants each sees now, and what is wrong with one."""
    from service import settings
    from service.store import readers

    found = database.work(settings.load(), readers.listed)
    if as_json:
        output.document([_plain(each) for each in found])
        return
    if not found:
        output.say("no readers; see: alertwell readers add --help")
        return
    output.table(
        ("reader", "tenants", "rules", "added by", "trouble"),
        [
            (
                each.name,
                "all" if each.tenants is None else each.tenants,
                _ruled(each),
                each.added_by,
                each.trouble,
            )
            for each in found
        ],
    )


@app.command(
    epilog=epilog.lines(
        """
        Examples:
          alertwell readers remove splunk
          alertwell readers remove contoso_soc --tenant fabrikam

        It counts from the reader's next statement on. The role itself stays: DROP ROLE is an administrator's.
        """
    )
)
def remove(name: Name, label: Labels = None, tenant: Named = None, as_json: tenants.AsJson = False) -> None:
    """Take tenants from a reader: one rule by its --label or --tenant, without them all that it sees."""
    from service import settings
    from service.store import readers

    wanted = _labels(label)

    async def act(opened: pool.Database) -> tuple[int, list[str]]:
        rules = await _rules(opened, wanted, tenant) if wanted or tenant else None
        return await readers.remove(opened, name, rules, actor=actors.person())

    count, undone = database.work(settings.load(), act)
    if not count:
        what = "such a rule" if wanted or tenant else "a reader"
        raise errors.BadInput(f"{name!r} is not {what}; see: alertwell readers list")
    if as_json:
        output.document({"name": name, "removed": count, "to_be_run_by_an_administrator": undone})
    else:
        whole = "sees no tenant any more" if not (wanted or tenant) else "lost what the rule gave"
        output.say(f"{name} {whole}")
    _leave(undone)


def check(name: str) -> None:
    """Raise errors.BadInput unless a role of this name can be typed everywhere without quotes."""
    if _NAME.fullmatch(name) is None:
        raise errors.BadInput(
            f"{name[:80]!r} is no name for a reader: small letters, digits, _ and -, at most 63, a letter or _ first"
        )


def _labels(items: Sequence[str] | None) -> dict[str, str]:
    from service.cli import enrolling

    return options.of("--label", lambda: enrolling.labels(items or ()))


async def _rules(
    opened: pool.Database, wanted: Mapping[str, str], named: Sequence[str] | None, *, everything: bool = False
) -> list[readers.Rule]:
    from service.store import readers

    rules = [readers.Rule()] if everything else []
    if wanted:
        rules.append(readers.Rule(labels=wanted))
    rules += [
        readers.Rule(tenant_id=(await tenants.one(opened, each, removed_too=True))["tenant_id"])
        for each in named or ()
    ]
    return rules


def _unknown(wanted: Mapping[str, str], known: Mapping[str, Sequence[str]]) -> str:
    texts = [f"{key}={value}" for key, value in wanted.items()]
    for key, value in wanted.items():
        if key not in known:
            listed = ", ".join(list(known)[:_SHOWN]) or "none at all"
            return f"--label '{key}={value}': no tenant has a label {key!r}; labels are: {listed} (or give --none-yet)"
        if value not in known[key]:
            listed = ", ".join(known[key][:_SHOWN])
            return f"--label '{key}={value}': {key!r} is never {value!r}, but: {listed} (or give --none-yet)"
    return f"--label {' '.join(texts)}: no tenant has all of these labels (or give --none-yet)"


def _password(path: Path) -> str:
    from service.auth import sealing

    word = sealing.read_secret_file(path)
    if not word or not word.isascii() or not word.isprintable():
        raise errors.BadInput(f"--password-file {str(path)!r}: a password of printable ASCII is needed")
    return word


def _plain(found: readers.Reader) -> dict[str, Any]:
    return {
        "name": found.name,
        "rules": [rule.plain() for rule in found.rules],
        "tenants": "all" if found.tenants is None else found.tenants,
        "rows_by_hand": found.by_hand,
        "added_at": found.added_at,
        "added_by": found.added_by,
        "trouble": found.trouble,
    }


def _sees(found: readers.Reader) -> str:
    return "all tenants" if found.tenants is None else output.many(found.tenants, "tenant")


def _ruled(found: readers.Reader) -> str:
    texts = [
        "all"
        if rule.everything
        else f"tenant {rule.tenant_id}"
        if rule.tenant_id
        else " and ".join(f"{key}={value}" for key, value in rule.labels.items())
        for rule in found.rules
    ]
    if found.by_hand:
        texts.append(f"{output.many(found.by_hand, 'row')} by hand")
    return ", or ".join(texts)


def _leave(undone: Sequence[str]) -> None:
    """Say what is left to an administrator; then the command has not done all of its work."""
    if not undone:
        return
    output.warn("this database's role may not do the rest; an administrator of the server has to run:")
    for statement in undone:
        output.warn(f"  {statement};")
    raise typer.Exit(1)

"""`alertwell doctor`: what is broken, and what to do about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from service.cli import database, epilog, output, progress, tenants

if TYPE_CHECKING:
    from uuid import UUID

    from service.doctor.finding import Finding
    from service.store import pool

MOST_WELL: Final = 20

EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell doctor
      alertwell doctor --tenant contoso --tenant fabrikam
      alertwell doctor --no-tenants --json | jq '.findings[] | select(.ok != "ok")'

    Exit codes: 0 nothing is broken (there may be warnings), 1 something is.
    It asks Microsoft for a real token of each tenant and for one minute of each of its sources; it stores nothing.
    """
)


def doctor(
    tenant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME|ID", help="Only this tenant, also a paused one; may be repeated."),
    ] = None,
    no_tenants: Annotated[
        bool, typer.Option("--no-tenants", help="Ask for no tokens and no alerts of tenants.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """Try everything that collecting stands on.

    Settings, database, clocks, DNS and TLS to every host, the credential, and of each tenant a token and a call.
    """
    import asyncio

    from service import settings
    from service.doctor import examination

    loaded = settings.load()
    database.quiet(loaded)

    async def named(opened: pool.Database) -> list[UUID]:
        return [(await tenants.one(opened, who))["tenant_id"] for who in tenant or ()]

    with progress.Progress("tenants") as bar:
        wish = examination.Wish(
            loaded,
            lambda: database.address(loaded),
            unknown=settings.unknown(),
            named=named if tenant else None,
            customers=not no_tenants,
            progress=bar.show,
        )
        findings = asyncio.run(examination.examine(wish))
    counts = Counter(found.ok for found in findings)
    if as_json:
        output.document(
            {
                "broken": counts["broken"],
                "warnings": counts["warning"],
                "findings": [asdict(f) for f in findings],
            }
        )
    else:
        _print(findings)
        output.say(_summary(counts))
    raise typer.Exit(1 if counts["broken"] else 0)


def _print(findings: Sequence[Finding]) -> None:
    well = [found for found in findings if found.area == "tenant" and found.ok == "ok"]
    shown = [found for found in findings if found not in well] if len(well) > MOST_WELL else findings
    rows: list[tuple[Any, ...]] = [(found.ok, found.area, found.subject, _sentence(found)) for found in shown]
    if len(well) > MOST_WELL:
        rows.append(("ok", "tenant", f"{len(well)} streams", "token and call work"))
    output.table(("", "what", "which", "finding"), rows)


def _sentence(found: Finding) -> str:
    return f"{found.sentence}. {found.remedy}" if found.remedy else found.sentence


def _summary(counts: Counter[Any]) -> str:
    if not counts["broken"] and not counts["warning"]:
        return "all well"
    return f"{counts['broken']} broken, {output.many(counts['warning'], 'warning')}"

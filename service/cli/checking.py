"""`alertwell tenants check`: a tenant's access proven now, by a real token and a real call for each source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from uuid import UUID

import typer

from service import errors
from service.cli import database, epilog, options, output

if TYPE_CHECKING:
    from service.ingest import proving
    from service.settings import Settings
    from service.store import accesses, invitations, pool

CHECK_EPILOG: Final = epilog.lines(
    """
    Examples:
      alertwell tenants check Contoso
      alertwell tenants check --all --json

    A new credential, before the old one ends (a secret, a certificate or a federated token, by what the file holds;
    or the word federated, for the token that the settings name). Nothing is stored or changed:
      alertwell tenants check --credential /etc/alertwell/client_secret.new
      alertwell tenants check --credential new.pfx --certificate-password-file password --json
      alertwell tenants check Contoso --credential secret.new

    Exit code 0 where every source can be read, 1 where something is missing.
    """
)
_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True)
class Subject:
    """What is checked: a tenant, or a customer who was invited and has no streams yet."""

    tenant_id: UUID
    name: str
    state: str
    readings: Mapping[str, accesses.Reading]
    invitation: invitations.Invitation | None = None


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of it; `healed` says what is different now."""

    subject: Subject
    proof: proving.Proof
    healed: str | None = None

    def plain(self) -> dict[str, Any]:
        """For programs."""
        return {
            "tenant_id": self.subject.tenant_id,
            "name": self.subject.name,
            "ok": self.proof.ok,
            "healed": self.healed,
            "steps": [
                {
                    "source": s.source,
                    "what": s.what,
                    "ok": s.ok,
                    "said": s.said,
                    "code": s.code,
                    "items": s.items,
                }
                for s in self.proof.steps
            ],
        }


def check(
    who: Annotated[
        str | None,
        typer.Argument(metavar="TENANT", help="The tenant's id or name, or the name of an invitation."),
    ] = None,
    everyone: Annotated[
        bool, typer.Option("--all", help="All tenants, but paused and removed ones.")
    ] = False,
    credential: Annotated[
        str | None,
        typer.Option(
            metavar="NEW", help="Rehearse this file's credential with TENANT, or with all of the shared app."
        ),
    ] = None,
    client_id: Annotated[
        str | None, typer.Option(metavar="GUID", help="The app of NEW, where it is another one than now.")
    ] = None,
    certificate_password_file: options.PasswordFile = None,
    ask_password: options.AskPassword = False,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """Prove that a tenant can be read. By a token of its own for each service, and one call a source.

    Where that works, a pending tenant becomes active, an invitation counts as proven, and whatever waits for a person is
    polled at once. It is the same proof as the service makes of a consent, for where no callback can be reached.
    """
    from service import settings

    if credential is not None and not (who and everyone):
        _rehearse(who, credential, client_id, certificate_password_file, as_json=as_json, ask=ask_password)
        return
    if client_id is not None or certificate_password_file is not None or ask_password:
        raise errors.BadInput("--client-id and a certificate's password are for --credential NEW")
    if (who is None) != everyone:
        raise errors.BadInput("give one TENANT, or --all")
    loaded = settings.load()
    database.quiet(loaded)
    checked = database.work(loaded, lambda opened: _check(opened, loaded, who))
    if as_json:
        output.document([each.plain() for each in checked])
    else:
        _print(checked)
    if not all(each.proof.ok for each in checked):
        raise typer.Exit(1)


def _rehearse(
    who: str | None, new: str, client_id: str | None, password_file: Path | None, *, as_json: bool, ask: bool
) -> None:
    from service import settings
    from service.cli import enrolling, given, rehearsing, tenants

    if password_file is not None and ask:
        raise errors.BadInput("--certificate-password-file and --ask-password exclude each other")
    app_id = None if client_id is None else options.of("--client-id", lambda: enrolling.app_id(client_id))
    password = given.asked("Password of the certificate", "--ask-password") if ask else password_file
    loaded = settings.load()
    database.quiet(loaded)

    async def act(opened: pool.Database) -> rehearsing.Rehearsal:
        tenant_id = (await tenants.one(opened, who))["tenant_id"] if who is not None else None
        return await rehearsing.rehearse(opened, loaded, new, tenant_id, app_id=app_id, password=password)

    done = database.work(loaded, act)
    if as_json:
        output.document(rehearsing.plain(done))
    else:
        rehearsing.show(done)
    if not done.ok:
        raise typer.Exit(1)


async def _check(opened: pool.Database, loaded: Settings, who: str | None) -> list[Checked]:
    import asyncio

    from service import line, metrics
    from service.auth import claims
    from service.ingest import proving
    from service.sources import registry

    subjects = await _everyone(opened) if who is None else [await _one(opened, who)]
    places = asyncio.Semaphore(_AT_ONCE)
    async with line.open_line(loaded, metrics.Metrics("0")) as door:
        through = proving.Line(door.tokens, door.sender, registry.SOURCES, claims.lacks)

        async def one(subject: Subject) -> Checked:
            async with places:
                proof = await proving.prove(through, subject.tenant_id, subject.readings)
            healed = await _heal(opened, loaded, subject, proof) if proof.ok else None
            return Checked(subject, proof, healed)

        return list(await asyncio.gather(*(one(subject) for subject in subjects)))


async def _heal(
    opened: pool.Database, loaded: Settings, subject: Subject, proof: proving.Proof
) -> str | None:
    from service.cli import actors
    from service.store import provings

    if subject.invitation is None:
        healed = await provings.heal(opened, subject.tenant_id, actor=actors.person(), detail=proof.plain())
        if not healed:
            return None
        return "active now" if subject.state == "pending" else "polled at once"
    settled = await provings.prove(
        opened,
        subject.invitation.invitation_id,
        subject.tenant_id,
        prover=None,
        lookback=loaded.initial_lookback,
        actor=actors.person(),
        detail=proof.plain(),
    )
    if settled.enrolled_as is not None:
        raise errors.BadInput(
            f"tenant {subject.tenant_id} is enrolled as {settled.enrolled_as}: the invitation of {subject.name} is refused"
        )
    return "proven: collected from now on" if settled.proven else None


async def _one(opened: pool.Database, who: str) -> Subject:
    """An invitation that is not settled goes first: what it asks for is what is missing. Raises errors.BadInput."""
    from service.cli import enrolling, tenants
    from service.store import accesses, invitations, reports
    from service.store import tenants as stored

    text = enrolling.name(who)
    invited = await invitations.unsettled(opened, text)
    if invited:
        newest = invited[0]
        tenant_id = newest.tenant_id or newest.said_tenant
        if tenant_id is None:
            raise errors.BadInput(
                f"nobody has said yet for which tenant {newest.name} consents: invite it with its id, alertwell tenants invite "
                f"{enrolling.shown(newest.name)} --tenant GUID; a consent that was given already counts"
            )
        readings = await accesses.of_tenant(opened, newest.tenant(tenant_id, "pending"), newest.sources)
        return Subject(tenant_id, newest.name, "pending", readings, newest)
    if not await reports.names(opened, await stored.find(opened, text)):
        raise errors.BadInput(
            f"no tenant and no open invitation {enrolling.shown(text)}; see: alertwell tenants list"
        )
    return await _of_row(opened, await tenants.one(opened, who))


async def _of_row(opened: pool.Database, row: Mapping[str, Any]) -> Subject:
    from service.store import accesses

    tenant_id: UUID = row["tenant_id"]
    readings = (await accesses.enrolled(opened, [tenant_id]))[tenant_id]
    if row["state"] == "removed" or not readings:
        raise errors.BadInput(
            f"{row['name']} ({tenant_id}): {'it was removed' if row['state'] == 'removed' else 'nothing is read of it'}"
        )
    return Subject(tenant_id, row["name"], row["state"], readings)


async def _everyone(opened: pool.Database) -> list[Subject]:
    from service.store import accesses, reports

    rows = {
        row["tenant_id"]: row
        for row in await reports.roster(opened)
        if row["state"] in ("active", "pending") and row["sources"]
    }
    readings = await accesses.enrolled(opened, list(rows))
    return [
        Subject(tenant_id, row["name"], row["state"], readings[tenant_id])
        for tenant_id, row in rows.items()
        if readings[tenant_id]
    ]


def _print(checked: list[Checked]) -> None:
    for each in checked:
        output.say(f"{output.printable(each.subject.name)} ({each.subject.tenant_id})")
        for step in each.proof.steps:
            mark = "ok    " if step.ok else "FAILED"
            output.say(f"  {mark}  {step.source:<16} {output.printable(step.said)}")
        if each.healed:
            output.say(f"  {each.healed}")
    failed = sum(not each.proof.ok for each in checked)
    if len(checked) != 1:
        output.say(f"{output.many(len(checked), 'tenant')} checked, {failed} of them cannot be read")

"""From what a person writes to whom is invited, and the links. What is left out comes from the tenant, where it is enrolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar
from uuid import UUID

from service import errors
from service.auth import consent, sealing
from service.cli import actors, enrolling, importing
from service.sources import registry
from service.store import invitations, pool, reports

if TYPE_CHECKING:
    from service.settings import Settings

T = TypeVar("T")
COLUMNS: Final = ("name", "tenant_id", "sources", "cloud", "region", "external_ref", "labels")
DEFAULT: Final = ("graph_alerts",)
"""What is read where nobody says: the broadest source of all that a consent link can ask for."""


@dataclass(frozen=True, slots=True)
class Guest:
    """Whom a person wants to invite; None and empty: left out."""

    name: str
    tenant_id: UUID | None = None
    sources: tuple[str, ...] = ()
    cloud: str | None = None
    region: str | None = None
    external_ref: str | None = None
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Sent:
    """An invitation with its link."""

    invitation: invitations.Invitation
    link: str


def sheet(text: str, terms: enrolling.Terms) -> tuple[list[tuple[int, Guest]], list[importing.Problem]]:
    """Guests of a CSV with the columns above, of which only the name is needed; each with its line."""
    lines, problems = importing.cells(text, ("name",), COLUMNS)
    guests: list[tuple[int, Guest]] = []
    seen: dict[str, int] = {}
    for number, cells in lines:
        guest, wrong = _guest(number, cells, terms)
        problems += wrong
        if guest is None:
            continue
        for key in (guest.name.lower(), str(guest.tenant_id or "")):
            if key and seen.setdefault(key, number) != number:
                problems.append(importing.Problem(number, None, f"{key} is on line {seen[key]} already"))
        guests.append((number, guest))
    return guests, problems


def _guest(
    number: int, cells: Mapping[str, str], terms: enrolling.Terms
) -> tuple[Guest | None, list[importing.Problem]]:
    problems: list[importing.Problem] = []

    def field(column: str, read: Callable[[str], T]) -> T | None:
        text = cells.get(column, "").strip()
        if not text and column != "name":
            return None
        try:
            return read(text)
        except errors.BadInput as error:
            problems.append(importing.Problem(number, column, str(error).removeprefix(column).lstrip()))
            return None

    name = field("name", enrolling.name)
    guest = Guest(
        name or "",
        field("tenant_id", enrolling.tenant_id),
        field("sources", lambda text: enrolling.sources(text.split(), terms)) or (),
        field("cloud", lambda text: enrolling.cloud(text, terms)),
        field("region", lambda text: enrolling.line(text.lower())),
        field("external_ref", enrolling.line),
        field("labels", lambda text: enrolling.labels(text.split(";"))),
    )
    return (None if problems else guest), problems


async def send(
    opened: pool.Database, loaded: Settings, guests: Sequence[Guest], *, valid: timedelta, legacy: bool
) -> tuple[list[Sent], int]:
    """Invite them all, or none; the links, and how many older ones have stopped. Raises errors.UserMistake."""
    if loaded.client_id is None:
        raise errors.BadSetting(
            "ALERTWELL_CLIENT_ID is not set: the application (client) id of the multi-tenant app that customers consent to"
        )
    answers = loaded.callback_url is not None and not legacy
    if answers and loaded.sealing_keys_file is None:
        raise errors.BadSetting(
            "ALERTWELL_SEALING_KEYS_FILE is not set; links are signed with the keys in that file. "
            "Make it with: alertwell seal-key --into FILE"
        )
    sealer = sealing.Sealer.from_file(loaded.sealing_keys_file) if loaded.sealing_keys_file else None
    terms = enrolling.Terms.of(loaded)
    rows = {row["tenant_id"]: row for row in await reports.roster(opened)}
    wanted = [_wanted(guest, rows, terms, answers=answers, legacy=legacy) for guest in guests]
    made, stopped = await invitations.invite(opened, wanted, valid=valid, actor=actors.person())
    links = []
    for each in made:
        audiences = _audiences(each.sources, each.cloud, terms)
        state = consent.State(each.invitation_id, each.expires_at)
        links.append(
            consent.link(
                each.form,
                authority=terms.endpoints.authority(each.cloud),
                tenant_id=each.tenant_id,
                client_id=loaded.client_id,
                audience=audiences[0],
                callback=loaded.callback_url or "",
                state=state.signed(sealer) if sealer and answers else "",
            )
        )
    return [Sent(each, link) for each, link in zip(made, links, strict=True)], stopped


def _wanted(
    guest: Guest,
    rows: Mapping[UUID, Mapping[str, Any]],
    terms: enrolling.Terms,
    *,
    answers: bool,
    legacy: bool,
) -> invitations.Wanted:
    row = _row(guest, rows)
    who = f"{guest.name} ({row['tenant_id']})" if row else guest.name
    if row is not None:
        if row["app_id"]:
            raise errors.BadInput(
                f"{who} is read by an app of its own, {row['app_id']}: it is consented to where that app was made, not by a link"
            )
        guest = replace(
            guest,
            name=row["name"],
            tenant_id=row["tenant_id"],
            sources=guest.sources or tuple(row["sources"]),
            cloud=guest.cloud or row["cloud"],
            region=guest.region or row["region"],
            external_ref=guest.external_ref or row["external_ref"],
            labels=row["labels"] if guest.labels is None else guest.labels,
        )
    chosen = guest.sources or DEFAULT
    if "siem" in chosen and not legacy:
        raise errors.BadInput(
            f"{who}: the documents of the siem source know no consent link: the customer switches the SIEM integration on in the "
            "Defender portal. Name another with --source, such as graph_alerts, or give --legacy for the older form of link"
        )
    if guest.tenant_id is None and not answers:
        why = "--legacy" if legacy else "ALERTWELL_PUBLIC_URL is not set, and"
        raise errors.BadInput(
            f"{who}: {why} links lead back to nobody, so the tenant has to be named: give --tenant GUID"
        )
    cloud = guest.cloud or terms.cloud
    region = enrolling.region(guest.region, cloud, chosen, terms)
    form = consent.form(_audiences(chosen, cloud, terms), answers=answers, legacy=legacy)
    return invitations.Wanted(
        guest.tenant_id, guest.name, cloud, region, chosen, form, guest.labels or {}, guest.external_ref
    )


def _row(guest: Guest, rows: Mapping[UUID, Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The tenant that is enrolled already; by its id, else by its name."""
    if guest.tenant_id is not None:
        row = rows.get(guest.tenant_id)
        if row is not None and row["state"] != "removed" and row["name"].lower() != guest.name.lower():
            raise errors.BadInput(
                f"tenant {guest.tenant_id} is enrolled as {row['name']}, not as {guest.name}: use that name, or change it "
                "with: alertwell tenants add"
            )
        return row if row is not None and row["state"] != "removed" else None
    named = [
        row
        for row in rows.values()
        if row["name"].lower() == guest.name.lower() and row["state"] != "removed"
    ]
    if len(named) > 1:
        raise errors.BadInput(
            f"{enrolling.shown(guest.name)} names {len(named)} tenants, give --tenant with the id of one: "
            + ", ".join(str(row["tenant_id"]) for row in named)
        )
    return named[0] if named else None


def _audiences(sources: Sequence[str], cloud: str, terms: enrolling.Terms) -> list[str]:
    return [terms.endpoints.audience(registry.get(name).service, cloud) for name in sources]

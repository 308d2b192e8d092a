"""What is asked for tenants, with secrets of their own: read from files or a prompt, sealed, and enrolled."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from service import errors, model
from service.auth import sealing
from service.cli import actors, importing
from service.store import credentials, enrolments, pool, reports

if TYPE_CHECKING:
    from service.settings import Settings


class Wish:
    """What is asked for a tenant. `parameters` holds the sources whose parameters are to be set; others keep theirs."""

    def __init__(
        self,
        tenant: model.Tenant,
        sources: Sequence[str],
        parameters: Mapping[str, Mapping[str, Any]],
        own: tuple[str, str] | None,
    ) -> None:
        self.tenant = tenant
        self.sources = sources
        self.parameters = parameters
        self.own = own  # app id and secret: no dataclass, whose repr would show it


async def enrol(
    opened: pool.Database,
    loaded: Settings,
    wishes: Sequence[Wish],
    *,
    dry_run: bool = False,
    revive: bool = True,
) -> enrolments.Enrolled:
    tenant_ids = [wish.tenant.tenant_id for wish in wishes]
    parameters = await reports.parameters(opened, tenant_ids)
    own = [wish for wish in wishes if wish.own is not None]
    sealer = _sealer(loaded) if own else None
    stored = await credentials.listed(opened, [wish.tenant.tenant_id for wish in own])
    kept = {each.tenant_id: each.credential for each in stored if not each.source}
    wanted = []
    for wish in wishes:
        tenant_id = wish.tenant.tenant_id
        new = None
        if (
            wish.own is not None
            and sealer is not None
            and not _is_kept(sealer, wish.own, kept.get(tenant_id))
        ):
            new = credentials.Own(wish.own[0], "client_secret", sealer.seal(wish.own[1]))
        sources = {
            source: wish.parameters.get(source, parameters.get((tenant_id, source), {}))
            for source in wish.sources
        }
        wanted.append(enrolments.Enrolment(wish.tenant, sources, new))
    act = enrolments.rehearse if dry_run else enrolments.enrol
    return await act(opened, wanted, lookback=loaded.initial_lookback, actor=actors.person(), revive=revive)


def _is_kept(sealer: sealing.Sealer, own: tuple[str, str], kept: model.Credential | None) -> bool:
    """Whether this very secret of this very app is stored already: sealed again it would look like another one."""
    if kept is None or (kept.app_id, kept.kind) != (own[0], "client_secret"):
        return False
    try:
        return sealer.unseal(kept.sealed) == own[1]
    except errors.BadSetting:
        return False  # sealed with a key that is gone: sealed anew it can be opened again


def _sealer(loaded: Settings) -> sealing.Sealer:
    if loaded.sealing_keys_file is None:
        raise errors.BadSetting(
            "ALERTWELL_SEALING_KEYS_FILE is not set; a tenant's own secret is stored sealed with the keys in that file. "
            "Make it with: alertwell seal-key --into FILE"
        )
    return sealing.Sealer.from_file(loaded.sealing_keys_file)


def with_secrets(rows: Iterable[importing.Row], folder: Path) -> tuple[list[Wish], list[importing.Problem]]:
    wishes: list[Wish] = []
    problems: list[importing.Problem] = []
    for row in rows:
        own = None
        if row.app_id is not None and row.secret_file is not None:
            try:
                own = (row.app_id, sealing.read_secret_file(folder / row.secret_file))
            except errors.BadSetting as error:
                problems.append(importing.Problem(row.line, "secret_file", str(error)))
        wishes.append(Wish(row.tenant, row.sources, {}, own))
    return wishes, problems


def secret(file: Path | None, *, ask: bool) -> str:
    if (file is None) != ask:
        raise errors.BadInput("--client-id needs its app's secret: --secret-file FILE or --ask-secret")
    if file is not None:
        return sealing.read_secret_file(file)
    if not sys.stdin.isatty():
        raise errors.BadInput("--ask-secret needs a terminal to ask on: use --secret-file FILE")
    return str(typer.prompt("Client secret", hide_input=True, err=True)).strip()

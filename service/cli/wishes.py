"""What is asked for tenants, with credentials of their own: read from files, sealed, and enrolled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from service import errors, model, parts
from service.cli import actors, given, importing
from service.store import credentials, enrolments, pool, reports

if TYPE_CHECKING:
    from service.settings import Settings

_PASSWORD: Final = "name its file as certificate_password_file"  # noqa: S105 - what to write, not a password


class Wish:
    """What is asked for a tenant. `parameters` holds the sources whose parameters are to be set; others keep theirs."""

    def __init__(
        self,
        tenant: model.Tenant,
        sources: Sequence[str],
        parameters: Mapping[str, Mapping[str, Any]],
        own: given.Given | None,
    ) -> None:
        self.tenant = tenant
        self.sources = sources
        self.parameters = parameters
        self.own = own


async def enrol(
    opened: pool.Database,
    loaded: Settings,
    wishes: Sequence[Wish],
    *,
    dry_run: bool = False,
    revive: bool = True,
) -> enrolments.Enrolled:
    """Add or change them all, or none. A credential that is stored already stays as it is."""
    parameters = await reports.parameters(opened, [wish.tenant.tenant_id for wish in wishes])
    own = [wish.tenant.tenant_id for wish in wishes if wish.own is not None]
    sealer = parts.sealer(loaded) if own else None
    stored = {each.tenant_id: each for each in await credentials.listed(opened, own) if not each.source}
    wanted = []
    for wish in wishes:
        tenant_id = wish.tenant.tenant_id
        new = None
        if wish.own is not None and not (tenant_id in stored and wish.own.is_kept(sealer, stored[tenant_id])):
            new = wish.own.sealed(sealer)
        sources = {
            source: wish.parameters.get(source, parameters.get((tenant_id, source), {}))
            for source in wish.sources
        }
        wanted.append(enrolments.Enrolment(wish.tenant, sources, new))
    act = enrolments.rehearse if dry_run else enrolments.enrol
    return await act(opened, wanted, lookback=loaded.initial_lookback, actor=actors.person(), revive=revive)


def with_credentials(
    rows: Iterable[importing.Row], folder: Path
) -> tuple[list[Wish], list[importing.Problem]]:
    """The rows of a sheet with what their files hold, from `folder` on; and which of the files are of no use."""
    wishes: list[Wish] = []
    problems: list[importing.Problem] = []
    for row in rows:
        own = None
        try:
            own = _own(row, folder)
        except errors.BadSetting as error:
            column = "certificate_file" if row.certificate_file is not None else "secret_file"
            problems.append(importing.Problem(row.line, column, str(error)))
        wishes.append(Wish(row.tenant, row.sources, {}, own))
    return wishes, problems


def _own(row: importing.Row, folder: Path) -> given.Given | None:
    if row.app_id is None:
        return None
    if row.certificate_file is not None:
        password = folder / row.password_file if row.password_file is not None else None
        return given.certificate(row.app_id, folder / row.certificate_file, password, _PASSWORD)
    if row.secret_file is not None:
        return given.secret(row.app_id, folder / row.secret_file, row.secret_expires_at)
    return given.Given(row.app_id, "federated", "")

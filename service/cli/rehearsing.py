"""`alertwell tenants check --credential NEW`: who would be lost with a new credential, before the old one ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from service import errors
from service.cli import output, progress

if TYPE_CHECKING:
    from service.auth import modes
    from service.ingest import rehearsing
    from service.settings import Settings
    from service.store import pool, streams

SOURCE: Final = "federated"
"""In the place of a file: the federated token that the settings name."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What came of it. `states` says how the streams fare now, by tenant and source."""

    app_id: str
    kind: str
    trials: Sequence[rehearsing.Trial]
    states: Mapping[tuple[UUID, str], str]

    @property
    def ok(self) -> bool:
        """Nobody would be lost."""
        return all(trial.ok for trial in self.trials)


async def rehearse(
    opened: pool.Database,
    loaded: Settings,
    new: str,
    tenant_id: UUID | None,
    *,
    app_id: str | None = None,
    password: Path | str | None = None,
) -> Rehearsal:
    """Try a credential with every tenant of the shared app, or with one tenant. Raises errors.UserMistake."""
    from service import line, metrics, model
    from service.auth import claims
    from service.ingest import rehearsing
    from service.sources import registry

    read = await _streams(opened, tenant_id)
    own = {one.access.credential.app_id for one in read if one.access.credential is not None}
    if tenant_id is not None and own:
        read = [one for one in read if one.access.credential is not None]
        app_id = app_id or _only(own)
    else:
        read = [one for one in read if one.access.credential is None]
        app_id = app_id or loaded.client_id
    if app_id is None:
        raise errors.BadInput("no shared app is set: give --client-id, the app that the credential is of")
    if not read:
        raise errors.BadInput("no tenant is read by the shared app: there is none to try the credential with")
    tried = app(loaded, app_id, new, password)
    by_tenant: dict[UUID, list[streams.Owned]] = {}
    for one in read:
        by_tenant.setdefault(one.stream.tenant_id, []).append(one)
    subjects = [
        rehearsing.Subject(
            model.Access(of_tenant[0].access.tenant),
            [registry.SOURCES[one.stream.source] for one in of_tenant],
        )
        for of_tenant in by_tenant.values()
    ]
    async with line.open_line(loaded, metrics.Metrics("0"), shared=tried) as door:
        with progress.Progress("tenants") as bar:
            trials = await rehearsing.rehearse(door.tokens, claims.lacks, subjects, progress=bar.show)
        [horizon] = door.tokens.horizons()
    states = {(one.stream.tenant_id, one.stream.source): one.stream.state for one in read}
    return Rehearsal(app_id, horizon.kind, trials, states)


def app(loaded: Settings, app_id: str, new: str, password: Path | str | None) -> modes.SharedApp:
    """The app with the new credential alone, by what the file holds. Raises errors.UserMistake."""
    from service import parts
    from service.auth import certificates, federated, files, modes
    from service.cli import given

    if new == SOURCE:
        source = parts.token_source(loaded)
        if source is None:
            raise errors.BadSetting(
                "--credential federated: neither ALERTWELL_FEDERATED_TOKEN_FILE nor ALERTWELL_MANAGED_IDENTITY is set"
            )
        return modes.SharedApp(app_id, federated=source)
    file = Path(new)
    content = files.read(file)
    # what begins as a DER sequence is no text
    if b"-----BEGIN " in content or (content[:1] == b"\x30" and content[1:2] >= b"\x80"):
        word = files.text(password) if isinstance(password, Path) else password
        certificates.read(content, word, str(file), how=given.PASSWORD)
        return modes.SharedApp(app_id, certificate=file, certificate_password=password)
    if password is not None:
        raise errors.BadSetting(f"{file}: is no certificate, and a password was given for one")
    if content.startswith(b"eyJ") and content.count(b".") == 2:
        return modes.SharedApp(app_id, federated=federated.TokenFile(file))
    return modes.SharedApp(app_id, given.secret(app_id, file).text)


def show(done: Rehearsal) -> None:
    """The tenants that would fail, each with why, and how they fare now."""
    failed = [trial for trial in done.trials if not trial.ok]
    if failed:
        output.table(
            ("tenant", "source", "now", "cause", "with the new credential"),
            [
                (
                    f"{trial.tenant.name} ({trial.tenant.tenant_id})",
                    trial.source,
                    done.states[trial.tenant.tenant_id, trial.source],
                    trial.code,
                    trial.said,
                )
                for trial in failed
            ],
        )
    tenants = {trial.tenant.tenant_id for trial in done.trials}
    lost = {trial.tenant.tenant_id for trial in failed}
    output.say(
        f"{done.kind.replace('_', ' ')} of app {done.app_id}: {output.many(len(tenants), 'tenant')} tried, "
        f"{len(lost)} would not be read; nothing was changed"
    )


def plain(done: Rehearsal) -> dict[str, Any]:
    """For programs."""
    return {
        "ok": done.ok,
        "app_id": done.app_id,
        "kind": done.kind,
        "trials": [
            {
                "tenant_id": trial.tenant.tenant_id,
                "name": trial.tenant.name,
                "source": trial.source,
                "ok": trial.ok,
                "code": trial.code,
                "said": trial.said,
                "state": done.states[trial.tenant.tenant_id, trial.source],
            }
            for trial in done.trials
        ],
    }


def _only(app_ids: set[str]) -> str:
    if len(app_ids) > 1:
        raise errors.BadInput(
            f"its sources are read by several apps ({' '.join(sorted(app_ids))}): give --client-id, the one that is meant"
        )
    return next(iter(app_ids))


async def _streams(opened: pool.Database, tenant_id: UUID | None) -> list[streams.Owned]:
    """What is read, of one tenant or of all that were not removed."""
    from service.sources import registry
    from service.store import reports, streams

    wanted = (
        [tenant_id]
        if tenant_id
        else [row["tenant_id"] for row in await reports.roster(opened) if row["state"] != "removed"]
    )
    loaded = await streams.load(opened, wanted)
    return [one for one in loaded if one.stream.source in registry.SOURCES]

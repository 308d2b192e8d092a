"""What an earlier server left behind: an orphaned server, busy backends, a stale postmaster.pid.

Our servers carry a name made of their data folder's device and inode, which PostgreSQL shows in the title of
each of its processes. By that name they are found and ended without touching any other server, even where
/proc hides a process' working folder. The caller holds the folder's lock: no living owner loses its server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from service import errors

PROC = Path("/proc")
PATIENCE = 10.0  # seconds that an orphan gets to end
BREATH = 0.01
KEEPER = "/keeper.py "  # its command line holds the server's; it ends by itself, with its program


def server_name(data: Path) -> str:
    """The `cluster_name` of the server of this data folder: it moves with it, a copy has another."""
    status = data.stat()
    return f"alertwell-{status.st_dev:x}-{status.st_ino:x}"


def postmaster(data: Path) -> int | None:
    """The process named in postmaster.pid, alive or not."""
    try:
        return int((data / "postmaster.pid").read_text().split("\n", 1)[0])
    except (FileNotFoundError, ValueError):
        return None


async def clear(data: Path, sockets: Path) -> None:
    """End what an earlier server of ours left running, and remove its postmaster.pid and sockets.

    Raises errors.EmbeddedInUse where somebody else's server (started by hand) is at work in this folder, and
    errors.EmbeddedUnavailable where an orphan does not end.
    """
    name = server_name(data)
    noted = postmaster(data)
    running = {pid for pid, title in _titles() if is_ours(title, name)}
    if noted is not None and noted not in running and _works_in(noted, data):
        raise errors.EmbeddedInUse(
            f"{data.parent} is in use by a PostgreSQL server that is not ours, pid {noted}"
        )
    # A backend whose server was killed goes on until its statement ends and blocks the next start meanwhile.
    for pid in running:
        _signal(pid, signal.SIGQUIT if pid == noted else signal.SIGKILL)
    try:
        async with asyncio.timeout(PATIENCE):
            await _gone(name, running)
    except TimeoutError:
        for pid in running:
            _signal(pid, signal.SIGKILL)
        try:
            async with asyncio.timeout(PATIENCE):
                await _gone(name, running)
        except TimeoutError:
            raise errors.EmbeddedUnavailable(
                f"an earlier PostgreSQL server of {data.parent} does not end: pids {sorted(running)}"
            ) from None
    _remove_notes(data, sockets)


def is_ours(title: str, name: str) -> bool:
    """Whether a command line is that of the server with this name or of one of its backends."""
    if title.startswith(f"postgres: {name}: "):
        return True
    program, _, arguments = title.partition(" -D ")
    return (
        program.endswith("/postgres")
        and KEEPER not in program
        and f" cluster_name={name} " in f"{arguments} "
    )


def _remove_notes(data: Path, sockets: Path) -> None:
    # PostgreSQL would refuse to start where the number in such a file is by now that of an unrelated process,
    # or of a zombie that nobody collects.
    for stale in (data / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
        stale.unlink(missing_ok=True)


async def _gone(name: str, pids: set[int]) -> None:
    # Not our children: their end cannot be waited for, only seen. A zombie has no title and counts as gone.
    while True:
        pids = {pid for pid, title in _titles() if pid in pids and is_ours(title, name)}
        if not pids:
            return
        await asyncio.sleep(BREATH)


def _titles() -> Iterator[tuple[int, str]]:
    if not (PROC / "self" / "cmdline").exists():
        listing = subprocess.run(
            ["/bin/ps", "-axo", "pid=,command="], capture_output=True, text=True, check=False
        )
        for line in listing.stdout.splitlines():
            number, _, title = line.strip().partition(" ")
            yield int(number), title.strip()
        return
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            try:
                raw = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # ended in the meantime
            yield int(entry.name), raw.replace(b"\0", b" ").decode(errors="replace").strip()


def _works_in(pid: int, data: Path) -> bool:
    try:
        return (PROC / str(pid) / "cwd").samefile(data)
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass  # what was wanted has come about
    except PermissionError:
        raise errors.EmbeddedUnavailable(
            f"an earlier PostgreSQL server, pid {pid}, belongs to another user"
        ) from None

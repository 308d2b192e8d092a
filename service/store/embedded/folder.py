"""The data folder: who owns it, its passwords, and how its database files are made.

owner.lock      flock, freed by the kernel at any death of the owner; holds the owner's pid
passwords.json  0600: the generated passwords of the roles
data/           PostgreSQL's own files; there only when complete
run/            the private socket, or a link to a shorter path
server.log      what the server says; server.log.1 the one before
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from service import errors
from service.store.embedded import binaries, identity, process

ADMIN, ROLE = "postgres", "alertwell"
LOG_LIMIT = 4 * 1024 * 1024
SOCKET_LIMIT = 103  # bytes of a socket's path that every system takes: 107 on Linux, 103 on macOS
UNFINISHED = "data.new-"


@contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make the folder where it is missing and own it alone.

    Raises errors.EmbeddedInUse with the owner's pid, and errors.EmbeddedUnavailable where that is impossible.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Close-on-exec like every descriptor of Python: the server must not hold the lock of a dead owner.
        lock = os.open(folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise errors.EmbeddedUnavailable(
            f"the data folder {folder} cannot be used: {error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(lock, 200).decode(errors="replace").split()
            who = f"pid {owner[0]}" if owner else "a process that is just starting"
            # A pid means something only where it was given: hosts and containers have their own.
            where = f" on {owner[1]}" if owner[1:] and owner[1] != socket.gethostname() else ""
            raise errors.EmbeddedInUse(
                f"the data folder {folder} is in use by {who}{where}: end that first, or name another folder in "
                "ALERTWELL_DATA_DIR"
            ) from None
        os.truncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(lock)


async def prepare(
    folder: Path, programs: binaries.Binaries, as_whom: identity.Identity, *, durable: bool
) -> Path:
    """The finished database folder below `folder`, made by initdb where there is none.

    Raises errors.EmbeddedUnavailable where it is of another major version, or initdb fails.
    """
    data = folder / "data"
    as_whom.own(folder)
    if data.exists():
        try:
            made_by = (data / "PG_VERSION").read_text().strip()
        except OSError as error:
            raise errors.EmbeddedUnavailable(f"{data} is not a database folder: {error.strerror}") from None
        if made_by != str(as_whom.major):
            raise errors.EmbeddedUnavailable(
                f"the data folder {folder} was made by PostgreSQL {made_by}, and {programs.folder} holds "
                f"PostgreSQL {as_whom.major}: use the programs of {made_by}, or another folder"
            )
        return data
    making, password = _begin(folder)
    try:
        as_whom.own(folder)
        code, written = await process.run(
            [
                programs.initdb,
                "-D",
                making,
                "-U",
                ADMIN,
                f"--pwfile={password}",
                *_initdb_options(as_whom.major, durable),
            ],
            who=as_whom.who,
            folder=folder.parent,
        )
    finally:
        password.unlink(missing_ok=True)
    if code != 0:
        shutil.rmtree(making, ignore_errors=True)
        raise errors.EmbeddedUnavailable(f"initdb failed: {_last_lines(written)}")
    return _finish(making, data)


def _finish(making: Path, data: Path) -> Path:
    # Only a complete folder ever has the final name.
    return making.rename(data)


def _begin(folder: Path) -> tuple[Path, Path]:
    """An empty folder for initdb, and beside it a file with the superuser's password."""
    for unfinished in folder.glob(UNFINISHED + "*"):
        if unfinished.is_dir():
            shutil.rmtree(unfinished)
        else:
            unfinished.unlink()
    making = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    password = making.with_suffix(".password")
    with _private(password) as file:
        file.write(passwords(folder)[ADMIN].encode() + b"\n")
    return making, password


def _initdb_options(major: int, durable: bool) -> list[str]:
    # From 17 on PostgreSQL brings a C.UTF-8 of its own: the same order of text on every system.
    provider = ["--locale-provider=builtin"] if major >= 17 else []
    locale = [*provider, "--locale=C.UTF-8", "--encoding=UTF8"]
    return ["--auth=scram-sha-256", *locale, "--no-instructions", *([] if durable else ["--no-sync"])]


def passwords(folder: Path) -> dict[str, str]:
    """Password by role, generated once and kept in a file that only its owner can read."""
    path = folder / "passwords.json"
    if not path.exists():
        if (folder / "data").exists():
            raise errors.EmbeddedUnavailable(
                f"{path} is missing, and with it the way into the database beside it"
            )
        fresh = path.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        with _private(fresh) as file:
            file.write(json.dumps({role: secrets.token_urlsafe(24) for role in (ADMIN, ROLE)}).encode())
        fresh.rename(path)
    try:
        read = json.loads(path.read_bytes())
        return {role: str(read[role]) for role in (ADMIN, ROLE)}
    except PermissionError:
        raise errors.EmbeddedUnavailable(f"{path} belongs to another user") from None
    except (ValueError, KeyError, TypeError):
        raise errors.EmbeddedUnavailable(
            f"{path} does not hold the passwords of {ADMIN} and {ROLE}"
        ) from None


def socket_folder(folder: Path, as_whom: identity.Identity, port: int) -> Path:
    """A folder for the server's socket that only its user can enter, short enough for the kernel.

    `run` below the data folder; where that path is too long, a link to a temporary folder, which the next
    start uses again if nobody removed it.
    """
    run = folder / "run"
    if _fits(run, port):
        run.mkdir(mode=0o700, exist_ok=True)
        as_whom.own(run)
        return run
    if run.is_symlink():
        target = run.readlink()
        if _is_private(target, folder.stat().st_uid) and _fits(target, port):
            as_whom.own(target)
            return target
        run.unlink()
    for parent in (tempfile.gettempdir(), "/tmp"):  # noqa: S108 - mkdtemp makes a private folder in it
        if _fits(Path(parent, "alertwell-12345678"), port):
            target = Path(tempfile.mkdtemp(prefix="alertwell-", dir=parent))
            as_whom.own(target)
            run.symlink_to(target)
            return target
    raise errors.EmbeddedUnavailable(
        f"no folder for temporary files has a path short enough for a socket: {parent}"
    )


def remove_short_socket_folder(folder: Path) -> None:
    """Remove the folder that `socket_folder` made outside the data folder, if it did."""
    run = folder / "run"
    if run.is_symlink():
        shutil.rmtree(run.readlink(), ignore_errors=True)
        run.unlink()


def log(folder: Path) -> IO[bytes]:
    """The server's log, opened to append. A large one is set aside first; there are never more than two."""
    path = folder / "server.log"
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(folder / "server.log.1")
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab", buffering=0)


def log_end(folder: Path, since: int) -> str:
    """The last lines that the server wrote after the byte `since`."""
    with (folder / "server.log").open("rb") as file:
        file.seek(max(since, file.seek(0, os.SEEK_END) - 4096))
        return _last_lines(file.read().decode(errors="replace"))


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines()[-4:] if line.strip()) or "it said nothing"


def _fits(path: Path, port: int) -> bool:
    return len(os.fsencode(path / f".s.PGSQL.{port}")) <= SOCKET_LIMIT


def _is_private(path: Path, uid: int) -> bool:
    try:
        status = path.lstat()
    except OSError:
        return False
    return path.is_dir() and not path.is_symlink() and status.st_uid == uid and status.st_mode & 0o077 == 0


def _private(path: Path) -> IO[bytes]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

"""The keeper: runs one program (the server, or initdb) for its owner and ends it when the owner is gone.

    python -I -S keeper.py LIFELINE WHO FOLDER PROGRAM ARGUMENT...

LIFELINE is the number of an inherited descriptor: the read end of a pipe whose other end only the owner has.
The byte `s` on it asks for a fast shutdown (SIGINT to PostgreSQL). Its end means that the owner died, in
whatever way: immediate shutdown (SIGQUIT), and SIGKILL where that is not enough. The keeper's own death is
covered on Linux by the kernel, which then sends the program SIGQUIT. WHO says as whom the program runs, see
identity.py; it starts in FOLDER, which it must be able to enter.

Runs by itself, with the standard library alone and without site packages: it starts in a few milliseconds.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import time
from collections.abc import Sequence

FAST = b"s"
FAILED = 126
GRACE = 5.0  # seconds from SIGQUIT to SIGKILL; PostgreSQL itself gives its backends five
NOBODY = 65534
CLONE_NEWUSER = 0x10000000
PR_SET_PDEATHSIG = 1
PR_SET_KEEPCAPS = 8
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE = 47, 2
CAPABILITY_VERSION = 0x20080522
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2


def main(arguments: Sequence[str]) -> int:
    """Run the program to its end; returns its exit code, or 128 + the signal that ended it."""
    lifeline, who, folder, command = int(arguments[0]), arguments[1], arguments[2], list(arguments[3:])
    # A service stop often signals the whole group: the owner decides when the server stops, not the signal.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    keeper = os.getpid()
    program = os.fork()
    if program == 0:
        start(keeper, who, folder, command)
    return keep(program, lifeline, woken)


def start(keeper: int, who: str, folder: str, command: list[str]) -> None:
    """In the forked process: become WHO, die with the keeper, turn into the program. Never returns."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE):
            signal.signal(number, signal.SIG_DFL)
        become(who)
        os.chdir(folder)
        # After become(): the kernel forgets this wish when a process changes its user.
        if sys.platform == "linux":
            call("prctl", PR_SET_PDEATHSIG, int(signal.SIGQUIT), 0, 0, 0)
        if os.getppid() == keeper:
            os.execv(command[0], command)  # noqa: S606 - without a shell is what is wanted
    except OSError as error:
        os.write(2, f"cannot run {command[0]} as {who}: {error}\n".encode())
    finally:
        os._exit(FAILED)


def become(who: str) -> None:
    """`self`: stay. `namespace`: a user namespace in which this user is nobody. `UID:GID`: that user.

    `UID:GID:reach`: that user with one capability, to pass through folders that are closed to it.
    """
    if who == "self":
        return
    if who == "namespace":
        uid, gid = os.geteuid(), os.getegid()
        call("unshare", CLONE_NEWUSER)
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{NOBODY} {uid} 1"),
            ("gid_map", f"{NOBODY} {gid} 1"),
        ):
            file = os.open(f"/proc/self/{name}", os.O_WRONLY)
            os.write(file, text.encode())
            os.close(file)
        return
    user, group, *reach = who.split(":")
    os.setgroups([])
    os.setgid(int(group))
    if reach:
        call("prctl", PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setuid(int(user))
    if reach:
        try:
            hold(CAP_DAC_READ_SEARCH)
        except PermissionError:
            hold(CAP_DAC_OVERRIDE)  # the wider one, which containers have and the narrower they have not


def hold(capability: int) -> None:
    """Give up every capability but this one, and carry it over into the program."""
    mask = 1 << capability
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)(mask, mask, mask, 0, 0, 0)  # effective, permitted, inheritable; upper halves
    call("capset", header, sets)
    call("prctl", PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability, 0, 0)


def call(name: str, *arguments: object) -> None:
    """A function of the C library that answers 0 or sets errno; those called here are Linux' own."""
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def keep(program: int, lifeline: int, woken: int) -> int:
    """Wait for the program's end, or for the owner's word or death, and then for the program's end."""
    watched = [lifeline, woken]
    kill_at: float | None = None
    while True:
        ended, status = os.waitpid(program, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        wait = None if kill_at is None else max(0.0, kill_at - time.monotonic())
        ready, _, _ = select.select(watched, [], [], wait)
        if woken in ready:
            os.read(woken, 4096)
        if lifeline in ready:
            if os.read(lifeline, 1) == FAST:
                os.kill(program, signal.SIGINT)
            else:
                watched.remove(lifeline)
                os.kill(program, signal.SIGQUIT)
                kill_at = time.monotonic() + GRACE
        if not ready and kill_at is not None:
            os.kill(program, signal.SIGKILL)
            kill_at = None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

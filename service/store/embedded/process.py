"""Our side of the keeper: a program that cannot outlive us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from service.store.embedded import keeper

# What a server needs of our environment. The rest holds our secrets and the PG* variables of other servers.
PASSED_ON = ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Kept:
    """A running keeper with its program."""

    def __init__(self, child: asyncio.subprocess.Process, lifeline: int) -> None:
        self._child = child
        self._lifeline: int | None = lifeline

    @property
    def pid(self) -> int:
        """Of the keeper; the program is its child."""
        return self._child.pid

    @property
    def ended(self) -> bool:
        return self._child.returncode is not None

    async def wait(self) -> int:
        """The program's exit code, or 128 + signal, once it has ended."""
        return await self._child.wait()

    async def output(self) -> bytes:
        """Everything that the program writes, until it ends; for programs started with PIPE."""
        written, _ = await self._child.communicate()
        return written

    async def stop(self, grace: float) -> None:
        """Ask for a fast shutdown; after `grace` seconds, or when cancelled, end the program at once."""
        try:
            if self._lifeline is not None and not self.ended:
                with contextlib.suppress(BrokenPipeError):  # the keeper has just ended
                    os.write(self._lifeline, keeper.FAST)
                async with asyncio.timeout(grace):
                    await self._child.wait()
        except TimeoutError:
            pass  # letting go is the answer
        finally:
            self.let_go()
            await self._child.wait()

    def let_go(self) -> None:
        """Close the lifeline: the keeper ends the program at once, as if we had died."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None


async def start(command: Sequence[str | Path], *, who: str, folder: Path, output: IO[bytes] | int) -> Kept:
    """Start a program in `folder` under a keeper; its standard output and error go to `output`.

    In a session of its own: Ctrl-C at the terminal reaches us alone, and we stop the server after its last
    user.
    """
    theirs, ours = os.pipe()
    try:
        environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
        child = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", keeper.__file__, str(theirs), who, str(folder), *map(str, command)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=asyncio.subprocess.STDOUT,
            env={**environment, "LC_ALL": "C", "TZ": "UTC"},
            cwd="/",
            pass_fds=(theirs,),
            start_new_session=True,
        )
    except BaseException:
        os.close(ours)
        raise
    finally:
        os.close(theirs)
    return Kept(child, ours)


async def run(command: Sequence[str | Path], *, who: str, folder: Path) -> tuple[int, str]:
    """Run a program to its end: exit code (126 where it could not be started) and what it wrote."""
    kept = await start(command, who=who, folder=folder, output=asyncio.subprocess.PIPE)
    try:
        written = await kept.output()
        return await kept.wait(), written.decode(errors="replace")
    finally:
        kept.let_go()
        await kept.wait()

"""As whom the server runs. PostgreSQL refuses root, and wants its files to be of the user it runs as.

Not root: as ourselves. Root, in the order of preference:

1. the folder is another user's: as that user, so that the same folder works for them without root;
2. a user namespace in which root is seen as nobody: files stay root's, folders above may be closed to others;
3. no user namespaces (many containers): as nobody, the folder becomes nobody's;
4. where a folder above is closed to them (a checkout below /root): the same, with the capability to pass.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from service import errors
from service.store.embedded import binaries, keeper, process

VERSION = re.compile(r"\(PostgreSQL\) (\d+)")


@dataclass(frozen=True, slots=True)
class Identity:
    """`who`, as the keeper spells it, and the PostgreSQL major version that answered under it."""

    who: str
    major: int

    def own(self, path: Path) -> None:
        """Give a file or folder, with what it holds, to the user that the server runs as."""
        if self.who in ("self", "namespace"):
            return
        uid, gid = (int(part) for part in self.who.split(":")[:2])
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                os.chown(Path(folder, name), uid, gid, follow_symlinks=False)
        # Last: a walk that was cut short leaves the folder root's, and the next start makes the same choice.
        os.chown(path, uid, gid, follow_symlinks=False)


async def choose(programs: binaries.Binaries, folder: Path) -> Identity:
    """The identity for this folder, proven by asking `postgres --version` under it, beside the folder.

    Raises errors.EmbeddedUnavailable where PostgreSQL cannot be run at all.
    """
    refusals = []
    for who in _preferences(folder):
        code, written = await process.run([programs.postgres, "--version"], who=who, folder=folder.parent)
        version = VERSION.search(written)
        if code == 0 and version is not None:
            major = int(version[1])
            if not binaries.OLDEST <= major <= binaries.NEWEST:
                raise errors.EmbeddedUnavailable(
                    f"{programs.postgres} is PostgreSQL {major}, and {binaries.OLDEST} to {binaries.NEWEST} "
                    "are supported"
                )
            return Identity(who, major)
        refusals.append(written.strip() or f"exit code {code}")
    raise errors.EmbeddedUnavailable(f"PostgreSQL does not run: {'; '.join(refusals)}")


def _preferences(folder: Path) -> list[str]:
    if os.geteuid() != 0:
        return ["self"]
    status = folder.stat()
    uid, gid = (status.st_uid, status.st_gid) if status.st_uid != 0 else (keeper.NOBODY, keeper.NOBODY)
    plain = [f"{uid}:{gid}"]
    if sys.platform != "linux":
        return plain
    return [*(["namespace"] if status.st_uid == 0 else []), *plain, f"{uid}:{gid}:reach"]

"""A process that owns an embedded PostgreSQL: says where it is, and stops it when its standard input ends.

python owner.py DATA_DIR as_we_are|as_a_normal_user|as_root_without_namespaces
"""

import asyncio
import json
import os
import sys
from pathlib import Path

from service import errors
from service.store import embedded
from service.store.embedded import keeper


def as_we_are() -> None:
    """Whoever runs the tests."""


def as_a_normal_user() -> None:
    """Nobody, who may pass through every folder, so that a checkout below a closed home can be tested too."""
    keeper.become(f"{keeper.NOBODY}:{keeper.NOBODY}:reach")


def as_root_without_namespaces() -> None:
    """Root as in a container that allows no user namespaces; there is nothing to do where this is one."""
    told, tell = os.pipe()
    process = os.getpid()
    mapper = os.fork()
    if mapper == 0:
        # From outside the new namespace: only there may one map more users than oneself.
        if os.read(told, 1) == b"x":
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{process}/{name}").write_text("0 0 65536\n")
        os._exit(0)
    try:
        keeper.call("unshare", keeper.CLONE_NEWUSER)
    except PermissionError:
        os.write(tell, b" ")
        os.waitpid(mapper, 0)
        return
    os.write(tell, b"x")
    os.waitpid(mapper, 0)
    Path("/proc/sys/user/max_user_namespaces").write_text("0")


async def main() -> None:
    try:
        async with embedded.Cluster(Path(sys.argv[1]), durable=False) as cluster:
            say({"dsn": cluster.dsn, "server": cluster.server_pid, "keeper": cluster.keeper_pid})
            await asyncio.to_thread(sys.stdin.read)
    except errors.UserMistake as error:
        say({"error": str(error)})


def say(facts: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


{kind.__name__: kind for kind in (as_we_are, as_a_normal_user, as_root_without_namespaces)}[sys.argv[2]]()
asyncio.run(main())

"""Who runs a command, for the audit."""

from __future__ import annotations

import getpass
import os
import socket

from service.cli import output

_LONGEST = 200


def person() -> str:
    """`user@host` of whoever runs this command: what the machine says, which is as good as its accounts are."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user without a name
        user = f"uid {os.getuid()}"
    return output.printable(f"{user}@{socket.gethostname()}")[:_LONGEST]

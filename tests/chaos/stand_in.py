"""The simulator as a process of its own: late, tied and revised alerts, and the control surface open.

    python -m tests.chaos.stand_in FOLDER SEED TENANTS RATE HISTORY LATE

Loopback alone, a free port; FOLDER/settings.env and FOLDER/tenants.csv say how it is reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from pathlib import Path

from service.simulator import runs, standalone, world


async def _serve(folder: Path, seed: int, tenants: int, rate: float, history: float, late: float) -> None:
    quirks = runs.Quirks(late_share=0.05, late_seconds=late, tied_share=0.2, revised_share=0.1)
    shown = world.World(seed, quirks=quirks)
    shown.populate(tenants, rate=rate, history=history)
    serving = asyncio.ensure_future(
        standalone.serve(shown, directory=folder, write=print, host="127.0.0.1", port=0, control=True)
    )
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serving


if __name__ == "__main__":
    folder, seed, tenants, rate, history, late = sys.argv[1:]
    asyncio.run(_serve(Path(folder), int(seed), int(tenants), float(rate), float(history), float(late)))

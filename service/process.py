"""The process: its event loop, and the two signals that end it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final

from service import log

_YOUNG: Final = 20_000
"""New objects, less those gone again, between two looks of the garbage collector."""


def run_until_signalled(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `main` on uvloop where there is one. The first SIGTERM or SIGINT sets its event, the second ends the process."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        loop = runner.get_loop()
        log.install_loop_handler(loop)
        stop = asyncio.Event()

        def signalled(number: int, _frame: FrameType | None) -> None:
            if stop.is_set():
                # a thread inside Entra's answer would hold up any gentler end
                os._exit(128 + number)
            loop.call_soon_threadsafe(stop.set)

        before = {number: signal.signal(number, signalled) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            return runner.run(main(stop))
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def settle() -> None:
    """Take what a start has made out of the garbage collector's sight, and let it look more rarely: a poll makes some thousand
    objects that go without it, and each look at all of a replica's memory costs as much as many polls.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 20, 20)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop, a third cheaper an idle poll; None, for asyncio's own, where there is none."""
    try:
        import uvloop
    except ImportError:  # not on this platform
        return None
    return uvloop.new_event_loop

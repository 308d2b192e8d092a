"""The process: its event loop, what it may hold of memory and files, and the two signals that end it."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any, Final

from service import log

_YOUNG: Final = 20_000
"""New objects, less those gone again, between two looks of the garbage collector."""
_ARENA_MAX: Final = (-8, 2)
_MMAP_THRESHOLD: Final = (-3, 256 * 1024)
_TRIM_THRESHOLD: Final = (-1, 4 * 1024 * 1024)
"""Of mallopt(3), as <malloc.h> numbers them."""
_FILES: Final = 65_536
"""Open files: a poll has one connection, and a shell's 1,024 are fewer than some settings ask for."""


def bound() -> None:
    """Give memory back to the system soon, and allow as many open files as the system lets us.

    The C library keeps an arena a thread (there are up to 32 for tokens), and once an answer of many MiB was freed it takes the
    next one from a heap that shrinks no more. Without glibc nothing is changed.
    """
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        for option, value in (
            (_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD) if sys.platform == "linux" else ()
        ):
            library.mallopt(option, value)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run_until_signalled(main: Callable[[asyncio.Event], Coroutine[Any, Any, int]]) -> int:
    """Run `main` on uvloop where there is one. The first SIGTERM or SIGINT sets its event, the second ends the process."""
    bound()
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

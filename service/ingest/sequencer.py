"""The sequencer: numbers committed changes within a second, one replica at a time."""

from __future__ import annotations

import asyncio

import structlog

from service import errors
from service.store import feed, pool

_EVERY = 0.5
_PAUSE = 1.0
_log = structlog.get_logger(__name__)


async def run(database: pool.Database) -> None:
    """Number changes for ever; the database's absence is waited out. Ends only by cancellation."""
    quiet = True
    seen = feed.Seen()
    while True:
        try:
            numbered = await feed.number(database, seen)
        except errors.DatabaseUnavailable as error:
            if quiet:
                _log.warning("sequencer_waits", error=str(error))
            quiet = False
            await asyncio.sleep(_PAUSE)
            continue
        if not quiet:
            _log.info("sequencer_goes_on")
        quiet = True
        if not numbered:
            await asyncio.sleep(_EVERY)

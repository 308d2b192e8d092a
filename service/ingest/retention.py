"""Retention: what is past its time goes in small batches, with a breath between them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta

import structlog

from service.store import feed, pool, retention

_BREATH = 0.05
_FEED_BATCH = 2000
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Keep:
    """How long each thing is kept."""

    alerts: timedelta
    changes: timedelta
    polls: timedelta
    rejects: timedelta


async def prune(database: pool.Database, keep: Keep) -> None:
    """Stop promising what is past retention, then delete it. Raises DatabaseUnavailable; the next call goes on."""
    shrunk = await retention.shrink(database, keep.alerts)
    deleted = {}
    for what, how_long in (
        ("alerts", keep.alerts),
        ("alerts_merged", keep.alerts),
        ("incidents", keep.alerts),
        ("polls", keep.polls),
        ("rejects", keep.rejects),
    ):
        deleted[what] = 0
        while gone := await retention.prune(database, what, how_long):
            deleted[what] += gone
            await asyncio.sleep(_BREATH)
    while merged := await retention.merge(database, keep.alerts):
        deleted["merged_anew"] = deleted.get("merged_anew", 0) + merged
        await asyncio.sleep(_BREATH)
    deleted["changes"] = 0
    while gone := await feed.prune(database, older_than=keep.changes, limit=_FEED_BATCH):
        deleted["changes"] += gone
        await asyncio.sleep(_BREATH)
    if any(deleted.values()) or shrunk:
        _log.info("retention", streams_shrunk=shrunk, **deleted)

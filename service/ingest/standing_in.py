"""What stands in for a stream whose source is gone for good: another source of the same tenant, where a setting names it."""

from __future__ import annotations

import structlog

from service import model
from service.ingest import plan, reading
from service.ingest.owned import Owned
from service.sources import contract
from service.store import fallbacks, streams

_log = structlog.get_logger(__name__)


def wanted(desk: reading.Desk, stream: model.Stream) -> contract.Source | None:
    """The source that stands in for this stream's, None where there is none."""
    return None if desk.fallback is None or desk.fallback.name == stream.source else desk.fallback


async def unread(desk: reading.Desk, owned: Owned, fallback: contract.Source) -> str | None:
    """Why nothing stands in for this stream: another source would read the whole tenant where a person wanted a part."""
    stream = owned.stream
    narrowed = sorted(desk.sources[stream.source].narrowing & stream.parameters.keys())
    if not narrowed or await fallbacks.polled(desk.database, owned.lease, fallback.name):
        return None
    return (
        f"{fallback.name} does not stand in by itself: this stream is narrowed by {', '.join(narrowed)}, "
        f"{fallback.name} reads the whole tenant. If that is wanted, enrol the tenant with --source {fallback.name}"
    )


async def enrol(desk: reading.Desk, owned: Owned, fallback: contract.Source) -> streams.Owned | None:
    """Give the tenant a stream of the fallback: for the stream's owner to poll. None where a person has disabled it, or where
    the retired stream wants nothing any more.
    """
    since = plan.fallback_from(owned.stream, desk.rules)
    if since is None:
        return None
    standing = await fallbacks.enrol(
        desk.database,
        owned.lease,
        fallback.name,
        parameters=fallback.check_parameters({}),
        since=since,
        news_from=plan.news_from(owned.stream),
    )
    if standing.owned is None:
        _log.warning("fallback_passed_over", fallback=fallback.name, reason="its stream is disabled")
    elif (start := standing.unwanted.lower) is not None:
        reason = f"it has a stream of its own, which does not want all from {start.isoformat()} on"
        _log.warning("fallback_passed_over", fallback=fallback.name, reason=reason)
    return standing.owned

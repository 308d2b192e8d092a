"""A downstream reader: follows the feed as docs/downstream.md says, by its own role, through every restart of PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import NamedTuple

import asyncpg

PAGE = 1000
_GONE = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    TimeoutError,
)


class Seen(NamedTuple):
    """One row as it was read; `record` is `alert` or `incident`, `seen_at` Unix time."""

    seq: int
    change_id: str
    tenant_id: str
    source: str | None
    record: str
    name: str | None
    revision: int
    kind: str
    arrival: str | None
    seen_at: float


@dataclass
class Follower:
    """`seen`: every row in the order of reading; `position`: what such a tool stores; `tenants`: those that it may see."""

    name: str
    dsn: str
    tenants: frozenset[str]
    seen: list[Seen] = field(default_factory=list)
    position: int | None = None
    reconnects: int = 0

    async def run(self) -> None:
        """For ever. Raises what the feed says of a position that it cannot serve."""
        while True:
            try:
                connection = await asyncpg.connect(self.dsn, timeout=10)
                try:
                    await self._follow(connection)
                finally:
                    connection.terminate()
            except _GONE:
                self.reconnects += 1
                await asyncio.sleep(0.3)

    async def _follow(self, connection: asyncpg.Connection) -> None:
        while True:
            if not await self._page(connection):
                await asyncio.sleep(0.5)

    async def _page(self, connection: asyncpg.Connection) -> bool:
        head = await connection.fetchval("SELECT head_seq FROM soc.feed", timeout=30)
        rows = await connection.fetch(
            "SELECT seq, change_id::text, tenant_id, source, record, coalesce(full_id, incident_id) AS name, revision, kind,"
            " arrival FROM soc.changes($1, $2)",
            self.position,
            PAGE,
            timeout=30,
        )
        now = time.time()
        self.seen += [Seen(*row, now) for row in rows]
        more = len(rows) == PAGE
        last = rows[-1]["seq"] if rows else self.position or 0
        self.position = last if more else max(last, head)
        return more

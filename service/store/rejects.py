"""Records and bodies that could not become alerts, kept whole; the same one seen again counts up.

A source may answer thousands of bad records at every poll, each time other ones. So of one stream and day (UTC) no more are kept
than MOST_RECORDS and MOST_BYTES; what comes beyond is counted in one row that says so.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final
from uuid import UUID

from service import model
from service.store import pool

MOST_RECORDS: Final = 1000
MOST_BYTES: Final = 64 * 1024 * 1024
"""The first of a day is kept whatever its size: no more than an answer can have."""
_REASON_MOST: Final = 2000
_SAMPLE: Final = 64 * 1024
_BEYOND: Final = (
    f"beyond what is kept of one day ({MOST_RECORDS} different rejects, {MOST_BYTES // 2**20} MiB): "
    "counted here, with the first of them as a sample"
)


async def keep(
    connection: pool.Connection, tenant_id: UUID, source: str, rejects: Sequence[model.Reject]
) -> None:
    """Store rejects, one row a distinct (reason, bytes) that says how often it was seen."""
    cleaned = [model.Reject(holdable(reject.reason) or "", reject.raw) for reject in rejects]
    found = {_digest(reject): reject for reject in cleaned}
    await _keep(connection, tenant_id, source, found, Counter(map(_digest, cleaned)))


async def keep_sample(
    connection: pool.Connection, tenant_id: UUID, source: str, reason: str, sample: bytes
) -> None:
    """Keep one sample of a body a (stream, reason): bodies of error pages differ each time, the reason does not."""
    reason = holdable(reason) or ""
    digest = hashlib.sha256(b"body\0" + reason.encode()).digest()
    await _keep(connection, tenant_id, source, {digest: model.Reject(reason, sample)}, {digest: 1})


async def _keep(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    found: Mapping[bytes, model.Reject],
    seen: Mapping[bytes, int],
) -> None:
    rows = await connection.fetch(
        """
        UPDATE alertwell.reject r SET seen_count = r.seen_count + i.seen, last_seen_at = now()
        FROM unnest($3::bytea[], $4::bigint[]) AS i (digest, seen)
        WHERE r.tenant_id = $1 AND r.source = $2 AND r.digest = i.digest
        RETURNING r.digest
        """,
        tenant_id,
        source,
        list(found),
        [seen[digest] for digest in found],
    )
    known = {row["digest"] for row in rows}
    new = {digest: reject for digest, reject in found.items() if digest not in known}
    if not new:
        return
    kept, beyond = await _fitting(connection, tenant_id, source, new)
    if kept:
        await _insert(connection, tenant_id, source, kept, seen)
    if beyond:
        day = await connection.fetchval("SELECT current_date::text")
        sample = model.Reject(_BEYOND, next(iter(beyond.values())).raw[:_SAMPLE])
        digest = hashlib.sha256(b"beyond\0" + day.encode()).digest()
        count = sum(seen[each] for each in beyond)
        await _insert(connection, tenant_id, source, {digest: sample}, {digest: count})


async def _fitting(
    connection: pool.Connection, tenant_id: UUID, source: str, new: dict[bytes, model.Reject]
) -> tuple[dict[bytes, model.Reject], dict[bytes, model.Reject]]:
    """What the day has room for, and what not; the room is taken."""
    row = await connection.fetchrow(
        """
        SELECT rejects_kept, rejects_bytes FROM alertwell.stream_progress
        WHERE tenant_id = $1 AND source = $2 AND rejects_day = current_date
        FOR UPDATE
        """,
        tenant_id,
        source,
    )
    count, size = (row["rejects_kept"], row["rejects_bytes"]) if row else (0, 0)
    kept: dict[bytes, model.Reject] = {}
    for digest, reject in new.items():
        if count and (count >= MOST_RECORDS or size + len(reject.raw) > MOST_BYTES):
            continue
        kept[digest] = reject
        count, size = count + 1, size + len(reject.raw)
    await connection.execute(
        """
        UPDATE alertwell.stream_progress SET rejects_day = current_date, rejects_kept = $3, rejects_bytes = $4
        WHERE tenant_id = $1 AND source = $2
        """,
        tenant_id,
        source,
        count,
        size,
    )
    return kept, {digest: reject for digest, reject in new.items() if digest not in kept}


async def _insert(
    connection: pool.Connection,
    tenant_id: UUID,
    source: str,
    rejects: Mapping[bytes, model.Reject],
    seen: Mapping[bytes, int],
) -> None:
    await connection.execute(
        """
        INSERT INTO alertwell.reject AS r (tenant_id, source, digest, reason, raw, seen_count)
        SELECT $1, $2, digest, reason, raw, seen
        FROM unnest($3::bytea[], $4::text[], $5::bytea[], $6::bigint[]) AS i (digest, reason, raw, seen)
        ON CONFLICT (tenant_id, source, digest)
        DO UPDATE SET seen_count = r.seen_count + excluded.seen_count, last_seen_at = now()
        """,
        tenant_id,
        source,
        list(rejects),
        [reject.reason for reject in rejects.values()],
        [reject.raw for reject in rejects.values()],
        [seen[digest] for digest in rejects],
    )


def holdable(reason: str | None) -> str | None:
    """A reason as a text column can hold it: what a hostile answer put into it (NUL, lone surrogates, a novel) costs nothing."""
    if reason is None:
        return None
    return reason[:_REASON_MOST].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _digest(reject: model.Reject) -> bytes:
    return hashlib.sha256(reject.reason.encode() + b"\0" + reject.raw).digest()

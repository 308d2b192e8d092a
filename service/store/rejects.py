"""Records and bodies that could not become alerts, kept whole; the same one seen again counts up."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from uuid import UUID

from service import model
from service.store import pool

_REASON_MOST = 2000


async def keep(
    connection: pool.Connection, tenant_id: UUID, source: str, rejects: Sequence[model.Reject]
) -> None:
    """Store rejects, one row a distinct (reason, bytes) that says how often it was seen."""
    cleaned = [model.Reject(holdable(reject.reason) or "", reject.raw) for reject in rejects]
    unique = {_digest(reject): reject for reject in cleaned}
    seen = Counter(map(_digest, cleaned))
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
        list(unique),
        [reject.reason for reject in unique.values()],
        [reject.raw for reject in unique.values()],
        [seen[digest] for digest in unique],
    )


async def keep_sample(
    connection: pool.Connection, tenant_id: UUID, source: str, reason: str, sample: bytes
) -> None:
    """Keep one sample of a body a (stream, reason): bodies of error pages differ each time, the reason does not."""
    reason = holdable(reason) or ""
    await connection.execute(
        """
        INSERT INTO alertwell.reject AS r (tenant_id, source, digest, reason, raw) VALUES ($1, $2, $3, $4, $5)
        ON CONFLICT (tenant_id, source, digest) DO UPDATE SET seen_count = r.seen_count + 1, last_seen_at = now()
        """,
        tenant_id,
        source,
        hashlib.sha256(b"body\0" + reason.encode()).digest(),
        reason,
        sample,
    )


def holdable(reason: str | None) -> str | None:
    """A reason as a text column can hold it: what a hostile answer put into it (NUL, lone surrogates, a novel) costs nothing."""
    if reason is None:
        return None
    return reason[:_REASON_MOST].encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _digest(reject: model.Reject) -> bytes:
    return hashlib.sha256(reject.reason.encode() + b"\0" + reject.raw).digest()

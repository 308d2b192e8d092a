"""What people and gauges read: through schema soc where it has the answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from service import errors
from service.store import backfills, pool

# SQLSTATEs that are no fault of a query: the connection, the server's end, its resources.
_SERVERS_TROUBLE = ("08", "53", "57P")


@dataclass(frozen=True, slots=True)
class Gauges:
    """One look over all streams."""

    streams: dict[str, int]
    data_age_seconds_max: float
    gap_seconds: float
    unnumbered: int
    oldest_unnumbered_seconds: float
    replicas: int


async def gauges(database: pool.Database, *, ttl: float) -> Gauges:
    """Figures for /metrics and `status`; `ttl` (seconds) says which replicas still live."""
    async with database.connection() as connection:
        states = await connection.fetch(
            "SELECT state, count(*) AS n FROM soc.coverage WHERE enabled GROUP BY state"
        )
        row = await connection.fetchrow(
            """
            SELECT (SELECT max(data_age_seconds) FROM soc.coverage WHERE enabled) AS age,
                   (SELECT sum(extract(epoch FROM upper(g) - lower(g)))
                    FROM soc.coverage c, unnest(c.gaps) g WHERE c.enabled) AS gaps,
                   f.unnumbered, f.oldest_unnumbered_seconds,
                   (SELECT count(*) FROM alertwell.replica
                    WHERE heartbeat_at > now() - make_interval(secs => $1)) AS replicas
            FROM soc.feed f
            """,
            ttl,
        )
    assert row is not None  # noqa: S101 - soc.feed always has one row
    return Gauges(
        streams={state["state"]: state["n"] for state in states},
        data_age_seconds_max=float(row["age"] or 0),
        gap_seconds=float(row["gaps"] or 0),
        unnumbered=row["unnumbered"],
        oldest_unnumbered_seconds=float(row["oldest_unnumbered_seconds"] or 0),
        replicas=row["replicas"],
    )


@dataclass(frozen=True, slots=True)
class Overview:
    """What `status` shows. Ages and sums are in seconds; `oldest` is the enabled stream with the oldest data, if there is one."""

    tenants: dict[str, int]
    streams: dict[str, int]
    oldest: dict[str, Any] | None
    gaps: dict[str, Any]
    attention: list[dict[str, Any]]
    troubled: list[dict[str, Any]]
    silent: list[dict[str, Any]]
    items: dict[str, Any]
    feed: dict[str, Any]
    replicas: list[dict[str, Any]]
    unowned: int
    backfills: list[dict[str, Any]]


async def overview(database: pool.Database, *, ttl: float) -> Overview:
    """One look at everything; `ttl` (seconds) says which replicas still live.

    The age of a stream that was never read is the time since it was enrolled: it must not look fresh.
    """
    tenants = await fetch(
        database, "SELECT state, count(*) AS n FROM soc.tenants GROUP BY state ORDER BY state"
    )
    streams = await fetch(
        database, "SELECT state, count(*) AS n FROM soc.coverage WHERE enabled GROUP BY state ORDER BY state"
    )
    oldest = await fetch(
        database,
        """
        SELECT c.tenant_id, c.tenant_name, c.source,
               coalesce(c.data_age_seconds, extract(epoch FROM clock_timestamp() - s.enrolled_at)::double precision)
                   AS data_age_seconds
        FROM soc.coverage c JOIN alertwell.stream s USING (tenant_id, source)
        WHERE c.enabled ORDER BY data_age_seconds DESC, c.tenant_id LIMIT 1
        """,
    )
    [gaps] = await fetch(
        database,
        """
        SELECT count(*)::int AS count, count(DISTINCT (c.tenant_id, c.source))::int AS streams,
               coalesce(sum(extract(epoch FROM upper(g) - lower(g))), 0)::double precision AS seconds
        FROM soc.coverage c, unnest(c.gaps) g WHERE c.enabled
        """,
    )
    attention = await fetch(
        database,
        """
        SELECT tenant_id, tenant_name, source, state, cause, state_reason, state_since
        FROM soc.coverage WHERE enabled AND state IN ('needs_attention', 'retired')
        ORDER BY state_since, tenant_id, source
        """,
    )
    troubled = await fetch(
        database,
        """
        SELECT state, state_reason, count(*)::int AS streams
        FROM soc.coverage WHERE enabled AND state IN ('degraded', 'throttled') AND cause IS NULL
        GROUP BY state, state_reason ORDER BY streams DESC, state, state_reason
        """,
    )
    silent = await fetch(
        database,
        """
        SELECT tenant_id, tenant_name, source, cause, coalesce(silent_since, state_since) AS since, expected, not_returned,
               state_reason
        FROM soc.coverage WHERE enabled AND cause IN ('silent', 'not_returned')
        ORDER BY since, tenant_id, source
        """,
    )
    [items] = await fetch(
        database,
        """
        SELECT coalesce(sum(items), 0)::bigint AS items, coalesce(sum(inserted), 0)::bigint AS inserted,
               coalesce(sum(updated), 0)::bigint AS updated, coalesce(sum(unchanged), 0)::bigint AS unchanged,
               coalesce(sum(stale), 0)::bigint AS stale, coalesce(sum(duplicate), 0)::bigint AS duplicate,
               coalesce(sum(rejected), 0)::bigint AS rejected
        FROM soc.accounting
        """,
    )
    [feed] = await fetch(database, "SELECT * FROM soc.feed")
    replicas = await fetch(
        database,
        """
        SELECT r.replica_id, r.host, r.version, r.started_at, r.heartbeat_at,
               r.heartbeat_at > now() - make_interval(secs => $1) AS alive, count(t.tenant_id)::int AS tenants,
               coalesce(jsonb_agg(jsonb_build_object('tenant_id', t.tenant_id, 'name', t.name)
                                  ORDER BY lower(t.name), t.tenant_id)
                        FILTER (WHERE t.tenant_id IS NOT NULL), '[]') AS polls
        FROM alertwell.replica r
        LEFT JOIN alertwell.lease l ON l.owner = r.replica_id
        LEFT JOIN alertwell.tenant t ON t.tenant_id = l.tenant_id AND t.state = 'active'
        GROUP BY r.replica_id ORDER BY r.host, r.started_at
        """,
        ttl,
    )
    [unowned] = await fetch(
        database,
        """
        SELECT count(*)::int AS n FROM alertwell.tenant t
        WHERE t.state = 'active' AND NOT EXISTS (
            SELECT FROM alertwell.lease l
            JOIN alertwell.replica r ON r.replica_id = l.owner AND r.heartbeat_at > now() - make_interval(secs => $1)
            WHERE l.tenant_id = t.tenant_id)
        """,
        ttl,
    )
    return Overview(
        tenants={row["state"]: row["n"] for row in tenants},
        streams={row["state"]: row["n"] for row in streams},
        oldest=oldest[0] if oldest else None,
        gaps=gaps,
        attention=attention,
        troubled=troubled,
        silent=silent,
        items=items,
        feed=feed,
        replicas=replicas,
        unowned=unowned["n"],
        backfills=await backfills.unfinished(database),
    )


async def roster(database: pool.Database, *, state: str | None = None) -> list[dict[str, Any]]:
    """Every tenant (of one state, where it is named) by name, with the app of its own and how its streams fare."""
    return await fetch(
        database,
        """
        SELECT t.tenant_id, t.name, t.cloud, t.region, t.state, t.state_reason, t.labels, t.external_ref, t.consented_at,
               t.sources, k.app_id, coalesce(c.stream_states, '{}') AS stream_states, c.data_age_seconds
        FROM soc.tenants t
        LEFT JOIN alertwell.credential k ON k.tenant_id = t.tenant_id AND k.source = ''
        LEFT JOIN (SELECT tenant_id, array_agg(DISTINCT state) AS stream_states, max(data_age_seconds) AS data_age_seconds
                   FROM soc.coverage WHERE enabled GROUP BY tenant_id) c ON c.tenant_id = t.tenant_id
        WHERE $1::text IS NULL OR t.state = $1
        ORDER BY lower(t.name), t.tenant_id
        """,
        state,
    )


async def names(database: pool.Database, tenant_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Id, name and state of tenants, by name."""
    return await fetch(
        database,
        "SELECT tenant_id, name, state FROM soc.tenants WHERE tenant_id = ANY ($1::uuid[]) ORDER BY lower(name), tenant_id",
        tenant_ids,
    )


async def tenant(database: pool.Database, tenant_id: UUID) -> dict[str, Any]:
    """All about one tenant: its row, streams with coverage, unfinished backfills, newest gaps, polls and rejects (at most 20
    each), alerts held.
    """
    [row] = await fetch(
        database,
        """
        SELECT t.*, k.app_id, r.host AS polled_by, (SELECT count(*) FROM soc.alerts a WHERE a.tenant_id = t.tenant_id) AS alerts
        FROM soc.tenants t
        LEFT JOIN alertwell.credential k ON k.tenant_id = t.tenant_id AND k.source = ''
        LEFT JOIN alertwell.lease l ON l.tenant_id = t.tenant_id
        LEFT JOIN alertwell.replica r ON r.replica_id = l.owner
        WHERE t.tenant_id = $1
        """,
        tenant_id,
    )
    spans = "coalesce((SELECT array_agg(ARRAY[lower(r), upper(r)] ORDER BY r) FROM unnest(c.{0}) r), '{{}}') AS {0}"
    streams = await fetch(
        database,
        f"""
        SELECT c.source, c.enabled, c.state, c.cause, c.state_reason, c.state_since, s.parameters, c.watermark, c.proven_until,
               c.data_age_seconds, c.late_arrivals, c.last_verified_at, c.last_success_at, c.next_poll_at, c.silent_since,
               c.expected, c.not_returned, a.items, a.inserted, a.updated, a.unchanged, a.stale, a.duplicate, a.rejected,
               {spans.format("wanted")}, {spans.format("coverage")}
        FROM soc.coverage c JOIN alertwell.stream s USING (tenant_id, source)
        LEFT JOIN soc.accounting a USING (tenant_id, source)
        WHERE c.tenant_id = $1 ORDER BY c.source
        """,  # noqa: S608 - made of constants
        tenant_id,
    )
    gaps = await fetch(
        database,
        """
        SELECT source, gap_from, gap_to, reason, opened_at, lost_after FROM soc.gaps
        WHERE tenant_id = $1::uuid::text ORDER BY gap_from DESC LIMIT 20
        """,
        tenant_id,
    )
    polls = await fetch(
        database,
        """
        SELECT source, started_at, ended_at, outcome, error, windows, items, inserted, updated, unchanged, stale, duplicate,
               rejected
        FROM alertwell.poll WHERE tenant_id = $1 ORDER BY started_at DESC LIMIT 20
        """,
        tenant_id,
    )
    rejects = await fetch(
        database,
        """
        SELECT id, source, reason, received_at, last_seen_at, seen_count FROM soc.rejects
        WHERE tenant_id = $1 ORDER BY id DESC LIMIT 20
        """,
        tenant_id,
    )
    asked = await backfills.unfinished(database, tenant_id)
    return {**row, "streams": streams, "backfills": asked, "gaps": gaps, "polls": polls, "rejects": rejects}


async def parameters(
    database: pool.Database, tenant_ids: Sequence[UUID]
) -> dict[tuple[UUID, str], dict[str, Any]]:
    """The parameters of the streams of these tenants, by tenant and source."""
    rows = await fetch(
        database,
        "SELECT tenant_id, source, parameters FROM alertwell.stream WHERE tenant_id = ANY ($1::uuid[])",
        tenant_ids,
    )
    return {(row["tenant_id"], row["source"]): row["parameters"] for row in rows}


async def fetch(database: pool.Database, statement: str, *arguments: Any) -> list[dict[str, Any]]:
    """Rows of one of our own reading statements, as plain dictionaries."""
    async with database.connection() as connection:
        return [dict(row) for row in await connection.fetch(statement, *arguments)]


async def read_only(
    database: pool.Database, statement: str, *, limit: int, seconds: float = 60
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Columns and at most `limit` rows of a person's query, in a read-only transaction that is ended after `seconds`.

    Values are plain: ranges, and whatever else JSON does not know, are text. BadInput says what is wrong with the query.
    """
    async with database.connection() as connection, connection.transaction(readonly=True):
        try:
            milliseconds = max(1, int(seconds * 1000))  # 0 would be no limit
            await connection.execute("SELECT set_config('statement_timeout', $1, true)", str(milliseconds))
            prepared = await connection.prepare(statement)
            if prepared.get_parameters():
                raise errors.BadInput("the query has parameters ($1): write the values into it")
            columns = [attribute.name for attribute in prepared.get_attributes()]
            # The server ends it first: it knows what it is doing.
            open_cursor = await prepared.cursor(timeout=seconds + 10)
            rows = await open_cursor.fetch(limit, timeout=seconds + 10)
        except asyncpg.QueryCanceledError:
            raise errors.BadInput(f"the query took longer than {seconds:g} s") from None
        except asyncpg.PostgresError as error:
            if (error.sqlstate or "").startswith(_SERVERS_TROUBLE):
                raise
            hint = f" ({error.hint})" if error.hint else ""
            raise errors.BadInput(f"{error.message}{hint}".replace("\n", " ")) from error
        except (ValueError, OverflowError) as error:
            raise errors.BadInput(
                f"the result holds a value that cannot be read ({error}): cast it to text"
            ) from None
    return columns, [tuple(_plain(value) for value in row) for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no NaN
    if value is None or isinstance(value, bool | int | float | str | bytes | datetime | UUID | dict):
        return value
    if isinstance(value, asyncpg.Record):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, asyncpg.Range):
        if value.isempty:
            return "empty"
        lower, upper = ("" if end is None else str(_plain(end)) for end in (value.lower, value.upper))
        return f"{'[' if value.lower_inc else '('}{lower},{upper}{']' if value.upper_inc else ')'}"
    return str(value)

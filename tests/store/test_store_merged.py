"""soc.alerts_merged: one row a tenant and alert id, kept with every store, as if it were made anew from the records."""

import asyncio
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from service.ingest import retention as rounds
from service.store import leases, pool, retention, tenants
from tests.store import rows

OLDER, NEWER = rows.hour(-1), rows.hour(1)
KEEP = timedelta(days=30)


WORK = ("status", "assigned_to", "classification", "determination", "resolved_at")


async def agrees(connection: asyncpg.Connection) -> None:
    """What is kept is what the records of alertwell.alert make, and the work on an alert is told by one record, whole."""
    for one, other in (("alert_merging", "alert_merged"), ("alert_merged", "alert_merging")):
        rest = f"SELECT * FROM alertwell.{one} EXCEPT SELECT * FROM alertwell.{other}"
        assert await connection.fetch(rest) == []
    held: dict[tuple[Any, str], list[asyncpg.Record]] = {}
    newest_first = "SELECT * FROM alertwell.alert ORDER BY last_processed_at DESC, source, full_id"
    for row in await connection.fetch(newest_first):
        held.setdefault((row["tenant_id"], row["alert_id"]), []).append(row)
    for row in await connection.fetch("SELECT * FROM alertwell.alert_merged"):
        records = held[row["tenant_id"], row["alert_id"]]
        knowing = [one for one in records if one["status"] not in (None, "unknown")][:1]
        for name in WORK:
            told = (one[name] for one in knowing or records if knowing or one[name] is not None)
            assert row[name] == next(told, None), name


async def test_one_alert_of_two_sources(database: pool.Database, pool: asyncpg.Pool):
    """The freshest of each field, the sources that hold it, its records, and how many detections it has."""
    siem, mde = await rows.two_sources(database, "siem", "mde_alerts")
    await siem.store(
        rows.alert("a:1", OLDER, title="old", threat_name="Emotet", record={"Description": "siem's"}),
        rows.alert("a:2", OLDER, title="old", mitre_techniques=["T1", "T2"]),
    )
    await mde.store(
        rows.alert("a", NEWER, title="new", status="in_progress", severity_rank=0, incident_id="7"),
        arrival="backfill",
    )
    row = await pool.fetchrow("SELECT * FROM soc.alerts_merged")
    assert (row["sources"], row["full_ids"], row["detections"]) == (
        ["mde_alerts", "siem"],
        ["a", "a:1", "a:2"],
        2,
    )
    assert (row["title"], row["threat_name"], row["mitre_techniques"]) == ("new", "Emotet", ["T1", "T2"])
    assert (row["status"], row["severity"], row["incident_id"]) == ("in_progress", "medium", "7")
    assert (row["last_processed_at"], row["arrival"], row["tenant_name"]) == (NEWER, "live", "Contoso 1")
    assert (row["newest_source"], row["newest_full_id"]) == ("mde_alerts", "a")
    await agrees(pool)


async def test_the_order_of_arrival_does_not_count(database: pool.Database, pool: asyncpg.Pool):
    """A field that the freshest record does not know is that of the next one by update time, whoever came first."""
    siem, mde = await rows.two_sources(database, "siem", "mde_alerts")
    await mde.store(rows.alert("a", rows.hour(1), user_name="oldest"))
    await siem.store(rows.alert("a:3", rows.hour(3), user_name=None))
    await siem.store(rows.alert("a:2", rows.hour(2), user_name="middle"))
    assert await pool.fetchval("SELECT user_name FROM soc.alerts_merged") == "middle"
    await agrees(pool)


async def test_unknown_words_do_not_hide_known_ones(database: pool.Database, pool: asyncpg.Pool):
    """A severity or status that could not be read gives way to an older one that could, and shows where there is no other."""
    siem, mde = await rows.two_sources(database, "siem", "mde_alerts")
    await siem.store(rows.alert("a:1", severity_rank=2, status="new"), rows.alert("b:1", severity_rank=0))
    await mde.store(
        rows.alert("a", NEWER, severity_rank=0, status="unknown"),
        rows.alert("b", NEWER, severity_rank=0, status="unknown"),
    )
    found = await pool.fetch("SELECT severity, status FROM soc.alerts_merged ORDER BY alert_id")
    assert [tuple(row) for row in found] == [("low", "new"), ("unknown", "unknown")]


async def test_what_the_freshest_record_has_cleared_is_cleared(database: pool.Database, pool: asyncpg.Pool):
    """Reopened and taken off somebody in one source: what an older record says of the work hides that no longer; a record
    that knows no status clears nothing.
    """
    mde, xdr = await rows.two_sources(database, "mde_alerts", "xdr_incidents")
    done = {"assigned_to": "kim", "classification": "falsePositive", "resolved_at": rows.hour(1)}
    for key in "abc":
        await xdr.store(rows.alert(key, rows.hour(1), status="resolved", **done))
    await mde.store(
        rows.alert("a", rows.hour(2), status="in_progress"),
        rows.alert("b", rows.hour(2), status=None),
        rows.alert("c", rows.hour(2), status="unknown", determination="malware"),
    )
    found = await pool.fetch(f"SELECT {', '.join(WORK)} FROM soc.alerts_merged ORDER BY alert_id")
    before = ("resolved", "kim", "falsePositive", None, rows.hour(1))
    assert [tuple(row) for row in found] == [("in_progress", None, None, None, None), before, before]
    await agrees(pool)


async def test_updates_are_merged(owner: rows.Owner, pool: asyncpg.Pool):
    """A newer version changes the row, an unchanged one leaves it untouched, and one of another alert id moves over."""
    await owner.store(rows.alert("a:1", record={"n": 1}), rows.alert("b:1"))
    await owner.store(rows.alert("a:1", NEWER, title="second"))
    row = await pool.fetchrow("SELECT title, updated_at > first_seen_at AS later FROM soc.alerts_merged")
    assert tuple(row) == ("second", True)
    before = await pool.fetch("SELECT m, xmin::text FROM alertwell.alert_merged m")
    await owner.store(rows.alert("a:1", NEWER, title="second"), rows.alert("c:1", alert_id=None))
    assert await pool.fetch("SELECT m, xmin::text FROM alertwell.alert_merged m") == before
    await owner.store(rows.alert("a:1", rows.hour(2), alert_id="b"))
    assert [tuple(one) for one in await pool.fetch("SELECT alert_id, full_ids FROM soc.alerts_merged")] == [
        ("b", ["a:1", "b:1"])
    ]
    await agrees(pool)


async def test_whatever_is_stored_in_whatever_order(database: pool.Database, pool: asyncpg.Pool):
    """After many random stores of two streams, some at once, the rows are those that the records make."""
    dice = random.Random(7)
    siem, mde = await rows.two_sources(database, "siem", "mde_alerts")

    def some(suffix: str) -> list:
        keys = {f"a{dice.randrange(12)}{suffix and f':{dice.randrange(3)}'}" for _ in range(8)}
        return [
            rows.alert(
                key,
                rows.hour(dice.randrange(20)),
                title=dice.choice(["one", "two", None]),
                severity_rank=dice.randrange(5),
                status=dice.choice(["new", "resolved", "unknown", None]),
                assigned_to=dice.choice(["kim", None]),
                classification=dice.choice(["falsePositive", None]),
                determination=dice.choice(["malware", None]),
                resolved_at=dice.choice([rows.hour(1), None]),
                record={"n": dice.random()},
            )
            for key in keys
        ]

    for _ in range(12):
        await asyncio.gather(siem.store(*some(":")), mde.store(*some("")))
    await agrees(pool)
    assert await pool.fetchval("SELECT count(*) FROM soc.alerts_merged") == 12


async def test_two_streams_that_bring_the_same_alert_at_once(database: pool.Database, pool: asyncpg.Pool):
    """The second waits for the first one's commit and then sees its record."""
    siem, mde = await rows.two_sources(database, "siem", "mde_alerts")
    async with database.transaction() as connection:
        await leases.fence(connection, siem.lease)
        await connection.execute("SELECT alertwell.lock_merging($1)", siem.lease.tenant_id)
        late = asyncio.create_task(mde.store(rows.alert("a")))
        await rows.blocked(pool)
        await connection.execute(
            """
            INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, content_hash, arrival,
                                         source_updated_text, alert_id, raw)
            VALUES ($1, 'siem', 'a:1', $2, 0, 'live', '', 'a', '{}')
            """,
            siem.lease.tenant_id,
            rows.NOON,
        )
    await late
    assert await pool.fetchval("SELECT sources FROM soc.alerts_merged") == ["mde_alerts", "siem"]


async def test_a_statement_over_many_tenants(database: pool.Database, pool: asyncpg.Pool):
    """Alerts of several tenants written by one statement are merged under their own tenants."""
    await rows.enrol(database, 1, 2)
    await pool.execute(
        """
        INSERT INTO alertwell.alert (tenant_id, source, full_id, last_processed_at, content_hash, arrival,
                                     source_updated_text, alert_id, raw)
        SELECT t, 'siem', 'a:' || n, now(), 0, 'live', '', 'a' || n / 2, '{}'
        FROM unnest($1::uuid[]) t, generate_series(1, 6) n
        """,
        [rows.tenant_id(1), rows.tenant_id(2)],
    )
    await pool.execute("UPDATE alertwell.alert SET title = 'x'")
    assert await pool.fetchval("SELECT count(*) FROM soc.alerts_merged WHERE title = 'x'") == 8
    await agrees(pool)


async def test_retention_takes_merged_rows_and_lost_records(owner: rows.Owner, pool: asyncpg.Pool):
    """A row whose records are all past their time goes; one that has lost some says what is left; incidents go too."""
    edge = (datetime.now(UTC) - KEEP).replace(hour=0, minute=0, second=0, microsecond=0)
    past = edge - timedelta(seconds=1)
    await owner.store(
        rows.alert("a:1", past),
        rows.alert("a:2", past),
        rows.alert("b:1", past, user_name="x"),
        rows.alert("b:2"),
    )
    await owner.store(incidents=[rows.incident("1", past), rows.incident("2")])
    await rounds.prune(owner.database, rounds.Keep(KEEP, KEEP, KEEP, KEEP))
    row = await pool.fetch("SELECT alert_id, full_ids, user_name FROM soc.alerts_merged")
    assert [tuple(one) for one in row] == [("b", ["b:2"], None)]
    assert await pool.fetchval("SELECT array_agg(incident_id) FROM soc.incidents") == ["2"]
    await agrees(pool)
    assert await retention.merge(owner.database, KEEP) == 0


async def test_alerts_stay_as_long_as_their_incident(owner: rows.Owner, pool: asyncpg.Pool):
    """An alert past its time in an incident that is not: it stays, merged too, and goes with the incident."""
    past = datetime.now(UTC) - KEEP - timedelta(days=2)
    await owner.store(
        rows.alert("a:1", past, incident_id="1"),
        rows.alert("b:1", past, incident_id="2"),
        incidents=[rows.incident("1"), rows.incident("2", past)],
    )
    await rounds.prune(owner.database, rounds.Keep(KEEP, KEEP, KEEP, KEEP))
    assert await pool.fetchval("SELECT array_agg(full_id) FROM soc.alerts") == ["a:1"]
    await agrees(pool)
    await pool.execute("UPDATE alertwell.incident SET last_update = $1", past)
    await rounds.prune(owner.database, rounds.Keep(KEEP, KEEP, KEEP, KEEP))
    assert await pool.fetchval("SELECT count(*) FROM soc.alerts") == 0
    await agrees(pool)


async def test_purge_takes_one_tenant_s_merged_rows(database: pool.Database, pool: asyncpg.Pool):
    """Its neighbour's rows stay."""
    one, other = await rows.owners(database, 2)
    for each in (one, other):
        await each.store(rows.alert("a:1"), incidents=[rows.incident("1")])
    deleted = await tenants.purge(database, one.lease.tenant_id)
    assert (deleted["alert_merged"], deleted["incident"]) == (1, 1)
    assert await pool.fetchval("SELECT array_agg(tenant_id) FROM soc.alerts_merged") == [
        other.lease.tenant_id
    ]


@pytest.mark.parametrize("where", ["true", "m.alert_id = 'a'"])
async def test_a_view_without_records_is_empty(owner: rows.Owner, pool: asyncpg.Pool, where: str):
    """A record without an alert id belongs to no row."""
    await owner.store(rows.alert("a:1", alert_id=None))
    assert await pool.fetch(f"SELECT FROM soc.alerts_merged m WHERE {where}") == []

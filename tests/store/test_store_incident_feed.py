"""Changes of incidents: each version that a poll stored, in order, and nothing for what is no change."""

import json
from datetime import timedelta

import asyncpg
import pytest

from service import errors, model
from service.store import feed, pool, retention, storing, tenants
from tests.store import rows

OLDER, NEWER, NEWEST = rows.hour(-1), rows.hour(1), rows.hour(2)
CHANGES = "SELECT * FROM soc.changes() WHERE record = 'incident' ORDER BY seq"


@pytest.fixture
async def owner(database: pool.Database) -> rows.Owner:
    """A stream of incidents of tenant 1."""
    _, graph = await rows.two_sources(database, other="graph_incidents")
    return graph


async def numbered(connection: asyncpg.Connection, database: pool.Database) -> list[asyncpg.Record]:
    await feed.number(database)
    return await connection.fetch(CHANGES)


async def held(connection: asyncpg.Connection) -> asyncpg.Record:
    return await connection.fetchrow(
        "SELECT alert_ids, title, revision, updated_at, content_hash, xmin FROM alertwell.incident"
    )


async def test_each_version_is_a_change(owner: rows.Owner, pool: asyncpg.Pool):
    """Created, updated, merged: in order, each with its revision, its arrival and what differed."""
    await owner.store(incidents=[rows.incident("7", title="first", alert_ids=["a"])], arrival="initial")
    second = rows.incident("7", NEWER, title="second", severity_rank=2, alert_ids=["a"], record={"n": 1})
    await owner.store(incidents=[second])
    merged = rows.incident(
        "7",
        NEWEST,
        title="second",
        severity_rank=2,
        status="redirected",
        redirect_incident_id="9",
        alert_ids=[],
    )
    await owner.store(incidents=[merged], arrival="catch_up")
    elsewhere = rows.incident("7", rows.hour(3), redirect_incident_id="10", alert_ids=[])
    await owner.store(incidents=[elsewhere])
    undone = rows.incident("7", rows.hour(4), alert_ids=[])
    await owner.store(incidents=[undone])
    found = await numbered(pool, owner.database)
    assert [(row["kind"], row["revision"], row["arrival"]) for row in found] == [
        ("created", 1, "initial"),
        ("updated", 2, "live"),
        ("merged", 3, "catch_up"),
        ("merged", 4, "live"),
        ("updated", 5, "live"),
    ]
    times = [rows.NOON.isoformat(), NEWER.isoformat()]
    assert found[0]["changed"] is None
    assert json.loads(found[1]["changed"]) == {
        "title": ["first", "second"],
        "severity": ["high", "low"],
        "source_updated_at": times,
        "raw.lastUpdateTime": times,
        "raw.n": [None, 1],
    }
    said = json.loads(found[2]["changed"])
    assert said["redirect_incident_id"] == said["raw.redirectIncidentId"] == [None, "9"]
    assert (said["status"], said["alert_ids"]) == (["active", "redirected"], [["a"], []])
    assert json.loads(found[4]["changed"])["redirect_incident_id"] == ["10", None]
    assert len({row["change_id"] for row in found}) == 5


async def test_what_the_feed_shows_of_an_incident(owner: rows.Owner, pool: asyncpg.Pool):
    """The incident as it is now stands in its changes, and nothing that could be taken for an alert; alerts name theirs."""
    await owner.store(rows.alert("a:1", incident_id="7"), incidents=[rows.incident("7", title="first")])
    await owner.store(incidents=[rows.incident("7", NEWER, title="now", record={"n": 2})])
    assert await feed.number(owner.database) == 3
    now = await pool.fetchval("SELECT raw::text FROM soc.incidents")
    for relation in ("soc.change_feed", "soc.changes()"):
        one, alert, two = await pool.fetch(f"SELECT * FROM {relation} ORDER BY seq")
        for row in (one, two):
            assert (row["record"], row["incident_id"], row["source"]) == ("incident", "7", "graph_incidents")
            assert (row["full_id"], row["alert_id"], row["alert"]) == (None, None, None)
            assert (row["severity"], row["status"], row["title"]) == ("high", "active", "now")
            assert row["incident"] == now
        assert (alert["record"], alert["full_id"], alert["incident_id"]) == ("alert", "a:1", "7")
        assert (alert["title"], alert["incident"]) == ("Suspicious process", None)
        assert '"FullId": "a:1"' in alert["alert"]


async def test_an_alert_and_an_incident_of_one_name(owner: rows.Owner, pool: asyncpg.Pool):
    """Where an alert has the id that an incident has, each change is shown with its own."""
    await owner.store(rows.alert("7", title="alert"), incidents=[rows.incident("7", title="incident")])
    await feed.number(owner.database)
    found = await pool.fetch("SELECT record, title, alert IS NULL, incident IS NULL FROM soc.changes()")
    assert found == [("incident", "incident", True, False), ("alert", "alert", False, True)]


async def test_the_feed_s_order_within_a_store(owner: rows.Owner, pool: asyncpg.Pool):
    """Incidents, then the alerts that their merges move, then the alerts that came with them."""
    await owner.store(rows.alert("a", incident_id="1"), incidents=[rows.incident("1"), rows.incident("2")])
    await feed.number(owner.database)
    merge = rows.incident("1", NEWER, redirect_incident_id="2")
    await owner.store(rows.alert("b", incident_id="2"), incidents=[merge, rows.incident("3")])
    await feed.number(owner.database)
    found = await pool.fetch(
        "SELECT record, kind, coalesce(full_id, incident_id) FROM soc.changes(3) ORDER BY seq"
    )
    assert [tuple(row) for row in found] == [
        ("incident", "created", "3"),
        ("incident", "merged", "1"),
        ("alert", "merged", "a"),
        ("alert", "created", "b"),
    ]


async def test_a_long_list_of_alerts_is_named_and_not_repeated(owner: rows.Owner, pool: asyncpg.Pool):
    """alert_ids over 1,000 bytes are shown as other large values are."""
    many = [f"alert-{n}" for n in range(2000)]
    await owner.store(incidents=[rows.incident("7", alert_ids=["a"])])
    await owner.store(incidents=[rows.incident("7", alert_ids=many)])
    assert json.loads((await numbered(pool, owner.database))[1]["changed"]) == {"alert_ids": [["a"], None]}
    assert (await held(pool))["alert_ids"] == many


async def test_read_without_its_alerts_it_keeps_them(owner: rows.Owner, pool: asyncpg.Pool):
    """Relief: same content without alerts is no change, nor is the same with them afterwards, in whatever order they come."""
    await owner.store(incidents=[rows.incident("7", alert_ids=["a", "b"])])
    before = await held(pool)
    for ids in (None, ["b", "a"], None, ["a", "b"]):
        told = rows.incident("7", alert_ids=ids)
        counts = await owner.store(incidents=[told])
        assert (counts.unchanged, counts.updated) == (1, 0)
        settled = await owner.harvest(incidents=[told])
        assert settled.incidents.unchanged == 1  # known without a look at its content from now on
    after = await held(pool)
    assert tuple(after)[:4] == tuple(before)[:4]
    assert len(await numbered(pool, owner.database)) == 1


async def test_what_changes_while_it_is_read_without_its_alerts(owner: rows.Owner, pool: asyncpg.Pool):
    """Relief: other content is a change that says nothing of the alerts; these change with the next one that names them."""
    await owner.store(incidents=[rows.incident("7", alert_ids=["a"])])
    await owner.store(incidents=[rows.incident("7", NEWER, title="other")])
    assert (await held(pool))["alert_ids"] == ["a"]
    await owner.store(incidents=[rows.incident("7", NEWER, title="other", alert_ids=["a"])])
    await owner.store(incidents=[rows.incident("7", NEWER, title="other", alert_ids=["a", "b"])])
    found = await numbered(pool, owner.database)
    assert [(row["kind"], row["revision"]) for row in found] == [
        ("created", 1),
        ("updated", 2),
        ("updated", 3),
    ]
    assert "alert_ids" not in json.loads(found[1]["changed"])
    assert json.loads(found[2]["changed"]) == {"alert_ids": [["a"], ["a", "b"]]}


async def test_first_read_without_its_alerts(owner: rows.Owner, pool: asyncpg.Pool):
    """Alerts that come to be known later are a change, even where there are none of them."""
    await owner.store(incidents=[rows.incident("7"), rows.incident("8")])
    await owner.store(
        incidents=[rows.incident("7", NEWER, alert_ids=["a"]), rows.incident("8", NEWER, alert_ids=[])]
    )
    found = (await numbered(pool, owner.database))[2:]
    assert [json.loads(row["changed"])["alert_ids"] for row in found] == [[None, ["a"]], [None, []]]


async def test_an_older_version_is_none(owner: rows.Owner, pool: asyncpg.Pool):
    """What is older than what is held is stale, told without alerts or with: no change."""
    await owner.store(incidents=[rows.incident("7", alert_ids=["a"])])
    before = await held(pool)
    for told in (rows.incident("7", OLDER), rows.incident("7", OLDER, alert_ids=["b"])):
        assert (await owner.store(incidents=[told])).stale == 1
    assert await held(pool) == before
    assert len(await numbered(pool, owner.database)) == 1


async def test_one_that_retention_took_is_created_again(owner: rows.Owner, pool: asyncpg.Pool):
    """Deleted between the look and the store: inserted anew, and the poll counts it."""
    await owner.store(incidents=[rows.incident("7"), rows.incident("8")])
    harvest = await owner.harvest(incidents=[rows.incident("7", NEWER), rows.incident("8", NEWER)])
    await pool.execute("DELETE FROM alertwell.incident WHERE incident_id = '7'")
    counts = (await storing.store(owner.database, owner.lease, owner.source, owner.poll, harvest)).counts
    assert (counts.updated, counts.inserted) == (2, 0)
    found = await numbered(pool, owner.database)
    assert [(row["incident_id"], row["kind"], row["revision"]) for row in found[2:]] == [
        ("8", "updated", 2),
        ("7", "created", 1),
    ]


@pytest.mark.parametrize("held_before", [False, True])
async def test_a_refused_incident_leaves_no_change(owner: rows.Owner, pool: asyncpg.Pool, held_before: bool):
    """Of many in one statement the one that PostgreSQL refuses is a reject; each other one has its one change."""
    keys = [str(n) for n in range(9)]
    if held_before:
        await owner.store(incidents=[rows.incident(key) for key in keys])
    told = [rows.incident(key, NEWER, title="a\0b" if key == "4" else "now") for key in keys]
    counts = await owner.store(incidents=told)
    assert (counts.inserted + counts.updated, counts.rejected, counts.balanced) == (8, 1, True)
    found = (await numbered(pool, owner.database))[9 * held_before :]
    assert sorted(row["incident_id"] for row in found) == [key for key in keys if key != "4"]
    assert {row["revision"] for row in found} == {1 + held_before}
    assert await pool.fetchval("SELECT count(*) FROM soc.rejects") == 1


async def test_a_lost_lease_leaves_no_change(owner: rows.Owner, pool: asyncpg.Pool):
    """The fence holds for incidents: nothing is written by who is not the owner any more."""
    await pool.execute("UPDATE alertwell.lease SET epoch = epoch + 1")
    with pytest.raises(errors.LeaseLost):
        await owner.store(incidents=[rows.incident("7")])
    assert not any((await rows.counts(pool, ("incident", "alert_change", "unnumbered"))).values())


async def test_readers_see_changes_of_their_own_incidents(database: pool.Database, admin_url: str):
    """A reader of one tenant gets that one's incidents, by view and by function."""
    for n, one in enumerate(await rows.owners(database, 2), 1):
        await one.store(incidents=[rows.incident("7", title=f"of {n}", record={"secret": n})])
        await one.store(incidents=[rows.incident("7", NEWER, title=f"of {n}", record={"secret": n})])
    await feed.number(database)
    for seen, titles in ((rows.tenant_id(2), ["of 2"] * 2), (None, ["of 1", "of 1", "of 2", "of 2"])):
        async with rows.reader(admin_url, seen) as reader:
            for relation in ("soc.changes()", "soc.change_feed"):
                found = await reader.fetch(f"SELECT * FROM {relation} WHERE incident_id = '7' ORDER BY seq")
                assert [row["title"] for row in found] == titles
                assert [f"of {json.loads(row['incident'])['secret']}" for row in found] == titles


async def test_a_change_outlives_its_incident(owner: rows.Owner, pool: asyncpg.Pool):
    """Past retention the incident is null in its changes; pruning and purging know no difference."""
    await owner.store(incidents=[rows.incident("7")])
    await feed.number(owner.database)
    keep = timedelta(0)
    assert await retention.prune(owner.database, "incidents", keep) == 1
    [row] = await pool.fetch(CHANGES)
    assert (row["incident_id"], row["incident"], row["title"], row["record"]) == ("7", None, None, "incident")
    assert await feed.prune(owner.database, older_than=keep, limit=10) == 1
    assert (await rows.counts(pool, ("feed", "alert_change"))) == {"feed": 0, "alert_change": 0}
    await owner.store(incidents=[rows.incident("8")], rejects=[model.Reject("not JSON", b"{")])
    deleted = await tenants.purge(owner.database, owner.lease.tenant_id)
    assert (deleted["incident"], deleted["alert_change"]) == (1, 1)
    await feed.number(owner.database)
    [purged] = await pool.fetch("SELECT record, kind, incident_id FROM soc.changes()")
    assert tuple(purged) == ("alert", "purged", None)

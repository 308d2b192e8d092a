"""Incidents: stored in their newest version, counted as items, and their alerts follow merges."""

import json

import asyncpg
import pytest

from service import model
from service.store import feed, pool, redirects
from tests.store import rows

OLDER, NEWER = rows.hour(-1), rows.hour(1)
FUTURE = rows.NOON.replace(year=2099)


@pytest.fixture
async def owner(database: pool.Database) -> rows.Owner:
    """A stream of incidents of tenant 1."""
    _, xdr = await rows.two_sources(database)
    return xdr


async def incidents_of(connection: asyncpg.Connection) -> dict[str, str | None]:
    return dict(await connection.fetch("SELECT alert_id, incident_id FROM soc.alerts ORDER BY 1"))


async def test_all_columns_of_an_incident_are_stored(owner: rows.Owner, pool: asyncpg.Pool):
    """Every field of model.Incident comes back from its column as it went in."""
    full = rows.incident(
        "7",
        classification="true_positive",
        determination="malware",
        assigned_to="a@contoso.com",
        redirect_incident_id="9",
        tags=["one", "two"],
        created_at=OLDER,
        incident_url="https://security.microsoft.com/incidents/7",
        alert_ids=["a", "b"],
        raw_exact=b'{"x": "\\u0000"}',
    )
    empty = rows.incident("8", title=None, status="unknown", alert_ids=[], tags=[])
    await owner.store(incidents=[full, empty])
    found = {row["incident_id"]: row for row in await pool.fetch("SELECT * FROM alertwell.incident")}
    for stored in (full, empty):
        row = found[stored.incident_id]
        for name in stored.__struct_fields__:
            value = json.loads(row[name]) if name == "raw" else row[name]
            assert value == (json.loads(stored.raw) if name == "raw" else getattr(stored, name)), name
    shown = await pool.fetchrow("SELECT * FROM soc.incidents WHERE incident_id = '7'")
    assert (shown["severity"], shown["redirect_incident_id"], shown["source"]) == (
        "high",
        "9",
        "xdr_incidents",
    )
    assert shown["source_updated_at"] == rows.NOON


async def test_the_travelling_type_has_the_fields_of_an_incident(pool: asyncpg.Pool):
    """Incidents travel as values of a type whose fields are those of model.Incident in their order."""
    names = await pool.fetch(
        """
        SELECT attname FROM pg_attribute JOIN pg_type ON typrelid = attrelid
        WHERE pg_type.oid = 'alertwell.incoming_incident'::regtype ORDER BY attnum
        """
    )
    assert [row[0] for row in names] == list(model.Incident.__struct_fields__)


async def test_items_are_the_incidents(owner: rows.Owner, pool: asyncpg.Pool):
    """Incidents add up to the items whatever became of their alerts, which the poll's row counts as nested."""
    await owner.store(incidents=[rows.incident(key) for key in "abc"])
    counts = await owner.store(
        rows.alert("x"),
        rows.alert("y"),
        incidents=[
            rows.incident("a"),
            rows.incident("b", NEWER),
            rows.incident("c", OLDER, record={"n": 1}),
            rows.incident("d"),
        ],
        rejects=[model.Reject("not an object", b"1"), model.Reject("no alertId", b"{}")],
        duplicates=1,
        items=6,
        nested=3,
        nested_rejects=1,
    )
    assert counts == model.Counts(
        items=6, inserted=1, updated=1, unchanged=1, stale=1, duplicate=1, rejected=1, nested=3
    )
    assert counts.balanced
    row = await pool.fetchrow("SELECT items, inserted, nested FROM alertwell.poll")
    assert tuple(row) == (9, 4, 3)
    assert (await rows.counts(pool))["alert"] == 2


async def test_newer_replaces_and_older_does_not(owner: rows.Owner, pool: asyncpg.Pool):
    """The newest update time wins; other bytes of the same JSON with the same alerts are no change."""
    await owner.store(incidents=[rows.incident("7", raw='{"a": 1, "b": 2}', alert_ids=["x"])])
    same = await owner.store(incidents=[rows.incident("7", raw='{"b":2,"a":1.0}', alert_ids=["x"])])
    assert (same.unchanged, same.updated) == (1, 0)
    assert (await owner.store(incidents=[rows.incident("7", OLDER)])).stale == 1
    grown = rows.incident("7", raw='{"a": 1, "b": 2}', alert_ids=["x", "y"])
    assert (await owner.store(incidents=[grown])).updated == 1
    row = await pool.fetchrow(
        "SELECT revision, alert_ids, updated_at > first_seen_at AS later FROM soc.incidents"
    )
    assert tuple(row) == (2, ["x", "y"], True)


@pytest.mark.parametrize(
    "bad",
    [
        rows.incident("bad", title="a\0b"),
        rows.incident("bad", raw="{"),
        rows.incident("bad\0"),
        rows.incident("bad\ud800"),
        rows.incident("bad", tags=["\ud800"]),
    ],
    ids=["nul", "not json", "nul in the key", "surrogate in the key", "surrogate in a tag"],
)
async def test_one_bad_incident_costs_itself_only(owner: rows.Owner, pool: asyncpg.Pool, bad: model.Incident):
    """What PostgreSQL refuses is a reject; the other incidents and all alerts are stored, and the items add up."""
    good = [rows.incident(f"good{n}") for n in range(4)]
    counts = await owner.store(rows.alert("x", incident_id="good1"), incidents=[*good[:2], bad, *good[2:]])
    assert counts == model.Counts(items=5, inserted=4, rejected=1, nested=1)
    assert await pool.fetchval("SELECT count(*) FROM soc.incidents") == 4
    assert await pool.fetchval("SELECT count(*) FROM soc.alerts") == 1
    assert "PostgreSQL cannot hold it" in await pool.fetchval("SELECT reason FROM soc.rejects")


async def test_a_bad_nested_alert_is_no_item(owner: rows.Owner, pool: asyncpg.Pool):
    """A nested alert that PostgreSQL refuses is kept as a reject and leaves the items alone."""
    counts = await owner.store(rows.alert("x", title="a\0b"), incidents=[rows.incident("7")])
    assert counts == model.Counts(items=1, inserted=1, nested=1)
    assert await pool.fetchval("SELECT count(*) FROM soc.rejects") == 1


async def test_alerts_follow_a_merged_incident(database: pool.Database, pool: asyncpg.Pool):
    """Held alerts of every source of the tenant move to the survivor, each with one `merged` change; the edge stays."""
    mde, xdr = await rows.two_sources(database, "mde_alerts")
    await mde.store(rows.alert("a", incident_id="1"), arrival="catch_up")
    await xdr.store(
        rows.alert("b", incident_id="1"), rows.alert("c", incident_id="3"), incidents=[rows.incident("1")]
    )
    await xdr.store(incidents=[rows.incident("1", NEWER, redirect_incident_id="2", status="redirected")])
    assert await incidents_of(pool) == {"a": "2", "b": "2", "c": "3"}
    merged = await pool.fetch("SELECT alert_id, incident_id FROM soc.alerts_merged ORDER BY 1")
    assert [tuple(row) for row in merged] == [("a", "2"), ("b", "2"), ("c", "3")]
    await feed.number(database)
    changes = await pool.fetch(
        "SELECT alert_id, revision, arrival, changed FROM soc.changes()"
        " WHERE kind = 'merged' AND record = 'alert' ORDER BY seq"
    )
    moved = '{"incident_id": ["1", "2"]}'
    assert [tuple(row) for row in changes] == [("a", 2, "catch_up", moved), ("b", 2, "live", moved)]
    assert await pool.fetchval("SELECT redirect_incident_id FROM soc.incidents") == "2"


@pytest.mark.parametrize("order", ["forwards", "backwards"])
async def test_a_chain_of_redirects_ends_at_the_last(owner: rows.Owner, pool: asyncpg.Pool, order: str):
    """1 into 2 into 3, in whatever order it is told: alerts of all of them stand at 3."""
    await owner.store(*(rows.alert(f"a{n}", incident_id=str(n)) for n in (1, 2, 3)))
    edges = [
        rows.incident("1", NEWER, redirect_incident_id="2"),
        rows.incident("2", NEWER, redirect_incident_id="3"),
    ]
    for edge in edges if order == "forwards" else reversed(edges):
        await owner.store(incidents=[edge])
    assert await incidents_of(pool) == {"a1": "3", "a2": "3", "a3": "3"}


async def test_alerts_that_come_later_follow_too(database: pool.Database, pool: asyncpg.Pool):
    """An alert that still names the old incident is stored under the survivor, as new and as newer, from any source."""
    mde, xdr = await rows.two_sources(database, "mde_alerts")
    await xdr.store(
        rows.alert("a", incident_id="1"), incidents=[rows.incident("1", redirect_incident_id="2")]
    )
    await xdr.store(rows.alert("a", NEWER, incident_id="1", title="again"))
    await mde.store(rows.alert("b", incident_id="1"))
    assert await incidents_of(pool) == {"a": "2", "b": "2"}
    updated = json.loads(
        await pool.fetchval("SELECT changed FROM alertwell.alert_change WHERE kind = 'updated'")
    )
    assert "incident_id" not in updated


async def test_redirects_in_a_circle_move_nothing(owner: rows.Owner, pool: asyncpg.Pool):
    """Incidents that point at each other keep their alerts."""
    await owner.store(rows.alert("a", incident_id="1"), rows.alert("b", incident_id="2"))
    circle = [rows.incident("1", redirect_incident_id="2"), rows.incident("2", redirect_incident_id="1")]
    await owner.store(rows.alert("c", incident_id="1"), incidents=circle)
    assert await incidents_of(pool) == {"a": "1", "b": "2", "c": "1"}


async def test_a_redirect_that_is_taken_back(database: pool.Database, pool: asyncpg.Pool):
    """The alerts that the incident names, and those of an incident that was merged into it, come back from the survivor,
    from every source, each with a change; the others stay there.
    """
    mde, xdr = await rows.two_sources(database, "mde_alerts")
    await mde.store(rows.alert("a", incident_id="1"))
    await xdr.store(
        rows.alert("a", incident_id="1"),
        rows.alert("b", incident_id="0"),
        rows.alert("c", incident_id="2"),
        incidents=[
            rows.incident("0", alert_ids=["b"], redirect_incident_id="1"),
            rows.incident("1", alert_ids=["a"]),
            rows.incident("2", alert_ids=["c"]),
        ],
    )
    await xdr.store(incidents=[rows.incident("1", NEWER, redirect_incident_id="2")])
    assert await incidents_of(pool) == {"a": "2", "b": "2", "c": "2"}
    await xdr.store(incidents=[rows.incident("1", rows.hour(2))])
    assert await incidents_of(pool) == {"a": "1", "b": "1", "c": "2"}
    assert (
        await pool.fetchval("SELECT count(*) FROM soc.alerts WHERE alert_id = 'a' AND incident_id = '1'") == 2
    )
    back = await pool.fetch(
        "SELECT source, full_id, kind FROM alertwell.alert_change"
        """ WHERE changed = '{"incident_id": ["2", "1"]}' ORDER BY 1, 2"""
    )
    assert [tuple(row) for row in back] == [
        ("mde_alerts", "a", "merged"),
        ("xdr_incidents", "a", "merged"),
        ("xdr_incidents", "b", "merged"),
    ]
    await xdr.store(incidents=[rows.incident("1", rows.hour(3), redirect_incident_id="9")])
    assert await incidents_of(pool) == {"a": "9", "b": "9", "c": "2"}


async def test_a_redirect_that_leads_elsewhere(owner: rows.Owner, pool: asyncpg.Pool):
    """Named alerts go on from the old survivor to the new one, also where that one is merged at the same time."""
    await owner.store(
        rows.alert("a", incident_id="1"),
        rows.alert("b", incident_id="2"),
        incidents=[rows.incident("1", redirect_incident_id="2", alert_ids=["a"])],
    )
    assert await incidents_of(pool) == {"a": "2", "b": "2"}
    await owner.store(
        incidents=[
            rows.incident("1", NEWER, redirect_incident_id="3"),
            rows.incident("2", NEWER, redirect_incident_id="4"),
        ]
    )
    assert await incidents_of(pool) == {"a": "3", "b": "4"}


async def test_a_circle_that_becomes_a_chain(owner: rows.Owner, pool: asyncpg.Pool):
    """Once one incident of the circle leads out of it, the alerts of all of them follow."""
    await owner.store(*(rows.alert(f"a{n}", incident_id=str(n)) for n in (1, 2, 3)))
    circle = [rows.incident(str(n), redirect_incident_id=str(n % 3 + 1)) for n in (1, 2, 3)]
    await owner.store(incidents=circle)
    assert await incidents_of(pool) == {"a1": "1", "a2": "2", "a3": "3"}
    await owner.store(incidents=[rows.incident("3", NEWER, redirect_incident_id="9")])
    assert await incidents_of(pool) == {"a1": "9", "a2": "9", "a3": "9"}


async def test_the_newest_word_of_any_source_counts(database: pool.Database, pool: asyncpg.Pool):
    """A newer record of the other source that is merged into none takes an older redirect back, an older one does not."""
    graph, xdr = await rows.two_sources(database, "graph_incidents")
    await xdr.store(
        rows.alert("a", incident_id="1"),
        incidents=[rows.incident("1", redirect_incident_id="2", alert_ids=["a"])],
    )
    await graph.store(incidents=[rows.incident("1", OLDER)])
    assert await incidents_of(pool) == {"a": "2"}
    await graph.store(incidents=[rows.incident("1", NEWER)])
    assert await incidents_of(pool) == {"a": "1"}
    await xdr.store(rows.alert("b", incident_id="1"))
    assert await incidents_of(pool) == {"a": "1", "b": "1"}


async def test_an_incident_dated_into_the_future_is_corrected(owner: rows.Owner, pool: asyncpg.Pool):
    """A version of 2099 gives way to the next one, whose redirect counts; from then on older ones are stale again."""
    await owner.store(rows.alert("a", incident_id="1"), incidents=[rows.incident("1", FUTURE)])
    counts = await owner.store(incidents=[rows.incident("1", NEWER, redirect_incident_id="2")])
    assert (counts.updated, counts.stale) == (1, 0)
    assert await incidents_of(pool) == {"a": "2"}
    assert (await owner.store(incidents=[rows.incident("1", OLDER)])).stale == 1


@pytest.mark.parametrize(
    ("edges", "start", "end"),
    [
        ({}, "1", "1"),
        ({"1": "2"}, "1", "2"),
        ({"1": "2", "2": "3"}, "1", "3"),
        ({"1": "1"}, "1", "1"),
        ({"1": "2", "2": "3", "3": "2"}, "1", "1"),
    ],
)
def test_survivor(edges: dict[str, str], start: str, end: str):
    """The end of a chain, or the start where the chain has no end."""
    assert redirects.survivor(edges, start) == end


async def test_other_tenants_alerts_stay(database: pool.Database, pool: asyncpg.Pool):
    """Incident numbers of two tenants may be the same: a merge moves its own tenant's alerts only."""
    one, other = await rows.owners(database, 2)
    for each in (one, other):
        await each.store(rows.alert("a", incident_id="1"))
    await one.store(incidents=[rows.incident("1", redirect_incident_id="2")])
    found = await pool.fetch("SELECT incident_id FROM soc.alerts ORDER BY tenant_id")
    assert [row[0] for row in found] == ["2", "1"]


async def test_an_incident_of_two_thousand_alerts(owner: rows.Owner, pool: asyncpg.Pool):
    """It is stored whole, and moves whole."""
    many = [rows.alert(f"a{n}", incident_id="1") for n in range(2000)]
    counts = await owner.store(*many, incidents=[rows.incident("1", alert_ids=[one.full_id for one in many])])
    assert (counts.items, counts.inserted, counts.nested) == (1, 1, 2000)
    await owner.store(incidents=[rows.incident("1", NEWER, redirect_incident_id="2")])
    assert await pool.fetchval("SELECT count(*) FROM soc.alerts_merged WHERE incident_id = '2'") == 2000
    assert await pool.fetchval("SELECT sum(changes) FROM alertwell.unnumbered") == 4002  # and its own two

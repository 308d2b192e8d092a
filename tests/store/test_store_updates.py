"""Newer content: what replaces what, and what the change says about it."""

import json
from datetime import timedelta

import asyncpg
import pytest

from service import model
from service.store import alerts, sorting, storing
from tests.store import rows

OLDER, NEWER = rows.hour(-1), rows.hour(1)


async def changes(connection: asyncpg.Connection) -> list[asyncpg.Record]:
    return await connection.fetch("SELECT * FROM alertwell.alert_change ORDER BY batch, n")


async def changed(connection: asyncpg.Connection) -> dict:
    return json.loads((await changes(connection))[-1]["changed"])


async def test_newer_replaces_and_older_does_not(owner: rows.Owner, pool: asyncpg.Pool):
    """The newest update time wins, whatever the order of arrival; each replacement is one revision and one change."""
    await owner.store(rows.alert("a:1", title="first"))
    assert (await owner.store(rows.alert("a:1", OLDER, title="late"))).stale == 1
    assert (await owner.store(rows.alert("a:1", NEWER, title="second"), arrival="sweep")).updated == 1
    row = await pool.fetchrow("SELECT * FROM alertwell.alert")
    assert (row["title"], row["revision"], row["last_processed_at"]) == ("second", 2, NEWER)
    assert row["arrival"] == "live"
    assert row["updated_at"] > row["first_seen_at"]
    kinds = [(one["kind"], one["revision"], one["arrival"]) for one in await changes(pool)]
    assert kinds == [("created", 1, "live"), ("updated", 2, "sweep")]


async def test_same_time_with_other_content_replaces(owner: rows.Owner, pool: asyncpg.Pool):
    """Of two contents with one update time the last that came counts."""
    await owner.store(rows.alert("a:1", record={"note": "one"}))
    assert (await owner.store(rows.alert("a:1", record={"note": "two"}))).updated == 1
    assert json.loads(await pool.fetchval("SELECT raw FROM alertwell.alert"))["note"] == "two"


async def test_other_bytes_of_the_same_json_are_unchanged(owner: rows.Owner, pool: asyncpg.Pool):
    """Order of keys, blanks and 1 against 1.0 are no change: jsonb decides, and the row is not touched."""
    await owner.store(rows.alert("a:1", raw='{"a": 1, "b": [1, 2]}'))
    before = await pool.fetchrow("SELECT a, xmin FROM alertwell.alert a")
    counts = await owner.store(rows.alert("a:1", raw='{"b":[1.0,2],"a":1.0}'))
    assert (counts.unchanged, counts.updated) == (1, 0)
    assert await pool.fetchrow("SELECT a, xmin FROM alertwell.alert a") == before
    assert len(await changes(pool)) == 1


async def test_exact_bytes_are_content(owner: rows.Owner, pool: asyncpg.Pool):
    """Records that differ only in what jsonb cannot hold differ."""
    await owner.store(
        rows.alert("a:1", raw='{"t": "\\ufffd"}', raw_exact=b'{"t": "\\u0000"}', content_hash=1)
    )
    same = rows.alert("a:1", raw='{"t": "\\ufffd"}', raw_exact=b'{"t": "\\ud800"}', content_hash=2)
    assert (await owner.store(same)).updated == 1
    assert await pool.fetchval("SELECT raw_exact FROM alertwell.alert") == b'{"t": "\\ud800"}'
    assert await changed(pool) == {}


async def test_change_names_fields_with_old_and_new(owner: rows.Owner, pool: asyncpg.Pool):
    """A change holds columns by name, severity as its word, times in ISO 8601, and the record's own fields as raw.…"""
    await owner.store(
        rows.alert(
            "a:1", severity_rank=2, status="new", mitre_techniques=["T1"], record={"Note": "x", "Gone": 1}
        )
    )
    await owner.store(
        rows.alert(
            "a:1",
            NEWER,
            severity_rank=4,
            status=None,
            mitre_techniques=["T1", "T2"],
            record={"Note": "y", "Come": True},
        )
    )
    assert await changed(pool) == {
        "severity": ["low", "high"],
        "status": ["new", None],
        "mitre_techniques": [["T1"], ["T1", "T2"]],
        "last_processed_at": [rows.NOON.isoformat(), NEWER.isoformat()],
        "raw.LastProcessedTimeUtc": [rows.NOON.isoformat(), NEWER.isoformat()],
        "raw.Note": ["x", "y"],
        "raw.Gone": [1, None],
        "raw.Come": [None, True],
    }


async def test_large_nested_values_are_named_only(owner: rows.Owner, pool: asyncpg.Pool):
    """A nested value is shown while it is small; a large one is named, with null in its place."""
    small, large = {"k": [1]}, {"k": ["x" * 2000]}
    await owner.store(rows.alert("a:1", record={"small": small, "large": large, "grown": small}))
    await owner.store(rows.alert("a:1", record={"small": [], "large": {"k": ["y" * 2000]}, "grown": large}))
    assert await changed(pool) == {
        "raw.small": [small, []],
        "raw.large": [None, None],
        "raw.grown": [small, None],
    }


async def test_many_updates_in_one_answer(owner: rows.Owner, pool: asyncpg.Pool):
    """A batch of updates is counted exactly, with one change each and one row for the sequencer a slice."""
    await owner.store(*(rows.alert(f"a{n}:1") for n in range(700)))
    counts = await owner.store(*(rows.alert(f"a{n}:1", NEWER, title=f"t{n}") for n in range(700)))
    assert (counts.updated, counts.items) == (700, 700)
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert WHERE revision = 2") == 700
    assert await pool.fetch("SELECT changes FROM alertwell.unnumbered ORDER BY batch") == [
        (500,),
        (200,),
        (500,),
        (200,),
    ]
    titles = await pool.fetch(
        "SELECT full_id, changed -> 'title' ->> 1 AS t FROM alertwell.alert_change WHERE kind = 'updated'"
    )
    assert all(row["full_id"] == f"a{row['t'][1:]}:1" for row in titles)


async def test_an_alert_that_retention_took_meanwhile_comes_back(owner: rows.Owner, pool: asyncpg.Pool):
    """A newer version whose row was deleted after it was sorted is stored as new, not taken for unchanged."""
    await owner.store(rows.alert("a:1"), rows.alert("b:1"))
    harvest = await owner.harvest(rows.alert("a:1", NEWER), rows.alert("b:1", NEWER))
    assert len(harvest.sorted.newer) == 2
    await pool.execute("DELETE FROM alertwell.alert WHERE full_id = 'a:1'")
    counts = (await storing.store(owner.database, owner.lease, "siem", owner.poll, harvest)).counts
    assert (counts.updated, counts.unchanged) == (2, 0)
    found = await pool.fetch("SELECT full_id, revision, last_processed_at FROM alertwell.alert ORDER BY 1")
    assert found == [("a:1", 1, NEWER), ("b:1", 2, NEWER)]


async def test_sort_asks_for_one_stream_only(owner: rows.Owner):
    """The same key of another source or tenant is another alert."""
    await owner.store(rows.alert("a:1"))
    database, tenant = owner.database, owner.lease.tenant_id
    found = [rows.alert("a:1"), rows.alert("b:1")]
    here = await alerts.sort(database, tenant, "siem", found)
    assert (here.unchanged, [one.full_id for one in here.new]) == (1, ["b:1"])
    for other in ((tenant, "graph_alerts"), (rows.tenant_id(2), "siem")):
        assert len((await alerts.sort(database, *other, found)).new) == 2
    assert await alerts.sort(database, tenant, "siem", []) == sorting.Sorted((), (), 0, 0)


async def test_an_alert_dated_into_the_future_is_corrected(owner: rows.Owner, pool: asyncpg.Pool):
    """A version of 2099 gives way to whatever comes next; one that is a few hours ahead stays the newest."""
    future = rows.NOON.replace(year=2099)
    await owner.store(rows.alert("a:1", future, title="wrong"), rows.alert("b:1", rows.hour(36)))
    counts = await owner.store(rows.alert("a:1", title="right"), rows.alert("b:1", rows.hour(35)))
    assert (counts.updated, counts.stale) == (1, 1)
    row = await pool.fetchrow("SELECT title, last_processed_at FROM soc.alerts_merged WHERE alert_id = 'a'")
    assert tuple(row) == ("right", rows.NOON)
    assert (await owner.store(rows.alert("a:1", OLDER))).stale == 1


async def test_an_alert_that_moves_houses_unchanged(owner: rows.Owner, pool: asyncpg.Pool):
    """One that does not name its incident is found in another one: same bytes, another hash, and it moves with a change."""
    await owner.store(rows.alert("a", incident_id="1"))
    await owner.store(rows.alert("a", incident_id="2", content_hash=5))
    assert await pool.fetchval("SELECT incident_id FROM soc.alerts") == "2"
    assert (await changed(pool))["incident_id"] == ["1", "2"]


@pytest.mark.parametrize("step", [timedelta(microseconds=-1), timedelta(0), timedelta(microseconds=1)])
async def test_sort_compares_to_the_microsecond(owner: rows.Owner, step: timedelta):
    """One microsecond older is stale; equal or newer with other bytes is newer; equal bytes are unchanged at any time."""
    await owner.store(rows.alert("a:1"))
    found = await alerts.sort(
        owner.database,
        owner.lease.tenant_id,
        "siem",
        [rows.alert("a:1", rows.NOON + step, record={"x": 1})],
    )
    assert (found.stale, len(found.newer)) == ((1, 0) if step < timedelta(0) else (0, 1))


async def test_the_travelling_type_has_the_fields_of_an_alert(pool: asyncpg.Pool):
    """Records travel as values of a type whose fields are those of model.Alert in their order, and arrival."""
    names = await pool.fetch(
        """
        SELECT attname FROM pg_attribute JOIN pg_type ON typrelid = attrelid
        WHERE pg_type.oid = 'alertwell.incoming_alert'::regtype ORDER BY attnum
        """
    )
    assert [row[0] for row in names] == [*model.Alert.__struct_fields__, "arrival"]

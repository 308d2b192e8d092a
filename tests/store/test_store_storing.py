"""The storing transaction: what becomes of each item, and what moves with it."""

import asyncio
import json
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from service import errors, model
from service.intervals import Intervals
from service.store import enrolments, leases, ranges, slices, storing, streams, tenants
from tests.store import rows

OLDER, NEWER = rows.hour(-1), rows.hour(1)


async def stream(connection: asyncpg.Connection) -> asyncpg.Record:
    return await connection.fetchrow("SELECT * FROM alertwell.stream")


async def test_every_item_is_counted_once(owner: rows.Owner, pool: asyncpg.Pool):
    """Inserted, updated, unchanged, stale, duplicate and rejected add up to the items, in the answer and in the poll's row."""
    await owner.store(rows.alert("a:1"), rows.alert("b:1"), rows.alert("c:1"))
    counts = await owner.store(
        rows.alert("a:1"),
        rows.alert("b:1", NEWER),
        rows.alert("c:1", OLDER),
        rows.alert("d:1"),
        rows.alert("e:1"),
        rejects=[model.Reject("not JSON", b"{")],
        duplicates=2,
    )
    assert counts == model.Counts(
        items=8, inserted=2, updated=1, unchanged=1, stale=1, duplicate=2, rejected=1
    )
    assert counts.balanced
    row = await pool.fetchrow("SELECT * FROM alertwell.poll")
    assert (row["windows"], row["items"], row["inserted"], row["updated"]) == (2, 11, 5, 1)
    assert (row["unchanged"], row["stale"], row["duplicate"], row["rejected"]) == (1, 1, 2, 1)
    assert (row["outcome"], row["error"], row["replica_id"]) == ("complete", None, rows.REPLICA)


async def test_items_that_do_not_add_up_store_nothing(owner: rows.Owner, pool: asyncpg.Pool):
    """The CHECK of the poll's row undoes a transaction whose accounting is wrong."""
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.store(rows.alert("a:1"), items=2)
    assert not any((await rows.counts(pool)).values())


async def test_all_columns_of_an_alert_are_stored(owner: rows.Owner, pool: asyncpg.Pool):
    """Every field of model.Alert comes back from its column as it went in."""
    full = rows.alert(
        "a:1",
        mitre_techniques=["T1059", "T1059.001"],
        raw_exact=b'{"x": "\\u0000"}',
        created_at=OLDER,
        resolved_at=NEWER,
        event_time=OLDER,
        **{
            name: f"text of {name}"
            for name in (
                "incident_id",
                "status",
                "category",
                "detection_source",
                "service_source",
                "device_name",
                "device_id",
                "device_group",
                "user_name",
                "file_sha256",
                "threat_name",
                "assigned_to",
                "classification",
                "determination",
                "remediation_action",
            )
        },
    )
    empty = rows.alert("b:1", mitre_techniques=[], title=None, alert_id=None)
    await owner.store(full, empty, arrival="catch_up")
    found = {row["full_id"]: row for row in await pool.fetch("SELECT * FROM alertwell.alert")}
    for stored in (full, empty):
        row = found[stored.full_id]
        for name in stored.__struct_fields__:
            value = json.loads(row[name]) if name == "raw" else row[name]
            assert value == (json.loads(stored.raw) if name == "raw" else getattr(stored, name)), name
    assert (row["revision"], row["arrival"], row["source"]) == (1, "catch_up", "siem")
    assert row["first_seen_at"] == row["updated_at"]


async def test_many_records_are_cut_into_slices(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
):
    """No slice has more records or about more bytes than allowed, none is empty, and nothing is lost between them."""
    monkeypatch.setattr(slices, "MOST_RECORDS", 3)
    monkeypatch.setattr(slices, "MOST_BYTES", 1000)
    many = [rows.alert(f"a{n}:1", record={"text": "x" * (n * 97 % 1300)}) for n in range(40)]
    cut = slices.cut(many)
    assert [one for part in cut for one in part] == many
    assert all(0 < len(part) <= 3 for part in cut)
    assert all(len(part) == 1 or sum(len(one.raw) for one in part) <= 1000 for part in cut)
    assert slices.cut([]) == []
    assert (await owner.store(*many)).inserted == 40
    assert await pool.fetchval("SELECT count(DISTINCT batch) FROM alertwell.alert_change") == len(cut)
    assert await pool.fetchval("SELECT sum(changes) FROM alertwell.unnumbered") == 40


async def test_watermark_never_goes_back(owner: rows.Owner, pool: asyncpg.Pool):
    """A later store with an older watermark, or none, leaves the newest one."""
    for mark in (rows.hour(1), rows.hour(0), None):
        await owner.store(rows.alert(f"{mark}:1"), watermark=mark)
        assert (await stream(pool))["watermark"] == rows.hour(1)


async def test_coverage_moves_in_the_storing_transaction(owner: rows.Owner, pool: asyncpg.Pool):
    """What is folded joins coverage, what is dropped leaves it, and a transaction that fails moves nothing."""
    await owner.store(rows.alert("a:1"), folded=rows.interval(0, 2), read_to=rows.hour(3))
    await owner.store(rows.alert("b:1"), folded=rows.interval(4, 6), dropped=rows.interval(0, 1))
    held = rows.interval(1, 2) | rows.interval(4, 6)
    assert ranges.decode((await stream(pool))["coverage"]) == held
    with pytest.raises(asyncpg.CheckViolationError):
        await owner.store(rows.alert("c:1"), folded=rows.interval(6, 9), watermark=rows.hour(9), items=7)
    row = await stream(pool)
    assert (ranges.decode(row["coverage"]), row["watermark"]) == (held, None)
    progress = await pool.fetchrow("SELECT * FROM alertwell.stream_progress")
    assert progress["read_to"] == rows.hour(3)
    assert progress["last_success_at"] is not None


async def test_proof_of_idle_polls_is_kept(owner: rows.Owner, pool: asyncpg.Pool):
    """What idle polls proved joins the row whatever the caller knew of it, and is not shown again once it was dropped."""
    await streams.flush(
        owner.database,
        [
            streams.Progress(
                owner.lease, "siem", None, None, (rows.hour(0), rows.hour(2)), Intervals(), rows.hour(5)
            )
        ],
    )
    await owner.store(rows.alert("a:1"), folded=rows.interval(3, 4), dropped=rows.interval(0, 1))
    shown = await pool.fetchval("SELECT coverage FROM soc.coverage")
    assert ranges.decode(shown) == rows.interval(1, 2) | rows.interval(3, 4)


async def test_reason_of_a_gap_goes_when_it_is_healed(owner: rows.Owner, pool: asyncpg.Pool):
    """A gap's reason is forgotten once all of its interval is covered, by however many windows."""
    for start in (0, 10):
        await streams.note_gap(
            owner.database,
            owner.lease,
            "siem",
            owner.poll,
            span=(rows.hour(start), rows.hour(start + 2)),
            reason="refused",
            sample=b"",
        )
    await owner.store(rows.alert("a:1"), folded=rows.interval(0, 1))
    assert await pool.fetchval("SELECT count(*) FROM alertwell.gap_reason") == 2
    await owner.store(rows.alert("b:1"), folded=rows.interval(1, 2))
    assert await pool.fetchval("SELECT lower(span) FROM alertwell.gap_reason") == rows.hour(10)


async def test_a_poll_that_failed_in_part_says_so(owner: rows.Owner, pool: asyncpg.Pool):
    """Windows that are stored after a failed part do not hide its error."""
    await owner.store(rows.alert("a:1"))
    await streams.note_gap(
        owner.database,
        owner.lease,
        "siem",
        owner.poll,
        span=(rows.hour(0), rows.hour(1)),
        reason="refused",
        sample=b"",
    )
    await owner.store(rows.alert("b:1"))
    row = await pool.fetchrow("SELECT outcome, error, windows, inserted FROM alertwell.poll")
    assert tuple(row) == ("failed", "refused", 3, 2)


@pytest.mark.parametrize("wrong", ["epoch", "owner", "server", "gone"])
async def test_a_late_writer_writes_nothing(owner: rows.Owner, pool: asyncpg.Pool, wrong: str):
    """With another epoch, another owner, on another life of the server or without a lease, nothing is written: LeaseLost."""
    if wrong == "owner":
        owner.lease = replace(owner.lease, owner=rows.tenant_id(9))
    elif wrong == "server":
        owner.lease = replace(owner.lease, server="00000001/0/0")
    elif wrong == "epoch":
        await tenants.set_state(owner.database, owner.lease.tenant_id, "active")
    else:
        await pool.execute("DELETE FROM alertwell.lease")
    before = await pool.fetchrow(
        "SELECT s::text, p::text FROM alertwell.stream s, alertwell.stream_progress p"
    )
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("a:1"), folded=rows.interval(0, 1), watermark=rows.hour(1))
    with pytest.raises(errors.LeaseLost):
        await streams.show_state(owner.database, owner.lease, "siem", state="ok", reason=None, failures=0)
    assert not any((await rows.counts(pool)).values())
    assert before == await pool.fetchrow(
        "SELECT s::text, p::text FROM alertwell.stream s, alertwell.stream_progress p"
    )


async def test_a_store_under_way_holds_its_lease(owner: rows.Owner, pool: asyncpg.Pool):
    """Who takes the lease waits for the store that holds it; who stores after that is too late."""
    database = owner.database
    await rows.age(pool, rows.REPLICA, 2 * rows.TTL)
    other = rows.tenant_id(77)
    await rows.beat(database, other)
    async with database.transaction() as storing_one:
        await leases.fence(storing_one, owner.lease)
        assert await leases.claim(database, other, limit=1, ttl=rows.TTL) == []
        change = asyncio.create_task(tenants.set_state(database, owner.lease.tenant_id, "active"))
        await rows.blocked(pool)
        assert not change.done()
    await change
    assert len(await leases.claim(database, other, limit=1, ttl=rows.TTL)) == 1
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("a:1"))


async def test_a_store_waits_for_who_takes_the_lease(owner: rows.Owner, pool: asyncpg.Pool):
    """A claim that is not committed yet makes the store wait, and then raise LeaseLost."""
    async with owner.database.transaction() as claiming:
        await claiming.execute("UPDATE alertwell.lease SET owner = $1, epoch = epoch + 1", rows.tenant_id(77))
        late = asyncio.create_task(owner.store(rows.alert("a:1")))
        await rows.blocked(pool)
    with pytest.raises(errors.LeaseLost):
        await late
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert") == 0


@pytest.mark.parametrize("after", range(5))
async def test_a_crash_between_statements_leaves_nothing(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch, after: int
):
    """A connection that ends in the middle of the transaction leaves no trace; the same harvest is stored whole later."""
    await owner.store(rows.alert("b:1"))
    before = await rows.counts(pool)
    steps = [
        (storing.leases, "fence"),
        (storing.alert_rows, "insert"),
        (storing.alert_rows, "update"),
        (storing.rejects, "keep"),
        (storing, "_move"),
    ]
    place, name = steps[after]
    real = getattr(place, name)

    async def then_die(connection, *arguments):
        done = await real(connection, *arguments)
        await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        return done

    monkeypatch.setattr(place, name, then_die)
    harvest = {
        "rejects": [model.Reject("not JSON", b"{")],
        "folded": rows.interval(0, 1),
        "watermark": rows.hour(1),
    }
    with pytest.raises(errors.DatabaseUnavailable):
        await owner.store(rows.alert("a:1"), rows.alert("b:1", NEWER), **harvest)
    assert await rows.counts(pool) == before
    row = await stream(pool)
    assert (row["coverage"], row["watermark"]) == ([], None)
    monkeypatch.undo()
    counts = await owner.store(rows.alert("a:1"), rows.alert("b:1", NEWER), **harvest)
    assert (counts.inserted, counts.updated, counts.rejected) == (1, 1, 1)


async def test_two_streams_of_a_tenant_store_at_once(owner: rows.Owner, pool: asyncpg.Pool):
    """Stores of two streams run side by side under one lease: neither waits for the other."""
    both = {"siem": {}, "graph_alerts": {}}
    await enrolments.enrol(owner.database, [rows.enrolment(1, sources=both)], lookback=timedelta(days=1))
    [lease] = await leases.held(owner.database, rows.REPLICA)
    one, other = rows.Owner(owner.database, lease), rows.Owner(owner.database, lease, "graph_alerts")
    async with owner.database.transaction() as connection:
        await leases.fence(connection, lease)
        await connection.execute("UPDATE alertwell.stream SET failures = 0 WHERE source = 'siem'")
        await other.store(rows.alert("a:1"))
    await asyncio.gather(one.store(rows.alert("a:1")), other.store(rows.alert("b:1")))
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert") == 3

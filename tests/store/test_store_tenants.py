"""Tenants as people keep them: enrolled once or twice, paused, removed."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import asyncpg
import pytest

from service import errors
from service.store import credentials, enrolments, leases, pool, ranges, streams, tenants
from tests.store import rows

WATCHED = ("tenant", "stream", "stream_progress", "lease", "credential", "roster")


async def everything(connection: asyncpg.Connection) -> dict[str, list[str]]:
    """All that an enrolment could touch, row versions included."""
    return {
        table: [
            row[0]
            for row in await connection.fetch(
                f"SELECT t.xmin::text || t FROM alertwell.{table} t ORDER BY t::text"
            )
        ]
        for table in WATCHED
    }


async def enrol(database: pool.Database, *wanted: enrolments.Enrolment) -> tuple[int, int, int]:
    done = await enrolments.enrol(database, wanted, lookback=rows.LOOKBACK)
    return done.added, done.changed, done.unchanged


async def tenant(connection: asyncpg.Connection, n: int = 1) -> asyncpg.Record:
    return await connection.fetchrow("SELECT * FROM soc.tenants WHERE tenant_id = $1", rows.tenant_id(n))


async def test_enrolling_adds_all_that_a_stream_needs(database: pool.Database, pool: asyncpg.Pool):
    """A new tenant has its row, streams that want everything since the look-back, their progress, and a free lease."""
    both = {"siem": {"machinegroups": ["A"]}, "graph_alerts": {}}
    one = rows.enrolment(
        1,
        sources=both,
        labels={"team": "blue"},
        region="eu",
        external_ref="X",
        own=credentials.Own("app", "client_secret", b"s"),
    )
    assert await enrol(database, one, rows.enrolment(2, state="pending")) == (2, 0, 0)
    row = await tenant(pool)
    assert (row["name"], row["sources"], row["region"], row["external_ref"]) == (
        "Contoso 1",
        ["graph_alerts", "siem"],
        "eu",
        "X",
    )
    assert row["consented_at"] is not None
    assert (await tenant(pool, 2))["consented_at"] is None
    wanted = await pool.fetch("SELECT wanted, coverage, enabled FROM soc.coverage ORDER BY tenant_id, source")
    now = await pool.fetchval("SELECT now()")
    for one_stream in wanted:
        [(start, end)] = ranges.decode(one_stream["wanted"])
        assert end.year == 9999
        assert timedelta(0) <= now - start - rows.LOOKBACK < timedelta(minutes=1)
        assert start.microsecond % 1000 == 0
        assert one_stream["coverage"] == []
    assert [row["enabled"] for row in wanted] == [True, True, False]
    assert await pool.fetchval("SELECT count(*) FROM alertwell.lease WHERE owner IS NULL") == 2
    held = await credentials.listed(database, [rows.tenant_id(1), rows.tenant_id(2)])
    assert [(each.tenant_id, each.credential.app_id, each.credential.sealed) for each in held] == [
        (rows.tenant_id(1), "app", b"s")
    ]


async def test_enrolling_twice_changes_nothing(database: pool.Database, pool: asyncpg.Pool):
    """The second time no row is written, no epoch grows, and the roster stays."""
    listed = [rows.enrolment(n, labels={"n": str(n)}) for n in range(1, 6)]
    assert await enrol(database, *listed) == (5, 0, 0)
    before = await everything(pool)
    assert await enrol(database, *reversed(listed)) == (0, 0, 5)
    assert await everything(pool) == before


async def test_what_changed_is_told_to_the_owner(database: pool.Database):
    """A changed tenant gets a new epoch, its neighbour does not."""
    await enrol(database, rows.enrolment(1), rows.enrolment(2))
    one, two = await rows.claim(database)
    version = await leases.roster_version(database)
    assert await enrol(database, rows.enrolment(1, name="Fabrikam"), rows.enrolment(2)) == (0, 1, 1)
    held = sorted(await leases.held(database, rows.REPLICA), key=lambda lease: lease.tenant_id)
    assert held == [replace(one, epoch=one.epoch + 1), two]
    assert await leases.roster_version(database) > version


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "Fabrikam"},
        {"cloud": "gcc"},
        {"region": "eu"},
        {"labels": {"a": "b"}},
        {"external_ref": "X"},
        {"sources": {"siem": {"machinegroups": ["A"]}}},
        {"sources": {"siem": {}, "graph_alerts": {}}},
        {"own": credentials.Own("app", "client_secret", b"s")},
    ],
    ids=lambda changes: next(iter(changes)),
)
async def test_each_field_counts_as_a_change(database: pool.Database, changes: dict):
    """Whatever differs is counted as changed once, and as unchanged when it comes again (a secret always counts)."""
    await enrol(database, rows.enrolment(1))
    assert await enrol(database, rows.enrolment(1, **changes)) == (0, 1, 0)
    again = (0, 1, 0) if "own" in changes else (0, 0, 1)
    assert await enrol(database, rows.enrolment(1, **changes)) == again


async def test_values_that_move_between_fields_are_a_change(database: pool.Database):
    """What stood in one field and stands in another now is not taken for the same."""
    await enrol(database, rows.enrolment(1, region="eu"))
    assert await enrol(database, rows.enrolment(1, region=None, external_ref="eu")) == (0, 1, 0)


async def test_a_tenant_named_twice_is_refused(database: pool.Database, pool: asyncpg.Pool):
    """One id twice in one enrolment is a mistake, and nothing is stored."""
    with pytest.raises(errors.BadInput, match=str(rows.tenant_id(1))):
        await enrol(database, rows.enrolment(1), rows.enrolment(2), rows.enrolment(1, name="Fabrikam"))
    assert await pool.fetchval("SELECT count(*) FROM alertwell.tenant") == 0


async def test_a_rehearsal_counts_and_writes_nothing(database: pool.Database, pool: asyncpg.Pool):
    """rehearse says what enrol would do, and leaves everything as it was."""
    await enrol(database, rows.enrolment(1), rows.enrolment(2))
    before = await everything(pool)
    plan = [rows.enrolment(1), rows.enrolment(2, name="Fabrikam"), rows.enrolment(3)]
    assert await enrolments.rehearse(database, plan, lookback=rows.LOOKBACK) == enrolments.Enrolled(1, 1, 1)
    assert await everything(pool) == before


async def test_other_parameters_start_the_proof_anew(owner: rows.Owner, pool: asyncpg.Pool):
    """What was proven with other parameters is not proven now: coverage, progress and reasons go, wanted and watermark stay."""
    database = owner.database
    await owner.store(
        rows.alert("a:1"), folded=rows.interval(0, 1), watermark=rows.hour(1), read_to=rows.hour(1)
    )
    await streams.note_gap(
        database,
        owner.lease,
        "siem",
        owner.poll,
        span=(rows.hour(0), rows.hour(1)),
        reason="refused",
        sample=b"",
    )
    proven = streams.Progress(
        owner.lease,
        "siem",
        rows.hour(1),
        rows.hour(1),
        (rows.hour(1), rows.hour(2)),
        rows.interval(5, 6),
        rows.hour(9),
    )
    await streams.flush(database, [proven])
    await streams.show_state(
        database, owner.lease, "siem", state="needs_attention", reason="consent", failures=7
    )
    wanted = await pool.fetchval("SELECT wanted FROM alertwell.stream")
    assert await enrol(database, rows.enrolment(1, sources={"siem": {"machinegroups": ["A"]}})) == (0, 1, 0)
    row = await pool.fetchrow("SELECT * FROM alertwell.stream NATURAL JOIN alertwell.stream_progress")
    assert (row["coverage"], row["proven"], row["read_to"], row["wanted"]) == ([], None, None, wanted)
    assert (row["state"], row["state_reason"], row["failures"], row["watermark"]) == (
        "new",
        None,
        0,
        rows.hour(1),
    )
    assert await pool.fetchval("SELECT count(*) FROM alertwell.gap_reason") == 0
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("b:1"))


async def test_pause_resume_remove_and_again(database: pool.Database, pool: asyncpg.Pool):
    """A pause survives an enrolment with its reason, a removal does not; each step grows the epoch; nothing stored goes."""
    [one] = await rows.owners(database, 1)
    await one.store(rows.alert("a:1"), folded=rows.interval(0, 1))
    epochs = [one.lease.epoch]

    async def after(step) -> tuple[str, str | None]:
        await step
        epochs.append(await pool.fetchval("SELECT epoch FROM alertwell.lease"))
        row = await tenant(pool)
        return row["state"], row["state_reason"]

    key = one.lease.tenant_id
    assert await after(tenants.set_state(database, key, "paused", reason="holiday")) == ("paused", "holiday")
    assert await after(enrol(database, rows.enrolment(1, name="Fabrikam"))) == ("paused", "holiday")
    assert await after(tenants.set_state(database, key, "active")) == ("active", None)
    assert await after(tenants.set_state(database, key, "removed", reason="left")) == ("removed", "left")
    assert await after(enrol(database, rows.enrolment(1))) == ("active", None)
    assert epochs == sorted(set(epochs))
    assert ranges.decode(await pool.fetchval("SELECT coverage FROM soc.coverage")) == rows.interval(0, 1)
    with pytest.raises(errors.BadInput, match=str(rows.tenant_id(9))):
        await tenants.set_state(database, rows.tenant_id(9), "paused")


async def test_consent_is_remembered(database: pool.Database, pool: asyncpg.Pool):
    """A pending tenant becomes active when it is named as such, and does not become pending again by another list."""
    await enrol(database, rows.enrolment(1, state="pending"))
    assert await enrol(database, rows.enrolment(1)) == (0, 1, 0)
    consented = (await tenant(pool))["consented_at"]
    assert consented is not None
    assert await enrol(database, rows.enrolment(1, state="pending")) == (0, 0, 1)
    row = await tenant(pool)
    assert (row["state"], row["consented_at"]) == ("active", consented)


async def test_a_source_that_is_not_named_stays(database: pool.Database, pool: asyncpg.Pool):
    """Enrolling with fewer sources removes none; one that was switched off is switched on by naming it."""
    await enrol(database, rows.enrolment(1, sources={"siem": {}, "graph_alerts": {}}))
    await pool.execute("UPDATE alertwell.stream SET enabled = false")
    assert await enrol(database, rows.enrolment(1)) == (0, 1, 0)
    found = await pool.fetch("SELECT source, enabled FROM alertwell.stream ORDER BY source")
    assert found == [("graph_alerts", False), ("siem", True)]


async def test_find(database: pool.Database):
    """By id in any spelling, or by name without regard to case; a name used twice finds both."""
    await enrol(database, rows.enrolment(1), rows.enrolment(2, name="Same"), rows.enrolment(3, name="same"))
    for text in (str(rows.tenant_id(1)), str(rows.tenant_id(1)).upper(), "contoso 1", "CONTOSO 1"):
        assert await tenants.find(database, text) == [rows.tenant_id(1)]
    assert set(await tenants.find(database, "SAME")) == {rows.tenant_id(2), rows.tenant_id(3)}
    assert await tenants.find(database, "Contoso") == []


async def test_thousands_in_one_enrolment(database: pool.Database, pool: asyncpg.Pool):
    """Five thousand tenants are enrolled in one transaction, and again without a change."""
    listed = [rows.enrolment(n) for n in range(5000, 0, -1)]
    assert await enrol(database, *listed) == (5000, 0, 0)
    assert await enrol(database, *listed) == (0, 0, 5000)
    assert await pool.fetchval("SELECT count(*) FROM soc.coverage") == 5000


async def test_two_enrolments_at_once(database: pool.Database):
    """Two lists with the same tenants in opposite order both come to an end."""
    listed = [rows.enrolment(n) for n in range(1, 200)]
    renamed = [rows.enrolment(n, name=f"New {n}") for n in range(199, 0, -1)]
    for _ in range(3):
        await asyncio.gather(enrol(database, *listed), enrol(database, *renamed))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({"region": "us"}, False), ({"cloud": "gcc"}, False), ({"own": credentials.Own("b", "client_secret", b"s")}, False),
     ({"own": credentials.Own("a", "client_secret", b"new")}, True), ({"labels": {"team": "red"}}, True)],
)  # fmt: skip
async def test_another_place_or_app_starts_the_proof_anew(database, pool, changes: dict, kept: bool):
    """What was proven of another region or cloud, or by another app, is not proven; a new secret of the same app keeps it."""
    before = {"region": "eu", "own": credentials.Own("a", "client_secret", b"s")}
    await enrol(database, rows.enrolment(1, **before))
    [lease] = await rows.claim(database)
    owner = rows.Owner(database, lease)
    await owner.store(rows.alert("a:1"), folded=rows.interval(0, 1))
    assert await enrol(database, rows.enrolment(1, **{**before, **changes})) == (0, 1, 0)
    assert bool(await pool.fetchval("SELECT coverage FROM alertwell.stream")) is kept
    with pytest.raises(errors.LeaseLost):
        await owner.store(rows.alert("b:1"))


async def test_a_removed_tenant_is_taken_back_on_purpose_only(database, pool):
    """An import that names a removed tenant is refused whole and names it; enrolling it by hand takes it back."""
    await rows.enrol(database, 1)
    await tenants.set_state(database, rows.tenant_id(1), "removed")
    both = [rows.enrolment(1), rows.enrolment(2)]
    for act in (enrolments.enrol, enrolments.rehearse):
        with pytest.raises(errors.BadInput, match=f"Contoso 1 .{rows.tenant_id(1)}"):
            await act(database, both, lookback=rows.LOOKBACK, revive=False)
    assert await pool.fetchval("SELECT count(*) FROM alertwell.tenant") == 1
    assert await enrol(database, *both) == (1, 1, 0)


async def test_giving_leases_back_does_not_wait_for_a_removed_tenant(database, pool):
    """A purge holds a tenant's rows for long: the others of its former owner are free at once all the same."""
    await rows.enrol(database, 1, 2)
    await rows.claim(database)
    await tenants.set_state(database, rows.tenant_id(1), "removed")
    async with database.transaction() as purging:
        await leases.lock(purging, [rows.tenant_id(1)])
        await asyncio.wait_for(leases.retire(database, rows.REPLICA), 10)
    assert await pool.fetchval("SELECT count(*) FROM alertwell.lease WHERE owner IS NOT NULL") == 0

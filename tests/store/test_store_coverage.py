"""What soc says of coverage, gaps and rejects."""

from datetime import timedelta

import asyncpg
import pytest

from service import model
from service.intervals import Intervals
from service.store import enrolments, pool, ranges, streams, tenants
from tests.store import rows

SHOWN = "SELECT * FROM soc.coverage"


async def put(connection: asyncpg.Connection, wanted: Intervals, coverage: Intervals) -> asyncpg.Record:
    await connection.execute(
        "UPDATE alertwell.stream SET wanted = $1, coverage = $2",
        ranges.encode(wanted),
        ranges.encode(coverage),
    )
    return await connection.fetchrow(SHOWN)


@pytest.mark.parametrize(
    ("coverage", "gaps", "proven_until"),
    [
        (Intervals(), Intervals(), None),
        (rows.interval(0, 5), Intervals(), rows.hour(5)),
        (rows.interval(-2, 5), Intervals(), rows.hour(5)),
        (rows.interval(2, 5), rows.interval(0, 2), None),
        (rows.interval(0, 1) | rows.interval(3, 5), rows.interval(1, 3), rows.hour(1)),
        (rows.interval(1, 2) | rows.interval(4, 5), rows.interval(0, 1) | rows.interval(2, 4), None),
        (Intervals.of((rows.hour(0), None)), Intervals(), None),
    ],
    ids=["nothing", "all", "more than wanted", "late start", "hole", "holes", "for ever"],
)
@pytest.mark.usefixtures("owner")
async def test_gaps_and_proof(pool: asyncpg.Pool, coverage: Intervals, gaps: Intervals, proven_until: object):
    """Gaps are wanted below the end of coverage and not covered; proven_until ends what is contiguous from wanted's start."""
    row = await put(pool, Intervals.of((rows.hour(0), None)), coverage)
    assert ranges.decode(row["coverage"]) == coverage
    assert ranges.decode(row["gaps"]) == gaps
    assert row["proven_until"] == proven_until
    found = await pool.fetch("SELECT gap_from, gap_to FROM soc.gaps ORDER BY gap_from")
    assert [tuple(one) for one in found] == list(gaps)


async def test_what_idle_polls_proved_is_shown(owner: rows.Owner, pool: asyncpg.Pool):
    """Coverage is the stream's row and its progress together, though nothing was folded yet."""
    await put(pool, Intervals.of((rows.hour(0), None)), rows.interval(0, 2))
    moved = streams.Progress(
        owner.lease,
        "siem",
        rows.hour(4),
        rows.hour(4),
        (rows.hour(2), rows.hour(4)),
        Intervals(),
        rows.hour(5),
    )
    await streams.flush(owner.database, [moved])
    row = await pool.fetchrow(SHOWN)
    assert (ranges.decode(row["coverage"]), row["proven_until"]) == (rows.interval(0, 4), rows.hour(4))
    assert (row["last_success_at"], row["next_poll_at"]) == (rows.hour(4), rows.hour(5))


async def test_data_age_grows_while_nobody_writes(owner: rows.Owner, pool: asyncpg.Pool):
    """Age is computed when it is read, from the end of the last live window; there is none before the first."""
    assert await pool.fetchval("SELECT data_age_seconds FROM soc.coverage") is None
    now = await pool.fetchval("SELECT now()")
    await owner.store(rows.alert("a:1"), read_to=now - timedelta(hours=2))
    ages = [await pool.fetchval("SELECT data_age_seconds FROM soc.coverage") for _ in range(3)]
    assert 7200 < ages[0] < ages[1] < ages[2] < 7260
    await owner.store(rows.alert("b:1"), read_to=now - timedelta(hours=3))
    assert await pool.fetchval("SELECT data_age_seconds FROM soc.coverage") < 7300


async def test_enabled_means_polled(owner: rows.Owner, pool: asyncpg.Pool):
    """A stream of a paused tenant, or switched off itself, is shown as not enabled."""
    assert await pool.fetchval("SELECT enabled FROM soc.coverage")
    await tenants.set_state(owner.database, owner.lease.tenant_id, "paused")
    assert not await pool.fetchval("SELECT enabled FROM soc.coverage")
    await tenants.set_state(owner.database, owner.lease.tenant_id, "active")
    await pool.execute("UPDATE alertwell.stream SET enabled = false")
    assert not await pool.fetchval("SELECT enabled FROM soc.coverage")


async def test_gaps_say_why(owner: rows.Owner, pool: asyncpg.Pool):
    """A gap has the newest reason that touches it, else whether it is history; and when the source forgets it."""
    enrolled = rows.hour(10)
    await pool.execute("UPDATE alertwell.stream SET enrolled_at = $1, reach = '30 days'", enrolled)
    held = rows.interval(1, 2) | rows.interval(5, 6) | rows.interval(11, 12) | rows.interval(13, 14)
    await put(pool, Intervals.of((rows.hour(0), None)), held)
    for reason in ("older", "newer"):
        await streams.note_gap(
            owner.database,
            owner.lease,
            "siem",
            owner.poll,
            span=(rows.hour(3), rows.hour(4)),
            reason=reason,
            sample=b"",
        )
    found = await pool.fetch("SELECT * FROM soc.gaps ORDER BY gap_from")
    assert [(row["gap_from"], row["reason"]) for row in found] == [
        (rows.hour(0), "history not read yet"),
        (rows.hour(2), "newer"),
        (rows.hour(6), "history not read yet"),
        (rows.hour(12), "not read yet"),
    ]
    assert found[0]["opened_at"] == enrolled < found[1]["opened_at"]
    assert found[0]["lost_after"] == rows.hour(0) + timedelta(days=30)
    assert found[0]["tenant_id"] == str(owner.lease.tenant_id)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("grün {".encode(), "grün {"),
        (b"a\0b", "a\\000b"),
        (b"\xff\xfe\\", "\\377\\376\\\\"),
        (b"", ""),
        (b"x" * 300_000, "x" * 300_000),
    ],
    ids=["text", "nul", "binary", "empty", "large"],
)
async def test_a_reject_is_shown_whatever_it_is_made_of(
    owner: rows.Owner, admin_url: str, raw: bytes, shown: str
):
    """Text as text, anything else with escapes; by a reader's role, in a parallel plan too."""
    await owner.store(rejects=[model.Reject("not JSON", raw)])
    async with rows.reader(admin_url, owner.lease.tenant_id) as reader:
        version = reader.get_server_version().major
        await reader.execute(f"SET {'debug_parallel_query' if version >= 16 else 'force_parallel_mode'} = on")
        row = await reader.fetchrow("SELECT * FROM soc.rejects")
    assert (row["raw"], row["reason"], row["tenant_name"]) == (shown, "not JSON", "Contoso 1")


async def test_alerts_show_what_is_computed(owner: rows.Owner, pool: asyncpg.Pool):
    """Description and links come from the record, the first that is not empty; severity is the word of its rank."""
    linked = {
        "Description": "what happened",
        "LinkToMTP": "",
        "LinkToWDATP": "https://one",
        "IncidentLinkToMTP": "https://two",
    }
    await owner.store(
        rows.alert("a:1", record=linked, severity_rank=4),
        rows.alert(
            "b:1",
            record={"description": "graph", "alertWebUrl": "https://three", "LinkToMTP": None},
            severity_rank=0,
        ),
        rows.alert("c:1", raw='"a text"', severity_rank=1),
    )
    found = await pool.fetch(
        "SELECT severity, description, alert_url, incident_url FROM soc.alerts ORDER BY full_id"
    )
    assert [tuple(row) for row in found] == [
        ("high", "what happened", "https://one", "https://two"),
        ("unknown", "graph", "https://three", None),
        ("informational", None, None, None),
    ]


async def test_an_alert_shows_its_tenant(database: pool.Database, pool: asyncpg.Pool):
    """Name, labels and number of the tenant stand beside each alert, as they are now."""
    await enrolments.enrol(
        database, [rows.enrolment(1, labels={"team": "blue"}, external_ref="C-7")], lookback=rows.LOOKBACK
    )
    [lease] = await rows.claim(database)
    await rows.Owner(database, lease).store(rows.alert("a:1"))
    row = await pool.fetchrow("SELECT tenant_name, labels ->> 'team', external_ref FROM soc.alerts")
    assert tuple(row) == ("Contoso 1", "blue", "C-7")

"""What PostgreSQL refuses costs itself only, and lands in the rejects whole."""

import hashlib

import asyncpg
import pytest

from service import errors, model
from service.store import alerts, pool, rejects, streams
from tests.store import rows

REFUSED = {
    "not json": rows.alert("bad:1", raw="{"),
    "nul in a text": rows.alert("bad:1", title="a\0b"),
    "nul in the key": rows.alert("bad\0:1"),
    "nul escape in raw": rows.alert("bad:1", raw='{"a": "\\u0000"}'),
    "surrogate escape in raw": rows.alert("bad:1", raw='{"a": "\\ud800"}'),
    "surrogate in a text": rows.alert("bad:1", title="a\ud800b"),
    "surrogate in the key": rows.alert("bad\ud800:1"),
    "number too long": rows.alert("bad:1", raw='{"a": 1e200000}'),
    "hash too large": rows.alert("bad:1", content_hash=2**80),
    "key too long for an index": rows.alert(
        "bad:1", alert_id="".join(hashlib.sha512(b"%d" % n).hexdigest() for n in range(99))
    ),
    "deep": rows.alert("bad:1", raw="[" * 20_000 + "]" * 20_000),
}


@pytest.fixture(params=[0, alerts.LEAST_COPIED], ids=["copied", "inserted"], autouse=True)
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways into the table: COPY, and the INSERT of a few."""
    monkeypatch.setattr(alerts, "LEAST_COPIED", request.param)


@pytest.mark.parametrize("bad", REFUSED.values(), ids=list(REFUSED))
async def test_one_bad_record_costs_itself_only(owner: rows.Owner, pool: asyncpg.Pool, bad: model.Alert):
    """Everything else of the answer is stored, the record is a reject with its bytes and a reason, and all is counted."""
    good = [rows.alert(f"good{n}:1") for n in range(5)]
    counts = await owner.store(*good[:3], bad, *good[3:], folded=rows.interval(0, 1), watermark=rows.hour(1))
    assert counts == model.Counts(items=6, inserted=5, rejected=1)
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert") == 5
    row = await pool.fetchrow("SELECT reason, raw, seen_count FROM alertwell.reject")
    assert row["raw"] == bad.raw
    assert row["reason"].startswith("PostgreSQL cannot hold it: ")
    assert await pool.fetchval("SELECT watermark FROM alertwell.stream") == rows.hour(1)
    assert await pool.fetchval("SELECT count(*) FROM alertwell.alert_change") == 5
    assert (await owner.store(bad)).rejected == 1
    assert await pool.fetchval("SELECT seen_count FROM alertwell.reject") == 2


async def test_several_bad_records_and_a_bad_update(owner: rows.Owner, pool: asyncpg.Pool):
    """Bad ones among the new and among the newer are all found, wherever they stand."""
    many = [rows.alert(f"a{n}:1") for n in range(40)]
    bad = {0, 13, 14, 39}
    await owner.store(*(one for n, one in enumerate(many) if n % 2))
    found = [
        rows.alert(f"a{n}:1", rows.hour(1), raw="{" if n in bad else '{"x": 1}', content_hash=n)
        for n in range(40)
    ]
    counts = await owner.store(*found)
    assert counts == model.Counts(items=40, inserted=18, updated=18, rejected=4)
    # one text, three reasons at most: what PostgreSQL says of '{' is one
    assert await pool.fetchval("SELECT count(*) FROM alertwell.reject") == 1


async def test_nul_and_surrogates_are_kept_exactly(owner: rows.Owner, pool: asyncpg.Pool):
    """raw_exact has the bytes that jsonb cannot hold; soc.alerts shows both."""
    exact = b'{"Text": "a\\u0000b\\ud800"}'
    await owner.store(rows.alert("a:1", raw='{"Text": "a\ufffdb\ufffd"}', raw_exact=exact))
    row = await pool.fetchrow("SELECT raw ->> 'Text' AS shown, raw_exact FROM soc.alerts")
    assert tuple(row) == ("a\ufffdb\ufffd", exact)


async def test_an_exact_record_is_rejected_with_its_bytes(owner: rows.Owner, pool: asyncpg.Pool):
    """A refused record that has exact bytes is kept in them."""
    await owner.store(rows.alert("a:1", title="\0", raw_exact=b'"\\u0000"'))
    assert await pool.fetchval("SELECT raw FROM alertwell.reject") == b'"\\u0000"'


async def test_an_error_that_is_no_record_s_is_not_halved(
    owner: rows.Owner, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
):
    """A lost connection in the careful pass ends it: nothing is stored, and no record is blamed."""
    real, calls = alerts.insert, []

    async def dies(connection, *arguments):
        calls.append(len(arguments[2]))
        if len(calls) == 3:
            await pool.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
        return await real(connection, *arguments)

    monkeypatch.setattr(alerts, "insert", dies)
    with pytest.raises(errors.DatabaseUnavailable):
        await owner.store(rows.alert("a:1"), rows.alert("b:1", raw="{"))
    assert not any((await rows.counts(pool)).values())


async def test_rejects_count_up(owner: rows.Owner, pool: asyncpg.Pool):
    """The same bytes for the same reason are one row that counts; another reason or tenant is another row."""
    one, other = model.Reject("not JSON", b"{"), model.Reject("not an object: array", b"{")
    await owner.store(rejects=[one, other, one])
    await owner.store(rejects=[one])
    found = await pool.fetch(
        "SELECT reason, seen_count, last_seen_at > received_at FROM alertwell.reject ORDER BY id"
    )
    assert found == [("not JSON", 3, True), ("not an object: array", 1, False)]


async def test_a_sample_a_reason(owner: rows.Owner, pool: asyncpg.Pool):
    """Of bodies that differ each time one is kept for each reason, with failed polls that say why."""
    for body in (b"<html>1", b"<html>2", b""):
        await streams.record_failure(
            owner.database,
            owner.lease,
            "siem",
            owner.poll,
            state="degraded",
            reason="not JSON",
            failures=1,
            sample=body,
        )
    assert await pool.fetch("SELECT raw, seen_count FROM alertwell.reject") == [(b"<html>1", 2)]
    row = await pool.fetchrow("SELECT outcome, error, windows, items FROM alertwell.poll")
    assert tuple(row) == ("failed", "not JSON", 3, 0)


@pytest.mark.parametrize("reason", ["a\0b", "a\ud800b", "x" * 100_000])
async def test_a_hostile_reason_costs_nothing(owner: rows.Owner, pool: asyncpg.Pool, reason: str):
    """Reasons that a text column cannot hold, or not well, are stored in all their places."""
    await owner.store(rows.alert("a:1"), rejects=[model.Reject(reason, b"{")])
    await streams.record_failure(
        owner.database,
        owner.lease,
        "siem",
        owner.poll,
        state="degraded",
        reason=reason,
        failures=1,
        sample=b"<",
    )
    await streams.note_gap(
        owner.database,
        owner.lease,
        "siem",
        owner.poll,
        span=(rows.hour(0), rows.hour(1)),
        reason=reason,
        sample=b"",
    )
    shown = await pool.fetch(
        """
        SELECT reason FROM soc.rejects UNION ALL SELECT state_reason FROM soc.coverage
        UNION ALL SELECT error FROM alertwell.poll UNION ALL SELECT reason FROM alertwell.gap_reason
        """
    )
    assert [row[0] for row in shown] == [rejects.holdable(reason)] * 5
    assert len(shown[0][0]) <= 2000


async def test_errors_of_ours_are_not_translated(database: pool.Database):
    """A mistake in SQL stays what it is."""
    with pytest.raises(asyncpg.UndefinedTableError):
        async with database.connection() as connection:
            await connection.execute("SELECT FROM alertwell.nothing")

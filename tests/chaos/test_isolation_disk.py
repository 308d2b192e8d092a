"""What a source that answers bad records for ever may write to the disk."""

from __future__ import annotations

import json

import pytest

from service import model
from service.store import rejects
from tests.ingest import stages
from tests.ingest.stages import CONTOSO


async def test_a_flood_of_rejects_fills_a_day_and_no_more(bench, monkeypatch):
    """Each poll brings other bad records: so many are kept of a day, the others counted, those known before go on counting."""
    monkeypatch.setattr(rejects, "MOST_RECORDS", 10)
    mine = await bench.take()

    def brings(numbers):
        for number in numbers:
            raw = json.dumps({"no": "id", "number": number}).encode()
            bench.shown.add_record(CONTOSO, raw, at=bench.ago(5), full_id=None)

    brings(range(8))
    await bench.poll(mine).live()
    brings(range(8, 20))
    await bench.poll(mine).live()
    found = await bench.books.rejects()
    assert len(found) == 11
    assert [row["seen_count"] for row in found] == [2] * 8 + [1] * 2 + [10]
    assert "beyond what is kept of one day" in found[-1]["reason"]
    polls = await bench.books.polls()
    assert sum(row["rejected"] for row in polls) == 28
    await bench.books.rows.execute("UPDATE alertwell.stream_progress SET rejects_day = current_date - 1")
    await bench.poll(mine).live()
    found = await bench.books.rejects()
    assert len(found) == 11 + 10 - 0
    assert sum(row["seen_count"] for row in found) == 28 + 20


@pytest.mark.parametrize(("sizes", "kept"), [((900, 50, 200, 40), 3), ((5000, 10), 1)])
async def test_bytes_of_a_day(bench, monkeypatch, sizes, kept):
    """A day's bytes are bounded as its records are; the first one is kept whatever its size."""
    monkeypatch.setattr(rejects, "MOST_BYTES", 1000)
    mine = await bench.take()
    found = [model.Reject("wrong", bytes([65 + place]) * size) for place, size in enumerate(sizes)]
    async with bench.database.transaction() as connection:
        await rejects.keep(connection, mine.lease.tenant_id, "siem", found)
    rows = await bench.books.rejects()
    assert len(rows) == kept + 1
    assert rows[-1]["seen_count"] == len(sizes) - kept


async def test_samples_of_bodies_count_too(bench, monkeypatch):
    """Bodies whose reason differs each time are rejects of the day like others."""
    monkeypatch.setattr(rejects, "MOST_RECORDS", 3)
    mine = await bench.take()
    for number in range(6):
        async with bench.database.transaction() as connection:
            await rejects.keep_sample(
                connection, mine.lease.tenant_id, "siem", f"cut off after {number} bytes", b"x" * stages.MIB
            )
    rows = await bench.books.rejects()
    assert [row["seen_count"] for row in rows] == [1, 1, 1, 3]
    assert len(rows[-1]["raw"]) <= 64 * 1024

"""Poison: whatever an API sends, or breaks over, costs itself and nothing else, and is kept."""

from __future__ import annotations

import dataclasses
import json
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service import errors
from service.sources import registry
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, moment

MS = timedelta(milliseconds=1)
MIB = 1024 * 1024
KEYS = {
    "siem": ("FullId", "LastProcessedTimeUtc"),
    "mde_alerts": ("id", "lastUpdateTime"),
    "xdr_incidents": ("incidentId", "lastUpdateTime"),
    "graph_alerts": ("id", "lastUpdateDateTime"),
    "graph_incidents": ("id", "lastUpdateDateTime"),
}
every_source = pytest.mark.parametrize("source", sorted(KEYS))
quickly = settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

# what no documented field holds: as JSON, for Python has no word for some of it
VALUES = {
    "null": b"null",
    "true": b"true",
    "a number": b"17",
    "a huge number": b"9" * 5000,
    "a number out of range": b"1e400000",
    "a small exponent": b"1e-20000",
    "an array": b'[[], {"a": 1}, "x"]',
    "an object": b'{"a": {"b": [1, null]}}',
    "NUL": b'"a\\u0000b"',
    "a lone surrogate": b'"a\\ud800b"',
    "a date that is none": b'"2026-13-45T99:99:99Z"',
    "year 1": b'"0001-01-01T00:00:00Z"',
    "year 9999": b'"9999-12-31T23:59:59.9999999Z"',
    "no text": b'""',
    "513 bytes": b'"' + b"k" * 513 + b'"',
    "nesting": b"[" * 300 + b"]" * 300,
}
# what is no record at all
STRAYS = (b"null", b"17", b'"text"', b"[]", b"[" * 5000 + b"]" * 5000, b"{}", b'{"a": 1, "a": 2}')


def file(bench, source, at):
    """One sound alert of the source."""
    if source == "siem":
        stages.file(
            bench.shown, CONTOSO, f"sound {at}", at, Severity="High", AlertTime="2026-01-01T00:00:00Z"
        )
    else:
        bench.file_desk().add_alert(at=at)


def cut(source, body):
    """The records of an answer, and a way to put others in their place."""
    content = json.loads(body)
    if source == "siem":
        return content, lambda pieces: b"[" + b",".join(pieces) + b"]"
    head = json.dumps({**content, "value": []}).encode()
    return content["value"], lambda pieces: head.replace(
        b'"value": []', b'"value": [' + b",".join(pieces) + b"]"
    )


def spelled(record, **raw):
    """The record as JSON, with members whose values are given as bytes."""
    rest = {key: value for key, value in record.items() if key not in raw}
    members = [
        json.dumps(rest).encode()[1:-1],
        *(b'"%s": %s' % (key.encode(), value) for key, value in raw.items()),
    ]
    return b"{" + b", ".join(each for each in members if each) + b"}"


def hostile(source, sound):
    """Records, each of them with a key of its own if its key is not what is wrong with it."""
    key, _ = KEYS[source]
    made = []
    for name in sound:
        for number, value in enumerate(VALUES.values()):
            own = {key: b'"%d %s"' % (number, name.encode())} if name != key else {}
            made.append(spelled(sound, **own, **{name: value}))
    tenant = b'"22222222-2222-2222-2222-222222222222"'
    foreign = {"siem": "TenantId"}.get(source, "tenantId")
    made.append(spelled(sound, **{key: b'"foreign"', foreign: tenant}))
    made.append(spelled(sound, **{key: b'"large"', "extra": b'"' + b"x" * (10 * MIB) + b'"'}))
    made.append(b'{"' + key.encode() + b'": "first", ' + spelled(sound, **{key: b'"second"'})[1:])
    return [*made, *STRAYS]


@every_source
async def test_hostile_records_cost_themselves(staged, source):
    """Each member with each odd value, other tenants' records, 10 MiB of text, doubled names and strays, among sound records."""
    async with staged(max_body=64 * MIB) as bench:
        for second in (30, 20, 10):
            file(bench, source, bench.ago(second))

        async def among(answer):
            listener.after = None  # once is enough: what is split is asked for again
            records, put = cut(source, answer.body)
            sound = [json.dumps(each).encode() for each in records]
            bad = hostile(source, records[0]) if records else []
            return dataclasses.replace(answer, body=put([*bad, *sound]))

        mine = await bench.take(source=source)
        listener = bench.listen(after=among)
        taken = await bench.turn(mine)
        counts = taken._poll.tally.counts
        assert counts.items > len(VALUES) * 5
        assert counts.items == (
            counts.inserted
            + counts.updated
            + counts.unchanged
            + counts.stale
            + counts.duplicate
            + counts.rejected
        )
        assert counts.inserted > 3
        assert counts.rejected > len(STRAYS) - 3
        held = await bench.books.alerts()
        truth = (
            bench.shown.truth(CONTOSO)
            if source == "siem"
            else bench.shown.truth_alerts(
                CONTOSO, {"mde_alerts": "mde", "xdr_incidents": "xdr"}.get(source, "graph")
            )
        )
        assert len(truth) == 3
        assert {json.loads(raw).get("id") or key for key, raw in truth.items()} <= held.keys() or (
            source == "xdr_incidents" and len(held) >= 3
        )
        assert "another tenant" in " ".join(row["reason"] for row in await bench.books.rejects())
        assert mine.stream.state in ("ok", "degraded")
        assert not bugs(bench)
        # and the stream goes on
        bench.desk = dataclasses.replace(bench.desk, sender=bench.desk.sender.sender)
        bench.advance(60)
        file(bench, source, bench.ago(5))
        before = await bench.books.count()
        await bench.turn(mine)
        assert await bench.books.count() == before + 1
        assert mine.stream.state == "ok"


def bugs(bench):
    """Polls that ended in an exception that nobody expected."""
    return [name for name in stages.series(bench.desk.metrics) if "outcome=bug" in name]


odd_text = st.text(st.characters(codec=None), max_size=20) | st.sampled_from(
    ["\0", "\ud800", "x" * 600, "2026-02-30T00:00:00Z", "0001-01-01T00:00:00Z", "\U0010ffff"]
)
odd = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | odd_text
    | st.sampled_from([10**400, -(10**4000), 1e308]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=6,
)


@every_source
@quickly
@given(changes=st.lists(st.tuples(st.integers(0, 60), odd), min_size=8, max_size=30))
async def test_any_records_are_stored_or_kept(staged, books, source, changes):
    """Records with members changed at random, among sound ones: a poll never ends in a bug, and what it read adds up."""
    await books.rows.execute(
        "DELETE FROM alertwell.stream; DELETE FROM alertwell.lease; DELETE FROM alertwell.alert"
    )
    async with staged() as bench:
        for second in (30, 20, 10):
            file(bench, source, bench.ago(second))

        async def mutated(answer):
            records, put = cut(source, answer.body)
            pieces = [json.dumps(each).encode() for each in records]
            for place, (member, value) in enumerate(changes):
                record = records[place % len(records)] if records else {}
                names = sorted(record) or ["id"]
                pieces.append(json.dumps({**record, names[member % len(names)]: value}).encode())
            return dataclasses.replace(answer, body=put(pieces))

        mine = await bench.take(source=source)
        bench.listen(after=mutated)
        taken = await bench.turn(mine)
        counts = taken._poll.tally.counts
        assert counts.items == (
            counts.inserted
            + counts.updated
            + counts.unchanged
            + counts.stale
            + counts.duplicate
            + counts.rejected
        )
        assert counts.items > len(changes)
        assert not bugs(bench)


@every_source
async def test_an_instant_that_breaks_the_api(staged, source):
    """Any window that holds it is answered with 500: it is found by halving, stays a gap of milliseconds; the rest is held."""
    async with staged() as bench:
        for minute in range(1, 50):
            file(bench, source, bench.ago(60 * minute))
        bad = moment(bench.ago(1730))

        async def instead(since, until):
            if since <= bad <= until:
                raise errors.Transient("the API has a fault (500)", status=500)

        bench.listen(instead=instead)
        mine = await bench.take(source=source)
        for failures in (1, 2, 3):
            await bench.turn(mine)
            assert (mine.stream.state, mine.stream.failures) == ("degraded", failures)
        await bench.turn(mine)
        assert await bench.books.count() == 49
        (gap,) = await bench.books.gaps()
        assert gap["gap_from"] <= bad < gap["gap_to"]
        assert gap["gap_to"] - gap["gap_from"] <= 16 * MS
        assert mine.stream.state == "ok"
        assert registry.get(source).name == source

"""An OData answer cut into its records, whatever else is in it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service import errors
from service.sources import bodies


def texts(envelope):
    return [bytes(record) for record in envelope.pieces.records]


@pytest.mark.parametrize(
    ("body", "records", "link"),
    [
        (b'{"value":[]}', [], None),
        (b' {"value" : [ {"a" : 1} , 5 ] } \n', [b'{"a" : 1}', b"5"], None),
        (b'\xef\xbb\xbf{"value":[{}]}', [b"{}"], None),
        (b'{"@odata.count":1,"value":[{}],"@odata.nextLink":"https://x/"}', [b"{}"], "https://x/"),
        (b'{"@odata.nextLink":null,"value":[]}', [], None),
        (b'{"@odata.nextLink":"","value":[]}', [], ""),
        (b'{"@odata.nextLink":["x"],"value":[]}', [], ""),
        (b'{"value":5,"value":[{}]}', [b"{}"], None),
        (b'{"x":{"value":[1]},"y":"\\"value\\":[2]","value":[{}]}', [b"{}"], None),
    ],
)
@pytest.mark.parametrize("altered", [False, True])
def test_records_and_link(body, records, link, altered):
    """The array and the link are found wherever they stand, in the quick way and where escapes have to be replaced."""
    if altered:
        start = body.index(b"{") + 1
        body = body[:start] + rb'"note":"\u0000 \ud800",' + body[start:]
    found = bodies.envelope(body)
    assert (texts(found), found.next_link) == (records, link)


def test_exact_bytes_of_what_was_altered():
    """Only the records that jsonb could not hold have exact bytes, whatever comes before the array."""
    body = rb'{"note": "\u0000", "value": [{"a":1}, {"a":"\ud800"}, {"a":"\\u0000"}], "@odata.nextLink": "https://x/\u0000"}'
    found = bodies.envelope(body)
    assert found.pieces.exact == {1: rb'{"a":"\ud800"}'}
    assert texts(found) == [b'{"a":1}', rb'{"a":"\ufffd"}', rb'{"a":"\\u0000"}']
    assert found.next_link == "https://x/\ufffd"


def test_a_malformed_record_costs_itself():
    """The records around it are read, and the link is still there."""
    found = bodies.envelope(b'{"value":[{"a":1},{"b":nothing},{"c":3}],"@odata.nextLink":"https://x/"}')
    assert texts(found) == [b'{"a":1}', b'{"b":nothing}', b'{"c":3}']
    assert found.next_link == "https://x/"


@pytest.mark.parametrize(
    ("body", "looked_like"),
    [
        (b"", "is empty"),
        (b"<html></html>", "looks like HTML, not a JSON object"),
        (b"[]", "looks like a JSON array, not an object"),
        (b'"x"', "is JSON, but not an object"),
        (b"oops", "is not JSON"),
        (b"{}", "without an array 'value'"),
        (b'{"value":null}', "without an array 'value'"),
        (b'{"error":{"code":"x"}}', "without an array 'value'"),
        (b'{"value":[{"a":1}', "is a JSON object cut off after 17 bytes"),
        (b'{"value":[{"a', "is a JSON object cut off"),
        (b'{"value":[]}}', "has more text after its object"),
        (b'{"value":[]]', "has more text after its object"),
        (b'{"value":[],"x":oops}', "is a malformed JSON object"),
        (b'{"value":[],x:1}', "is a malformed JSON object"),
        (b'{"value":[oops]}', "is a malformed JSON array"),
    ],
)
def test_what_is_no_envelope(body, looked_like):
    """The message says what it looked like, and repeats nothing of it."""
    with pytest.raises(errors.BadBody, match=looked_like) as refused:
        bodies.envelope(body)
    assert refused.value.sample == body


texts_without_escapes = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\\\0"), max_size=8
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts_without_escapes,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts_without_escapes, inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(texts_without_escapes.filter(lambda name: name != "value"), json_values, max_size=4),
    st.lists(st.dictionaries(texts_without_escapes, json_values, min_size=1, max_size=4), max_size=4),
    st.booleans(),
)
def test_both_ways_agree(others, records, spaced):
    """Any envelope that Python can write is cut the same in the quick way and by quotes and brackets."""
    separators = (" , ", " : ") if spaced else (",", ":")
    value = {**others, "value": records}
    body = json.dumps(value, separators=separators, ensure_ascii=spaced).encode()
    spans = bodies.members(body, body)
    assert {name: json.loads(body[start:end]) for name, (start, end) in spans.items()} == value
    assert [json.loads(record) for record in texts(bodies.envelope(body))] == records
    slow = bodies.envelope(body[:-1] + rb', "note": "\u0000"}')
    assert [json.loads(record) for record in texts(slow)] == records

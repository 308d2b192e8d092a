"""An answer's body cut into its records, so that one that is not even JSON does not cost the others.

The usual way is one pass of msgspec over the whole array, without copies. It fails at lone surrogates, at
nesting beyond the interpreter's stack, and where one record is malformed. Surrogates are replaced; for the
rest the array is cut by its quotes and brackets alone, and each record is judged by itself.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from service import errors

SAMPLE_BYTES: Final = 64 * 1024

_BOM: Final = b"\xef\xbb\xbf"
_NUL: Final = b"\\u0000"
_BLANKS: Final = b" \t\r\n"
_array: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode

# Every escape is taken whole, so that \\u0000 stays what it is, an escaped backslash and five characters; a
# pair of surrogates stays too. Group 1 is what jsonb refuses: six bytes, like U+FFFD, so no offset moves.
_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"
    rb"|(u0000|u[dD][89a-fA-F][0-9a-fA-F]{2})|.)",
    re.DOTALL,
)
_REPLACEMENT: Final = b"\\ufffd"

# Up to the next bracket or comma outside of strings; no group where a string or the text ends before. It
# matches wherever it starts and never goes back, so that no body takes more than linear time.
_STEP: Final = re.compile(
    rb'(?:[^"\[\]{},]++|"(?:[^"\\]++|\\.)*+")*+(?:([\[{]++)|([\]}]++)|(,)|"|\Z)', re.DOTALL
)
_MOST_STEPS: Final = 2_000_000
_GAP: Final = re.compile(rb"[ \t\r\n,]*+")
_BORDER: Final = re.compile(rb"\}[ \t\r\n]*+,[ \t\r\n]*+\{|,[ \t\r\n]*+\{[ \t\r\n]*+\"")

# Memory: an array of millions of tiny values is no answer of these APIs.
_LARGE_BODY: Final = 4 * 1024 * 1024
_LEAST_COMMA_BYTES: Final = 8
_LEAST_RECORD_BYTES: Final = 64
_MANY_RECORDS: Final = 1000


@dataclass(frozen=True, slots=True)
class Pieces:
    """An array's records as jsonb can hold them, and by place the exact bytes of those altered for it."""

    records: list[msgspec.Raw]
    exact: Mapping[int, bytes]


def split(body: bytes) -> Pieces:
    """The records of a bare JSON array. Raises errors.BadBody where the body is anything else or cut off."""
    whole = body.removeprefix(_BOM)
    if len(whole) > _LARGE_BODY and whole.count(b",") * _LEAST_COMMA_BYTES > len(whole):
        raise _bad(body, "is an array of tiny values, not of alerts")
    if _NUL not in whole:
        try:
            records = _array(whole)
        except (msgspec.DecodeError, RecursionError):
            pass  # found out below
        else:
            _check_size(body, records)
            return Pieces(records, {})
    return _altered(body, whole)


def _altered(body: bytes, whole: bytes) -> Pieces:
    clean = _ESCAPE.sub(lambda found: _REPLACEMENT if found[1] else found[0], whole)
    try:
        records = _array(clean)
        spans = _spans(records, clean)
    except (msgspec.DecodeError, RecursionError):
        spans = _cut(body, clean)
        records = [msgspec.Raw(clean[start:end]) for start, end in spans]
    _check_size(body, records)
    exact = {
        place: whole[start:end]
        for place, (start, end) in enumerate(spans)
        if whole[start:end] != clean[start:end]
    }
    return Pieces(records, exact)


def _spans(records: list[msgspec.Raw], clean: bytes) -> list[tuple[int, int]]:
    """Where each record lies: between two there is nothing but blanks and a comma."""
    spans = []
    end = clean.index(b"[") + 1
    for record in records:
        start = _skip_gap(clean, end)
        end = start + len(memoryview(record))
        spans.append((start, end))
    return spans


def _skip_gap(clean: bytes, place: int) -> int:
    gap = _GAP.match(clean, place)
    return gap.end() if gap else place


def _cut(body: bytes, clean: bytes) -> list[tuple[int, int]]:
    """The records by quotes and brackets alone. Raises errors.BadBody where even these do not match."""
    opening = len(clean) - len(clean.lstrip(_BLANKS))
    if clean[opening : opening + 1] != b"[":
        raise _bad(body, _looks_like(clean))
    spans = []
    start = opening + 1
    depth = 0
    for step in itertools.islice(_STEP.finditer(clean, start), _MOST_STEPS):
        if step[1]:
            depth += len(step[1])
        elif step[3] and not depth:
            spans.append(_record(body, clean, start, step.start(3)))
            start = step.end()
        elif step[2] and len(step[2]) <= depth:
            depth -= len(step[2])
        elif step[2]:
            end = step.start(2) + depth
            if clean[end : end + 1] != b"]" or clean[end + 1 :].strip(_BLANKS):
                raise _bad(body, "has more text after its array")
            spans.append(_record(body, clean, start, end))
            return spans
        elif not step[3]:
            raise _bad(body, f"is a JSON array cut off after {len(body)} bytes")
    raise _bad(body, "is a malformed JSON array")


def _record(body: bytes, clean: bytes, start: int, end: int) -> tuple[int, int]:
    """Start and end without blanks. Only what has an object's brackets may be malformed inside, and only one object's: a
    quote too many or too few makes one piece of several records, which must not be lost in one reject.
    """
    piece = clean[start:end].lstrip(_BLANKS)
    start = end - len(piece)
    piece = piece.rstrip(_BLANKS)
    if not (piece.startswith(b"{") and piece.endswith(b"}")) or _BORDER.search(piece):
        try:
            msgspec.json.decode(piece, type=msgspec.Raw)
        except RecursionError:
            pass  # well-formed as far as anyone can tell, and rejected for its depth
        except msgspec.DecodeError:
            raise _bad(body, "is a malformed JSON array") from None
    return start, start + len(piece)


def _check_size(body: bytes, records: list[msgspec.Raw]) -> None:
    if len(records) > _MANY_RECORDS and len(body) < len(records) * _LEAST_RECORD_BYTES:
        raise _bad(body, "is an array of tiny values, not of alerts")


def _looks_like(clean: bytes) -> str:
    begin = clean[:SAMPLE_BYTES].lstrip(_BLANKS)
    if not begin:
        return "is empty" if not clean.strip(_BLANKS) else "is not JSON"
    if begin.startswith(b"<"):
        return "looks like HTML, not a JSON array"
    if begin.startswith(b"{"):
        return "looks like a JSON object, not an array"
    try:
        msgspec.json.decode(clean, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return "is not JSON"
    return "is JSON, but not an array"


def _bad(body: bytes, what: str) -> errors.BadBody:
    return errors.BadBody(f"the answer {what}", sample=body[:SAMPLE_BYTES])

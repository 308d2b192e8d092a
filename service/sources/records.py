"""From a record's bytes to what a row can hold: what every source shares, whatever its API.

A record that cannot be stored raises Unstorable, and `gather` keeps it as a reject. What PostgreSQL cannot hold
was tried: jsonb refuses NUL and lone surrogates in text, and numbers of over 131,072 digits before the point
or 16,383 after it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

import msgspec

from service import model, timestamps
from service.sources import bodies, contract

MAX_KEY_BYTES: Final = 512
MAX_DEPTH: Final = 200
AT_ONCE: Final = 100
"""Records a step: some milliseconds."""

_SEVERITY_RANKS: Final = {
    spelling: rank for rank, word in enumerate(model.SEVERITIES) for spelling in (word, word.capitalize())
}
_WHOLE_DIGITS: Final = 131_072
_FRACTION_DIGITS: Final = 16_383
_HEX: Final = frozenset("0123456789abcdef")
_NO_TIME: Final = (1, 9999)
"""Years of .NET's least and greatest time, which stand for none. asyncpg writes these two as -infinity and infinity, and reads
them back without a zone: no other time can be compared with them.
"""
_TENANT_FIELDS: Final = ("TenantId", "tenantId", "aadTenantId", "AadTenantId")


class Unstorable(ValueError):
    """The record cannot become an alert; the message is the reject's reason: stable phrase, ": ", detail."""


def page(
    body: bytes,
    read_one: Callable[[msgspec.Raw], model.Alert],
    *,
    full_counts: frozenset[int] = frozenset(),
) -> contract.Steps:
    """Every record of a bare JSON array as `gather` reads it. Raises errors.BadBody.

    The page is full where the number of its records is one of `full_counts`.
    """
    found = yield from gather(bodies.split(body), read_one)
    return replace(found, full=True) if found.items in full_counts else found


def gather(pieces: bodies.Pieces, read_one: Callable[[msgspec.Raw], model.Alert]) -> contract.Steps:
    """Read every record with `read_one`, which raises Unstorable where it cannot.

    Of records with one key the newest counts, of equally old ones the last; the others are duplicates.
    """
    newest: dict[str, model.Alert] = {}
    rejects: list[model.Reject] = []
    duplicates = 0
    for place, piece in enumerate(pieces.records):
        if place % AT_ONCE == AT_ONCE - 1:
            yield
        exact = pieces.exact.get(place) if pieces.exact else None
        try:
            alert = one(piece, exact, read_one)
        except Unstorable as failure:
            rejects.append(reject(failure, piece, exact))
            continue
        held = newest.get(alert.full_id)
        if held is not None:
            duplicates += 1
        if held is None or age(held) <= age(alert):
            newest[alert.full_id] = alert
    return model.Page(len(pieces.records), tuple(newest.values()), tuple(rejects), duplicates)


def one(
    piece: msgspec.Raw, exact: bytes | None, read_one: Callable[[msgspec.Raw], model.Alert]
) -> model.Alert:
    """The record as an alert, which keeps its exact bytes where they were altered. Raises Unstorable."""
    alert = read_one(piece)
    if exact is None:
        return alert
    return msgspec.structs.replace(alert, content_hash=content_hash(exact), raw_exact=exact)


def age(alert: model.Alert) -> tuple[datetime, int]:
    """What tells versions of one key apart, to the last digit: an answer may have the newest first."""
    return alert.last_processed_at, timestamps.beyond(alert.source_updated_text)


def reject(failure: Unstorable, piece: msgspec.Raw, exact: bytes | None) -> model.Reject:
    """The whole record with the reason."""
    return model.Reject(str(failure), bytes(piece) if exact is None else exact)


def content_hash(raw: msgspec.Raw | bytes) -> int:
    """Signed 64-bit digest of a record's exact bytes: equal bytes need no comparison as jsonb."""
    digest = hashlib.blake2b(raw, digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def fields(piece: msgspec.Raw, tenant_id: UUID) -> dict[str, Any]:
    """The record's fields whatever their types, after every check of the record as a whole.

    Raises Unstorable: not UTF-8, not JSON, not an object, nested too deep, a number out of range, a record of
    another tenant.
    """
    try:
        value = _anything(piece)
    except UnicodeDecodeError as failure:
        raise Unstorable(f"not UTF-8: byte {failure.start} of a text") from None
    except RecursionError:
        raise Unstorable(f"nested too deep: over {MAX_DEPTH} levels") from None
    except msgspec.ValidationError as failure:  # from _number, or an integer of over 4,300 digits
        raise Unstorable(f"number out of range: {failure}") from None
    except msgspec.DecodeError as failure:
        raise Unstorable(f"not JSON: {failure}") from None
    if not isinstance(value, dict):
        raise Unstorable(f"not an object: {_json_type(value)}")
    raw = bytes(piece)
    if raw.count(b"{") + raw.count(b"[") > MAX_DEPTH and _too_deep(value):
        raise Unstorable(f"nested too deep: over {MAX_DEPTH} levels")
    _check_tenant(value, tenant_id)
    return value


def key(value: object, name: str) -> str:
    """The field that identifies a record. Raises Unstorable where it cannot."""
    if value is None:
        raise Unstorable(f"{name} missing")
    if not isinstance(value, str):
        raise Unstorable(f"{name} not text: {_json_type(value)}")
    if not value:
        raise Unstorable(f"{name} empty")
    size = len(value.encode())
    if size > MAX_KEY_BYTES:
        raise Unstorable(f"{name} too long: {size} bytes, {MAX_KEY_BYTES} at most")
    return value


def update_time(value: object, name: str) -> datetime:
    """The source's own update time, UTC, floored to microseconds. Raises Unstorable where there is none."""
    if value is None:
        raise Unstorable(f"{name} missing")
    if not isinstance(value, str):
        raise Unstorable(f"{name} not text: {_json_type(value)}")
    try:
        moment = timestamps.parse(value, zoneless_is_utc=True)
    except ValueError:
        raise Unstorable(f"{name} unreadable: {value[:40]!r}") from None
    if moment.year in _NO_TIME:
        raise Unstorable(f"{name} is no time: {value[:40]!r}")
    return moment


def optional_time(value: str | None) -> datetime | None:
    """A time that a record can do without: None if unreadable, or in a year that means no time."""
    if not value:
        return None
    try:
        moment = timestamps.parse(value, zoneless_is_utc=True)
    except ValueError:
        return None
    return None if moment.year in _NO_TIME else moment


def text(value: object) -> str | None:
    """A text field whatever came: numbers as written in Python, None for anything that is not a text."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return None


def severity_rank(word: str | None) -> int:
    """Place in model.SEVERITIES; 0 for words that it does not have."""
    if not word:
        return 0
    rank = _SEVERITY_RANKS.get(word)
    return _SEVERITY_RANKS.get(word.strip().lower(), 0) if rank is None else rank


def sha256(value: str | None) -> str | None:
    """64 lower-case hexadecimal digits, else None: some records put another digest into the field."""
    if not value or len(value) != 64:
        return None
    digits = value.lower()
    return digits if _HEX.issuperset(digits) else None


def _check_tenant(record: Mapping[str, Any], tenant_id: UUID) -> None:
    for name in _TENANT_FIELDS:
        named = record.get(name)
        if named is None or named == "":
            continue
        try:
            same = named == str(tenant_id) or UUID(named) == tenant_id
        except (ValueError, AttributeError, TypeError):
            same = False
        if not same:
            raise Unstorable(f"names another tenant: {name} is {str(named)[:40]!r}")


def _number(written: str) -> float:
    """A number with a fraction or an exponent; the decoder makes its ValueError a ValidationError."""
    mantissa, _, exponent = written.lower().partition("e")
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    shift = int(exponent or "0") if len(exponent) <= 8 else _WHOLE_DIGITS
    if len(whole) + shift > _WHOLE_DIGITS or len(fraction) - shift > _FRACTION_DIGITS:
        raise ValueError(written[:40])
    return float(written)


def _too_deep(value: object) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
        if not level:
            return False
    return any(isinstance(value, dict | list) for value in level)


def _json_type(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "array"
        case _:
            return "object"


_anything: Final[Callable[[msgspec.Raw], Any]] = msgspec.json.Decoder(float_hook=_number).decode

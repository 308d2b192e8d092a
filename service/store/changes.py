"""What a change says of a record: {field: [old, new]} over the row's columns and over the record's own fields, as SQL."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from service import model

# Not content, whatever the record: the severity is shown as its word, and raw field by field.
_BOOKKEEPING: Final = (
    "content_hash",
    "source_updated_text",
    "severity_rank",
    "raw",
    "raw_exact",
)
_SEVERITIES: Final = "'{" + ",".join(model.SEVERITIES) + "}'::text[]"
# A large nested value is not repeated in the feed: its field is named, with null in its place.
_SHOWN: Final = """CASE WHEN jsonb_typeof({value}) IN ('object', 'array') AND octet_length({value}::text) > 1000
                     THEN 'null' ELSE {value} END"""


def misdated(held: str) -> str:
    """Whether a held update time lies so far ahead of the database's clock that it is a mistake of its source: whatever comes
    after it corrects it, and is not older.
    """
    return f"({held} > now() + '1 day'::interval)"


def between(was: str, now: str, fields: Iterable[str], **named: str) -> str:
    """The expression for what differs between two rows, in these fields of the record, in its severity and in `raw`.

    `was` and `now` are what a column's name is put behind, with a point: an alias, or a row value in brackets. `named` gives a
    column under the name that readers know it by.
    """
    names = {name: name for name in fields if name not in (*_BOOKKEEPING, *named.values())} | named
    pairs = [_pair(f"{was}.{column}", f"{now}.{column}") for column in names.values()]
    before, after = (f"({_SEVERITIES})[{each}.severity_rank + 1]" for each in (was, now))
    pairs.append(_pair(before, after))
    keys = ", ".join(f"'{name}'" for name in (*names, "severity"))
    # no VALUES: their expressions would be prepared anew for each record, which took half of all the time; and no join of
    # the two records' fields, which takes twice as long as looking each one up
    return f"""(SELECT coalesce(jsonb_object_agg(d.key, d.pair), '{{}}')
                FROM (SELECT {_object(was)} AS was, {_object(now)} AS now OFFSET 0) AS r
                CROSS JOIN LATERAL (
                    SELECT v.key, v.pair FROM unnest(ARRAY[{keys}], ARRAY[{", ".join(pairs)}]) AS v (key, pair)
                    WHERE v.pair IS NOT NULL
                    UNION ALL
                    SELECT 'raw.' || w.key,
                           jsonb_build_array({_SHOWN.format(value="(r.was -> w.key)")}, {_SHOWN.format(value="w.value")})
                    FROM jsonb_each(r.now) AS w WHERE r.was -> w.key IS DISTINCT FROM w.value
                    UNION ALL
                    SELECT 'raw.' || o, jsonb_build_array({_SHOWN.format(value="(r.was -> o)")}, NULL)
                    FROM jsonb_object_keys(r.was) AS o WHERE NOT r.now ? o
                ) AS d)"""  # noqa: S608 - made of constants


def _pair(was: str, now: str) -> str:
    shown = ", ".join(_SHOWN.format(value=f"to_jsonb({each})") for each in (was, now))
    return f"CASE WHEN {was} IS DISTINCT FROM {now} THEN jsonb_build_array({shown}) END"


def _object(row: str) -> str:
    # || decompresses a held record once, and not for each field that is looked up in it
    return f"CASE WHEN jsonb_typeof({row}.raw) = 'object' THEN {row}.raw || '{{}}' ELSE '{{}}' END"

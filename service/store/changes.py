"""What a change says of a record: {field: [old, new]} over the row's columns and over the record's own fields, as SQL."""

from __future__ import annotations

from typing import Final

from service import model

# Not content, whatever the record: the severity is shown as its word, and raw field by field.
_BOOKKEEPING: Final = (
    "tenant_id",
    "source",
    "first_seen_at",
    "updated_at",
    "content_hash",
    "revision",
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


def between(was: str, now: str, *without: str, **named: str) -> str:
    """The expression for what differs between two row values: `without` are more columns that are no content, and `named`
    gives a column under the name that readers know it by.
    """
    bookkeeping = "'{" + ",".join((*_BOOKKEEPING, *without, *named.values())) + "}'::text[]"
    return f"""(SELECT coalesce(jsonb_object_agg(coalesce(o.key, w.key),
                                                 jsonb_build_array({_SHOWN.format(value="o.value")},
                                                                   {_SHOWN.format(value="w.value")})), '{{}}')
                FROM {_fields(was, bookkeeping, named)} AS o
                FULL JOIN {_fields(now, bookkeeping, named)} AS w ON w.key = o.key
                WHERE o.value IS DISTINCT FROM w.value)"""  # noqa: S608 - made of constants


def _fields(row: str, bookkeeping: str, named: dict[str, str]) -> str:
    renamed = "".join(
        f" UNION ALL SELECT '{name}', to_jsonb({row}.{column})" for name, column in named.items()
    )
    return f"""(
        SELECT key, value FROM jsonb_each(to_jsonb({row}) - {bookkeeping})
        UNION ALL SELECT 'severity', to_jsonb(({_SEVERITIES})[{row}.severity_rank + 1]){renamed}
        UNION ALL SELECT 'raw.' || key, value FROM jsonb_each({row}.raw) WHERE jsonb_typeof({row}.raw) = 'object'
    )"""  # noqa: S608 - made of constants

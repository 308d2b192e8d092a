"""What commands write: tables for people, JSON, CSV and TSV for programs. Whatever comes from a database or a file is hostile."""

from __future__ import annotations

import csv
import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import typer

from service import timestamps

# What moves a terminal's cursor, colours or direction of writing: C0, C1, and Unicode's bidirectional controls.
_UNPRINTABLE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_TSV_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_WIDE: Final = 10_000  # off a terminal nothing is cut or wrapped
_WORD: Final = 40  # longest word that is not broken; a GUID has 36
_FOLDED: Final = 24  # least width of a column whose cells are broken


def say(text: str = "") -> None:
    """One line for people, on stdout."""
    typer.echo(text)


def warn(text: str) -> None:
    """One line on stderr, so that what is read from stdout stays clean; several lines become several warnings."""
    for line in text.splitlines() or [""]:
        # Not by click, which goes past a progress bar that stands on the same terminal.
        sys.stderr.write(f"alertwell: {printable(line)}\n")
    sys.stderr.flush()


def printable(text: str) -> str:
    """The text with control characters spelled out, so that no alert can write to a terminal what it likes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def on_terminal() -> bool:
    """Whether a person looks at stdout."""
    return sys.stdout.isatty()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, indent: int = 0) -> None:
    """Aligned columns; on a terminal within its width, elsewhere one line a row whatever its length.

    A column of single words (ids, times, states) is never broken, so that they can be read and copied. Where that does not fit
    the terminal, a row is one line there too, and the terminal wraps it.
    """
    from rich import box
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    texts = [[printable(cell(value)) for value in row] for row in rows]
    whole = [all(map(_is_word, column)) for column in zip(*texts, strict=True)] or [True] * len(columns)
    console = Console(file=sys.stdout, highlight=False)
    fitted = on_terminal() and indent + _least(columns, texts, whole) <= console.width
    if not fitted:
        console.width = _WIDE
    drawn = Table(box=box.SIMPLE_HEAD) if fitted else Table(box=None, header_style="none")
    drawn.pad_edge = False
    for column, unbroken in zip(columns, whole, strict=True):
        drawn.add_column(Text(column), overflow="fold", no_wrap=unbroken or not fitted)
    for row in texts:
        drawn.add_row(*map(Text, row))
    if fitted:
        console.print(Padding(drawn, (0, 0, 0, indent)))
        return
    # Rich fills the last column with blanks up to its widest cell.
    with console.capture() as captured:
        console.print(drawn)
    for line in captured.get().splitlines():
        say(" " * indent + line.rstrip())


def _is_word(text: str) -> bool:
    return len(text) <= _WORD and " " not in text


def _least(columns: Sequence[str], texts: Sequence[Sequence[str]], whole: Sequence[bool]) -> int:
    """The width that a table needs: all of the columns that are not broken, some of each other one, and what is between."""
    from rich.cells import cell_len

    widest = [max(map(cell_len, column)) for column in zip(columns, *texts, strict=True)]
    needed = (
        width if unbroken else min(width, _FOLDED) for width, unbroken in zip(widest, whole, strict=True)
    )
    return sum(needed) + 3 * len(columns)


def document(value: Any) -> None:
    """JSON for programs. ASCII alone, so that it survives any terminal and any pipe."""
    typer.echo(json.dumps(value, default=_jsonable, indent=2))


def delimited(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, tabs: bool) -> None:
    """CSV (RFC 4180, but line ends as here), or TSV with tabs, line ends and backslashes escaped. NULL is empty in both."""
    if tabs:
        for row in (columns, *rows):
            typer.echo("\t".join(cell(value).translate(_TSV_ESCAPES) for value in row))
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([cell(value) for value in row] for row in rows)


def cell(value: Any) -> str:
    """A value as text: NULL is empty, times are ISO 8601, what is nested is JSON."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, datetime):
        return moment(value)
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, default=_jsonable, ensure_ascii=False)
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    return str(value)


def moment(value: datetime) -> str:
    """`2026-01-31T12:00:00.123456Z`, without a fraction where that is zero."""
    return value.isoformat().replace("+00:00", "Z")


def when(value: datetime | None) -> str | None:
    """A time for people, to the second."""
    return None if value is None else moment(value.replace(microsecond=0))


def age(seconds: float | None) -> str:
    """`2 h 5 min`, or `-` where nothing is known."""
    return "-" if seconds is None else timestamps.human(timedelta(seconds=max(seconds, 0)))


def many(count: int, noun: str) -> str:
    """`1 gap`, `2 gaps`."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def counted(counts: Mapping[str, int]) -> str:
    """`3 active, 1 paused`, or `none`."""
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "none"


def _jsonable(value: Any) -> str:
    return cell(value)

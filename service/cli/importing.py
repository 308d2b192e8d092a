"""A CSV file of tenants: text in, rows and problems out. Secrets' files are named here and read elsewhere.

Every line is looked at before anything is said, so that one run shows all that is wrong.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, TypeVar
from uuid import UUID

from service import errors, model
from service.cli import enrolling

REQUIRED: Final = ("tenant_id", "name")
PROOFS: Final = ("secret_file", "certificate_file", "federated")
OPTIONAL: Final = (
    "sources", "client_id", *PROOFS, "certificate_password_file", "secret_expires_at", "cloud", "region", "external_ref",
    "labels",
)  # fmt: skip
COLUMNS: Final = REQUIRED + OPTIONAL
LARGEST: Final = 64 * 1024 * 1024
"""Bytes; a hundred thousand tenants are a tenth of it."""

MOST_PROBLEMS: Final = 50

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: the line as editors count them (0: the whole file), the column where one is to blame."""

    line: int
    column: str | None
    what: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "the file"
        return f"{place}{f', {self.column}' if self.column else ''}: {self.what}"


@dataclass(frozen=True, slots=True)
class Row:
    """One good line. With an `app_id` comes one of `secret_file`, `certificate_file` and `federated`; files are as written."""

    line: int
    tenant: model.Tenant
    sources: tuple[str, ...]
    app_id: str | None = None
    secret_file: str | None = None
    secret_expires_at: datetime | None = None
    certificate_file: str | None = None
    password_file: str | None = None
    federated: bool = False


@dataclass(frozen=True, slots=True)
class Sheet:
    """What a file holds; rows are to be used only where there is no problem."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]


def text_in(file: Path) -> str:
    """The text of a file. Raises errors.BadInput that names it."""
    try:
        with file.open("rb") as opened:
            content = opened.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        raise errors.BadInput(
            f"{file}: cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
    try:
        return text_of(content)
    except errors.BadInput as error:
        raise errors.BadInput(f"{file}: {error}") from None


def refuse(file: Path, problems: Sequence[Problem], nothing: str) -> None:
    """Raise errors.BadInput with a line for each problem, and what was not done; nothing where there is none."""
    if not problems:
        return
    shown = [f"{file}: {problem}" for problem in sorted(problems, key=lambda each: each.line)[:MOST_PROBLEMS]]
    if len(problems) > MOST_PROBLEMS:
        shown.append(f"{file}: … and {len(problems) - MOST_PROBLEMS} more")
    shown.append(f"{file}: {nothing}; {len(problems)} to be put right")
    raise errors.BadInput("\n".join(shown))


def text_of(content: bytes) -> str:
    """The file's text: UTF-8, with or without a byte order mark. Raises errors.BadInput that names the first bad line."""
    if len(content) > LARGEST:
        raise errors.BadInput(f"is larger than {LARGEST // 1024 // 1024} MiB: not a list of tenants")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content.startswith((b"\xff\xfe", b"\xfe\xff")):
            raise errors.BadInput("is UTF-16: save it as CSV UTF-8") from None
        bad = len(re.findall(rb"\r\n|\r|\n", content[: error.start])) + 1
        raise errors.BadInput(f"line {bad} is not UTF-8: save the file as CSV UTF-8") from None


def read(text: str, terms: enrolling.Terms) -> Sheet:
    """Rows and problems of a CSV with a header; blank lines are skipped. All rows are `active`: imported means consented."""
    lines, problems = cells(text, REQUIRED, COLUMNS)
    rows: list[Row] = []
    seen: dict[UUID, int] = {}
    for number, of_line in lines:
        row, wrong = _row(number, of_line, terms, seen)
        problems += wrong
        if row is not None:
            rows.append(row)
    return Sheet(tuple(rows), tuple(sorted(problems, key=lambda problem: problem.line)))


def cells(
    text: str, required: Sequence[str], columns: Sequence[str]
) -> tuple[list[tuple[int, dict[str, str]]], list[Problem]]:
    """The lines below the header, each with its number and its cells by column; and what is wrong with the form."""
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    found: list[tuple[int, dict[str, str]]] = []
    problems: list[Problem] = []
    header: list[str] | None = None
    while True:
        number = lines.line_num + 1
        try:
            listed = next(lines, None)
        except csv.Error as error:
            # Where a quote is not closed, what follows is one cell: nothing after it can be judged.
            problems.append(Problem(number, None, f"is not CSV ({error})"))
            break
        if listed is None:
            break
        if not any(item.strip() for item in listed):
            continue
        if header is None:
            header = [item.strip().lower() for item in listed]
            problems += _header_problems(number, header, required, columns)
            if problems:
                break
            continue
        if len(listed) != len(header):
            problems.append(
                Problem(number, None, f"has {len(listed)} cells, the header has {len(header)} columns")
            )
            continue
        found.append((number, dict(zip(header, listed, strict=True))))
    if header is None and not problems:
        problems.append(Problem(0, None, f"is empty; it needs a header with {' '.join(required)}"))
    return found, problems


def _header_problems(
    number: int, header: list[str], required: Sequence[str], columns: Sequence[str]
) -> list[Problem]:
    if len(header) == 1 and re.search(r"[;\t]", header[0]):
        return [Problem(number, None, "columns are to be separated by commas, not by semicolons or tabs")]
    known = " ".join(columns)
    problems = [
        Problem(number, None, f"unknown column {enrolling.shown(column)}; known are: {known}")
        for column in header
        if column not in columns
    ]
    problems += [
        Problem(number, None, f"column {column} is there twice")
        for column in dict.fromkeys(header)
        if column in columns and header.count(column) > 1
    ]
    problems += [
        Problem(number, None, f"column {column} is missing; required are: {' '.join(required)}")
        for column in required
        if column not in header
    ]
    return problems


def _row(
    number: int, cells: Mapping[str, str], terms: enrolling.Terms, seen: dict[UUID, int]
) -> tuple[Row | None, list[Problem]]:
    problems: list[Problem] = []

    def field(column: str, read: Callable[[str], T]) -> T | None:
        try:
            return read(cells.get(column, ""))
        except errors.BadInput as error:
            problems.append(Problem(number, column, str(error).removeprefix(column).lstrip()))
            return None

    tenant_id = field("tenant_id", enrolling.tenant_id)
    if tenant_id is not None and (first := seen.setdefault(tenant_id, number)) != number:
        problems.append(Problem(number, "tenant_id", f"{tenant_id} is on line {first} already"))
    name = field("name", enrolling.name)
    chosen = field("sources", lambda text: enrolling.sources(text.split(), terms))
    cloud = field("cloud", lambda text: enrolling.cloud(text, terms))
    region = None
    if chosen is not None and cloud is not None:
        in_cloud, of_sources = cloud, chosen
        region = field("region", lambda text: enrolling.region(text, in_cloud, of_sources, terms))
    external_ref = field("external_ref", enrolling.line)
    labels = field("labels", lambda text: enrolling.labels(text.split(";")))
    app_id = field("client_id", enrolling.app_id) if cells.get("client_id", "").strip() else None
    files = {
        column: field(column, enrolling.line)
        for column in ("secret_file", "certificate_file", "certificate_password_file")
    }
    federated = field("federated", _yes)
    expires_at = field("secret_expires_at", _end)
    filled = {column for column in COLUMNS if cells.get(column, "").strip()}
    if not federated:
        filled.discard("federated")
    problems += [Problem(number, column, what) for column, what in _misfits(filled)]
    if problems or tenant_id is None or name is None or chosen is None or cloud is None:
        return None, problems
    tenant = model.Tenant(tenant_id, name, cloud, region, labels=labels or {}, external_ref=external_ref)
    row = Row(
        number,
        tenant,
        chosen,
        app_id,
        files["secret_file"],
        expires_at,
        files["certificate_file"],
        files["certificate_password_file"],
        bool(federated),
    )
    return row, problems


def _misfits(filled: set[str]) -> list[tuple[str, str]]:
    """What does not go together in the columns of an app that a tenant has of its own."""
    proofs = [column for column in PROOFS if column in filled]
    found = []
    if "client_id" in filled and not proofs:
        found.append(
            (
                "secret_file",
                "must name the file with the secret of client_id (or certificate_file, or federated)",
            )
        )
    if "client_id" not in filled:
        found += [("client_id", f"must name the app that {column} proves") for column in proofs]
    if len(proofs) > 1:
        found.append((proofs[1], f"and {proofs[0]}: one of them proves the app"))
    if "certificate_password_file" in filled and "certificate_file" not in filled:
        found.append(("certificate_password_file", "needs certificate_file, which it is for"))
    if "secret_expires_at" in filled and "secret_file" not in filled:
        found.append(("secret_expires_at", "needs secret_file: a certificate says itself when it ends"))
    return found


def _yes(text: str) -> bool:
    word = text.strip().lower()
    if word not in ("", "yes", "no"):
        raise errors.BadInput(f"{enrolling.shown(text)} must be yes, or empty")
    return word == "yes"


def _end(text: str) -> datetime | None:
    return enrolling.end(text) if text.strip() else None

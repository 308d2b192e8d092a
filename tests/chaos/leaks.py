"""Whether a secret is anywhere that it must not be: what processes wrote, how they were called, what is served, what is stored.

    canaries = {"client secret": secret, **leaks.of_token("access token 1", token)}
    places = leaks.Places(texts={"replica 1": output}, files=[server_log], processes=[pid], urls=[url], dsn=superuser)
    assert await leaks.hunt(canaries, places) == []

A secret is found as it is, and in the forms that it travels in: percent-encoded, in Base64 of both alphabets and any alignment
(Basic authentication, JSON Web Tokens), as hexadecimal digits (a bytea), escaped (JSON, Python's repr), and cut short to half.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, quote_plus

import aiohttp
import asyncpg

SHORTEST = 12  # of a secret that can be looked for: less is found by chance
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Leak:
    """A secret that was found; `around` is what stands beside it, without it."""

    canary: str
    form: str
    place: str
    around: str


@dataclass(frozen=True, slots=True)
class Places:
    """Where to look. `dsn` is a superuser's, of the database that is swept; processes are ids of ones that still live."""

    texts: Mapping[str, bytes | str] = field(default_factory=dict)
    files: Sequence[Path] = ()
    processes: Sequence[int] = ()
    urls: Sequence[str] = ()
    dsn: str | None = None


async def hunt(canaries: Mapping[str, str | bytes], places: Places) -> list[Leak]:
    """Every secret that is in one of the places, once a place. Raises ValueError for a canary that is too short to be known."""
    net = Net(canaries)
    found = []
    for name, text in places.texts.items():
        found += net.search(
            name, text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        )
    for path in places.files:
        found += net.search(str(path), await asyncio.to_thread(path.read_bytes))
    for process in places.processes:
        called = await asyncio.to_thread(Path(f"/proc/{process}/cmdline").read_bytes)
        found += net.search(f"command line of {process}", called)
    if places.urls:
        async with aiohttp.ClientSession() as session:
            for url in places.urls:
                async with session.get(url) as answer:
                    head = "\n".join(f"{name}: {value}" for name, value in answer.headers.items())
                    found += net.search(url, head.encode() + await answer.read())
    if places.dsn is not None:
        found += await _database(net, places.dsn)
    return list(dict.fromkeys(found))


def of_token(name: str, token: str) -> dict[str, str]:
    """The parts of a JSON Web Token that must not be seen, each by itself: what it says, and its signature."""
    _, said, signature = token.split(".")
    return {f"{name}, claims": said, f"{name}, signature": signature}


def of_pem(name: str, pem: str | bytes) -> dict[str, str]:
    """The lines of a private key, for a text may have broken it otherwise."""
    text = pem.decode() if isinstance(pem, bytes) else pem
    lines = [line for line in text.splitlines() if line and not line.startswith("-") and ":" not in line]
    return {
        f"{name}, line {number}": line for number, line in enumerate(lines, 1) if len(line) >= 2 * SHORTEST
    }


class Net:
    """All forms of all secrets."""

    def __init__(self, canaries: Mapping[str, str | bytes]) -> None:
        self._forms: dict[bytes, tuple[str, str]] = {}
        for name, secret in canaries.items():
            raw = secret.encode() if isinstance(secret, str) else secret
            if len(raw) < SHORTEST:
                raise ValueError(f"{name}: a secret of {len(raw)} bytes is found by chance")
            for form, text in _forms(raw):
                self._forms.setdefault(text, (name, form))
        self.longest = max(map(len, self._forms), default=0)

    def search(self, place: str, text: bytes) -> list[Leak]:
        """What is in this text. One pass a form: a hundred times quicker than one pattern of them all."""
        found = []
        for form, (name, called) in self._forms.items():
            at = text.find(form)
            if at >= 0:
                around = b"%s[HERE]%s" % (text[max(at - 60, 0) : at], text[at + len(form) :][:30])
                found.append(Leak(name, called, place, around.decode("utf-8", "replace")))
        return found


def _forms(raw: bytes) -> Iterable[tuple[str, bytes]]:
    text = raw.decode("utf-8", "surrogateescape")
    half = max(len(raw) // 2, SHORTEST)
    for part in (raw[:half], raw[-half:]):  # the whole has them both
        yield "as it is", part
        yield "hexadecimal", part.hex().encode()
        yield "hexadecimal", part.hex().upper().encode()
    for quoted in (quote(raw, safe=""), quote_plus(raw)):
        yield "percent-encoded", quoted.encode()
        yield "percent-encoded", re.sub("%..", lambda found: found[0].lower(), quoted).encode()
    yield "escaped", json.dumps(text)[1:-1].encode()
    yield "escaped", repr(text)[1:-1].encode("utf-8", "backslashreplace")
    for shift in range(3):
        # what stands in front moves its bits: the ends that depend on the neighbours are cut off
        coded = base64.b64encode(b"\0" * shift + raw)
        inner = coded[4 if shift else 0 :].rstrip(b"=")
        inner = inner[: len(inner) // 4 * 4]
        if len(inner) >= SHORTEST:
            yield "Base64", inner
            yield "Base64 for addresses", inner.replace(b"+", b"-").replace(b"/", b"_")


async def _database(net: Net, dsn: str) -> list[Leak]:
    """Every column of every table (bytea as hexadecimal digits), what sessions run, and what the catalogue has of settings."""
    connection = await asyncpg.connect(dsn)
    try:
        tables = await connection.fetch(
            """
            SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast') ORDER BY 1
            """
        )
        found = []
        catalogue = [
            "pg_stat_activity",
            "pg_db_role_setting",
            "pg_settings",
            "pg_description",
            "pg_proc",
            "pg_authid",
        ]
        if await connection.fetchval("SELECT to_regclass('pg_stat_statements') IS NOT NULL"):
            catalogue.append("pg_stat_statements")
        for table in [*(row[0] for row in tables), *catalogue]:
            found += await _table(net, connection, table)
        return found
    finally:
        await connection.close()


async def _table(net: Net, connection: asyncpg.Connection, table: str) -> list[Leak]:
    found: list[Leak] = []
    held = bytearray()

    async def take(data: bytes) -> None:
        held.extend(data)
        if len(held) > _CHUNK:
            found.extend(net.search(table, bytes(held)))
            del held[: -net.longest or None]

    # One JSON document a row: whatever the column's type, a text is escaped once. Nothing is quoted a second time.
    query = f"SELECT to_jsonb(t)::text FROM {table} t"
    await connection.copy_from_query(query, output=take, format="csv", delimiter="\x02", quote="\x01")
    return [*found, *net.search(table, bytes(held))]

"""The search for secrets finds them: in each form, and in each place."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from pathlib import Path
from urllib.parse import quote

import asyncpg
import pytest

from tests.chaos import leaks

SECRET = 'c4n/ary+of "the"\\first kind there is'


def shown(text: str) -> list[bytes]:
    """The forms in which a secret travels."""
    raw = text.encode()
    return [
        raw,
        quote(text, safe="").encode(),
        json.dumps({"secret": text}).encode(),
        raw.hex().encode(),
        raw.hex().upper().encode(),
        raw[: len(raw) // 2] + b"... (cut)",
        *(base64.b64encode(b"user:"[:cut] + raw) for cut in range(4)),
        base64.urlsafe_b64encode(b"x" + raw),
    ]


def test_each_form_is_found():
    """A secret is known in whatever form it is written, and nothing else is taken for one."""
    net = leaks.Net({"secret": SECRET, "other": "another-canary-here"})
    for text in shown(SECRET):
        [leak, *_] = net.search("here", b"before " + text + b" after")
        assert (leak.canary, leak.place) == ("secret", "here")
    assert net.search("here", b"nothing of c4n, of the first, or of another canary") == []


async def test_each_place_is_searched(database_url: str, admin_url: str, tmp_path: Path):
    """Texts, files, command lines, and each column of the database: text, jsonb, bytea, and what a session runs."""
    log = tmp_path / "server.log"
    log.write_text(f"password={SECRET}")
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE public.kept (a text, b jsonb, c bytea, d text[])")
    places = {}
    for column, value in (
        ("a", SECRET),
        ("b", json.dumps([SECRET])),
        ("c", SECRET.encode()),
        ("d", [SECRET]),
    ):
        await connection.execute(f"TRUNCATE public.kept; INSERT INTO public.kept ({column}) VALUES (NULL)")
        await connection.execute(f"UPDATE public.kept SET {column} = $1", value)
        places[column] = await leaks.hunt({"secret": SECRET}, leaks.Places(dsn=admin_url))
    await connection.execute("DROP TABLE public.kept")
    await connection.fetchval("SELECT 'c4nary in a statement'")
    running = await leaks.hunt({"secret": "c4nary in a statement"}, leaks.Places(dsn=admin_url))
    await connection.close()
    for column, found in places.items():
        assert {leak.place for leak in found} == {"kept"}, column
    assert "pg_stat_activity" in {leak.place for leak in running}
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "echo; read line", SECRET, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout
    await process.stdout.readline()
    elsewhere = await leaks.hunt(
        {"secret": SECRET},
        leaks.Places(texts={"output": f"said {SECRET}"}, files=[log], processes=[process.pid]),
    )
    await process.communicate(b"")
    assert {leak.place for leak in elsewhere} == {"output", str(log), f"command line of {process.pid}"}


async def test_a_secret_that_is_too_short_is_no_canary():
    """What would be found everywhere is refused, rather than searched for in vain."""
    with pytest.raises(ValueError, match="found by chance"):
        await leaks.hunt({"secret": "short"}, leaks.Places())

"""The command as a process: exit codes, streams, terminals, signals; and the commands that need no database."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
import stat
import subprocess
import sys
import termios
import time
from pathlib import Path

import asyncpg
import pytest
from aiohttp import web
from typer.testing import CliRunner

from service import errors, settings
from service.auth import sealing
from service.cli import main, running
from service.store import embedded
from service.store.embedded import running as servers

A = "11111111-1111-1111-1111-111111111111"
DSN = "postgresql://alertwell@127.0.0.1:1/alertwell"
ROOT = Path(__file__).parents[2]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ALERTWELL_")}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def process(*arguments: str, folder: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "service", *arguments],
        cwd=folder, env=environment(**more), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def on_terminal(
    *arguments: str, folder: Path, prompt: str = "", types: str = "", hidden: bool = False, **more: str
) -> tuple[int, str]:
    """Exit code and all that a terminal saw; `types` is typed once `prompt` is there."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "service", *arguments],
        cwd=folder, env=environment(TERM="xterm", COLUMNS="120", **more), stdin=theirs, stdout=theirs, stderr=theirs,
    ) as child:  # fmt: skip
        os.close(theirs)
        seen = b""
        try:
            while read := os.read(ours, 65536):
                seen += read
                if types and prompt.encode() in seen:
                    # What is typed before the echo is off is thrown away with it.
                    while hidden and termios.tcgetattr(ours)[3] & termios.ECHO:
                        time.sleep(0.01)
                    os.write(ours, types.encode())
                    types = ""
        except OSError:
            child.wait(60)  # the other end is closed
        finally:
            child.kill()  # a test that fails here must not wait for a prompt that nobody answers
    os.close(ours)
    return child.returncode, seen.decode()


def invoke(*arguments: str, **env: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main.app, arguments, env=env, prog_name="alertwell")
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """No setting at all, in a folder of its own."""
    for name in [name for name in os.environ if name.startswith("ALERTWELL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(settings, "SECRETS_DIR", tmp_path / "no-secrets")
    monkeypatch.chdir(tmp_path)


def test_run_without_database(tmp_path):
    """`run` with nothing set ends with 2 and one line that names DATABASE_URL, --embedded and what embedded data do."""
    ended = process("run", folder=tmp_path)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1
    for part in ("ALERTWELL_DATABASE_URL", "--embedded", "in a container they die with it"):
        assert part in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, "no credential: set ALERTWELL_CLIENT_ID and ALERTWELL_CLIENT_SECRET_FILE"),
        ({"ALERTWELL_CLIENT_ID": A}, "ALERTWELL_CLIENT_ID is set without a credential"),
        ({"ALERTWELL_CLIENT_SECRET": "x"}, "ALERTWELL_CLIENT_SECRET is set without ALERTWELL_CLIENT_ID"),
        ({"ALERTWELL_CLIENT_ID": "x"}, "ALERTWELL_CLIENT_ID (not shown) must be the application"),
        ({"ALERTWELL_POLL_INTERVAL": "soon"}, "ALERTWELL_POLL_INTERVAL='soon' must be a duration"),
    ],
)
def test_run_without_credential(env, says):
    """Without a usable credential `run` ends with 2 and one line."""
    code, out, said = invoke("run", ALERTWELL_DATABASE_URL=DSN, **env)
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert says in said


def test_what_run_accepts(tmp_path):
    """A shared app will do, and so will sealing keys, for tenants with apps of their own; two databases will not."""
    keys = tmp_path / "keys"
    keys.write_text(sealing.generate_key())
    shared = {"ALERTWELL_CLIENT_ID": A, "ALERTWELL_CLIENT_SECRET": "x"}
    own = {"ALERTWELL_SEALING_KEYS_FILE": str(keys)}
    running.check(settings.load({"ALERTWELL_DATABASE_URL": DSN, **shared}), embedded=False)
    running.check(settings.load({"ALERTWELL_DATABASE_URL": DSN, **own}), embedded=False)
    running.check(settings.load(own), embedded=True)
    with pytest.raises(errors.BadSetting, match="alertwell demo"):
        running.check(settings.load({}), embedded=True)
    with pytest.raises(errors.BadSetting, match="leave one of them out"):
        running.check(settings.load({"ALERTWELL_DATABASE_URL": DSN, **shared}), embedded=True)


@pytest.mark.parametrize(
    "arguments",
    [["tenants", "list"], ["status"], ["sql", "SELECT 1"], ["migrate"], ["tenants", "pause", "x"], ["status", "--max-age", "5m"]],
)  # fmt: skip
def test_no_database_at_all(arguments):
    """Without DATABASE_URL and without a running embedded database, one line says what to set."""
    code, out, said = invoke(*arguments)
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert "ALERTWELL_DATABASE_URL is not set" in said
    assert "ALERTWELL_DATA_DIR='.alertwell'" in said


@pytest.mark.parametrize(
    "arguments",
    [["nonsense"], ["run", "--nonsense"], ["demo", "--tenants", "0"], ["demo", "--tenants", "many"], ["tenants", "add"],
     ["simulate", "--port", "70000"]],
)  # fmt: skip
def test_wrong_usage_is_exit_code_2(arguments):
    """What the command line does not know is refused on stderr."""
    code, out, said = invoke(*arguments)
    assert (code, out) == (2, "")
    assert "Error: " in said


@pytest.mark.parametrize("text", ["soon", "-5s", "0", "1mo"])
def test_bad_duration_of_the_demo(text):
    """`demo --for` takes durations alone."""
    code, _, said = invoke("demo", f"--for={text}")
    assert code == 2
    assert said.startswith("alertwell: --for")


@pytest.mark.parametrize(
    "arguments",
    [[], ["run"], ["demo"], ["migrate"], ["backfill"], ["rewind"], ["status"], ["sql"], ["simulate"],
     ["healthcheck"], ["seal-key"], ["reseal"],
     ["tenants"],
     *(["tenants", command] for command in ("add", "import", "list", "show", "pause", "resume", "remove",
                                               "check", "set-credential", "clear-credential"))],
)  # fmt: skip
def test_every_help_teaches(arguments):
    """Every command explains itself, those that do something with an example; nothing is longer than a wide terminal."""
    code, out, _ = invoke(*arguments, "--help")
    assert code == 0
    assert re.search(r"\balertwell\b", out.split("\n", 1)[1])
    assert max(len(line) for line in out.splitlines()) <= 120
    assert not [
        line for line in out.splitlines() if line.endswith("...") and "Usage" not in line
    ]  # a list of commands cuts long sentences off
    assert "range>" not in out


def test_version_and_help_import_nothing_heavy(tmp_path):
    """`--help` loads neither the driver nor the web server nor tables: it answers at once."""
    script = "import sys; from service.cli import main; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {
        "asyncpg",
        "aiohttp",
        "pydantic",
        "msal",
        "rich",
        "structlog",
        "asyncio",
        "cryptography",
    } & set(loaded)
    assert process("--version", folder=tmp_path).stdout == process("version", folder=tmp_path).stdout
    assert process("--version", folder=tmp_path).stdout.startswith("alertwell ")


def test_seal_key_makes_and_changes_keys(tmp_path):
    """A key on stdout; with --into on top of a file for its owner alone, which opens what older keys sealed."""
    code, out, _ = invoke("seal-key")
    assert code == 0
    sealing.Sealer([out.strip()])
    invoke("seal-key", "--into", "keys")
    assert stat.S_IMODE((tmp_path / "keys").stat().st_mode) == 0o600
    sealed = sealing.Sealer.from_file(tmp_path / "keys").seal("s3cret")
    first = (tmp_path / "keys").read_text()
    invoke("seal-key", "--into", "keys")
    assert (tmp_path / "keys").read_text().endswith(first)
    assert sealing.Sealer.from_file(tmp_path / "keys").unseal(sealed) == "s3cret"
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


@pytest.mark.parametrize(
    ("name", "content"), [("notes", "not a key\n"), ("empty", "\n"), ("missing/keys", None)]
)
def test_seal_key_writes_over_nothing_else(tmp_path, name, content):
    """A file that holds no keys is left as it is."""
    if content is not None:
        (tmp_path / name).write_text(content)
    code, out, said = invoke("seal-key", "--into", name)
    assert (code, out, said.count("\n")) == (2, "", 1)
    assert content is None or (tmp_path / name).read_text() == content


async def test_healthcheck(tmp_path):
    """0 where the service answers 200, 1 where it does not or nobody listens, 2 where its port is not known."""

    async def live(_: web.Request) -> web.Response:
        return web.Response()

    async def ready(_: web.Request) -> web.Response:
        return web.Response(status=503)

    served = web.Application()
    served.router.add_get("/livez", live)
    served.router.add_get("/readyz", ready)
    runner = web.AppRunner(served)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = str(runner.addresses[0][1])

    async def code(*arguments: str) -> int:
        ended = await asyncio.to_thread(
            process,
            "healthcheck",
            *arguments,
            folder=tmp_path,
            ALERTWELL_HTTP_PORT=port,
            ALERTWELL_HTTP_HOST="0.0.0.0",
        )
        return ended.returncode

    assert await code() == 0
    assert await code("--ready") == 1
    await runner.cleanup()
    assert await code() == 1
    assert invoke("healthcheck", ALERTWELL_HTTP_PORT="0")[0] == 2


def test_a_table_on_a_terminal(database_url, tmp_path):
    """On a terminal `sql` draws a table; hostile text cannot reach the terminal."""
    code, seen = on_terminal(
        "sql",
        r"SELECT E'\x1b[2Jgone' AS title, 7 AS n",
        folder=tmp_path,
        ALERTWELL_DATABASE_URL=database_url,
        NO_COLOR="1",
    )
    assert code == 0
    assert "title" in seen
    assert r"\x1b[2Jgone" in seen
    assert "\x1b[2J" not in seen
    assert "1 row" in seen


def test_remove_asks_on_a_terminal(database_url, tmp_path):
    """No ends without a change and with 1, yes removes."""
    on = {"folder": tmp_path, "ALERTWELL_DATABASE_URL": database_url}
    assert process("tenants", "add", A, "Contoso", "--region", "eu", **on).returncode == 0
    code, seen = on_terminal("tenants", "remove", "contoso", prompt="[y/N]:", types="n\n", **on)
    assert code == 1
    assert f"Stop collecting from Contoso ({A})? [y/N]:" in seen
    assert "nothing done" in seen
    code, seen = on_terminal("tenants", "remove", "contoso", prompt="[y/N]:", types="y\n", **on)
    assert code == 0
    assert "removed: Contoso" in seen


def test_secret_is_asked_for_and_not_shown(database_url, tmp_path):
    """--ask-secret reads it from the terminal without an echo, and it works."""
    (tmp_path / "keys").write_text(sealing.generate_key())
    code, seen = on_terminal(
        "tenants", "add", A, "Contoso", "--region", "eu", "--client-id", A, "--ask-secret",
        folder=tmp_path, prompt="Client secret:", types="hunter2\n", hidden=True,
        ALERTWELL_DATABASE_URL=database_url, ALERTWELL_SEALING_KEYS_FILE="keys",
    )  # fmt: skip
    assert code == 0
    assert "Client secret:" in seen
    assert "added: Contoso" in seen
    assert "hunter2" not in seen.split("Client secret:", 1)[1]


async def test_ctrl_c_is_130(database_url, tmp_path):
    """Ctrl-C ends a command with 130, without a stack trace."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "service", "sql", "SELECT pg_sleep(60)",
        cwd=tmp_path, env=environment(ALERTWELL_DATABASE_URL=database_url),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    watching = await asyncpg.connect(database_url)
    async with asyncio.timeout(60):
        await watching.execute(
            """
            DO $$ BEGIN
                WHILE NOT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active') LOOP
                    PERFORM pg_sleep(0.02), pg_stat_clear_snapshot();
                END LOOP;
            END $$
            """
        )
        child.send_signal(signal.SIGINT)
        out, said = await child.communicate()
    await watching.close()
    assert (child.returncode, out, said) == (130, b"", b"")


def test_a_closed_pipe_is_no_stack_trace(database_url, tmp_path):
    """`alertwell sql … | head -1` ends quietly."""
    command = f'{sys.executable} -m service sql "SELECT generate_series(1, 100000)" --limit 100000 | head -1'
    ended = subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, env=environment(ALERTWELL_DATABASE_URL=database_url),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.stdout == "generate_series\n"
    assert "Traceback" not in ended.stderr


async def test_the_embedded_database_of_another_process_is_found(tmp_path):
    """While an embedded server runs in DATA_DIR, commands without DATABASE_URL use it; afterwards there is none."""
    folder = tmp_path / "data"
    at = {"folder": tmp_path, "ALERTWELL_DATA_DIR": "data"}
    async with embedded.Cluster(folder / "postgres", durable=False) as cluster:
        assert list(servers.servers(folder)) == [folder / "postgres"]
        migrated = await asyncio.to_thread(process, "migrate", **at)
        assert (migrated.returncode, migrated.stderr) == (0, "")
        listed = await asyncio.to_thread(process, "tenants", "list", "--json", **at)
        assert (listed.returncode, listed.stdout) == (0, "[]\n")
        assert cluster.starts == 1
    assert servers.servers(folder) == {}
    gone = await asyncio.to_thread(process, "tenants", "list", **at)
    assert gone.returncode == 2
    assert "no embedded database runs in ALERTWELL_DATA_DIR='data'" in gone.stderr


def test_a_table_breaks_no_id_on_a_narrow_terminal(tmp_path):
    """Sentences are broken between words, ids and times never: where they do not fit, a row is one line."""
    script = (
        "from service.cli import output\n"
        f"row = ('{A}', 'one two three ' * 5, '2026-11-22T07:21:10Z')\n"
        "output.table(('id', 'finding'), [row[:2]])\n"
        "output.table(('id', 'finding', 'at'), [row])\n"
    )
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", script],
        cwd=tmp_path, env=environment(TERM="xterm", COLUMNS="80"), stdin=theirs, stdout=theirs,
    ) as child:  # fmt: skip
        os.close(theirs)
        seen = b""
        try:
            while read := os.read(ours, 65536):
                seen += read
        except OSError:
            child.wait(60)  # the other end is closed
    os.close(ours)
    lines = seen.decode().splitlines()
    fitting, wrapped = [line for line in lines if A in line]
    assert len(fitting) <= 80
    assert wrapped.split() == [A, *(["one", "two", "three"] * 5), "2026-11-22T07:21:10Z"]
    assert sum("three" in line for line in lines) > 2

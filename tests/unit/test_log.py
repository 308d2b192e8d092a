from __future__ import annotations

import asyncio
import io
import json
import logging
import warnings

import pytest
import structlog

from service import log

JWT = "eyJ0eXAiOiJKV1QiLCJhbGciOiJSUzI1NiJ9.eyJhdWQiOiJodHRwczovL2dyYXBoIn0.c2lnbmF0dXJlLXNpZ25hdHVyZQ"


@pytest.fixture(autouse=True)
def _as_before():
    """Logging is process-wide: put it back."""
    root = logging.getLogger()
    levels = {name: logging.getLogger(name).level for name in ("msal", "urllib3", "apscheduler", "asyncio")}
    handlers, level = root.handlers[:], root.level
    yield
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, former in levels.items():
        logging.getLogger(name).setLevel(former)
    structlog.reset_defaults()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(stream: io.StringIO) -> list[dict]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


@pytest.fixture
def stream() -> io.StringIO:
    """JSON lines at info."""
    target = io.StringIO()
    log.configure("info", "json", target)
    return target


def test_our_lines_and_foreign_lines_have_one_shape(stream):
    """A library's record is the same JSON as ours, with what is bound, a UTC time, level and logger."""
    with structlog.contextvars.bound_contextvars(tenant="t", source="siem", poll_id="p"):
        structlog.get_logger("service.ours").info("poll_done", items=3)
        logging.getLogger("theirs").warning("said %s", "this")

    ours, theirs = lines(stream)
    common = {"tenant": "t", "source": "siem", "poll_id": "p"}
    assert ours.pop("timestamp").endswith("Z")
    assert theirs.pop("timestamp").endswith("Z")
    assert ours == {"event": "poll_done", "level": "info", "logger": "service.ours", "items": 3, **common}
    assert theirs == {"event": "said this", "level": "warning", "logger": "theirs", **common}


def test_anything_can_be_logged_as_json(stream):
    """Values that JSON does not know, hostile text and deep nesting still make one valid line each."""
    deep: list = []
    for _ in range(100):
        deep = [deep]
    logger = structlog.get_logger("x")
    logger.info("odd", nan=float("nan"), raw=b"\x00", surrogate="\ud800", many={1, 2}, keys={3: object})
    logger.info("line\nbreak\u2028", text="a\r\nb\x1b[31m", deep=deep)
    logger.info("long", text="x" * 100_000)

    got = lines(stream)
    assert [one["level"] for one in got] == ["info"] * 3
    assert got[0]["nan"] == "nan"
    assert len(got[2]["text"]) < 20_000


@pytest.mark.parametrize(
    ("fields", "left"),
    [
        ({"client_secret": "hunter2"}, "[redacted]"),
        ({"headers": {"Authorization": "Basic hunter2"}}, "[redacted]"),
        ({"Access_Token": ["hunter2"]}, "[redacted]"),
        ({"note": {"deeper": [{"dsn": "hunter2"}]}}, "[redacted]"),
        ({"note": "Bearer hunter2hunter2"}, "Bearer [redacted]"),
        ({"note": "Authorization: Basic hunter2"}, "Authorization: [redacted]"),
        ({"note": "grant_type=x&client_secret=hunter2&scope=y"}, "client_secret=[redacted]&scope=y"),
        ({"note": "client_assertion=hunter2"}, "client_assertion=[redacted]"),
        ({"note": '{"refresh_token": "hunter2\\" hunter2", "expires_in": 1}'}, '"expires_in": 1'),
        ({"note": "{'client_secret': 'hunter2"}, "'client_secret': '[redacted]'"),
        ({"note": "postgresql://alertwell:hunter2@db:5432/a"}, "postgresql://alertwell:[redacted]@db:5432/a"),
        ({"note": "postgres://u:hun@ter2/hunter2@h1,h2/d"}, "postgres://u:[redacted]@h1,h2/d"),
        ({"note": "postgresql:///d?password=hunter2&x=1"}, "password=[redacted]&x=1"),
        ({"note": "http://u:hunter2@proxy:3128"}, "http://u:[redacted]@proxy:3128"),
        ({"note": b"password=hunter2"}, "password=[redacted]"),
        ({"note": ValueError("pwd=hunter2")}, "pwd=[redacted]"),
    ],
)
def test_secrets_are_scrubbed_from_fields(fields, left, stream):
    """Secrets go, by the name of their field and by their looks; the rest of the text stays."""
    structlog.get_logger("x").info("event", **fields)

    assert "hunter2" not in stream.getvalue()
    assert left in json.dumps(lines(stream)[0]).replace('\\"', '"')


def test_harmless_neighbours_stay(stream):
    """Numbers under such a name, and words that only sound alike, are kept."""
    sentence = "ALERTWELL_CLIENT_SECRET_FILE='/run/s' is missing"
    structlog.get_logger("x").info(sentence, tokens=3, renewed_token=True)

    got = lines(stream)[0]
    assert got["event"] == sentence
    assert (got["tokens"], got["renewed_token"]) == (3, True)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_secrets_are_scrubbed_from_foreign_exceptions(log_format):
    """Errors of a library and their causes are logged without secrets and local variables."""
    stream = io.StringIO()
    log.configure("info", log_format, stream)
    local_variable = "hunter2"
    try:
        try:
            raise OSError(f"POST client_secret={local_variable} failed")
        except OSError as error:
            raise ValueError(f"token {JWT} refused") from error
    except ValueError:
        logging.getLogger("theirs").exception("asking with Bearer %s", JWT)

    text = stream.getvalue()
    assert "ValueError" in text
    assert "OSError" in text
    assert "test_log.py" in text
    assert [word for word in ("hunter2", "eyJ", "local_variable =") if word in text] == []


def test_exceptions_are_structured(stream):
    """In JSON an exception is a list of type, message and frames, cause included."""
    try:
        raise KeyError("k")
    except KeyError:
        structlog.get_logger("x").exception("broke")

    (error,) = lines(stream)[0]["exception"]
    assert (error["exc_type"], error["exc_value"]) == ("KeyError", "'k'")
    assert error["frames"][-1]["name"] == "test_exceptions_are_structured"
    assert "locals" not in error["frames"][-1]


def test_scrubbing_hostile_text_takes_linear_time():
    """Text made of openings without ends is scrubbed soon; quadratic patterns would meet the time limit."""
    for opening in (
        "postgres://:",
        "eyJ",
        '"secret":',
        "_token",
        "client_secret= ",
        "authorization:",
        "'",
        "a.b-",
    ):
        assert isinstance(log.scrub(opening * (200_000 // len(opening))), str)


def test_levels(stream):
    """Libraries that chatter are heard from warning on, ours from the level on."""
    log.configure("debug", "json", stream)
    for name in (
        "msal.token_cache",
        "urllib3.connectionpool",
        "apscheduler.scheduler",
        "alembic.runtime.plugins",
    ):
        logging.getLogger(name).info("chatter")
        logging.getLogger(name).warning("trouble")
    structlog.get_logger("x").debug("idle_poll")
    log.configure("warning", "json", stream)
    structlog.get_logger("x").info("too quiet")
    logging.getLogger("msal").warning("heard once")

    assert [one["event"] for one in lines(stream)] == ["trouble"] * 4 + ["idle_poll", "heard once"]


def test_auto_is_text_on_a_terminal_and_json_elsewhere():
    """`auto` looks at the stream."""
    terminal, pipe = Terminal(), io.StringIO()
    log.configure("info", "auto", terminal)
    structlog.get_logger("x").info("to_person", items=3)
    log.configure("info", "auto", pipe)
    structlog.get_logger("x").info("to_machine")

    assert "to_person" in terminal.getvalue()
    assert not terminal.getvalue().startswith("{")
    assert "to_machine" not in terminal.getvalue()
    assert lines(pipe)[0]["event"] == "to_machine"


def test_console_lines_carry_no_control_characters():
    """A stranger's text moves no cursor and adds no line to a terminal."""
    stream = io.StringIO()
    log.configure("info", "console", stream)

    structlog.get_logger("x").info("title\x1b[2J\nfake line", title="a\rb\x9b31m\ud800")

    text = stream.getvalue()
    assert text.count("\n") == 1
    assert [character for character in "\x1b\r\x9b" if character in text] == []


def test_warnings_of_python_are_lines(stream):
    """`warnings.warn` goes through the log."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)

    assert "old thing" in lines(stream)[0]["event"]
    assert lines(stream)[0]["logger"] == "py.warnings"


async def test_what_no_task_awaits_is_logged(stream):
    """An exception that the event loop alone saw is one redacted line with the task's name."""
    loop = asyncio.get_running_loop()
    log.install_loop_handler(loop)
    reported = asyncio.Event()
    loop.call_soon(lambda: (_ for _ in ()).throw(ValueError("secret=hunter2")))
    loop.call_soon(reported.set)
    await reported.wait()

    (got,) = lines(stream)
    assert got["event"] == "unhandled_in_loop"
    assert got["exception"][0]["exc_value"] == "secret=[redacted]"

"""Logging: structlog and the standard library through one formatter, JSON or console, on stdout, redacted.

Records of MSAL, aiohttp, APScheduler and other libraries pass the same processors as our own, so every line
has the same shape: timestamp (ISO 8601, UTC), level, logger, event, what is bound (tenant, source, poll_id)
and the event's own fields. Modules write `structlog.get_logger(__name__)` and log a constant event name
with fields. What a poll binds with `structlog.contextvars.bound_contextvars` is on the lines of a library
too; in a thread only where that was started by `asyncio.to_thread` or in a copied context.

Redaction is the last line of defence, not a licence: no token, secret or body is handed to a logger on
purpose.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import math
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Format = Literal["auto", "json", "console"]

REDACTED = "[redacted]"

# Their debug and info lines tell of each cache look-up, connection, tick and plugin; MSAL's have named accounts.
_QUIET = ("msal", "urllib3", "apscheduler", "asyncio", "alembic.runtime.plugins")
_LONGEST = 16 * 1024
_DEEPEST = 12

_SENSITIVE = r"secret|token|authorization|password|passwd|pwd|assertion|credential|cookie|dsn|api_?key"
_SENSITIVE_KEY = re.compile(_SENSITIVE, re.IGNORECASE)
_FORM_NAMES = r"secret|assertion|_token|password|passwd|pwd|\bsig"
_FLAGS = re.IGNORECASE
# What a text must hold (in small letters) for the pattern to be tried, the pattern, what takes its place. Each pattern
# runs in linear time: what is logged may quote a stranger's text.
_PATTERNS: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = (
    # JSON and Python's repr of it: "client_secret": "…", also where the end is cut off.
    (
        ('"', "'"),
        re.compile(
            rf"""(["']\w{{0,40}}?(?:{_SENSITIVE})["']\s*:\s*)b?("(?:[^"\\]|\\[\s\S])*"?|'(?:[^'\\]|\\[\s\S])*'?)""",
            _FLAGS,
        ),
        rf"\1'{REDACTED}'",
    ),
    # Forms and connection strings: client_secret=…
    (
        ("=",),
        re.compile(rf"""((?:{_FORM_NAMES})\s{{0,3}}=\s{{0,3}})("[^"]*"?|'[^']*'?|[^\s&;,"']+)""", _FLAGS),
        rf"\1{REDACTED}",
    ),
    (
        ("authorization",),
        re.compile(r"(\bauthorization\s{0,3}[:=]\s{0,3})\S+(?:[ \t]+\S+)?", _FLAGS),
        rf"\1{REDACTED}",
    ),
    (
        ("bearer", "basic"),
        re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", _FLAGS),
        rf"\1 {REDACTED}",
    ),
    (("eyj",), re.compile(r"eyJ[A-Za-z0-9_-]{12,}(?:\.[A-Za-z0-9_-]*){0,4}"), REDACTED),
    # Passwords in addresses; PostgreSQL's may hold unescaped @ and /.
    (
        ("@",),
        re.compile(r"(postgres(?:ql)?(?:\+\w{1,20})?://[^\s:/@]{0,200}:)[^\s\"']{1,200}@", _FLAGS),
        rf"\1{REDACTED}@",
    ),
    (
        ("@",),
        re.compile(r"(\b[a-z][a-z0-9+.-]{1,20}://[^\s:/@]{0,200}:)[^\s\"'/@]{1,200}@", _FLAGS),
        rf"\1{REDACTED}@",
    ),
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def configure(level: str = "info", log_format: Format = "auto", stream: TextIO | None = None) -> None:
    """Send all that is logged to `stream` (default stdout), from `level` on; calling it again changes it."""
    target = sys.stdout if stream is None else stream
    terminal = target.isatty()
    number = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        # Calls below the level cost nothing: an idle poll logs at debug.
        wrapper_class=structlog.make_filtering_bound_logger(number),
        # Loggers live in modules; cached ones would keep a former configuration.
        cache_logger_on_first_use=False,
    )
    as_json = log_format == "json" or (log_format == "auto" and not terminal)
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(_json() if as_json else _console(colors=terminal and not os.environ.get("NO_COLOR"))),
            ],
        )
    )
    root = logging.getLogger()
    for former in [
        one for one in root.handlers if isinstance(one.formatter, structlog.stdlib.ProcessorFormatter)
    ]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(number)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(number, logging.WARNING))
    logging.captureWarnings(capture=True)


def install_loop_handler(loop: asyncio.AbstractEventLoop) -> None:
    """Log errors that nobody awaits (`exception was never retrieved`) like all else, not on stderr."""
    loop.set_exception_handler(_report)


def redact(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Processor: every value becomes plain JSON data without secrets; long texts are cut at 16 KiB."""
    return {key: _clean(key, value, 0) for key, value in event_dict.items()}


def scrub(text: str) -> str:
    """`text` with everything in it that looks like a secret replaced."""
    lowered = text.lower()
    for needles, pattern, replacement in _PATTERNS:
        if any(needle in lowered for needle in needles):
            text = pattern.sub(replacement, text)
    return text


@functools.lru_cache(maxsize=1024)
def _sensitive(key: str) -> bool:
    return _SENSITIVE_KEY.search(key) is not None


def _json() -> list[Processor]:
    # Locals would hold tokens.
    transform = structlog.tracebacks.ExceptionDictTransformer(show_locals=False, max_frames=30)
    return [
        structlog.processors.ExceptionRenderer(transform),
        redact,
        structlog.processors.JSONRenderer(allow_nan=False),
    ]


def _console(*, colors: bool) -> list[Processor]:
    return [
        structlog.processors.format_exc_info,
        redact,
        _printable,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback),
    ]


def _printable(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
    """Processor for terminals: no escape sequences from strangers' text, one line but for tracebacks."""
    for key, value in event_dict.items():
        if isinstance(value, str):
            text = value.encode("utf-8", "backslashreplace").decode()
            text = _CONTROL.sub(lambda match: repr(match[0])[1:-1], text)
            event_dict[key] = text if key in {"exception", "stack"} else text.replace("\n", "\\n")
    return event_dict


def _clean(key: str, value: Any, depth: int) -> Any:
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if _sensitive(key):
        return REDACTED
    if depth < _DEEPEST:
        if isinstance(value, Mapping):
            return {str(name): _clean(str(name), item, depth + 1) for name, item in value.items()}
        if isinstance(value, (list, tuple, set, frozenset)):
            return [_clean("", item, depth + 1) for item in value]
    # Anything else (dates, ids, paths, errors) is text here, before the renderer could take its repr.
    text = value if isinstance(value, str) else str(value)
    clean = scrub(text[: 2 * _LONGEST])
    return clean if len(clean) <= _LONGEST else f"{clean[:_LONGEST]}… ({len(text)} characters)"


def _report(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    work = context.get("task") or context.get("future")
    structlog.get_logger(__name__).error(
        "unhandled_in_loop",
        message=context.get("message"),
        task=work.get_name() if isinstance(work, asyncio.Task) else None,
        exc_info=context.get("exception"),
    )

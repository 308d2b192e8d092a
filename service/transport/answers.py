"""What an answer of one of the APIs means: None for one to be read, else the error for it. Pure.

Bodies of errors are documented for some APIs and missing for others (the SIEM API documents statuses only), so the
status decides and the body's first bytes only refine. Nothing of a body gets into a message but role names.
"""

from __future__ import annotations

import email.utils
import json
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, Final
from urllib.parse import urlsplit

from service import errors

SAMPLE: Final = 64 * 1024
"""Bytes of a bad body that are kept for soc.rejects."""

WHOLE_OR_PART: Final = (200, 206)
"""Statuses whose bodies are read."""

_LONGEST_WAIT: Final = 3600.0
_PART: Final = 206
_LONGEST_WARNING: Final = 4_000
_MOST_PROVIDERS: Final = 5
_PROVIDER: Final = re.compile(
    r'\b199 [^\s"]{1,100} "([A-Za-z0-9 ._\-]{1,60}/[A-Za-z0-9 ._\-]{1,60})/([0-9]{1,5})/[0-9]+"'
)
"""Of Graph's "Federated data" pages: `Warning: 199 - "{Vendor}/{Provider}/{StatusCode}/{LatencyInMs}"`."""

_JSON_TYPES: Final = re.compile(r"(application|text)/([a-z0-9.\-]+\+)?json")
"""No page promises a content type: none at all will do, another one (text/html above all) will not."""

_ROLES: Final = re.compile(r"API required roles:\s*([A-Za-z.,\s]{1,400})")
_AGAIN_SECONDS: Final = re.compile(
    r"(?:again|after|in)\s+(?:about\s+)?(\d{1,6})\s*(seconds?|minutes?|s\b|m\b)", re.IGNORECASE
)
_AGAIN_AT: Final = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:Z|\+00:00| UTC)?")

_HTTP_DATE: Final = re.compile(
    r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [1-9][0-9]{3} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)

_NO_LICENCE: Final = ("no active license", "no active licence", "not provisioned", "not licensed")


def failure(
    status: int, headers: Mapping[str, str], prefix: bytes, *, now: datetime
) -> errors.PollFailure | None:
    """The error for an answer with this status, or None where its body is to be read (200, and 206: `partial`).

    `prefix` is the start of its body (some KiB do).

    `headers` must be case-insensitive; `now` is our time, used where the answer has no Date of its own.
    """
    if status in WHOLE_OR_PART:
        return None
    if 300 <= status < 400:
        return _redirect(status, headers.get("Location", ""))
    if 200 < status < 300:
        # 204 says nothing where [] was promised
        return errors.BadBody(
            f"the API answered {status}, which is not a whole list", sample=prefix[:SAMPLE], status=status
        )
    text = prefix.decode(errors="replace")
    clock = date(headers) or now
    if status == 429:
        waits = [
            seconds for seconds in (retry_after(headers, clock), _said(text, clock)) if seconds is not None
        ]
        until = f" until {clock + timedelta(seconds=max(waits)):%H:%M} UTC" if waits else ""
        return errors.Throttled(
            f"throttled by Microsoft{until} (429)", status=status, retry_after=max(waits) if waits else None
        )
    if status == 401:
        return errors.Attention(
            "the API refuses a new token (401): our app is not allowed for this API in this tenant, "
            "the token's audience does not fit, or a parameter of the stream is wrong",
            code="unauthorized",
            status=status,
        )
    if status == 403:
        return _forbidden(text)
    if status in (404, 410):
        return errors.Gone(f"the API is not there ({status})", status=status)
    if status == 407:
        return errors.Transient("a proxy wants a sign-in (407); is ALERTWELL_PROXY_URL right?", status=status)
    if status in (408, 425) or status >= 500 or status < 200:
        return errors.Transient(
            f"the API has a fault ({status})", status=status, retry_after=retry_after(headers, clock)
        )
    return errors.Refused(f"the API does not take this request ({status})", status=status)


def partial(status: int, headers: Mapping[str, str]) -> str | None:
    """Why the answer is only a part, with the providers that its Warning header names; None where it is not 206.

    The same for the same providers, whatever their order and latency: it is a stream's reason, written when it changes.
    """
    if status != _PART:
        return None
    named = sorted(set(_PROVIDER.findall(headers.get("Warning", "")[:_LONGEST_WARNING])))
    failed = ", ".join(f"{provider} answered {code}" for provider, code in named[:_MOST_PROVIDERS])
    return "the API brought a part only (206)" + (f": {failed}" if failed else "")


def content_type(headers: Mapping[str, str], prefix: bytes) -> errors.BadBody | None:
    """The error for a 200 that cannot be JSON by its type or by its first byte; None where it may be."""
    named = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if named and not _JSON_TYPES.fullmatch(named):
        shown = named if re.fullmatch(r"[a-z0-9.+\-/]{1,60}", named) else "an odd type"
        return errors.BadBody(
            f"the API answered {shown} in place of JSON", sample=prefix[:SAMPLE], status=200
        )
    start = prefix.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if start and start not in (b"[", b"{"):
        return errors.BadBody(
            "the API answered something other than JSON", sample=prefix[:SAMPLE], status=200
        )
    return None


def date(headers: Mapping[str, str]) -> datetime | None:
    """The Date header in UTC, whole seconds; None where there is none or it is no HTTP date."""
    return _http_date(headers.get("Date"))


def retry_after(headers: Mapping[str, str], clock: datetime) -> float | None:
    """Seconds from the Retry-After header (seconds or an HTTP date), at most an hour; None without a usable one."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return min(float(text[:10]), _LONGEST_WAIT)
    moment = _http_date(text)
    return None if moment is None else _until(moment, clock)


def unresolved(error: OSError) -> bool:
    """Whether a failed look-up says that the host name does not exist (NXDOMAIN), not that the DNS has a fault."""
    return isinstance(error, socket.gaierror) and error.errno in (socket.EAI_NONAME, socket.EAI_NODATA)


def _redirect(status: int, location: str) -> errors.PollFailure:
    # The token goes to the host that was configured, nowhere else. A permanent redirect says that the address is
    # wrong for good; a passing one may be a maintenance page.
    try:
        host = urlsplit(location[:2000]).hostname or "another path"
    except ValueError:
        host = "an odd address"
    shown = "".join(c for c in host[:100] if c.isascii() and (c.isalnum() or c in ".- "))
    message = f"the API redirects ({status}) to {shown}, which is not followed"
    if status in (301, 308):
        return errors.Attention(message, code="redirected", status=status)
    return errors.Transient(message, status=status)


def _forbidden(text: str) -> errors.Attention:
    # Texts seen in the field, not promised by Microsoft; without one of them 403 stays 403.
    lowered = text.lower()
    if any(phrase in lowered for phrase in _NO_LICENCE):
        return errors.Attention(
            "the tenant has no active Defender licence, or Defender was never set up in it (403)",
            code="no_licence",
            status=403,
        )
    if "missing application roles" in lowered:
        found = _ROLES.search(text)
        roles = (
            " or ".join(re.findall(r"[A-Za-z]+(?:\.[A-Za-z]+)+", found[1])[:4])
            if found
            else "that the API needs"
        )
        return errors.Attention(
            f"the token is fine but lacks {roles} (403)",
            code="role_missing",
            status=403,
        )
    return errors.Attention(
        "the API forbids the access (403): no consent or licence, a tenant that was deleted or is managed by others, "
        "or a feature that is switched off",
        code="forbidden",
        status=403,
    )


def _said(text: str, clock: datetime) -> float | None:
    """When the quota opens again, where the body of a 429 says so: in seconds, minutes or as a time."""
    message = _message(text)
    if found := _AGAIN_SECONDS.search(message):
        return min(int(found[1]) * (60.0 if found[2].lower().startswith("m") else 1.0), _LONGEST_WAIT)
    if found := _AGAIN_AT.search(message):
        try:
            moment = datetime.fromisoformat(found[0][:19]).replace(tzinfo=UTC)
        except ValueError:
            return None
        return _until(moment, clock)
    return None


def _message(text: str) -> str:
    # Only the message: innerError.date is the time of the refusal.
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return text[:2000]
    error = content.get("error", content) if isinstance(content, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return message[:2000] if isinstance(message, str) else ""


def _until(moment: datetime, clock: datetime) -> float | None:
    seconds = (moment - clock) / timedelta(seconds=1)
    return min(seconds, _LONGEST_WAIT) if seconds > 0 else None


@lru_cache(maxsize=64)  # the answers of one second have one
def _http_date(text: str | None) -> datetime | None:
    # Only the form that RFC 9110 lets servers write: the library alone takes "0026" and odd zones as well.
    if not text or not _HTTP_DATE.fullmatch(text):
        return None
    try:
        return email.utils.parsedate_to_datetime(text).astimezone(UTC)
    except (ValueError, OverflowError, TypeError, IndexError):
        return None

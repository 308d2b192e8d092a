"""Statuses, headers and first bytes of answers: which error each is."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from service import errors
from service.transport import answers

NOW = datetime(2026, 10, 1, 8, 30, tzinfo=UTC)
DATE = "Thu, 01 Oct 2026 08:30:00 GMT"


def failure(status: int, headers: Mapping[str, str] | None = None, body: bytes = b"") -> errors.PollFailure:
    found = answers.failure(status, CIMultiDict(headers or {}), body, now=NOW)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("warning", "said"),
    [
        ('199 - "Microsoft/WDATP/504/10000"', ": Microsoft/WDATP answered 504"),
        (
            '199 - "Palo Alto Networks/NGFW/500/123", 199 - "Microsoft/WDATP/504/9"',
            ": Microsoft/WDATP answered 504, Palo Alto Networks/NGFW answered 500",
        ),
        ('199 - "Microsoft/WDATP/504/1", 199 - "Microsoft/WDATP/504/2"', ": Microsoft/WDATP answered 504"),
        (", ".join(f'199 - "V/{number}/500/1"' for number in range(9)), None),
        ('199 - "<script>/x/500/1"', ""),
        ('110 - "Response is stale"', ""),
        ('199 - "' * 100_000, ""),
        (None, ""),
    ],
)
def test_a_part(warning: str | None, said: str | None) -> None:
    """206 is read; who failed is named, as long as it is a name, and without the latency that always differs."""
    headers = CIMultiDict({"Warning": warning} if warning else {})
    assert answers.failure(206, headers, b"", now=NOW) is None
    found = answers.partial(206, headers)
    assert found is not None
    if said is not None:
        assert found == f"the API brought a part only (206){said}"
    assert len(found) < 400
    assert answers.partial(200, headers) is None


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (100, errors.Transient),
        (204, errors.BadBody),
        (301, errors.Attention),
        (302, errors.Transient),
        (307, errors.Transient),
        (308, errors.Attention),
        (400, errors.Refused),
        (401, errors.Attention),
        (403, errors.Attention),
        (404, errors.Gone),
        (407, errors.Attention),
        (408, errors.Transient),
        (410, errors.Gone),
        (414, errors.Refused),
        (418, errors.Refused),
        (429, errors.Throttled),
        (500, errors.Transient),
        (502, errors.Transient),
        (503, errors.Transient),
        (504, errors.Transient),
        (599, errors.Transient),
    ],
)
def test_statuses(status: int, kind: type) -> None:
    """Every status has its error."""
    found = failure(status)
    assert type(found) is kind
    assert found.status == status


def test_success() -> None:
    """200 is no error."""
    assert answers.failure(200, {}, b"", now=NOW) is None


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30),
        (" 7 ", 7),
        ("0", 0),
        ("999999999999999999999", 3600),
        ("Thu, 01 Oct 2026 08:31:00 GMT", 60),
        ("Thu, 01 Oct 2099 08:31:00 GMT", 3600),
        ("Thu, 01 Oct 2026 08:29:00 GMT", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("", None),
        ("Thu, 99 Oct 2026 99:99:99 GMT", None),
    ],
)
def test_retry_after(header: str, seconds: float | None) -> None:
    """Seconds and HTTP dates, bounded by an hour; what cannot be read is left to our own backoff."""
    assert failure(429, {"retry-after": header, "Date": DATE}).retry_after == seconds
    assert failure(503, {"Retry-After": header, "Date": DATE}).retry_after == seconds


def test_the_answers_clock() -> None:
    """A date to come back at is measured by the answer's clock, not by ours."""
    headers = {"Retry-After": "Thu, 01 Oct 2026 10:00:20 GMT", "Date": "Thu, 01 Oct 2026 10:00:00 GMT"}
    assert failure(429, headers).retry_after == 20


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (
            b'{"error":{"code":"TooManyRequests","message":"Too many requests. Retry after 30 seconds.","target":"x"}}',
            30,
        ),
        (b'{"error":{"message":"The quota opens again in 2 minutes"}}', 120),
        (b'{"error":{"message":"You can send requests again in 10 seconds"}}', 10),
        (b'{"error":{"message":"Quota exceeded until 2026-10-01T08:31:30.1234567Z"}}', 90),
        (b'{"error":{"message":"Too many requests.","innerError":{"date":"2026-10-01T08:45:00"}}}', None),
        (b"Try again in 15 seconds", 15),
        (b'{"error":"text"}', None),
        (b'{"error":{"message":7}}', None),
        (b"[" * 50_000, None),
        (b"\xff\xfe\x00", None),
        (b"", None),
    ],
)
def test_reset_in_the_body(body: bytes, seconds: float | None) -> None:
    """Some APIs say in the body alone when the quota opens again."""
    assert failure(429, {"Date": DATE}, body).retry_after == seconds


def test_longest_wait() -> None:
    """Of header and body the longer one counts."""
    assert failure(429, {"Retry-After": "1"}, b"Try again in 15 seconds").retry_after == 15
    assert failure(429, {"Retry-After": "20"}, b"Try again in 15 seconds").retry_after == 20


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        (
            b'{"error":{"message":"Missing application roles. API required roles: Alert.Read.All,Alert.ReadWrite.All, roles: "}}',
            "role_missing",
            "Alert.Read.All or Alert.ReadWrite.All in",
        ),
        (b"Missing application roles", "role_missing", "that the API needs"),
        (b'{"error":{"message":"No active license found"}}', "no_licence", "licence"),
        (b'{"error":{"message":"Account is not provisioned."}}', "no_licence", "licence"),
        (b"", "forbidden", "403"),
        (b"<html>" + b"x" * 20_000, "forbidden", "403"),
    ],
)
def test_forbidden(body: bytes, code: str, words: str) -> None:
    """403 is told apart where its text allows that."""
    found = failure(403, body=body)
    assert isinstance(found, errors.Attention)
    assert found.code == code
    assert words in str(found)


@pytest.mark.parametrize(
    ("location", "shown"),
    [
        ("https://elsewhere.example/api/alerts?token=hidden", "elsewhere.example"),
        ("/other", "another path"),
        ("https://[half", "an odd address"),
        ("https://ho\r\nst\x1b31m.example/", "host31m.example"),
        ("https://user:hidden@elsewhere.example/", "elsewhere.example"),
        ("", "another path"),
    ],
)
def test_redirects(location: str, shown: str) -> None:
    """The message names the other host and nothing else of the location."""
    text = str(failure(302, {"Location": location}))
    assert shown in text
    assert "hidden" not in text
    assert text.isprintable()


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("application/json", b"[]"),
        ("application/json; charset=utf-8", b" \r\n\t[]"),
        ("Application/JSON", b"{}"),
        ("application/problem+json", b"{}"),
        ("", b"\xef\xbb\xbf[]"),
        ("application/json", b""),
    ],
)
def test_json(kind: str, prefix: bytes) -> None:
    """What may be JSON is left to the source."""
    assert answers.content_type(CIMultiDict({"Content-Type": kind} if kind else {}), prefix) is None


@pytest.mark.parametrize(
    ("kind", "prefix"),
    [
        ("text/html", b"[]"),
        ("text/plain", b"[]"),
        ("application/json", b"<!DOCTYPE html>"),
        ("application/json", b"null"),
        ("", b"\x1f\x8b\x08"),
        ("a" * 5000, b"[]"),
        ("\x1b[31m", b"[]"),
    ],
)
def test_not_json(kind: str, prefix: bytes) -> None:
    """Pages, other types and other first bytes are bad bodies with a sample; the message is short and printable."""
    found = answers.content_type(CIMultiDict({"Content-Type": kind} if kind else {}), prefix)
    assert isinstance(found, errors.BadBody)
    assert found.sample == prefix
    assert len(str(found)) < 200
    assert str(found).isprintable()


def test_sample_is_bounded() -> None:
    """Not more than 64 KiB are kept."""
    found = answers.content_type({"Content-Type": "text/html"}, b"x" * 100_000)
    assert found is not None
    assert len(found.sample) == 64 * 1024


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (DATE, NOW),
        ("Thu, 01 Oct 2026 10:30:00 +0200", None),
        ("Thu, 01 Oct 26 08:30:00 GMT", None),
        ("Thu, 31 Feb 2026 08:30:00 GMT", None),
        ("now", None),
        ("", None),
        ("Thu, 01 Oct 0000 08:30:00 GMT", None),
        ("Thu, 01 Oct 9999 23:59:59 GMT", datetime(9999, 10, 1, 23, 59, 59, tzinfo=UTC)),
        ("x" * 10_000, None),
    ],
)
def test_date(text: str, moment: datetime | None) -> None:
    """The Date header in UTC, or none: it proves coverage, so it is never guessed."""
    assert answers.date(CIMultiDict({"Date": text})) == moment


def test_no_date() -> None:
    """Without the header there is no date."""
    assert answers.date({}) is None


@given(
    status=st.integers(100, 999),
    text=st.text(max_size=200),
    body=st.binary(max_size=300),
    name=st.sampled_from(["Retry-After", "Date", "Location", "Content-Type"]),
)
def test_hostile(status: int, text: str, body: bytes, name: str) -> None:
    """No answer, whatever it holds, brings anything but an error of ours with a printable line."""
    headers = CIMultiDict({name: text})
    found = answers.failure(status, headers, body, now=NOW)
    if found is not None:
        assert str(found).isprintable()
        assert found.retry_after is None or 0 <= found.retry_after <= timedelta(hours=1).total_seconds()
    answers.content_type(headers, body)


@pytest.mark.parametrize(
    ("error", "gone"),
    [
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), True),
        (socket.gaierror(socket.EAI_NODATA, "No address"), True),
        (socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), False),
        (OSError(2, "x"), False),
    ],
)
def test_unresolved(error: OSError, gone: bool) -> None:
    """Only a name that does not exist is gone; a DNS that fails says nothing."""
    assert answers.unresolved(error) is gone

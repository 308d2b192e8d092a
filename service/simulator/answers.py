"""An answer as a value, and how it gets onto the wire: compressed, streamed, or broken as a fault says."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import zlib
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import msgspec
from aiohttp import web

from service.simulator import chaos, ticks

COMPRESS_FROM = 16 * 1024  # smaller bodies are not worth it
BLOCK = 256 * 1024  # bytes joined before they are compressed and sent
GZIP = 16 + zlib.MAX_WBITS
PAGE = (
    b"<!DOCTYPE html><html><head><title>Service unavailable</title></head>"
    b"<body><h2>Our services aren't available right now</h2></body></html>"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers and body. `chunks` may be lazy: a large body is never whole in memory."""

    status: int = 200
    headers: dict[str, str] = dataclasses.field(default_factory=dict)
    chunks: Iterable[bytes] = ()


def json(value: Any, status: int = 200) -> Answer:
    """A JSON answer of one chunk, not to be stored by anybody (tokens)."""
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "Cache-Control": "no-store, no-cache",
        "Pragma": "no-cache",
    }
    return Answer(status, headers, (msgspec.json.encode(value),))


def instead(fault: chaos.Fault, now: int) -> Answer | None:
    """The answer that a fault puts in the place of the right one; None where it changes the right one."""
    headers: dict[str, str] = {}
    if fault.retry == "seconds":
        headers["Retry-After"] = str(round(fault.seconds))
    elif fault.retry == "date":
        headers["Retry-After"] = ticks.http_date(now + round(fault.seconds * ticks.SECOND))
    match fault.kind:
        case "status":
            return Answer(fault.status, headers)
        case "html":
            return Answer(
                fault.status or 200, {**headers, "Content-Type": "text/html; charset=utf-8"}, (PAGE,)
            )
        case "redirect":
            return Answer(fault.status or 302, {"Location": fault.location})
        case "bomb":
            return Answer(
                200, {"Content-Type": "application/json", "Content-Encoding": "gzip"}, _bomb(fault.size)
            )
    return None


def _bomb(size: int) -> Iterator[bytes]:
    """`[`, a great many blanks, and `]`: valid JSON that weighs a thousandth of what it claims."""
    press = zlib.compressobj(1, zlib.DEFLATED, GZIP)
    blank = b" " * (1024 * 1024)
    yield press.compress(b"[")
    for _ in range(size // len(blank)):
        yield press.compress(blank)
    yield press.compress(b"]") + press.flush()


async def send(
    request: web.BaseRequest, answer: Answer, date: str, fault: chaos.Fault | None, closing: asyncio.Event
) -> web.StreamResponse:
    """Send the answer, or what the fault leaves of it. `closing` ends hangs when the simulator stops."""
    kind = fault.kind if fault else None
    if kind == "hang":
        await closing.wait()
        kind = "reset"
    if kind == "reset":
        return _reset(request)
    headers = {"Date": date, **answer.headers}
    pieces = _blocks(answer.chunks)
    first = next(pieces, b"")
    second = next(pieces, None)
    if kind == "truncated":
        first, second = first[: len(first) // 2], None
    wanted = (
        "gzip" in request.headers.get("Accept-Encoding", "").lower() and "Content-Encoding" not in headers
    )
    packed = wanted and (second is not None or len(first) >= COMPRESS_FROM)
    if packed:
        headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    if second is None and not packed and kind not in ("reset_inside", "slow"):
        return web.Response(status=answer.status, headers=headers, body=first)
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.enable_chunked_encoding()
    body = _chain(first, second, pieces)
    with contextlib.suppress(ConnectionError):  # the client has gone: nobody is left to tell
        await response.prepare(request)
        async for block in _pack(body) if packed else _plain(body):
            if kind == "reset_inside":
                await response.write(block[: max(1, len(block) // 2)])
                return _reset(request, response)
            if kind == "slow" and fault is not None:
                await _trickle(response, block, fault.seconds, closing)
            else:
                await response.write(block)
        await response.write_eof()
    return response


def _chain(first: bytes, second: bytes | None, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    if second is not None:
        yield second
    yield from rest


def _blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Join small chunks to blocks of about BLOCK bytes."""
    held: list[bytes] = []
    size = 0
    for chunk in chunks:
        held.append(chunk)
        size += len(chunk)
        if size >= BLOCK:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


async def _plain(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    for block in blocks:
        yield block


async def _pack(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Compress at a fast level, in a thread: meanwhile the next block is written."""
    press = zlib.compressobj(2, zlib.DEFLATED, GZIP)
    loop = asyncio.get_running_loop()
    pressing: asyncio.Future[bytes] | None = None
    for block in blocks:
        if pressing is not None:
            yield await pressing
        pressing = loop.run_in_executor(None, press.compress, block)
    if pressing is not None:
        yield await pressing
    yield press.flush()


async def _trickle(
    response: web.StreamResponse, block: bytes, seconds: float, closing: asyncio.Event
) -> None:
    pieces = 20
    size = max(1, -(-len(block) // pieces))
    for start in range(0, len(block), size):
        await response.write(block[start : start + size])
        try:
            await asyncio.wait_for(closing.wait(), seconds / pieces)
        except TimeoutError:
            continue


def _reset(request: web.BaseRequest, response: web.StreamResponse | None = None) -> web.StreamResponse:
    """Drop the connection without a farewell: the client sees a reset, not an end."""
    if request.transport is not None:
        request.transport.abort()
    return response or web.Response(status=500)

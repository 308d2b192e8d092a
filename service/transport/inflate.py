"""Decompression that cannot be made to blow up: output comes in pieces of a bounded size. Pure.

aiohttp's own bound depends on its version, and it does not notice a gzip stream that ends too early.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

PIECE: Final = 64 * 1024
"""Bytes of output at a time."""

ACCEPTED: Final = "gzip, deflate"

_MOST_MEMBERS: Final = 64
"""Concatenated gzip members; servers send one."""


class Unreadable(Exception):
    """Not the encoding that it says to be; the message is a short phrase."""


class Truncated(Unreadable):
    """The compressed stream ended in the middle."""


class Inflater:
    """Undoes one Content-Encoding. `feed` and `finish` raise Unreadable."""

    def __init__(self, encoding: str) -> None:
        """`encoding` as the header has it, "" for none. Raises Unreadable for one that was not asked for."""
        encoding = encoding.strip().lower()
        if encoding not in ("", "identity", "gzip", "x-gzip", "deflate"):
            raise Unreadable("in an encoding that was not asked for")
        self._plain = encoding in ("", "identity")
        self._gzip = encoding in ("gzip", "x-gzip")
        self._members = 1
        self._started = False
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS if self._gzip else zlib.MAX_WBITS)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The pieces that this input yields; each is at most PIECE bytes."""
        if self._plain:
            for start in range(0, len(data), PIECE):
                yield data[start : start + PIECE]
            return
        if not self._started and data:
            self._started = True
            # Many servers mean raw deflate where they say deflate: zlib's own header has 8 in the low half byte.
            if not self._gzip and data[0] & 0x0F != 8:
                self._zlib = zlib.decompressobj(-zlib.MAX_WBITS)
        while data:
            if self._zlib.eof:
                self._next_member()
            try:
                piece = self._zlib.decompress(data, PIECE)
            except zlib.error:
                raise Unreadable("a broken compressed stream") from None
            data = self._zlib.unconsumed_tail or self._zlib.unused_data
            if piece:
                yield piece

    def finish(self) -> Iterator[bytes]:
        """What is left at the end of the input; the stream has to be complete."""
        if self._plain or not self._started:
            return
        while not self._zlib.eof:
            try:
                piece = self._zlib.decompress(self._zlib.unconsumed_tail, PIECE)
            except zlib.error:
                raise Unreadable("a broken compressed stream") from None
            if not piece and not self._zlib.eof:
                raise Truncated("a compressed stream that ends too early")
            if piece:
                yield piece

    def _next_member(self) -> None:
        self._members += 1
        if not self._gzip or self._members > _MOST_MEMBERS:
            raise Unreadable("more behind the end of a compressed stream")
        self._zlib = zlib.decompressobj(16 + zlib.MAX_WBITS)

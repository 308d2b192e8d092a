"""Decompression in bounded pieces."""

from __future__ import annotations

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.transport import inflate


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACK = {"": bytes, "gzip": gzip.compress, "deflate": zlib.compress, "x-gzip": gzip.compress}


def unpack(encoding: str, parts: list[bytes]) -> bytes:
    inflater = inflate.Inflater(encoding)
    pieces = [piece for part in parts for piece in inflater.feed(part)]
    pieces += inflater.finish()
    assert all(len(piece) <= inflate.PIECE for piece in pieces)
    return b"".join(pieces)


@given(data=st.binary(max_size=5000), step=st.integers(1, 400), encoding=st.sampled_from([*PACK]))
def test_round(data: bytes, step: int, encoding: str) -> None:
    """Whatever was packed comes out, however it was cut on its way."""
    packed = PACK[encoding](data)
    assert unpack(encoding, [packed[at : at + step] for at in range(0, len(packed), step)]) == data


def test_raw_deflate() -> None:
    """What many servers send as deflate is understood too."""
    assert unpack("deflate", [raw_deflate(b"[1]" * 1000)]) == b"[1]" * 1000


def test_members() -> None:
    """Concatenated gzip members are one body; a great many are an attack."""
    assert unpack("gzip", [gzip.compress(b"[1,") + gzip.compress(b"2]")]) == b"[1,2]"
    with pytest.raises(inflate.Unreadable):
        unpack("gzip", [gzip.compress(b"") * 1000])


def test_bomb_in_pieces() -> None:
    """A thousandfold compressed body yields bounded pieces, one at a time."""
    inflater = inflate.Inflater("gzip")
    pieces = inflater.feed(gzip.compress(b" " * 50_000_000))
    assert {len(next(pieces)) for _ in range(10)} == {inflate.PIECE}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("size", [10, 100_000])
def test_truncated(encoding: str, size: int) -> None:
    """A stream that ends early is never taken for a whole one."""
    packed = PACK[encoding](bytes(range(256)) * size)
    for end in (len(packed) - 1, len(packed) // 2, 3):
        with pytest.raises(inflate.Truncated):
            unpack(encoding, [packed[:end]])


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x" * 10_000])
def test_not_asked_for(encoding: str) -> None:
    """Other encodings are refused."""
    with pytest.raises(inflate.Unreadable):
        inflate.Inflater(encoding)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_garbage(encoding: str) -> None:
    """What is not compressed, or goes on behind its end, is refused."""
    with pytest.raises(inflate.Unreadable):
        unpack(encoding, [b"[]"])
    with pytest.raises(inflate.Unreadable):
        unpack(encoding, [PACK[encoding](b"[]") + b"more of it"])


def test_nothing() -> None:
    """An empty body is empty in any encoding."""
    assert unpack("gzip", []) == unpack("", []) == b""

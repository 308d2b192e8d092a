"""How many rounds of key derivation a PFX or an encrypted key asks for, read before anything is derived.

The number is in the file, and 2^31 of them keep a thread busy for half an hour. PBKDF2-params (RFC 8018), the parameters of
PKCS#12's own ciphers and its MacData (RFC 7292) all write it as an INTEGER straight after the salt, an OCTET STRING; so what is
read is the stream of DER tokens, whatever they belong to. What only decryption would show stays unseen.
"""

from __future__ import annotations

from typing import Final

MOST: Final = 2_000_000
"""In one file: about a second of work. OpenSSL writes 2,048 for each of three keys; 600,000 are advised at most."""
_DEEPEST: Final = 8
_INTEGER: Final = 0x02
_OCTETS: Final = 0x04
_CONSTRUCTED: Final = 0x20


def count(der: bytes, deepest: int = _DEEPEST) -> int:
    """All rounds that are written in it; in what is no DER, those before it ends to be. Never raises.

    Old tools write indefinite lengths, and cut octet strings into pieces: pieces are put together again.
    """
    total = at = 0
    octets = b""
    while at + 2 <= len(der):
        tag, size = der[at], der[at + 1]
        at += 2
        if size > 0x80:
            width = size & 0x7F
            size = int.from_bytes(der[at : at + width])
            at += width
        elif size == 0x80:
            size = 0
        if tag == 0:  # the end of an indefinite length
            continue
        content = b"" if tag & _CONSTRUCTED else der[at : at + size]
        at += len(content)
        if tag == _OCTETS:
            octets += content
            continue
        if tag == _INTEGER and octets:
            total += int.from_bytes(content)
        total += _within(octets, deepest)
        octets = b""
    return total + _within(octets, deepest)


def _within(octets: bytes, deepest: int) -> int:
    return count(octets, deepest - 1) if deepest and octets[:1] in (b"\x30", b"\x24") else 0

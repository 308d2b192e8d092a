"""Secrets at rest: sealed with Fernet keys of a file, newest first, so that keys can be changed without a stop.

What is wrong with a file of keys is said by name, never with its contents.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Self

from cryptography import fernet

from service import errors
from service.auth import files


class Sealer:
    """Seals with the newest key, opens with any of them. Safe to use from threads.

    Keys of a file are read again when it changes. One that was taken out of it still opens what this process has read before, for
    as long as the process lives: a key can be removed without a restart.
    """

    def __init__(self, keys: list[str]) -> None:
        """Keys as `generate_key` makes them, newest first. Raises ValueError where one is no key, naming its position only."""
        if not keys:
            raise ValueError("no key")
        self._opened: dict[str, fernet.Fernet] = {}
        for number, key in enumerate(keys, start=1):
            try:
                self._opened[key] = fernet.Fernet(key)
            except ValueError:
                raise ValueError(f"key {number} is not a key") from None
        self._lock = threading.Lock()
        self._file: files.Kept[tuple[str, ...]] | None = None
        self._version = 0

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """Read one key a line; empty lines and `#` comments are skipped. The file should be readable by its owner alone (0600).

        Raises errors.BadSetting naming the file and the number of the line.
        """
        kept = files.Kept([path], lambda: _read(path))
        keys, version = kept.look()
        sealer = cls(list(keys))
        sealer._file, sealer._version = kept, version
        return sealer

    def seal(self, plaintext: str) -> bytes:
        """The secret as it may be stored."""
        return self._keys()[0].encrypt(plaintext.encode())

    def unseal(self, sealed: bytes) -> str:
        """The secret again. Raises errors.BadSetting where no key of the file opens it."""
        try:
            return fernet.MultiFernet(self._keys()).decrypt(sealed).decode()
        except (fernet.InvalidToken, UnicodeDecodeError):
            pass
        raise errors.BadSetting(
            "a stored secret was sealed with a key that ALERTWELL_SEALING_KEYS_FILE does not hold"
        )

    def resealed(self, sealed: bytes) -> bytes | None:
        """The same secret under the newest key; None where that has sealed it already. Raises errors.BadSetting as `unseal`."""
        try:
            self._keys()[0].decrypt(sealed)
        except fernet.InvalidToken:
            return self.seal(self.unseal(sealed))
        return None

    def _keys(self) -> list[fernet.Fernet]:
        with self._lock:
            if self._file is not None:
                keys, version = self._file.look()
                if version != self._version:
                    gone = {key: opened for key, opened in self._opened.items() if key not in keys}
                    self._opened = {key: fernet.Fernet(key) for key in keys} | gone
                    self._version = version
            return list(self._opened.values())


def _read(path: Path) -> tuple[str, ...]:
    keys = []
    for number, line in enumerate(read_secret_file(path).splitlines(), start=1):
        key = line.partition("#")[0].strip()
        if not key:
            continue
        try:
            fernet.Fernet(key)
        except ValueError:
            raise errors.BadSetting(
                f"{path}: line {number} is not a sealing key (44 characters; to make one: alertwell seal-key --into FILE)"
            ) from None
        keys.append(key)
    if not keys:
        raise errors.BadSetting(f"{path}: holds no sealing key; it needs one a line, newest first")
    return tuple(keys)


def generate_key() -> str:
    """A new key, 32 random bytes in URL-safe base64: one line of the keys file."""
    return fernet.Fernet.generate_key().decode()


def read_secret_file(path: Path) -> str:
    """The file's text without the one line end that editors and `echo` put there.

    Raises errors.BadSetting where it is missing, empty, unreadable, not text, or over 64 KiB.
    """
    return files.text(path)

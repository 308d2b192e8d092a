"""Files that hold credentials: read with a limit, and read again when they change, without a restart."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Generic, TypeAlias, TypeVar

import structlog

from service import errors

LARGEST: Final = 64 * 1024
"""Bytes; a secret, a key list or a bundle of certificates is far smaller, a wrong path (a disk, a log) is not."""

T = TypeVar("T")
Stamp: TypeAlias = tuple[int, int, int] | None

_log = structlog.get_logger(__name__)


def read(path: Path) -> bytes:
    """The file's bytes. Raises errors.BadSetting where it is missing, empty, unreadable or over 64 KiB."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise errors.BadSetting(f"{path}: cannot be read ({error.strerror or 'unreadable'})") from None
    if len(content) > LARGEST:
        raise errors.BadSetting(f"{path}: over {LARGEST} bytes, so it is no credential")
    if not content.strip():
        raise errors.BadSetting(f"{path}: is empty")
    return content


def text(path: Path) -> str:
    """The file's text without the one line end that editors and `echo` put there. Raises errors.BadSetting as `read` does."""
    try:
        content = read(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        content = "\0"
    if "\0" in content:
        raise errors.BadSetting(f"{path}: not a text in UTF-8")
    content = content.removesuffix("\n").removesuffix("\r")
    if not content.strip():
        raise errors.BadSetting(f"{path}: is empty")
    return content


class Watch:
    """Says once that any of these files is another one than before."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self._paths = tuple(paths)
        self._stamps = self._look()

    def changed(self) -> bool:
        before, self._stamps = self._stamps, self._look()
        return self._stamps != before

    def _look(self) -> tuple[Stamp, ...]:
        return tuple(_stamp(path) for path in self._paths)


class Kept(Generic[T]):
    """What was read from files. Where one is away, half written or wrong for a while, the last good stays in use.

    Safe to use from threads.
    """

    def __init__(self, paths: Iterable[Path], reader: Callable[[], T]) -> None:
        """`reader` reads all of the paths; its errors.BadSetting is raised here, and later only logged, once a change."""
        self._watch = Watch(paths)  # before the first reading: what changes meanwhile is read again
        self._reader = reader
        self._lock = threading.Lock()
        self._value = reader()
        self._version = 0

    def look(self) -> tuple[T, int]:
        """The value of this moment and its version, which grows when the value becomes another. Costs a stat a file."""
        with self._lock:
            if self._watch.changed():
                try:
                    value = self._reader()
                except errors.BadSetting as problem:
                    _log.warning("credential.file_unusable", reason=str(problem), kept="what was read before")
                else:
                    if value != self._value:
                        self._value = value
                        self._version += 1
            return self._value, self._version


def _stamp(path: Path) -> Stamp:
    # Time, size and inode of what the name leads to: a mounted Kubernetes secret changes by a swapped link.
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)

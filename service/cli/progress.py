"""How far a command is, for whoever watches a terminal."""

from __future__ import annotations

from typing import Self


class Progress:
    """A line on a terminal's stderr while something takes its time; nothing elsewhere."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __enter__(self) -> Self:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._bar.start()
        self._task = self._bar.add_task(self._what, total=None)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """So many are done, of so many."""
        self._bar.update(self._task, completed=done, total=total)

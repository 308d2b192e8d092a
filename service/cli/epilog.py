"""The end of a help page: examples, as they are typed."""

from __future__ import annotations

import inspect


def lines(text: str) -> str:
    """Paragraphs whose lines stay as they are: without the mark in front of each, they would be filled up to the width."""
    return "\n\n".join(f"\b\n{paragraph}" for paragraph in inspect.cleandoc(text).split("\n\n"))

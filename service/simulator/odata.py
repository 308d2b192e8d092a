"""The OData that these APIs document: `$filter` with ge gt le lt eq and or on named properties, and nothing else.

Choices where the documents are silent: order is compared for times and numbers, texts only for equality and
exactly; a time has no quotes and says its zone (a bare `+00:00` arrives as a blank, and is refused); `null` is
for eq; the property stands on the left; keywords in lower case.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

from service.simulator import ticks

Kind = Literal["time", "text", "number"]

MOST_CHARACTERS = 8192
MOST_DEPTH = 50
FOREVER = 2**62

_TOKEN = re.compile(
    r"\s*(?:(?P<mark>[()])|(?P<text>'(?:[^']|'')*')"
    r"|(?P<time>\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d(?:\.\d{1,12})?)?(?:Z|[+-]\d\d:\d\d))"
    r"|(?P<number>-?\d{1,18}(?![\w.:-]))|(?P<name>[A-Za-z_][A-Za-z0-9_]*))",
    re.ASCII,
)
_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "ge": operator.ge,
    "gt": operator.gt,
    "le": operator.le,
    "lt": operator.lt,
}


class Bad(ValueError):
    """The expression is not one that the API takes; the message says why."""


class Comparison(NamedTuple):
    """`name word value`; a time's value in ticks."""

    name: str
    word: str
    kind: Kind
    value: int | str | None


class Both(NamedTuple):
    """Every part holds (`every`), or at least one."""

    every: bool
    parts: tuple[Node, ...]


Node = Comparison | Both


class Filter(NamedTuple):
    """An expression as read.

    since, until: what it says at least about the watched time (ticks, inclusive). exact: it says no more.
    """

    node: Node | None
    since: int
    until: int
    exact: bool

    def fits(self, record: Mapping[str, Any]) -> bool:
        """Whether a record, its times as texts, is meant."""
        return self.node is None or _fits(self.node, record)


EVERYTHING = Filter(None, 0, FOREVER, exact=True)


def read(text: str, properties: Mapping[str, Kind], watched: str) -> Filter:
    """Read an expression over these properties; bounds are kept for `watched`, a time. Raises Bad."""
    if len(text) > MOST_CHARACTERS:
        raise Bad(f"The expression is longer than {MOST_CHARACTERS} characters.")
    reader = _Reader(text, properties)
    node = reader.whole()
    since, until, exact = _bounds(node, watched)
    return Filter(node, since, until, exact)


class _Reader:
    def __init__(self, text: str, properties: Mapping[str, Kind]) -> None:
        self._text = text
        self._properties = properties
        self._at = 0
        self._found: tuple[str, str] = ("", "")
        self._next()

    def whole(self) -> Node:
        node = self._either(0)
        if self._found[0]:
            self._fail()
        return node

    def _either(self, depth: int) -> Node:
        parts = [self._each(depth)]
        while self._found == ("name", "or"):
            self._next()
            parts.append(self._each(depth))
        return parts[0] if len(parts) == 1 else Both(every=False, parts=tuple(parts))

    def _each(self, depth: int) -> Node:
        parts = [self._one(depth)]
        while self._found == ("name", "and"):
            self._next()
            parts.append(self._one(depth))
        return parts[0] if len(parts) == 1 else Both(every=True, parts=tuple(parts))

    def _one(self, depth: int) -> Node:
        if self._found == ("mark", "("):
            if depth >= MOST_DEPTH:
                raise Bad("The expression is nested too deep.")
            self._next()
            node = self._either(depth + 1)
            if self._found != ("mark", ")"):
                self._fail()
            self._next()
            return node
        return self._comparison()

    def _comparison(self) -> Comparison:
        name = self._name()
        if name not in self._properties:
            raise Bad(f"Could not find a property named '{name}' that can be filtered on.")
        kind = self._properties[name]
        word = self._name()
        if word not in _COMPARE:
            raise Bad(f"The operator '{word}' is not supported.")
        what, value = self._found
        self._next()
        if (what, value) == ("name", "null") and word == "eq":
            return Comparison(name, word, kind, None)
        if what != kind or (kind == "text" and word != "eq"):
            raise Bad(f"'{name} {word}' cannot be compared with a value such as {value[:60]!r}.")
        if kind == "time":
            try:
                return Comparison(name, word, kind, ticks.parse(value))
            except ValueError as problem:
                raise Bad(str(problem)) from None
        if kind == "number":
            return Comparison(name, word, kind, int(value))
        return Comparison(name, word, kind, value[1:-1].replace("''", "'"))

    def _name(self) -> str:
        what, value = self._found
        if what != "name":
            self._fail()
        self._next()
        return value

    def _next(self) -> None:
        found = _TOKEN.match(self._text, self._at)
        if found is None or found.lastgroup is None:
            if self._text[self._at :].strip():
                self._fail()
            self._found = ("", "")
            return
        self._at = found.end()
        self._found = (found.lastgroup, found[found.lastgroup])

    def _fail(self) -> None:
        raise Bad(f"Syntax error at position {self._at} in {self._text[:200]!r}.")


def _bounds(node: Node, watched: str) -> tuple[int, int, bool]:
    if isinstance(node, Comparison):
        if node.name != watched or not isinstance(node.value, int):
            return 0, FOREVER, False
        at = node.value
        low, high = {
            "eq": (at, at),
            "ge": (at, FOREVER),
            "gt": (at + 1, FOREVER),
            "le": (0, at),
            "lt": (0, at - 1),
        }[node.word]
        return max(low, 0), high, True
    found = [_bounds(part, watched) for part in node.parts]
    if node.every:
        return (
            max(low for low, _, _ in found),
            min(high for _, high, _ in found),
            all(exact for _, _, exact in found),
        )
    return min(low for low, _, _ in found), max(high for _, high, _ in found), False


def _fits(node: Node, record: Mapping[str, Any]) -> bool:
    if isinstance(node, Both):
        results = (_fits(part, record) for part in node.parts)
        return all(results) if node.every else any(results)
    held = record.get(node.name)
    if held is None or node.value is None:
        return held is None and node.value is None
    if node.kind == "time":
        try:
            held = ticks.parse(held)
        except (TypeError, ValueError):
            return False
    try:
        return _COMPARE[node.word](held, node.value)
    except TypeError:
        return False

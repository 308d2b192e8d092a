"""What may be asked of a list of records, and what was asked: the query options as read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple

from service.simulator import casebook, odata


class Bad(ValueError):
    """The option cannot be taken; the message says why."""


class Options(NamedTuple):
    """The query as read; `top` None where it was not given."""

    filter: odata.Filter
    top: int | None
    skip: int
    expand: bool
    counted: bool
    order: casebook.Order


@dataclasses.dataclass(frozen=True, slots=True)
class Collection:
    """One list of records and what may be asked of it."""

    documented: frozenset[str]
    properties: Mapping[str, odata.Kind]
    watched: str
    created: str
    expandable: str | None
    context: str


def expand(given: Mapping[str, str], collection: Collection) -> bool:
    """Whether `$expand` names what can be expanded. Raises Bad."""
    name = given.get("$expand")
    if name is not None and "$expand" in collection.documented and name != collection.expandable:
        raise Bad(f"Could not find a property named '{name[:60]}' to expand.")
    return name is not None and name == collection.expandable


def filtered(given: Mapping[str, str], collection: Collection) -> odata.Filter:
    """What `$filter` means; everything without one. Raises Bad."""
    if "$filter" not in given:
        return odata.EVERYTHING
    try:
        return odata.read(given["$filter"], collection.properties, collection.watched)
    except odata.Bad as bad:
        raise Bad(f"Invalid filter clause. {bad}") from None


def whole(given: Mapping[str, str], name: str) -> int | None:
    """The whole number of an option; None where it was not given. Raises Bad."""
    text = given.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise Bad(f"The value '{text[:60]}' of the query parameter '{name}' is invalid.")
    return int(text)


def order(text: str, collection: Collection) -> casebook.Order:
    """The order that `$orderby` means. Raises Bad."""
    match text.split():
        case [collection.watched] | [collection.watched, "asc"]:
            return "update_asc"
        case [collection.watched, "desc"]:
            return "update"
        case [collection.created, "desc"]:
            return "creation"
    raise Bad(f"The order '{text[:60]}' is not supported.")

"""Plausible customers, and the ids and secrets that follow from a seed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import NamedTuple

from service.simulator import dice

_NAMES = (
    "Contoso", "Fabrikam", "Northwind Traders", "Adatum", "Wingtip Toys", "Litware", "Proseware",
    "Tailspin Toys", "Woodgrove Bank", "Fourth Coffee", "Graphic Design Institute", "Humongous Insurance",
    "Lucerne Publishing", "Margie's Travel", "Relecloud", "School of Fine Art", "Trey Research",
    "VanArsdel", "Wide World Importers", "Alpine Ski House",
)  # fmt: skip


class Customer(NamedTuple):
    """One of them; rate in alerts a minute."""

    tenant_id: str
    name: str
    region: str
    rate: float


def plausible(seed: int, first: int, count: int, rate: float) -> Iterator[Customer]:
    """`count` customers from number `first` on, with rates from a fifth of `rate` to three times it."""
    rng = dice.Dice(f"{seed}/tenants/{first}")
    for number in range(first, first + count):
        series, place = divmod(number, len(_NAMES))
        name = f"{_NAMES[place]} {series + 1}" if series else _NAMES[place]
        share = rng.choice((0.2, 0.5, 0.5, 1.0, 1.0, 3.0))
        region = rng.choice(("eu", "eu", "us", "uk"))
        yield Customer(guid(rng), name, region, rate * share)


def guid(rng: dice.Dice) -> str:
    """The next GUID of a seeded sequence."""
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def secret(rng: dice.Dice) -> str:
    """The next client secret of a seeded sequence."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "sim~" + "".join(rng.choices(letters, k=36))

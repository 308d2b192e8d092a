"""Random numbers that are the same every time: alerts, tenants and faults follow from a seed."""

from __future__ import annotations

import random


class Dice(random.Random):
    """Seeded with a text or number. Nothing is kept secret by it, not even the simulator's client secrets."""

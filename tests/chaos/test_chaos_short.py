"""The bounded part of `make chaos` that every run of the tests has: a storm of seconds over real processes, and its verdict."""

from __future__ import annotations

import json

import pytest

from tests.chaos import run, scene
from tests.chaos.weather import Event

# Two replicas; each kind of blow once, and the replica that is cut off stays so for longer than its lease.
BLOWS = [
    Event(0.0, "api", 0, 3.0, "siem", "reset-inside"),
    Event(0.0, "api", 1, 3.0, "mde", "503-html"),
    Event(0.0, "api", 2, 3.0, "xdr", "truncated"),
    Event(0.2, "burst", 5, 0.0),
    Event(0.5, "kill", 0, 0.0),
    Event(1.0, "entra", 3, 3.0, "token", "503"),
    Event(1.0, "silence", 1, 4.0),
    Event(2.0, "api", 4, 4.0, "graph", "504"),
    Event(3.0, "postgres", 0, 0.0),
    Event(4.0, "backends", 0, 0.0),
]


@pytest.mark.timeout(400)
async def test_a_short_storm_loses_and_doubles_nothing(tmp_path):
    """A kill, a partition, a restart of PostgreSQL and failing APIs: every alert is held once, and every claim was true."""
    wanted = scene.Scene(
        7,
        5.0,
        tmp_path,
        tenants=6,
        replicas=2,
        rate=20.0,
        history=300.0,
        lookback=120.0,
        patience=150.0,
        pace=0.5,
    )
    told = await run.perform(wanted, "test", events=BLOWS)
    assert told.violations == [], told.json()
    assert told.events == {
        "api": 4, "backends": 1, "burst": 1, "entra": 1, "kill": 1, "postgres": 1, "silence": 1,
    }  # fmt: skip
    assert told.alerts["truth"] > 100
    assert told.claims["records claimed"] > 100
    assert json.loads(told.json())["alerts"]["lost"] == 0

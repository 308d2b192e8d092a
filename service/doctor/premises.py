"""What a process finds at home: its settings, and the database."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from service import errors, parts, settings
from service.doctor.finding import Finding, Grade
from service.store import checkup, pool, schema

_OLDEST: Final = 15
_NEWEST: Final = 18
_SLOW_FEED: Final = 30.0
_CLOCK_OFF: Final = 30.0
_CLOCK_WRONG: Final = 300.0


def of_settings(config: settings.Settings, unknown: Sequence[str]) -> list[Finding]:
    """They could be read, or there would be nobody to ask. `unknown` are the lines about variables that are no settings."""
    proxy = parts.proxy(config)
    way = f"via proxy {proxy.name}" if proxy else "no proxy"
    trust = f"trusting {config.ca_file}" if config.ca_file else "trusting what the system trusts"
    found = [Finding("settings", "ALERTWELL_…", "ok", f"loaded: cloud {config.cloud}, {way}, {trust}")]
    return found + [
        Finding("settings", line.split(" ", 1)[0], "warning", line, "Correct the name, or unset it")
        for line in unknown
    ]


async def of_database(database: pool.Database, *, ttl: float) -> list[Finding]:
    """Version, schema, clock, feed and leases."""
    started = time.monotonic()
    version, now = await checkup.clock(database)
    took = time.monotonic() - started
    found = [_version(version), clock("database", now, datetime.now(UTC), took)]
    try:
        await schema.check(database)
    except errors.SchemaMismatch as mismatch:
        return [*found, Finding("database", "schema", "broken", str(mismatch))]
    found.append(Finding("database", "schema", "ok", f"fits revision {schema.REVISION}"))
    seen = await checkup.vitals(database, ttl=ttl)
    return [*found, _feed(seen), _leases(seen)]


def clock(subject: str, theirs: datetime, ours: datetime, slack: float) -> Finding:
    """Our clock against another; `slack` is the seconds that the comparison may be off."""
    ahead = (ours - theirs).total_seconds()
    off = max(abs(ahead) - slack, 0.0)
    grade: Grade = "ok" if off < _CLOCK_OFF else "warning" if off < _CLOCK_WRONG else "broken"
    if grade == "ok":
        return Finding("clock", subject, grade, f"agrees with ours within {max(abs(ahead), 1):.0f} s")
    side = "ahead of" if ahead > 0 else "behind"
    remedy = f"Set this machine's clock (NTP), or that of {subject}"
    return Finding(
        "clock", subject, grade, f"our clock is {abs(ahead):.0f} s {side} that of {subject}", remedy
    )


def _version(number: int) -> Finding:
    major = number // 10000
    said = f"PostgreSQL {major}.{number % 10000}"
    if major < _OLDEST:
        return Finding(
            "database", "server", "broken", f"{said} is too old", f"Use PostgreSQL {_OLDEST} to {_NEWEST}"
        )
    if major > _NEWEST:
        return Finding(
            "database", "server", "warning", f"{said} is newer than what was tried ({_OLDEST} to {_NEWEST})"
        )
    return Finding("database", "server", "ok", said)


def _feed(seen: checkup.Vitals) -> Finding:
    if seen.oldest_unnumbered_seconds > _SLOW_FEED:
        said = f"{seen.unnumbered} changes wait for a number, the oldest for {seen.oldest_unnumbered_seconds:.0f} s"
        remedy = "Is a replica running? Look for sequencer_waits in its log"
        return Finding("database", "feed", "warning", said, remedy)
    return Finding("database", "feed", "ok", "changes are numbered as they come")


def _leases(seen: checkup.Vitals) -> Finding:
    alive = f"{seen.replicas} living replica{'' if seen.replicas == 1 else 's'}"
    if seen.unowned:
        remedy = "Wait for ALERTWELL_LEASE_TTL" if seen.replicas else "Start one: alertwell run"
        said = f"{seen.unowned} of {seen.active} active tenants are polled by nobody ({alive})"
        return Finding("database", "leases", "warning", said, remedy)
    return Finding("database", "leases", "ok", f"{seen.active} active tenants, {alive}")

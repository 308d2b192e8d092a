"""Tenants' own credentials: whose counts, what changes with them, and what stays."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from service import errors, model
from service.store import credentials, enrolments, leases, pool, reseals, streams, tenants
from tests.store import rows

SECRET = credentials.Own("app", "client_secret", b"s")


async def read_as(database: pool.Database) -> dict[str, model.Credential | None]:
    """As whom each source of tenant 1 is read."""
    return {
        item.stream.source: item.access.credential
        for item in await streams.load(database, [rows.tenant_id(1)])
    }


async def two_streams(database: pool.Database, pool: asyncpg.Pool) -> None:
    """Tenant 1 with two streams, both proven for a day."""
    both: dict[str, dict[str, Any]] = {"siem": {}, "graph_alerts": {}}
    await enrolments.enrol(database, [rows.enrolment(1, sources=both)], lookback=rows.LOOKBACK)
    await pool.execute("UPDATE alertwell.stream SET coverage = '{[2026-01-01 00:00Z, 2026-01-02 00:00Z)}'")


async def proven(pool: asyncpg.Pool) -> set[str]:
    """The sources of which something is proven."""
    found = await pool.fetch("SELECT source FROM alertwell.stream WHERE NOT isempty(coverage)")
    return {row["source"] for row in found}


async def test_the_nearest_credential_wins(database: pool.Database, pool: asyncpg.Pool):
    """The source's before the tenant's before the shared app's; each that is cleared makes way for the next."""
    await two_streams(database, pool)
    one = rows.tenant_id(1)
    assert await read_as(database) == {"siem": None, "graph_alerts": None}
    await credentials.set_own(database, one, "", SECRET, actor="me")
    special = credentials.Own("siem app", "certificate", b"pem", rows.NOON)
    await credentials.set_own(database, one, "siem", special, actor="me")
    found = await read_as(database)
    assert found["siem"] is not None
    assert found["graph_alerts"] is not None
    assert (found["siem"].app_id, found["siem"].kind, found["siem"].sealed) == (
        "siem app",
        "certificate",
        b"pem",
    )
    assert (found["graph_alerts"].app_id, found["graph_alerts"].kind) == ("app", "client_secret")
    assert [(each.source, each.expires_at) for each in await credentials.listed(database)] == [
        ("", None),
        ("siem", rows.NOON),
    ]
    assert await credentials.clear(database, one, "siem", actor="me")
    found = await read_as(database)
    assert found["siem"] == found["graph_alerts"] is not None
    assert await credentials.clear(database, one, "", actor="me")
    assert not await credentials.clear(database, one, "", actor="me")
    assert await read_as(database) == {"siem": None, "graph_alerts": None}
    told = await pool.fetch(
        """
        SELECT action, actor, detail ->> 'source', detail ->> 'app_id'
        FROM alertwell.audit WHERE action LIKE 'credential.%' ORDER BY audit_id
        """
    )
    assert [tuple(row) for row in told] == [
        ("credential.set", "me", None, "app"),
        ("credential.set", "me", "siem", "siem app"),
        ("credential.cleared", "me", "siem", "siem app"),
        ("credential.cleared", "me", None, "app"),
    ]


async def test_another_app_takes_back_what_it_reads(database: pool.Database, pool: asyncpg.Pool):
    """Only of the streams that are read as somebody else now; a new secret of the same app takes back nothing."""
    await two_streams(database, pool)
    one = rows.tenant_id(1)
    await credentials.set_own(database, one, "siem", SECRET, actor="me")
    assert await proven(pool) == {"graph_alerts"}
    await pool.execute("UPDATE alertwell.stream SET coverage = '{[2026-01-01 00:00Z, 2026-01-02 00:00Z)}'")
    await credentials.set_own(database, one, "siem", credentials.Own("app", "certificate", b"p"), actor="me")
    assert await proven(pool) == {"siem", "graph_alerts"}
    await credentials.set_own(database, one, "", SECRET, actor="me")
    assert await proven(pool) == {"siem"}
    await credentials.set_own(database, one, "siem", credentials.Own("app", "delegated", b"r"), actor="me")
    assert await proven(pool) == set()


async def test_a_version_is_never_given_twice(database: pool.Database, pool: asyncpg.Pool):
    """A credential that takes the place of one that was cleared is another one, also with the same app."""
    await two_streams(database, pool)
    seen = []
    for source in ("", "siem", "", "siem"):
        await credentials.set_own(database, rows.tenant_id(1), source, SECRET, actor="me")
        seen += [each.credential for each in await credentials.listed(database) if each.source == source]
        await credentials.clear(database, rows.tenant_id(1), source, actor="me")
    assert len(set(seen)) == 4
    assert len({each.version for each in seen}) == 4


async def test_the_owner_hears_of_it(database: pool.Database, pool: asyncpg.Pool):
    """The roster's version and the lease's epoch grow: what is in flight writes nothing, and the owner reads anew."""
    await two_streams(database, pool)
    [lease] = await rows.claim(database)
    before = await leases.roster_version(database)
    await credentials.set_own(database, rows.tenant_id(1), "", SECRET, actor="me")
    assert await leases.roster_version(database) > before
    [held] = await leases.held(database, rows.REPLICA)
    assert held.epoch > lease.epoch


async def test_whose_credential_cannot_be(database: pool.Database, pool: asyncpg.Pool):
    """A tenant that is not there has none, and one that was removed gets none; its old one can be cleared."""
    await two_streams(database, pool)
    with pytest.raises(errors.BadInput, match="no tenant"):
        await credentials.set_own(database, rows.tenant_id(2), "", SECRET, actor="me")
    await credentials.set_own(database, rows.tenant_id(1), "", SECRET, actor="me")
    await tenants.set_state(database, rows.tenant_id(1), "removed")
    with pytest.raises(errors.BadInput, match="was removed"):
        await credentials.set_own(database, rows.tenant_id(1), "", SECRET, actor="me")
    assert await credentials.clear(database, rows.tenant_id(1), "", actor="me")


async def test_older_software_meets_secrets_alone(database: pool.Database, pool: asyncpg.Pool):
    """Software that would take a certificate's key for a secret, and send it, does not start any more once there is one."""
    await two_streams(database, pool)
    works = "SELECT works_with_from FROM alertwell.schema_version"
    await credentials.set_own(database, rows.tenant_id(1), "", SECRET, actor="me")
    assert await pool.fetchval(works) == 1
    await credentials.set_own(
        database, rows.tenant_id(1), "", credentials.Own("app", "federated", b""), actor="me"
    )
    assert await pool.fetchval(works) == credentials.KINDS_KNOWN_FROM == 6


async def test_sealing_anew_leaves_what_was_renewed_meanwhile(database: pool.Database, pool: asyncpg.Pool):
    """Batch by batch in one order; what another has put there since it was read stays; nobody is told to read anew."""
    numbers = range(1, 6)
    own = {n: credentials.Own("app", "delegated", b"old %d" % n) for n in numbers}
    await enrolments.enrol(database, [rows.enrolment(n, own=own[n]) for n in numbers], lookback=rows.LOOKBACK)
    await credentials.set_own(
        database, rows.tenant_id(1), "siem", credentials.Own("app", "federated", b""), actor="me"
    )
    before = await leases.roster_version(database)
    found, after = [], None
    while batch := await reseals.batch(database, after, limit=2):
        found += batch
        after = batch[-1].place
    assert [each.sealed for each in found] == [b"old 1", b"old 2", b"old 3", b"old 4", b"old 5"]
    await pool.execute(
        "UPDATE alertwell.credential SET sealed = 'rotated' WHERE tenant_id = $1", rows.tenant_id(3)
    )
    versions = {each.tenant_id: each.credential for each in await credentials.listed(database)}
    anew = [(each, b"new " + each.sealed) for each in found]
    assert await reseals.replace(database, anew, actor="me") == 4
    held = {each.tenant_id: each.credential for each in await credentials.listed(database) if not each.source}
    assert held[rows.tenant_id(3)].sealed == b"rotated"
    assert held[rows.tenant_id(5)].sealed == b"new old 5"
    assert held[rows.tenant_id(5)] == versions[rows.tenant_id(5)]  # the same credential
    assert await leases.roster_version(database) == before
    told = await pool.fetch(
        "SELECT detail ->> 'count' FROM alertwell.audit WHERE action = 'credential.resealed'"
    )
    assert [tuple(row) for row in told] == [("4",)]


async def test_the_first_end_of_each_kind(database: pool.Database):
    """The soonest with its tenant, and how many end within 60 days; removed tenants do not count."""
    ends = {1: 50, 2: 9, 3: 400, 4: 1}
    wanted = [
        rows.enrolment(
            n, own=credentials.Own(f"app {n}", "certificate", b"x", rows.NOON + timedelta(days=days))
        )
        for n, days in ends.items()
    ]
    await enrolments.enrol(database, wanted, lookback=rows.LOOKBACK)
    await tenants.set_state(database, rows.tenant_id(4), "removed")
    [found] = await credentials.endings(database)
    assert (found.owner, found.app_id, found.first, found.soon) == (
        "tenants",
        "app 2",
        "Contoso 2 (1111…)",
        2,
    )
    assert found.expires_at == rows.NOON + timedelta(days=9)

"""Refresh tokens that took another's place: written by the owner alone, and never over another sign-in."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from service import model
from service.store import credentials, enrolments, leases, pool, rotations

CONTOSO = UUID("11111111-1111-1111-1111-111111111111")
APP = "22222222-2222-2222-2222-222222222222"


@pytest.fixture
async def signed(database: pool.Database) -> list[rotations.Rotation]:
    """Contoso with two sign-ins, one for a source; we own it. What a renewal of each has brought."""
    await enrolments.enrol(
        database,
        [enrolments.Enrolment(model.Tenant(CONTOSO, "Contoso"), {"graph_alerts": {}, "mde_alerts": {}})],
        lookback=timedelta(hours=1),
    )
    for source in ("", "mde_alerts"):
        own = credentials.Own(APP, "delegated", b"old", datetime.now(UTC) + timedelta(days=3))
        await credentials.set_own(database, CONTOSO, source, own, actor="test")
    replica = uuid4()
    await leases.heartbeat(database, replica, host="test", version="0", ttl=60)
    [lease] = await leases.claim(database, replica, limit=9, ttl=60)
    return [
        rotations.Rotation(lease, source, stored.credential.version, b"new" + source.encode())
        for source, stored in (await held(database)).items()
    ]


async def held(database: pool.Database) -> dict[str, Any]:
    """The credentials, by source."""
    return {each.source: each for each in await credentials.listed(database)}


async def test_the_owner_writes(database: pool.Database, signed: list[rotations.Rotation]):
    """Both rows get their own, the same versions, and another 90 days; the lease and the roster stay as they are."""
    before = await leases.roster_version(database)
    assert await rotations.rotate(database, signed) == {CONTOSO}
    found = await held(database)
    assert [each.credential.sealed for each in found.values()] == [b"new", b"newmde_alerts"]
    assert [each.credential.version for each in found.values()] == [each.version for each in signed]
    for each in found.values():
        assert timedelta(days=89) < each.expires_at - datetime.now(UTC) <= timedelta(days=90)
    assert await leases.roster_version(database) == before
    assert await leases.held(database, signed[0].lease.owner) == [signed[0].lease]


async def test_a_late_writer_writes_nothing(database: pool.Database, signed: list[rotations.Rotation]):
    """Another owner, or another epoch."""
    late = [
        replace(each, lease=replace(each.lease, epoch=each.lease.epoch - 1), sealed=b"late")
        for each in signed
    ]
    strangers = [replace(each, lease=replace(each.lease, owner=uuid4()), sealed=b"late") for each in signed]
    for writer in (late, strangers, []):
        assert await rotations.rotate(database, writer) == set()
    assert {each.credential.sealed for each in (await held(database)).values()} == {b"old"}


async def test_another_sign_in_stays(database: pool.Database, signed: list[rotations.Rotation]):
    """What a renewal of the sign-in before brings is not written over a new one, nor over a secret."""
    own = credentials.Own(APP, "delegated", b"another")
    await credentials.set_own(database, CONTOSO, "", own, actor="test")
    await credentials.set_own(
        database, CONTOSO, "mde_alerts", credentials.Own(APP, "client_secret", b"secret"), actor="test"
    )
    [lease] = await leases.held(database, signed[0].lease.owner)
    await rotations.rotate(database, [replace(each, lease=lease) for each in signed])
    found = await held(database)
    assert [each.credential.sealed for each in found.values()] == [b"another", b"secret"]
    secret = replace(signed[1], lease=lease, version=found["mde_alerts"].credential.version)
    await rotations.rotate(database, [secret])
    assert (await held(database))["mde_alerts"].credential.sealed == b"secret"


async def test_what_is_sealed_is_not_shown(signed: list[rotations.Rotation]):
    """A rotation hides it."""
    assert "new" not in repr(signed)

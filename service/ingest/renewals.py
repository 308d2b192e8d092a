"""What became of users' sign-ins: the newest refresh token of each, waiting in memory to be written by the tenant's owner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from uuid import UUID

from service import model
from service.store import pool, rotations


class Renewals:
    """`note` what a renewal brought, `flush` it. Between the two nothing is lost that a crash could cost: see store.rotations."""

    def __init__(self, database: pool.Database, leases: Callable[[], Mapping[UUID, model.Lease]]) -> None:
        """`leases()` are the tenants that this replica owns now."""
        self._database = database
        self._leases = leases
        self._waiting: dict[tuple[UUID, str, int], bytes] = {}

    def note(self, access: model.Access, sealed: bytes) -> None:
        """As `auth.tokens.Tokens` calls it; the newest one of a sign-in counts."""
        if access.credential is not None:
            key = (access.tenant.tenant_id, access.credential.source, access.credential.version)
            self._waiting[key] = sealed

    async def flush(self) -> None:
        """Write what waits. Of a tenant that is not ours any more nothing is written; its owner has renewals of its own.

        What could not be written is tried again with the next flush. Raises DatabaseUnavailable.
        """
        if not self._waiting:
            return
        ours = self._leases()
        taken = dict(self._waiting)
        await rotations.rotate(
            self._database,
            [
                rotations.Rotation(ours[tenant_id], source, version, sealed)
                for (tenant_id, source, version), sealed in taken.items()
                if tenant_id in ours
            ],
        )
        for key, sealed in taken.items():
            if self._waiting.get(key) is sealed:  # else a newer one came meanwhile
                del self._waiting[key]

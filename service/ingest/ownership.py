"""Which tenants this replica polls: heartbeats, fair and sticky shares, taking over from the dead, letting go in peace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from uuid import UUID

import structlog

from service import errors, metrics, model
from service.ingest.worker import Worker
from service.store import leases, pool, streams

_LOAD_BATCH = 2000
_log = structlog.get_logger(__name__)


class Ownership:
    """One round every quarter of the lease's time to live, and whenever somebody changed the roster."""

    def __init__(
        self,
        database: pool.Database,
        worker: Worker,
        metrics: metrics.Metrics,
        *,
        replica_id: UUID,
        host: str,
        version: str,
        ttl: float,
        forget: Callable[[UUID], object],
    ) -> None:
        """`ttl` is LEASE_TTL in seconds; `forget(tenant_id)` drops what others remember of a tenant that is not ours any more."""
        self._database = database
        self._worker = worker
        self._metrics = metrics
        self._replica_id = replica_id
        self._host = host
        self._version = version
        self._ttl = ttl
        self._forget = forget
        self._roster_version: int | None = None
        self._turn = asyncio.Lock()
        self.heartbeat_at = 0.0
        """Monotonic time of the last heartbeat that the database has."""

    async def look(self) -> None:
        """A round, if a person changed something since the last one, a poll lost its lease, or the last round failed.

        Raises DatabaseUnavailable.
        """
        if (
            self._worker.lease_lost.is_set()
            or self._worker.outage.away
            or await leases.roster_version(self._database) != self._roster_version
        ):
            await self.round()

    async def round(self) -> None:
        """Heartbeat, then bring what we poll in line with what we own. Raises DatabaseUnavailable: then nothing is polled
        until a round succeeds.
        """
        try:
            await self._round()
        except errors.DatabaseUnavailable:
            self._worker.outage.away = True
            raise
        self._worker.outage.away = False
        self._worker.start_due()

    async def _round(self) -> None:
        async with self._turn:
            self._worker.lease_lost.clear()
            asked = time.monotonic()
            fleet = await leases.heartbeat(
                self._database, self._replica_id, host=self._host, version=self._version, ttl=self._ttl
            )
            # counted from before the question: the database's clock started our time to live after that
            self.heartbeat_at = asked
            self._worker.may_poll_until = asked + self._ttl
            if self._worker.closing:
                return  # what ends in peace keeps its leases till then, and takes no more
            held = {lease.tenant_id: lease for lease in await leases.held(self._database, self._replica_id)}
            polled = self._worker.leases
            for tenant_id, lease in polled.items():
                if held.get(tenant_id) != lease:
                    for task in self._worker.drop(tenant_id):
                        task.cancel()  # fenced off: it could store nothing more
                    self._forget(tenant_id)
            surplus = len(held) - fleet.share
            if surplus > 0:
                await self._let_go(held, surplus)
            elif surplus < 0:
                claimed = await leases.claim(self._database, self._replica_id, limit=-surplus, ttl=self._ttl)
                held |= {lease.tenant_id: lease for lease in claimed}
            polled = self._worker.leases
            await self._adopt([lease for tenant_id, lease in held.items() if tenant_id not in polled])
            self._roster_version = fleet.roster_version
            self._metrics.replicas.set(fleet.alive)
            self._metrics.owned_tenants.set(len(self._worker.leases))

    async def _adopt(self, fresh: list[model.Lease]) -> None:
        taken: set[UUID] = set()
        for start in range(0, len(fresh), _LOAD_BATCH):
            batch = {lease.tenant_id: lease for lease in fresh[start : start + _LOAD_BATCH]}
            # one that fails over in the middle of this is looked at again by the next round
            loaded = await streams.load(self._database, list(batch), of=fresh[start].server)
            self._worker.adopt([(batch[item.stream.tenant_id], item) for item in loaded])
            taken |= {item.stream.tenant_id for item in loaded}
        if taken:  # a tenant whose streams are all disabled is looked at again each time
            _log.info("tenants_taken", count=len(taken))

    async def _let_go(self, held: dict[UUID, model.Lease], surplus: int) -> None:
        """Release what is above our share, and take it out of `held`: first tenants that no poll is reading right now."""
        order = sorted(held, key=lambda tenant_id: not self._worker.idle(tenant_id))[:surplus]
        under_way = [task for tenant_id in order for task in self._worker.drop(tenant_id)]
        if under_way:
            await asyncio.wait(under_way, timeout=self._ttl / 4)
        for tenant_id in order:
            self._forget(tenant_id)
        await leases.release(self._database, [held.pop(tenant_id) for tenant_id in order])
        _log.info("tenants_released", count=len(order))

    async def resign(self) -> None:
        """Give everything back; others take it at once."""
        await leases.retire(self._database, self._replica_id)

"""The composition root: opens everything in one stack, runs the root tasks, stops in reverse.

Nothing else constructs a collaborator: every other module takes what it works with as arguments.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import structlog

from service import errors, line, log, parts, process, settings
from service.auth import claims, files
from service.ingest import (
    horizon,
    ownership,
    plan,
    proving,
    reading,
    renewals,
    retention,
    scheduler,
    sequencer,
    unpacking,
    worker,
)
from service.metrics import Metrics
from service.sources import registry
from service.store import feed, pool, schema
from service.store.embedded import Cluster
from service.web import callback, probes, server

VERSION = version("alertwell")
_TICK = 1.0
_CONTROL_CONNECTIONS = 4
_RETENTION_EVERY = 3600.0
_GAUGES_EVERY = 15.0
_HORIZON_EVERY = 600.0
_FLUSH_EVERY = 10.0
_STANDSTILL = 30.0
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Collector:
    """A running collector: what demo and the probes look at."""

    replica_id: UUID
    metrics: Metrics
    port: int
    failed: asyncio.Future[None]
    """Ends with an exception when a root task dies, or the schema needs newer software: then the process should end too."""
    public_port: int | None = None
    """Where the consent callback listens, where it does."""


@asynccontextmanager
async def database_of(config: settings.Settings, *, embedded: bool) -> AsyncIterator[str]:
    """The DSN to work on; an embedded database is started, and brought to the newest schema, for as long as it is used."""
    if config.dsn is not None:
        yield config.dsn
    elif embedded:
        async with Cluster(config.data_dir / "postgres") as cluster:
            await schema.migrate(cluster.dsn)
            yield cluster.dsn
    else:
        raise errors.BadSetting(
            "ALERTWELL_DATABASE_URL is not set: expected postgresql://user@host/database, or start with --embedded "
            "(in a container, embedded data die with it)"
        )


@asynccontextmanager
async def collector(config: settings.Settings, dsn: str) -> AsyncIterator[Collector]:
    """A whole replica, running as long as the context lasts. Its end is graceful: no new polls, those under way get
    SHUTDOWN_GRACE, what they moved is written, leases are given back.
    """
    measured = Metrics(VERSION)
    replica_id = uuid4()
    ttl = config.lease_ttl.total_seconds()
    parts.shared_app(config)  # before all else: a credential that cannot be read ends the start
    async with AsyncExitStack() as stack:
        doing = "waits for the database"

        def live() -> list[probes.Check]:
            if doing:
                return [probes.Check("process", ok=True, detail=doing)]
            return [probes.fresh("scheduler", time.monotonic() - clock.ticked_at, _STANDSTILL)]

        def ready() -> list[probes.Check]:
            if doing:
                return [probes.Check("collecting", ok=False, detail=doing)]
            age = time.monotonic() - owner.heartbeat_at if owner.heartbeat_at else None
            return [probes.fresh("heartbeat in the database", age, ttl)]

        # listens first and longest: a process that waits for its database lives, and says what it waits for
        served = server.application(probes.Probes(live, ready), measured)
        web = await stack.enter_async_context(server.Server(config.http_host, config.http_port, served))
        database = await stack.enter_async_context(
            pool.open_database(
                dsn, size=config.database_pool_size, patient=True, pooler=config.database_pooler
            )
        )
        # apart from the polls' connections: heartbeats do not queue behind a backlog that is being stored
        control = await stack.enter_async_context(
            pool.open_database(dsn, size=_CONTROL_CONNECTIONS, patient=True, pooler=config.database_pooler)
        )
        await pool.patiently(partial(schema.check, control))
        measured.database_up.set(1)

        restored = asyncio.Event()
        renewed = renewals.Renewals(control, lambda: polls.leases)
        door = await stack.enter_async_context(
            line.open_line(config, measured, on_restored=restored.set, on_rotated=renewed.note)
        )
        desk = reading.Desk(
            sender=door.sender,
            database=database,
            sources=registry.SOURCES,
            rules=plan.Rules(
                config.poll_interval,
                config.live_span,
                config.overlap,
                config.overlap_max,
                config.sweep_span,
                config.sweep_interval,
                target_bytes=plan.target_bytes(config.max_body_bytes),
            ),
            clock=reading.Clock(),
            metrics=measured,
            unpacking=unpacking.Unpacking(config.max_body_bytes, at_once=config.database_pool_size // 2),
            fallback=parts.fallback(config),
        )
        polls = worker.Worker(
            desk,
            replica_id,
            slots=config.max_concurrent_polls,
            budget=config.poll_budget.total_seconds(),
            stalled=door.in_flight.stalled,
        )

        def forget(tenant_id: UUID) -> None:
            door.tokens.forget(tenant_id)
            door.sender.forget(tenant_id)

        owner = ownership.Ownership(
            control,
            polls,
            measured,
            replica_id=replica_id,
            host=socket.gethostname(),
            version=VERSION,
            ttl=ttl,
            forget=forget,
        )
        answers = proving.Line(door.tokens, door.sender, registry.SOURCES, claims.lacks, desk.clock)
        proofs = proving.Proving(answers, control, replica_id, ttl=ttl, lookback=config.initial_lookback)
        public_port = await stack.enter_async_context(_callback(config, control, measured))
        # from here on, what was started has to end in peace
        stack.push_async_callback(_quietly, owner.resign)
        stack.push_async_callback(_quietly, partial(polls.flush, everything=True))
        stack.push_async_callback(_quietly, renewed.flush)
        stack.push_async_callback(proofs.stop)

        clock = scheduler.Scheduler()
        keys = (config.sealing_keys_file,) if config.sealing_keys_file else ()
        watched = files.Watch([*(door.shared.paths if door.shared else ()), *keys])

        async def tick() -> None:
            if restored.is_set() or watched.changed():
                restored.clear()
                polls.wake(["needs_attention"])
            polls.start_due()

        async def gauges() -> None:
            polls.show()
            measured.bytes_in_flight.set(config.max_bytes_in_flight - door.in_flight.free)
            try:
                behind = await feed.backlog(control)
            except errors.DatabaseUnavailable:
                measured.database_up.set(0)
                raise
            measured.database_up.set(1)
            measured.feed_unnumbered.set(behind.unnumbered)
            measured.feed_oldest_unnumbered_seconds.set(behind.oldest_seconds)

        failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def fits() -> None:
            # a migration has ended what this version needs: it would only fail, poll by poll
            try:
                await schema.check(control)
            except errors.SchemaMismatch as mismatch:
                if not failed.done():
                    _log.error("schema_mismatch", error=str(mismatch))
                    failed.set_exception(mismatch)

        keep = retention.Keep(
            config.retention, config.retention_changes, config.retention_polls, config.retention_rejects
        )
        clock.every(ttl / 4, owner.round, name="ownership")
        clock.every(ttl / 4, fits, name="schema")
        clock.every(_TICK, tick, name="tick")
        clock.every(_TICK, owner.look, name="roster")
        clock.every(_TICK, proofs.round, name="proofs")
        clock.every(_FLUSH_EVERY, polls.flush, name="progress")
        clock.every(_TICK, renewed.flush, name="sign-ins")
        clock.every(_GAUGES_EVERY, gauges, name="gauges")
        ends = horizon.Horizon(control, door.tokens.horizons, measured)
        clock.every(_HORIZON_EVERY, ends.round, name="horizon")
        clock.every(_RETENTION_EVERY, partial(retention.prune, control, keep), name="retention")

        await stack.enter_async_context(_root_task("sequencer", sequencer.run(control), failed))
        await stack.enter_async_context(clock)
        # first of all at the end: heartbeats go on while running polls get their grace
        stack.push_async_callback(polls.stop, config.shutdown_grace.total_seconds())
        _log.info("collecting", replica=str(replica_id), version=VERSION)
        doing = ""
        yield Collector(replica_id, measured, web.port, failed, public_port)
        doing = "stops"
        _log.info("stopping")


@asynccontextmanager
async def _callback(
    config: settings.Settings, database: pool.Database, measured: Metrics
) -> AsyncIterator[int | None]:
    """The consent callback on a port of its own, where PUBLIC_PORT asks for it."""
    if config.public_port is None:
        yield None
        return
    if config.callback_url is None:
        raise errors.BadSetting(
            f"ALERTWELL_PUBLIC_PORT={config.public_port} needs ALERTWELL_PUBLIC_URL, the address that browsers reach it by"
        )
    sealer = parts.sealer(config)
    if sealer is None:
        raise errors.BadSetting(
            "ALERTWELL_PUBLIC_PORT is set without ALERTWELL_SEALING_KEYS_FILE, which signs the links: make one with: "
            "alertwell seal-key --into FILE"
        )
    taking = callback.Callback(database, sealer, measured)
    served = callback.application(taking, urlsplit(config.callback_url).path)
    async with server.Server(config.http_host, config.public_port, served, setting="PUBLIC_PORT") as public:
        yield public.port


@asynccontextmanager
async def _root_task(
    name: str, work: Coroutine[Any, Any, None], failed: asyncio.Future[None]
) -> AsyncIterator[None]:
    """A task that lives as long as the process: if it ends by itself, so does the process."""

    def ended(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and not failed.done():
            cause = task.exception()
            _log.error("root_task_ended", task=name, exc_info=cause)
            failed.set_exception(cause or RuntimeError(f"{name} ended by itself"))

    task = asyncio.create_task(work, name=name)
    task.add_done_callback(ended)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        if not failed.cancel() and not failed.cancelled():
            failed.exception()  # it is logged


async def _quietly(call: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Part of a stop: the database may be gone, and then the leases run out by themselves."""
    try:
        await asyncio.wait_for(call(), 10)
    except (errors.AlertwellError, TimeoutError) as error:
        _log.warning("stopping_without", error=str(error))


def run(config: settings.Settings, *, embedded: bool = False) -> int:
    """The daemon: until SIGTERM or SIGINT, which end it in peace; the second one ends it at once. The exit code comes back."""
    log.configure(config.log_level, config.log_format)
    for problem in settings.unknown():
        _log.warning("unknown_setting", problem=problem)
    return process.run_until_signalled(lambda stop: _serve(config, stop, embedded=embedded))


async def _serve(config: settings.Settings, stop: asyncio.Event, *, embedded: bool) -> int:
    async with database_of(config, embedded=embedded) as dsn:
        opening = asyncio.ensure_future(stop.wait())
        async with AsyncExitStack() as stack:
            entering = asyncio.ensure_future(stack.enter_async_context(collector(config, dsn)))
            await asyncio.wait({entering, opening}, return_when=asyncio.FIRST_COMPLETED)
            if not entering.done():  # signalled while it waits for the database
                entering.cancel()
                await asyncio.gather(entering, return_exceptions=True)
                return 0
            running = entering.result()
            process.settle()
            watched: set[asyncio.Future[Any]] = {opening, running.failed}
            await asyncio.wait(watched, return_when=asyncio.FIRST_COMPLETED)
            broken = running.failed.done()
        opening.cancel()
    return 1 if broken else 0

"""The examination: what is at home first, then hosts, the shared credential, and tenants side by side, each within its time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from service import errors, line, metrics, parts, settings
from service.doctor import customers, horizon, hosts, premises
from service.doctor.finding import Finding, sorted_by_grade, timed_out, within
from service.store import checkup, pool, schema, streams

DEADLINE: Final = 30.0
"""Seconds that one check may take, whatever hangs."""
_AT_ONCE: Final = 16
"""Checks at once; after so many in a row without an answer nobody waits for more of the same: there may be thousands."""

Progress = Callable[[int, int], None]
Named = Callable[[pool.Database], Awaitable[list[UUID]]]


@dataclass(frozen=True, slots=True)
class Wish:
    """`dsn` gives the database's address or raises errors.UserMistake. `named` finds the tenants that are meant, None: all
    active ones. `customers` false leaves their tokens and calls out. `progress` is called with streams tried and to be tried.
    """

    config: settings.Settings
    dsn: Callable[[], str]
    unknown: Sequence[str] = ()
    named: Named | None = None
    customers: bool = True
    progress: Progress = lambda _done, _all: None
    deadline: float = DEADLINE


async def examine(wish: Wish) -> list[Finding]:
    """All findings, broken ones first. Raises errors.BadInput for a tenant that is not there."""
    found = premises.of_settings(wish.config, wish.unknown)
    async with AsyncExitStack() as stack:
        tried: list[customers.Read] = []
        database: pool.Database | None = None
        try:
            async with asyncio.timeout(wish.deadline):
                database = await stack.enter_async_context(
                    pool.open_database(wish.dsn(), size=2, pooler=wish.config.database_pooler)
                )
        except (errors.UserMistake, errors.DatabaseUnavailable) as error:
            found.append(Finding("database", "server", "broken", str(error)))
        except TimeoutError:
            found.append(Finding("database", "server", "broken", f"no answer within {wish.deadline:g} s"))
        if database is not None:
            ttl = wish.config.lease_ttl.total_seconds()
            found += await within(
                wish.deadline, premises.of_database(database, ttl=ttl), "database", "server"
            )
            try:
                tried = await _enrolled(wish, database)
            except errors.DatabaseUnavailable as error:  # gone between two looks
                found.append(Finding("database", "tenants", "broken", str(error)))
        found += await within(
            wish.deadline, horizon.of_horizon(wish.config, database), "horizon", "credentials"
        )
        found += await _outside(wish, database, tried)
    return sorted_by_grade(found)


async def _enrolled(wish: Wish, database: pool.Database) -> list[customers.Read]:
    try:
        await schema.check(database)
    except errors.SchemaMismatch:
        return []  # is a finding already
    meant = await wish.named(database) if wish.named else await checkup.active(database)
    return customers.reads(await streams.load(database, meant))


async def _outside(
    wish: Wish, database: pool.Database | None, tried: Sequence[customers.Read]
) -> list[Finding]:
    config = wish.config
    proxy, endpoints = parts.proxy(config), parts.endpoints(config)
    wanted = hosts.wanted(endpoints, ((read.source, read.access.tenant) for read in tried), config.cloud)
    gate = asyncio.Semaphore(_AT_ONCE)

    async def of_host(url: str, purpose: str) -> Sequence[Finding]:
        async with gate:
            check = hosts.of_host(url, purpose, config.ca_file, proxy)
            return await within(wish.deadline, check, "host", urlsplit(url).netloc)

    found = [one for each in await asyncio.gather(*map(of_host, wanted, wanted.values())) for one in each]
    if database is None or not wish.customers:
        return found
    try:
        return found + await _of_customers(wish, database, tried, gate)
    except errors.BadSetting as mistake:  # a file that cannot be used: nobody can be tried
        return [*found, Finding("credential", "files", "broken", str(mistake))]


async def _of_customers(
    wish: Wish, database: pool.Database, tried: Sequence[customers.Read], gate: asyncio.Semaphore
) -> list[Finding]:
    """The shared credential, then each tenant. Raises errors.BadSetting where a file of the settings cannot be used."""
    config = wish.config
    found: list[Finding] = []
    async with line.open_line(config, metrics.Metrics("0")) as door:
        app_id = door.shared.app_id if door.shared else None
        credential = await within(
            wish.deadline,
            customers.of_credential(door.tokens, app_id, tried, database),
            "credential",
            "shared app",
        )
        found += credential
        refused = any(one.ok == "broken" for one in credential)
        waiting = [read for read in tried if refused and read.access.credential is None]
        if waiting:
            count = len({read.access.tenant.tenant_id for read in waiting})
            said = f"{count} tenant{'' if count == 1 else 's'} of the shared app not tried: its credential does not work"
            found.append(
                Finding("tenant", "all of the shared app", "broken", said, "Mend the credential first")
            )
        rest = [read for read in tried if read not in waiting]
        done = 0
        silent: Counter[str] = Counter()
        spared: Counter[str] = Counter()

        async def of_stream(read: customers.Read) -> Sequence[Finding]:
            nonlocal done
            service = read.source.service
            async with gate:
                if silent[service] < _AT_ONCE:
                    brought = await within(
                        wish.deadline, customers.of_stream(door.sender, read), "tenant", read.subject
                    )
                    silent[service] = silent[service] + 1 if timed_out(brought) else 0
                else:
                    spared[service] += 1
                    brought = []
            done += 1
            wish.progress(done, len(rest))
            return brought

        found += [one for each in await asyncio.gather(*map(of_stream, rest)) for one in each]
        for service, count in spared.items():
            said = f"{count} stream{'' if count == 1 else 's'} not tried: {_AT_ONCE} in a row before got no answer"
            found.append(Finding("tenant", f"{service} API", "broken", said, "See what holds those up first"))
    return found

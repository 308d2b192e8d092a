"""The examination: what is at home first, then hosts, the shared credential, and tenants side by side, each within its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit
from uuid import UUID

from service import errors, parts, settings
from service.auth import sealing, tokens
from service.doctor import customers, horizon, hosts, premises
from service.doctor.finding import Finding, sorted_by_grade, within
from service.store import checkup, pool, schema, streams
from service.transport import budget, client, pace
from service.transport import session as sessions

DEADLINE: Final = 30.0
"""Seconds that one check may take, whatever hangs."""
_AT_ONCE: Final = 16

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
                database = await stack.enter_async_context(pool.open_database(wish.dsn(), size=2))
        except (errors.UserMistake, errors.DatabaseUnavailable) as error:
            found.append(Finding("database", "server", "broken", str(error)))
        except TimeoutError:
            found.append(Finding("database", "server", "broken", f"no answer within {wish.deadline:g} s"))
        if database is not None:
            ttl = wish.config.lease_ttl.total_seconds()
            found += await within(
                wish.deadline, premises.of_database(database, ttl=ttl), "database", "server"
            )
            tried = await _enrolled(wish, database)
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
    async with _sender(config) as (provider, sender):
        app = parts.shared_app(config)
        app_id = app.app_id if app else None
        credential = await within(
            wish.deadline,
            customers.of_credential(provider, app_id, tried, database),
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

        async def of_stream(read: customers.Read) -> Sequence[Finding]:
            nonlocal done
            async with gate:
                brought = await within(
                    wish.deadline, customers.of_stream(sender, read), "tenant", read.subject
                )
            done += 1
            wish.progress(done, len(rest))
            return brought

        found += [one for each in await asyncio.gather(*map(of_stream, rest)) for one in each]
    return found


@asynccontextmanager
async def _sender(config: settings.Settings) -> AsyncIterator[tuple[tokens.Tokens, client.Client]]:
    """Tokens and a client as the collector has them."""
    endpoints, proxy = parts.endpoints(config), parts.proxy(config)
    sealer = sealing.Sealer.from_file(config.sealing_keys_file) if config.sealing_keys_file else None
    async with sessions.open_session(config.ca_file, connections=_AT_ONCE) as session:
        provider = tokens.Tokens(
            endpoints,
            session,
            shared=parts.shared_app(config),
            sealer=sealer,
            ca_file=config.ca_file,
            proxy=proxy,
            siem_form=config.siem_token,
            roles=parts.roles(),
            scopes=parts.scopes(),
        )
        try:
            yield (
                provider,
                client.Client(
                    session,
                    provider,
                    endpoints,
                    budget.ByteBudget(config.max_bytes_in_flight, config.max_body_bytes),
                    paces=pace.Pace(parts.quotas()),
                    proxy=proxy,
                    timeout=config.request_timeout.total_seconds(),
                ),
            )
        finally:
            await provider.close()

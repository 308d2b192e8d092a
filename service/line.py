"""The way to Microsoft as the settings say it: what a replica polls through, and what a command asks through."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from service import model, parts, settings
from service.auth import modes, tokens
from service.metrics import Metrics
from service.transport import budget, client, pace
from service.transport import session as sessions


@dataclass(frozen=True, slots=True)
class Line:
    """The way to Microsoft: tokens, and requests with them."""

    tokens: tokens.Tokens
    sender: client.Client
    in_flight: budget.ByteBudget
    shared: modes.SharedApp | None


@asynccontextmanager
async def open_line(
    config: settings.Settings,
    measured: Metrics,
    *,
    shared: modes.SharedApp | None = None,
    on_restored: Callable[[], None] | None = None,
    on_rotated: Callable[[model.Access, bytes], None] | None = None,
) -> AsyncIterator[Line]:
    """Open it as the settings say; a command that asks Microsoft something uses the same one as a replica.

    `shared` takes the place of the settings' app: for a rehearsal. `on_rotated` is for whoever keeps sign-ins: see
    `auth.tokens.Tokens`.
    """
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            sessions.open_session(config.ca_file, connections=config.max_concurrent_polls)
        )
        hosts = parts.endpoints(config)
        shared = shared or parts.shared_app(config)
        proxy = parts.proxy(config)
        provider = tokens.Tokens(
            hosts,
            session,
            shared=shared,
            sealer=parts.sealer(config),
            ca_file=config.ca_file,
            proxy=proxy,
            siem_form=config.siem_token,
            roles=parts.roles(),
            scopes=parts.scopes(),
            observe=lambda _service, outcome, _seconds: measured.tokens.labels(outcome).inc(),
            on_restored=on_restored,
            on_rotated=on_rotated,
        )
        stack.push_async_callback(provider.close)
        in_flight = budget.ByteBudget(config.max_bytes_in_flight, config.max_body_bytes)
        sender = client.Client(
            session,
            provider,
            hosts,
            in_flight,
            paces=pace.Pace(parts.quotas()),
            proxy=proxy,
            timeout=config.request_timeout.total_seconds(),
            observe=lambda service, status, seconds, size: measured.service(service).request(
                status, seconds, size
            ),
        )
        yield Line(provider, sender, in_flight, shared)

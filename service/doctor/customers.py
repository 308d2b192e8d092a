"""The shared credential, and each tenant: a real token, and a real call for one minute of each of its sources."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from service import causes, errors, model
from service.auth import tokens
from service.doctor.finding import Finding, Grade
from service.sources import contract, registry
from service.store import checkup, pool, streams
from service.transport import client

_TRIED: Final = 5
_NEVER: Final = timedelta(days=14)
"""For so long a stream is enrolled before it is worth a word that it never brought anything."""
OF_CREDENTIAL: Final = (
    "secret_wrong", "secret_expired", "secret_missing", "credential_refused", "certificate_refused", "certificate_expired",
    "federated_record_missing", "managed_identity_unavailable", "clock_skew",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Read:
    """One stream to be tried: as its owner would read it."""

    source: contract.Source
    stream: model.Stream
    access: model.Access

    @property
    def subject(self) -> str:
        """As people name it."""
        tenant = self.access.tenant
        return f"{tenant.name} ({str(tenant.tenant_id)[:4]}…) {self.source.name}"


def reads(loaded: Sequence[streams.Owned]) -> list[Read]:
    """The streams whose source this version knows."""
    return [
        Read(registry.SOURCES[one.stream.source], one.stream, one.access)
        for one in loaded
        if one.stream.source in registry.SOURCES
    ]


async def of_credential(
    provider: tokens.Tokens, app_id: str | None, tried: Sequence[Read], database: pool.Database
) -> list[Finding]:
    """The shared app's credential, by a token of the first tenant that Entra speaks of the credential in."""
    shared = [read for read in tried if read.access.credential is None]
    if app_id is None:
        needed: Grade = "broken" if shared else "ok"
        said = "no shared app is set: each tenant needs an app of its own"
        return [
            Finding(
                "credential",
                "shared app",
                needed,
                said,
                causes.CAUSES["credential_missing"].remedy if shared else "",
            )
        ]
    subject = f"app {app_id[:8]}…"
    if not shared:
        said = "no active tenant uses it: there is none to try it in"
        return [Finding("credential", subject, "warning", said, "Enrol a tenant: alertwell tenants add")]
    last = ""
    for read in list({read.access.tenant.tenant_id: read for read in shared}.values())[:_TRIED]:
        try:
            await provider.token(read.access, read.source.service)
        except errors.CredentialRefused as refusal:
            said = f"{refusal}. {await _who_waits(database)}"
            known = causes.CAUSES.get(refusal.code)
            remedy = causes.remedy(known, read.access) if known else ""
            return [Finding("credential", subject, "broken", said, remedy)]
        except errors.Attention as refusal:
            if refusal.code == "role_missing":
                break  # the token was given
            last = str(refusal)
        except errors.PollFailure as failure:
            last = str(failure)
        else:
            break
    else:
        said = f"no tenant gave a token, so it cannot be judged; the last said: {last}"
        return [Finding("credential", subject, "warning", said)]
    return [Finding("credential", subject, "ok", "Entra accepts it")]


async def of_stream(sender: client.Client, read: Read) -> list[Finding]:
    """One minute up to now, asked for and read as a poll would."""
    until = datetime.now(UTC).replace(microsecond=0)
    window = model.Window(until - timedelta(minutes=1), until)
    tenant = read.access.tenant
    try:
        request = read.source.request(window, read.stream.parameters)
        async with sender.send(read.access, request) as answer:
            steps = read.source.read(
                answer.body, window, tenant.tenant_id, asked=request, base_url=answer.base_url
            )
            page = contract.whole(steps)
    except errors.TooLarge:
        said = "token and call work; the answer for a minute is too large, a poll splits it"
        return [Finding("tenant", read.subject, "ok", said)]
    except errors.Throttled as failure:
        return [Finding("tenant", read.subject, "warning", _throttled(str(failure), read.stream), "")]
    except errors.Attention as failure:
        known = causes.CAUSES.get(failure.code)
        return [
            Finding(
                "tenant",
                read.subject,
                "broken",
                str(failure),
                causes.remedy(known, read.access) if known else "",
            )
        ]
    except errors.PollFailure as failure:
        return [Finding("tenant", read.subject, "broken", str(failure))]
    records = f"{page.items} record{'' if page.items == 1 else 's'}"
    said = f"token and call work, {records} in the last minute"
    if page.items == 0 and read.stream.cause in (causes.SILENT, causes.NOT_RETURNED):
        silent = causes.CAUSES[read.stream.cause]
        told = f"token and call work, but {silent.meaning}"
        return [Finding("tenant", read.subject, "warning", told, causes.remedy(silent, read.access))]
    enrolled = datetime.now(UTC) - read.stream.enrolled_at
    if page.items == 0 and read.stream.watermark is None and enrolled > _NEVER:
        said += (
            f"; and none ever in the {enrolled.days} days since it was enrolled: is Defender in use there?"
        )
    return [Finding("tenant", read.subject, "ok", said)]


def _throttled(said: str, stream: model.Stream) -> str:
    # Only the collector knows how many calls it made.
    if stream.state == "throttled" and stream.state_reason:
        return f"{said}; the collector: {stream.state_reason}"
    return said


async def _who_waits(database: pool.Database) -> str:
    waiting = await checkup.waiting(database, OF_CREDENTIAL)
    if not waiting.tenants or waiting.since is None:
        return "No tenant waits for it yet"
    same_day = datetime.now(UTC) - waiting.since < timedelta(hours=20)
    since = f"{waiting.since:%H:%M} UTC" if same_day else f"{waiting.since:%Y-%m-%d %H:%M} UTC"
    whose, wait = (
        ("its gaps heal", "1 tenant waits")
        if waiting.tenants == 1
        else ("their gaps heal", f"{waiting.tenants} tenants wait")
    )
    return f"{wait} since {since}; {whose} by themselves once it is renewed"

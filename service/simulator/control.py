"""The control surface /_sim/, for a simulator in another process: off unless asked for, and only for
loopback.

    GET  /_sim/state          clock, counters, chaos, tenants; ?tenant=T adds what is visible of that one
    GET  /_sim/truth?tenant=T one line of JSON a FullId: {"full_id", "sha256"}; &raw=1 adds "raw" (base64).
                              &api=mde|xdr|graph: a line an alert id instead; &kind=incidents: an incident id
    GET  /_sim/sightings?tenant=T  for each of these, rendered or not: {"id", "updated", "visible", "first"}: its newest
                              version's time, since when that is shown, and since when any is, in ticks; &at=ticks: as of then
    POST /_sim/still          from now on nothing new is shown; the clock, tokens and faults go on
    POST /_sim/chaos          {"api": {name: share}, "token": {name: share}, "seed": 1, "clear": true,
                               "plan": [{"surface": "siem", "tenant": T, "fault": name, "times": 3}]}
                              times null: until a plan with neither fault nor times, or "clear"
    POST /_sim/backlog        {"tenant": T, "count": N, "since": time, "until": time}; "per_incident": N files
                               `count` alerts, so many an incident, in place of detections
    POST /_sim/entra          consent, people, licences, latency: see `acts`

A body that does not fit is answered with 400 and {"error": what is wrong}.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from aiohttp import web

from service.simulator import acts, answers, chaos, sightings, ticks

if TYPE_CHECKING:
    from service.simulator import cases, directory, server, world

_MUTABLE: tuple[cases.Api, ...] = ("mde", "xdr", "graph")


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One plan of a tenant's next answers; times null: until cleared."""

    surface: chaos.Surface
    tenant: str
    fault: str | None
    times: int | None = 1


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /_sim/chaos; what is left out stays as it is."""

    api: dict[str, float] | None = None
    token: dict[str, float] | None = None
    seed: int = 1
    plan: list[Plan] = msgspec.field(default_factory=list)
    clear: bool = False


class Backlog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of POST /_sim/backlog; times as the API writes them."""

    tenant: str
    count: int
    since: str
    until: str
    per_incident: int | None = None


async def answer(simulator: server.Simulator, request: web.BaseRequest) -> answers.Answer:
    """The answer to a request under /_sim/."""
    if not _is_loopback(request.remote):
        return answers.Answer(403)
    shown = simulator.world
    try:
        match request.method, request.path.removeprefix("/_sim/"):
            case "GET", "state":
                return answers.json(_state(simulator, request.query.get("tenant")))
            case "GET", "truth":
                tenant = _tenant(shown, request.query.get("tenant", ""))
                held = _held(shown, tenant.tenant_id, request.query.get("api"), request.query.get("kind"))
                lines = _truth(held, raw=request.query.get("raw") == "1")
                return answers.Answer(200, {"Content-Type": "application/x-ndjson"}, lines)
            case "GET", "sightings":
                tenant = _tenant(shown, request.query.get("tenant", ""))
                api, kind, at = (request.query.get(name) for name in ("api", "kind", "at"))
                seen = sightings.of(shown, tenant.tenant_id, _api(api), _kind(kind), int(at) if at else None)
                lines = (msgspec.json.encode(each) + b"\n" for each in seen)
                return answers.Answer(200, {"Content-Type": "application/x-ndjson"}, lines)
            case "POST", "still":
                return answers.json({"now": ticks.text(shown.hold_still())})
            case "POST", "chaos":
                return answers.json(
                    _change(simulator, msgspec.json.decode(await request.read(), type=Faults))
                )
            case "POST", "entra":
                return answers.json(acts.perform(simulator, await request.read()))
            case "POST", "backlog":
                wanted = msgspec.json.decode(await request.read(), type=Backlog)
                tenant = _tenant(shown, wanted.tenant)
                since, until = ticks.parse(wanted.since), ticks.parse(wanted.until)
                if wanted.per_incident is None:
                    shown.add_backlog(tenant.tenant_id, wanted.count, since=since, until=until)
                else:
                    shown.add_alert_backlog(
                        tenant.tenant_id,
                        wanted.count,
                        since=since,
                        until=until,
                        per_incident=max(1, wanted.per_incident),
                    )
                return answers.json({"added": wanted.count})
    except (msgspec.DecodeError, ValueError) as problem:
        return answers.json({"error": str(problem)}, 400)
    return answers.Answer(404)


def _state(simulator: server.Simulator, name: str | None) -> dict[str, Any]:
    shown = simulator.world
    tenants = [_tenant(shown, name)] if name else [*shown.tenants.values()]
    return {
        "now": ticks.text(shown.clock()),
        "counters": dict(simulator.counters),
        "chaos": {"api": dict(simulator.script.chaos.api), "token": dict(simulator.script.chaos.token)},
        "tenants": [
            {
                "tenant_id": tenant.tenant_id,
                "name": tenant.name,
                "region": tenant.region,
                "rate": tenant.rate,
                "requests": simulator.siem_requests[tenant.tenant_id],
                "api_requests": {
                    surface: simulator.api_requests[surface, tenant.tenant_id] for surface in _MUTABLE
                },
                "tokens": simulator.token_requests[tenant.tenant_id],
                # Counting reads everything of a tenant, so it is done for one at a time only.
                **({"visible": msgspec.to_builtins(shown.count(tenant.tenant_id))} if name else {}),
            }
            for tenant in tenants
        ],
    }


def _held(shown: world.World, tenant_id: str, api: str | None, kind: str | None) -> Mapping[str, bytes]:
    known = _api(api)
    if known is None:
        return shown.truth(tenant_id)
    told = shown.truth_incidents if _kind(kind) == "incidents" else shown.truth_alerts
    return told(tenant_id, known)


def _api(name: str | None) -> cases.Api | None:
    for known in _MUTABLE:
        if known == name:
            return known
    if name is None:
        return None
    raise ValueError(f"no such API: {name[:60]!r} (there are: {', '.join(_MUTABLE)})")


def _kind(name: str | None) -> cases.Kind:
    return "incidents" if name == "incidents" else "alerts"


def _truth(held: Mapping[str, bytes], *, raw: bool) -> Iterator[bytes]:
    for full_id, record in held.items():
        line: dict[str, str] = {"full_id": full_id, "sha256": hashlib.sha256(record).hexdigest()}
        if raw:
            line["raw"] = base64.b64encode(record).decode()
        yield msgspec.json.encode(line) + b"\n"


def _change(simulator: server.Simulator, wanted: Faults) -> Mapping[str, Any]:
    script = simulator.script
    unknown = [
        plan.fault for plan in wanted.plan if plan.fault is not None and plan.fault not in chaos.FAULTS
    ]
    if unknown:
        raise ValueError(f"no such fault: {', '.join(unknown)} (there are: {', '.join(chaos.FAULTS)})")
    for plan in wanted.plan:  # all is looked at before anything is changed
        if plan.fault is not None:
            chaos.check(plan.surface, chaos.FAULTS[plan.fault])
    now = script.chaos
    changed = chaos.Chaos(
        now.api if wanted.api is None else wanted.api,
        now.token if wanted.token is None else wanted.token,
        wanted.seed,
    )
    if wanted.clear:
        script.clear()
    script.change(changed)
    for plan in wanted.plan:
        script.plan(plan.surface, plan.tenant, plan.fault, plan.times)
    return {"api": changed.api, "token": changed.token, "planned": len(wanted.plan)}


def _tenant(shown: world.World, name: str) -> directory.Tenant:
    tenant = shown.find(name)
    if tenant is None:
        raise ValueError(f"no such tenant: {name[:60]!r}")
    return tenant


def _is_loopback(remote: str | None) -> bool:
    try:
        return remote is not None and ipaddress.ip_address(remote).is_loopback
    except ValueError:
        return False

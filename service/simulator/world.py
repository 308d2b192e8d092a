"""The world that the simulator shows: tenants, their app registrations, their alerts, and what is true of
them.

Alerts of a tenant come from three kinds of runs: those that keep arriving (`rate`), bulk backlogs and
records given one by one. A tenant without a rate costs a few hundred bytes and no time. All is
deterministic: the same seed and the same tenant give the same alerts at the same time, in whatever order
they are asked for.

The clock gives ticks (100 ns since 1970) and can be a `ticks.HandClock`; every answer and token goes by it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

from service.simulator import casebook, cases, dice, lives, runs, stories, ticks
from service.simulator.forms import frame

SIEM_RESOURCE = "https://graph.windows.net"
MDE_RESOURCE = "https://api.securitycenter.microsoft.com"
XDR_RESOURCE = "https://api.security.microsoft.com"
GRAPH_RESOURCE = "https://graph.microsoft.com"
# The APIs that can be asked for; a tenant has the service principals of these unless told otherwise.
RESOURCES = frozenset({SIEM_RESOURCE, MDE_RESOURCE, XDR_RESOURCE, GRAPH_RESOURCE})
# What a customer's administrator has consented to unless told otherwise.
ROLES: Mapping[str, tuple[str, ...]] = {
    MDE_RESOURCE: ("Alert.Read.All",),
    XDR_RESOURCE: ("Incident.Read.All",),
    GRAPH_RESOURCE: ("SecurityAlert.Read.All", "SecurityIncident.Read.All"),
}
CACHED_BUCKETS = 16_384
CACHED_CASES = 4096  # buckets with every version of their alerts and incidents, about 1 KB an alert

Clock = Callable[[], int]


@dataclasses.dataclass(frozen=True, slots=True)
class Secret:
    """A client secret; `expires_at` in ticks, None for never."""

    value: str = dataclasses.field(repr=False)
    expires_at: int | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class App:
    """An app registration: one for all customers (multi-tenant), or a customer's own."""

    app_id: str
    secrets: tuple[Secret, ...]

    @property
    def secret(self) -> str:
        """The first secret's value."""
        return self.secrets[0].value


@dataclasses.dataclass(slots=True)
class Tenant:
    """A customer's directory. Tests change its attributes to change what Entra and the APIs say.

    app: what a collector should use for it. consented: app ids with a service principal here (without:
    700016). resources: APIs provisioned here (others: 500011). roles: app roles granted, by resource
    (`ROLES`; none for the SIEM API). rate: alerts a minute, fixed when the tenant is added. v1_only: Entra refuses the v2
    scope of the SIEM audience. deleted: every API answers 403.
    """

    tenant_id: str
    name: str
    region: str
    app: App
    rate: float
    consented: set[str]
    resources: set[str]
    roles: dict[str, tuple[str, ...]]
    estate: stories.Estate
    v1_only: bool = False
    deleted: bool = False
    live: runs.Live | None = None
    given: runs.Given | None = None
    backlogs: list[runs.Generated] = dataclasses.field(default_factory=list)

    @property
    def domain(self) -> str:
        """The name by which Entra knows the tenant besides its GUID."""
        return f"{self.estate.domain.removesuffix('.example')}.onmicrosoft.com"


@dataclasses.dataclass(frozen=True, slots=True)
class Selection:
    """The alerts of one answer, newest first, as indices into runs: nothing is rendered before it is read."""

    parts: tuple[tuple[runs.Run, Sequence[int]], ...]

    def __len__(self) -> int:
        return sum(len(indices) for _, indices in self.parts)

    def records(self) -> Iterator[bytes]:
        """The alerts' JSON."""
        for run, indices in self.parts:
            yield from map(run.render, indices)

    def newest(self, limit: int) -> Selection:
        """The first `limit` of them."""
        kept: list[tuple[runs.Run, Sequence[int]]] = []
        for run, indices in self.parts:
            if limit <= 0:
                break
            kept.append((run, indices[:limit]))
            limit -= len(indices)
        return Selection(tuple(kept))


@dataclasses.dataclass(frozen=True, slots=True)
class Count:
    """What is visible of a tenant: all records, different FullIds among them, records that have no FullId."""

    records: int
    full_ids: int
    unreadable: int


class World:
    """Tenants and their alerts; see the module's text."""

    def __init__(self, seed: int = 1, clock: Clock = ticks.now, quirks: runs.Quirks | None = None) -> None:
        self.seed = seed
        self.clock = clock
        self.quirks = quirks or runs.Quirks()
        rng = dice.Dice(f"{seed}/apps")
        self.app = App(_guid(rng), (Secret(_secret(rng)),))
        self.apps: dict[str, App] = {self.app.app_id: self.app}
        self._tenants: dict[str, Tenant] = {}
        self._domains: dict[str, str] = {}
        self._casebooks: dict[str, casebook.Casebook] = {}
        self._bucket = functools.lru_cache(maxsize=CACHED_BUCKETS)(self._make_bucket)
        self._told = functools.lru_cache(maxsize=CACHED_CASES)(self._make_told)

    @property
    def tenants(self) -> Mapping[str, Tenant]:
        """Tenants by id (lower case), in the order in which they were added."""
        return self._tenants

    def register(self, app: App) -> App:
        """Make Entra know an app registration (or its changed secrets); returns it."""
        self.apps[app.app_id] = app
        return app

    def new_app(self, name: str) -> App:
        """An app registration of its own, its id and secret following from the seed and the name."""
        rng = dice.Dice(f"{self.seed}/app/{name}")
        return self.register(App(_guid(rng), (Secret(_secret(rng)),)))

    def add_tenant(
        self,
        tenant_id: str,
        name: str,
        *,
        region: str = "eu",
        rate: float = 0.0,
        history: float = 86_400.0,
        own_app: bool = False,
    ) -> Tenant:
        """Add a tenant whose alerts arrive at `rate` a minute, and did so for `history` seconds before now.

        With `own_app` it has an app and secret of its own, as the portal's SIEM integration makes them, and
        the shared app is not consented. Raises ValueError for an id that is no GUID or is taken.
        """
        tenant_id = str(uuid.UUID(tenant_id))
        if tenant_id in self._tenants:
            raise ValueError(f"tenant {tenant_id} exists already")
        app = self.new_app(tenant_id) if own_app else self.app
        estate = stories.Estate.of(name, tenant_id)
        tenant = Tenant(tenant_id, name, region, app, rate, {app.app_id}, set(RESOURCES), dict(ROLES), estate)
        if rate > 0:
            begins = self.clock() - round(history * ticks.SECOND)
            tenant.live = runs.Live(estate, self.quirks, f"{self.seed}/{tenant_id}", rate, begins)
        self._tenants[tenant_id] = tenant
        self._domains[tenant.domain] = tenant_id
        return tenant

    def populate(self, count: int, *, rate: float = 1.0, history: float = 86_400.0) -> list[Tenant]:
        """Add so many plausible tenants with rates from a fifth of `rate` to three times it (alerts a
        minute).
        """
        first = len(self._tenants)  # a second call goes on where the first ended
        rng = dice.Dice(f"{self.seed}/tenants/{first}")
        added = []
        for number in range(first, first + count):
            series, place = divmod(number, len(_NAMES))
            name = f"{_NAMES[place]} {series + 1}" if series else _NAMES[place]
            share = rng.choice((0.2, 0.5, 0.5, 1.0, 1.0, 3.0))
            region = rng.choice(("eu", "eu", "us", "uk"))
            added.append(self.add_tenant(_guid(rng), name, region=region, rate=rate * share, history=history))
        return added

    def find(self, name: str) -> Tenant | None:
        """The tenant of a GUID or domain, in any casing."""
        name = name.lower()
        return self._tenants.get(name) or self._tenants.get(self._domains.get(name, ""))

    def add_record(
        self, tenant_id: str, raw: bytes, *, at: int, full_id: str | None, visible_at: int | None = None
    ) -> None:
        """File any bytes as a record at `at` (ticks), seen from `visible_at` on (never before `at`).

        The bytes go out as they are, so they may contradict `at`, or be no JSON at all. With full_id None
        they are not part of the truth: a collector cannot store them under any key.
        """
        tenant = self._tenants[tenant_id]
        tenant.given = tenant.given or runs.Given()
        tenant.given.add(at, at if visible_at is None else visible_at, raw, full_id)

    def add_backlog(
        self, tenant_id: str, count: int, *, since: int, until: int, encoded: bool = False
    ) -> None:
        """File exactly `count` story detections between two times (ticks), or all at one where they are
        equal.

        Costs 25 bytes a detection; with `encoded` 2 KB, and then an answer costs next to nothing
        (benchmarks).
        """
        tenant = self._tenants[tenant_id]
        rng = dice.Dice(f"{self.seed}/{tenant_id}/backlog/{len(tenant.backlogs)}")
        quirks = self.quirks if until > since else dataclasses.replace(self.quirks, revised_share=0.0)
        filed = runs.backlog(tenant.estate, quirks, rng, count, span=(since, until))
        if encoded:
            filed.encode()
        tenant.backlogs.append(filed)

    def add_alert_backlog(
        self,
        tenant_id: str,
        alerts: int,
        *,
        since: int,
        until: int,
        per_incident: int = 1,
        longest: int = lives.LONGEST,
    ) -> None:
        """File exactly so many alerts with their detections, raised between two times (ticks) or all at one.

        Each `per_incident` in a row are an incident; none are merged. They change for `longest` ticks after
        they were raised; 0, or two equal times: never.
        """
        tenant = self._tenants[tenant_id]
        rng = dice.Dice(f"{self.seed}/{tenant_id}/alerts/{len(tenant.backlogs)}")
        quirks = dataclasses.replace(self.quirks, revised_share=0.0)
        tenant.backlogs.append(
            runs.alert_backlog(
                tenant.estate,
                quirks,
                rng,
                alerts,
                span=(since, until),
                per_incident=per_incident,
                longest=longest if until > since else 0,
            )
        )

    def casebook(self, tenant_id: str) -> casebook.Casebook:
        """The tenant's alerts and incidents as the other APIs show them: mutable, by update time."""
        if tenant_id not in self._casebooks:
            tenant = self._tenants[tenant_id]
            self._casebooks[tenant_id] = casebook.Casebook(
                frame.Place(tenant_id, tenant.estate),
                self.quirks,
                tenant.backlogs,
                tenant.live,
                functools.partial(self._told, tenant_id),
            )
        return self._casebooks[tenant_id]

    def truth_alerts(self, tenant_id: str, api: cases.Api, now: int | None = None) -> dict[str, bytes]:
        """See `casebook.Casebook.truth_alerts`."""
        return self.casebook(tenant_id).truth_alerts(api, self.clock() if now is None else now)

    def truth_incidents(self, tenant_id: str, api: cases.Api, now: int | None = None) -> dict[str, bytes]:
        """See `casebook.Casebook.truth_incidents`."""
        return self.casebook(tenant_id).truth_incidents(api, self.clock() if now is None else now)

    def select(self, tenant_id: str, since: int, until: int, now: int | None = None) -> Selection:
        """What is visible of a tenant with since <= LastProcessedTimeUtc <= until (ticks), newest first."""
        now = self.clock() if now is None else now
        picked = [
            (run, runs.pick(run, since, until, now)) for run in self._runs(tenant_id, since, min(until, now))
        ]
        picked = [(run, indices) for run, indices in picked if indices]
        picked.sort(key=lambda each: each[0].times[each[1][0]])
        ends = [run.times[indices[-1]] for run, indices in picked]
        begins = [run.times[indices[0]] for run, indices in picked]
        if all(end < begin for end, begin in zip(ends, begins[1:], strict=False)):
            return Selection(tuple((run, indices[::-1]) for run, indices in reversed(picked)))
        # Runs that overlap in time: the one place where times are sorted, and then only those of the answer.
        rows = [(run.times[index], run, index) for run, indices in picked for index in indices]
        rows.sort(key=lambda row: row[0])
        return Selection(tuple((run, (index,)) for _, run, index in reversed(rows)))

    def truth(self, tenant_id: str, now: int | None = None) -> dict[str, bytes]:
        """What a collector that read everything holds: the newest visible version of each FullId, as
        bytes.
        """
        return {full_id: run.render(index) for full_id, (run, index) in self._newest(tenant_id, now).items()}

    def full_ids(self, tenant_id: str, now: int | None = None) -> set[str]:
        """The keys of `truth`, without rendering anything."""
        return set(self._newest(tenant_id, now))

    def count(self, tenant_id: str, now: int | None = None) -> Count:
        """How much is visible of a tenant."""
        counts: collections.Counter[bool] = collections.Counter()
        for run, index in self._visible(tenant_id, now):
            counts[run.full_id(index) is not None] += 1
        return Count(counts.total(), len(self._newest(tenant_id, now)), counts[False])

    def _newest(self, tenant_id: str, now: int | None) -> dict[str, tuple[runs.Run, int]]:
        found: dict[str, tuple[runs.Run, int]] = {}
        for run, index in self._visible(tenant_id, now):
            full_id = run.full_id(index)
            if full_id is not None and full_id not in found:
                found[full_id] = run, index
        return found

    def _visible(self, tenant_id: str, now: int | None) -> Iterator[tuple[runs.Run, int]]:
        for run, indices in self.select(tenant_id, 0, 2**62, now).parts:
            for index in indices:
                yield run, index

    def _runs(self, tenant_id: str, since: int, until: int) -> Iterator[runs.Run]:
        tenant = self._tenants[tenant_id]
        yield from tenant.backlogs
        if tenant.given is not None:
            yield tenant.given
        if tenant.live is not None:
            for number in tenant.live.buckets(since, until):
                bucket = self._bucket(tenant_id, number)
                if bucket is not None:
                    yield bucket

    def _make_bucket(self, tenant_id: str, number: int) -> runs.Generated | None:
        live = self._tenants[tenant_id].live
        return None if live is None else live.bucket(number)

    def _make_told(self, tenant_id: str, number: int) -> cases.Told | None:
        bucket = self._bucket(tenant_id, number)
        return None if bucket is None else cases.Told(bucket, self.quirks)


_NAMES = (
    "Contoso", "Fabrikam", "Northwind Traders", "Adatum", "Wingtip Toys", "Litware", "Proseware",
    "Tailspin Toys", "Woodgrove Bank", "Fourth Coffee", "Graphic Design Institute", "Humongous Insurance",
    "Lucerne Publishing", "Margie's Travel", "Relecloud", "School of Fine Art", "Trey Research",
    "VanArsdel", "Wide World Importers", "Alpine Ski House",
)  # fmt: skip


def _guid(rng: dice.Dice) -> str:
    return str(uuid.UUID(int=rng.getrandbits(128), version=4))


def _secret(rng: dice.Dice) -> str:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return "sim~" + "".join(rng.choices(letters, k=36))

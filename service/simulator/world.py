"""The world that the simulator shows: tenants, apps and people (`directory`), their alerts, and what is true of
them.

Alerts of a tenant come from three kinds of runs: those that keep arriving (`rate`), bulk backlogs and
records given one by one. A tenant without a rate costs a few hundred bytes and no time. All is
deterministic: the same seed and the same tenant give the same alerts at the same time, in whatever order
they are asked for.

issuers: whose tokens federated credentials may name, each with its public keys by key id.
admin, users: who opens consent links and signs in, and what they decide.

The clock gives ticks (100 ns since 1970) and can be a `ticks.HandClock`; every answer and token goes by it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import uuid
from collections.abc import Callable, Iterator, Mapping

from cryptography.hazmat.primitives.asymmetric import rsa

from service.simulator import (
    casebook,
    cases,
    credentials,
    customers,
    dice,
    directory,
    lives,
    runs,
    selection,
    stories,
    ticks,
)
from service.simulator.forms import frame

CACHED_BUCKETS = 16_384
CACHED_CASES = 4096  # buckets with every version of their alerts and incidents, about 1 KB an alert

Clock = Callable[[], int]


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
        self.app = directory.App(
            customers.guid(rng),
            (credentials.Secret(customers.secret(rng)),),
            public=True,
            redirect_uris=("http://localhost",),
        )
        self.apps: dict[str, directory.App] = {self.app.app_id: self.app}
        self.users: dict[str, directory.User] = {}
        self.admin = directory.Admin()
        self.issuers: dict[str, Mapping[str, rsa.RSAPublicKey]] = {}
        self._tenants: dict[str, directory.Tenant] = {}
        self._domains: dict[str, str] = {}
        self._casebooks: dict[str, casebook.Casebook] = {}
        self._still: int | None = None
        self._bucket = functools.lru_cache(maxsize=CACHED_BUCKETS)(self._make_bucket)
        self._told = functools.lru_cache(maxsize=CACHED_CASES)(self._make_told)

    @property
    def tenants(self) -> Mapping[str, directory.Tenant]:
        """Tenants by id (lower case), in the order in which they were added."""
        return self._tenants

    def register(self, app: directory.App) -> directory.App:
        """Make Entra know an app registration (or its changed secrets); returns it."""
        self.apps[app.app_id] = app
        return app

    def new_app(self, name: str) -> directory.App:
        """An app registration of its own, its id and secret following from the seed and the name."""
        rng = dice.Dice(f"{self.seed}/app/{name}")
        return self.register(directory.App(customers.guid(rng), (credentials.Secret(customers.secret(rng)),)))

    def add_tenant(
        self,
        tenant_id: str,
        name: str,
        *,
        region: str = "eu",
        rate: float = 0.0,
        history: float = 86_400.0,
        cloud: str = "public",
        own_app: bool = False,
        consented: bool = True,
    ) -> directory.Tenant:
        """Add a tenant whose alerts arrive at `rate` a minute, and did so for `history` seconds before now.

        With `own_app` it has an app and secret of its own, as the portal's SIEM integration makes them and as
        a national `cloud` needs one, and the shared app is not consented. Without `consented` nobody has
        approved any app yet. Raises ValueError for an id that is no GUID or is taken.
        """
        tenant_id = str(uuid.UUID(tenant_id))
        if tenant_id in self._tenants:
            raise ValueError(f"tenant {tenant_id} exists already")
        app = self.new_app(tenant_id) if own_app else self.app
        resources = set(directory.APIS[cloud].values())
        estate = stories.Estate.of(name, tenant_id)
        tenant = directory.Tenant(
            tenant_id,
            name,
            region,
            app,
            rate,
            {app.app_id} if consented else set(),
            resources,
            {each: app.roles[each] for each in resources & app.roles.keys()} if consented else {},
            estate,
            cloud,
        )
        if rate > 0:
            begins = self.clock() - round(history * ticks.SECOND)
            tenant.live = runs.Live(estate, self.quirks, f"{self.seed}/{tenant_id}", rate, begins)
        self._tenants[tenant_id] = tenant
        self._domains[tenant.domain] = tenant_id
        return tenant

    def populate(self, count: int, *, rate: float = 1.0, history: float = 86_400.0) -> list[directory.Tenant]:
        """Add so many plausible tenants with rates from a fifth of `rate` to three times it (alerts a
        minute).
        """
        first = len(self._tenants)  # a second call goes on where the first ended
        return [
            self.add_tenant(each.tenant_id, each.name, region=each.region, rate=each.rate, history=history)
            for each in customers.plausible(self.seed, first, count, rate)
        ]

    def add_user(self, tenant_id: str, name: str = "ada") -> directory.User:
        """Somebody who can sign in to the tenant as name@its domain."""
        tenant = self._tenants[tenant_id]
        user = directory.User(f"{name}@{tenant.domain}", tenant_id)
        self.users[user.name] = user
        return user

    def present(self, tenant_id: str | None, hint: str = "") -> directory.User | None:
        """Who sits before the browser: the one that the hint names, else the first of the tenant (None: of
        any).
        """
        those = [user for user in self.users.values() if tenant_id in (None, user.tenant_id)]
        named = [user for user in those if user.name == hint.lower()]
        return next(iter(named or those), None)

    def find(self, name: str) -> directory.Tenant | None:
        """The tenant of a GUID or domain, in any casing; None for one that is gone, too."""
        name = name.lower()
        tenant = self._tenants.get(name) or self._tenants.get(self._domains.get(name, ""))
        return None if tenant is None or tenant.gone else tenant

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

    def hold_still(self) -> int:
        """From now on nothing new is shown, while the clock, tokens and answers go on: the time (ticks) of it."""
        self._still = self.clock()
        return self._still

    def shown_at(self, now: int | None = None) -> int:
        """The time (ticks) as of which records are shown at `now`."""
        now = self.clock() if now is None else now
        return now if self._still is None else min(now, self._still)

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
        return self.casebook(tenant_id).truth_alerts(api, self.shown_at(now))

    def truth_incidents(self, tenant_id: str, api: cases.Api, now: int | None = None) -> dict[str, bytes]:
        """See `casebook.Casebook.truth_incidents`."""
        return self.casebook(tenant_id).truth_incidents(api, self.shown_at(now))

    def select(self, tenant_id: str, since: int, until: int, now: int | None = None) -> selection.Selection:
        """What is visible of a tenant with since <= LastProcessedTimeUtc <= until (ticks), newest first."""
        now = self.shown_at(now)
        return selection.select(self._runs(tenant_id, since, min(until, now)), since, until, now)

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

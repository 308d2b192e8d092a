"""Every metric of Alertwell, declared once; the composition root makes one `Metrics` and hands it on.

No label ever names a tenant: thousands of them would make millions of series, and who a provider's
customers are is not for everybody who may scrape. What is about one tenant stands in `soc.coverage` and in
the logs.

Prometheus looks labels up under a lock, so what repeats on every poll is bound beforehand: hold on to what
`source()` and `service()` return.
"""

from __future__ import annotations

from typing import Final, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.exposition import choose_encoder

from service import model

RESULTS: Final = ("inserted", "updated", "unchanged", "stale", "duplicate", "rejected")
"""What becomes of an item of an answer; the values of alertwell_alerts_total{result}."""

_LAG: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60, 300, 900)
_WORK: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """All metrics on an own registry; attributes are named as the metrics, without prefix and `_total`."""

    def __init__(self, version: str) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)
        Info("alertwell_build", "The running version.", registry=registry).info({"version": version})

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"alertwell_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"alertwell_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"alertwell_{name}", text, labels, buckets=buckets, registry=registry)

        self.polls = counter("polls_total", "Polls that ended, by outcome.", "source", "outcome")
        self.alerts = counter("alerts_total", "Items of answers, by what became of them.", "source", "result")
        self.items = counter("items_total", "Top-level records of answers.", "source")
        self.rejects = counter("rejects_total", "Records and bodies kept as rejects.", "source")
        self.warnings = counter(
            "warnings_total",
            "What answers held and was not followed, such as a link to another host.",
            "source",
        )
        self.late_arrivals = counter(
            "late_arrivals_total", "Records that came after their update time was proven.", "source"
        )
        self.requests = counter("requests_total", "Requests sent, by status or error.", "service", "status")
        self.request_seconds = histogram(
            "request_seconds", "Seconds from sending a request to the end of its answer.", _WORK, "service"
        )
        self.body_bytes = counter("body_bytes_total", "Bytes of answers, decompressed.", "service")
        self.bytes_in_flight = gauge("bytes_in_flight", "Bytes of answers that polls hold now.")
        self.polls_running = gauge("polls_running", "Polls that run now.")
        self.poll_lag_seconds = histogram(
            "poll_lag_seconds", "Seconds from a poll's due time to its start.", _LAG
        )
        self.poll_seconds = histogram("poll_seconds", "Seconds that a poll took.", _WORK)
        self.streams = gauge("streams", "Streams of this replica's tenants, by state.", "state")
        self.streams_needing_attention = gauge(
            "streams_needing_attention",
            "Streams of this replica's tenants that a person must mend, by cause.",
            "cause",
        )
        self.silent_streams = gauge(
            "silent_streams",
            "Streams of this replica's tenants that bring nothing where they used to, or not what they brought before.",
        )
        self.data_age_seconds_max = gauge(
            "data_age_seconds_max", "Seconds since the oldest stream's last proof."
        )
        self.gap_seconds = gauge(
            "gap_seconds_total", "Seconds that are wanted and not covered, all streams together."
        )
        self.feed_unnumbered = gauge(
            "feed_unnumbered", "Committed changes that have no number in the feed yet."
        )
        self.feed_oldest_unnumbered_seconds = gauge(
            "feed_oldest_unnumbered_seconds", "Seconds that the oldest of them has been waiting."
        )
        self.owned_tenants = gauge("owned_tenants", "Tenants whose lease this replica holds.")
        self.replicas = gauge("replicas", "Replicas whose heartbeat lives.")
        self.database_up = gauge("database_up", "1 while PostgreSQL answers, else 0.")
        self.tokens = counter("tokens_total", "Tokens asked for, by outcome.", "outcome")
        self.leases_lost = counter(
            "leases_lost_total", "Writes refused because another replica owned the tenant."
        )
        self.consent_callbacks = counter(
            "consent_callbacks_total",
            "Answers that reached the consent callback, by what became of them.",
            "outcome",
        )
        self.clock_skew_seconds = gauge(
            "clock_skew_seconds", "Seconds that this machine's clock is ahead of Microsoft's."
        )
        self.credential_expires_timestamp_seconds = gauge(
            "credential_expires_timestamp_seconds",
            "When a credential ends, in Unix time, where that is known: the shared app's, and the first of tenants' own.",
            "owner",
            "kind",
        )

        for state in get_args(model.StreamState):
            self.streams.labels(state)
        self._sources: dict[str, SourceMetrics] = {}
        self._services: dict[str, ServiceMetrics] = {}

    def source(self, name: str) -> SourceMetrics:
        """The metrics of one source, bound."""
        if name not in self._sources:
            self._sources[name] = SourceMetrics(self, name)
        return self._sources[name]

    def service(self, name: str) -> ServiceMetrics:
        """The metrics of one service (as `model.Request.service` names it), bound."""
        if name not in self._services:
            self._services[name] = ServiceMetrics(self, name)
        return self._services[name]

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """All metrics in the exposition format that an Accept header prefers, and its content type."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class SourceMetrics:
    """What a poll of one source counts."""

    def __init__(self, metrics: Metrics, source: str) -> None:
        self._polls = metrics.polls
        self._source = source
        self._outcomes: dict[str, Counter] = {}
        self._results = {result: metrics.alerts.labels(source, result) for result in RESULTS}
        self._items = metrics.items.labels(source)
        self._rejects = metrics.rejects.labels(source)
        self._warnings = metrics.warnings.labels(source)
        self._late = metrics.late_arrivals.labels(source)

    def poll(self, outcome: str) -> None:
        """Count one poll; `outcome` is `complete`, `catching_up` or an errors.Kind."""
        bound = self._outcomes.get(outcome)
        if bound is None:
            bound = self._outcomes[outcome] = self._polls.labels(self._source, outcome)
        bound.inc()

    def counts(self, counts: model.Counts) -> None:
        """Count the items of an answer and what became of them; nothing where it was empty."""
        if not counts.items:
            return
        self._items.inc(counts.items)
        for result, bound in self._results.items():
            if number := getattr(counts, result):
                bound.inc(number)

    def rejected(self, number: int) -> None:
        """Count rejects that were kept, bodies included."""
        self._rejects.inc(number)

    def warned(self, number: int) -> None:
        """Count what answers held that was not followed."""
        self._warnings.inc(number)

    def late(self, number: int) -> None:
        """Count records that came after their update time was proven."""
        self._late.inc(number)


class ServiceMetrics:
    """What a request to one service counts."""

    def __init__(self, metrics: Metrics, service: str) -> None:
        self._requests = metrics.requests
        self._service = service
        self._statuses: dict[str, Counter] = {}
        self._seconds = metrics.request_seconds.labels(service)
        self._bytes = metrics.body_bytes.labels(service)

    def request(self, status: int | str, seconds: float, body_bytes: int = 0) -> None:
        """Count one request: its HTTP status, or a word for why it has none (`timeout`, `dns`, `reset`)."""
        key = str(status)
        bound = self._statuses.get(key)
        if bound is None:
            bound = self._statuses[key] = self._requests.labels(self._service, key)
        bound.inc()
        self._seconds.observe(seconds)
        if body_bytes:
            self._bytes.inc(body_bytes)

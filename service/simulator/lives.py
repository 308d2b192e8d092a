"""What becomes of an alert and of an incident after they were raised, as plain values and pure functions.

The SIEM API's detections never change. The alert that they belong to does: further detections are new
evidence, an investigation runs, somebody takes it, comments and resolves it, its incident is merged into
another. All of that follows from the story's number, so that any version can be told at any time.
Words are those of Defender for Endpoint ("InProgress"); the other APIs translate them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from service.simulator import playbooks, stories, ticks

LONGEST = 8 * ticks.HOUR  # from the first detection of an alert to the last change of it
ANALYSTS = ("soc@mssp.example", "night-shift@mssp.example", "r.okafor@mssp.example")
_WORD = 2**64 - 1
_ENDINGS = ("SuccessfullyRemediated", "PartiallyRemediated", "PendingApproval", "Benign")
_VERDICTS = (
    ("TruePositive", "Malware"),
    ("TruePositive", "MultiStagedAttack"),
    ("TruePositive", "CompromisedUser"),
    ("FalsePositive", "Clean"),
    ("FalsePositive", "InsufficientData"),
    ("InformationalExpectedActivity", "SecurityTesting"),
    ("InformationalExpectedActivity", "ConfirmedUserActivity"),
)
_REMARKS = ("triage started", "Asked the user – not theirs.", "device isolated", "Siehe Ticket №4471")
_SEVERITIES = ("UnSpecified", "Informational", "Low", "Medium", "High")
NOTHING: Mapping[str, Any] = {}


class Note(NamedTuple):
    """A comment; the time in ticks."""

    at: int
    author: str
    text: str


class Alert(NamedTuple):
    """One version of an alert; times in ticks.

    parts: the detections known by then, as (part of the story, when it was processed). fields: by API ("mde",
    "xdr", "graph") members put over those that are rendered. raw: by API the bytes sent in their place.
    tenant: the tenant that the record names, if not its own. source: service source in XDR's words.
    """

    alert_id: str
    story: int
    created: int
    updated: int
    parts: tuple[tuple[int, int], ...]
    incident: int
    status: str = "New"
    severity: str = "Medium"
    assigned: str | None = None
    classification: str | None = None
    determination: str | None = None
    investigation: str = "Queued"
    resolved: int | None = None
    notes: tuple[Note, ...] = ()
    source: str = "MicrosoftDefenderATP"
    tenant: str | None = None
    fields: Mapping[str, Mapping[str, Any]] = NOTHING
    raw: Mapping[str, bytes] = NOTHING

    @property
    def book(self) -> playbooks.Playbook:
        """The playbook that the alert follows."""
        return playbooks.PLAYBOOKS[self.story % stories.BOOKS]


class Incident(NamedTuple):
    """One version of an incident, with its alerts as they were then; `fields` and `raw` as for alerts."""

    incident: int
    created: int
    updated: int
    name: str
    alerts: tuple[Alert, ...]
    status: str = "Active"
    redirect: int | None = None
    severity: str = "Medium"
    assigned: str | None = None
    classification: str = "Unknown"
    determination: str = "NotAvailable"
    tags: tuple[str, ...] = ()
    notes: tuple[Note, ...] = ()
    fields: Mapping[str, Mapping[str, Any]] = NOTHING
    raw: Mapping[str, bytes] = NOTHING


class Plot(NamedTuple):
    """All that an alert's life follows from.

    incident: at first. longest: ticks until nothing changes any more (0: it never changes). merged: when its
    incident was merged, and into which.
    """

    story: int
    begin: int
    parts: tuple[tuple[int, int], ...]
    incident: int
    longest: int
    merged: tuple[int, int] | None = None


class _Times(NamedTuple):
    running: int | None
    investigated: int | None
    triaged: int | None
    commented: int | None
    resolved: int | None


_NO_TIMES = _Times(None, None, None, None, None)


def chance(story: int, number: int) -> float:
    """The story's number-th chance, from 0 up to 1."""
    return _mixed(story, number) / 2**64


def _mixed(story: int, number: int) -> int:
    mixed = ((story ^ (number + 1) * 0x9E3779B97F4A7C15) * 0xBF58476D1CE4E5B9) & _WORD
    mixed ^= mixed >> 29
    return (mixed * 0x94D049BB133111EB) & _WORD


def moments(plot: Plot) -> list[int]:
    """Each time at which a new version of the alert exists, oldest first."""
    created = plot.parts[0][1]
    found = {at for _, at in plot.parts}
    found.update(at for at in _times(plot.story, created, plot.longest) if at is not None)
    if plot.merged is not None:
        found.add(plot.merged[0])
    return sorted(found)


def alert(plot: Plot, at: int) -> Alert:
    """The version of the alert that exists since `at`, which is one of `moments`."""
    story, created = plot.story, plot.parts[0][1]
    times = _times(story, created, plot.longest)
    triaged = times.triaged is not None and times.triaged <= at
    resolved = times.resolved is not None and times.resolved <= at
    who = ANALYSTS[story % len(ANALYSTS)]
    verdict, grounds = _VERDICTS[int(chance(story, 20) * len(_VERDICTS))] if resolved else (None, None)
    investigation = "Queued"
    if times.running is not None and times.running <= at:
        investigation = "Running"
    if times.investigated is not None and times.investigated <= at:
        investigation = _ENDINGS[story % len(_ENDINGS)]
    notes: tuple[Note, ...] = ()
    if times.commented is not None and times.commented <= at:
        notes = (Note(times.commented, who, _REMARKS[story % len(_REMARKS)]),)
    return Alert(
        stories.alert_id(story, plot.begin),
        story,
        created,
        at,
        tuple(part for part in plot.parts if part[1] <= at),
        plot.merged[1] if plot.merged is not None and plot.merged[0] <= at else plot.incident,
        "Resolved" if resolved else "InProgress" if triaged else "New",
        playbooks.PLAYBOOKS[story % stories.BOOKS].severity,
        who if triaged else None,
        verdict,
        grounds,
        investigation,
        times.resolved if resolved else None,
        notes,
        "MicrosoftThreatIntelligence" if chance(story, 21) < 0.03 else "MicrosoftDefenderATP",
    )


def alert_then(plot: Plot, at: int) -> Alert:
    """The alert as it was at any time after it was raised."""
    return alert(plot, max(moment for moment in moments(plot) if moment <= at))


def incident_id(story: int, begin: int) -> int:
    """The id of an incident that begins with this story; below 2^53, which JSON readers hold exactly."""
    return 1_000_000_000 + (((story ^ begin) * 0x9E3779B97F4A7C15 & _WORD) >> 14)


def tagged_at(incident: int, created: int, longest: int) -> int | None:
    """When somebody gave the incident a tag and a comment of its own; None where nobody did."""
    if not longest or chance(incident, 1) >= 0.25:
        return None
    return _grained(created + 1 + int(chance(incident, 2) * 0.3 * longest), incident)


def incident(
    number: int, at: int, alerts: Sequence[Alert], tagged: int | None, redirect: tuple[int, int] | None
) -> Incident:
    """The incident as its alerts were at `at`, never none of them; `redirect`: when it was merged into which."""
    first = alerts[0]
    created = min(each.created for each in alerts)
    if redirect is not None and redirect[0] <= at:
        shown: tuple[Alert, ...] = ()
        status, target = "Redirected", redirect[1]
    else:
        shown, status, target = tuple(alerts), _status(alerts), None
    done = [each for each in alerts if each.classification] if status == "Resolved" else []
    marked = tagged is not None and tagged <= at
    others = f" and {len(alerts) - 1} more" if len(alerts) > 1 else ""
    return Incident(
        number,
        created,
        at,
        f"{first.book.title}{others}",
        shown,
        status,
        target,
        max((each.severity for each in alerts), key=_rank),
        next((each.assigned for each in alerts if each.assigned), None),
        (done[0].classification or "Unknown") if done else "Unknown",
        (done[0].determination or "NotAvailable") if done else "NotAvailable",
        ("vip",) if marked else (),
        (Note(tagged, ANALYSTS[number % len(ANALYSTS)], "Customer informed."),)
        if marked and tagged is not None
        else (),
    )


def _status(alerts: Sequence[Alert]) -> str:
    words = {each.status for each in alerts}
    if words == {"Resolved"}:
        return "Resolved"
    return "Active" if words == {"New"} else "InProgress"


def _rank(severity: str) -> int:
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else 0


def _times(story: int, created: int, longest: int) -> _Times:
    if not longest:
        return _NO_TIMES
    running = investigated = triaged = commented = resolved = None
    # Two random words, eight chances of sixteen bits each: this runs for every alert of a large backlog.
    first, second = _mixed(story, 0), _mixed(story, 1)
    if first & 1:
        running = _grained(created + 1 + (first >> 48) * longest // (100 << 16), story >> 3)
        investigated = running + 1 + (first >> 32 & 0xFFFF) * longest // (25 << 16)
    if second & 0xFF < 180:
        triaged = _grained(created + 1 + (first >> 16 & 0xFFFF) * longest // (4 << 16), story >> 7)
        if second & 0x100:
            commented = _grained(triaged + 1 + (second >> 48) * longest // (5 << 16), story >> 11)
        if second >> 9 & 7:
            resolved = created + longest // 2 + (second >> 32 & 0xFFFF) * longest // (9 << 16) * 4
            # A SOC closes many at once: a quarter of them share whole minutes.
            resolved = resolved + -resolved % ticks.MINUTE if story % 4 == 0 else _grained(resolved, story)
    return _Times(running, investigated, triaged, commented, resolved)


def _grained(at: int, bits: int) -> int:
    """The time rounded up so that 0 to 7 fraction digits are written, by the lowest bits."""
    grain = (1, 1, 10, 100, 1000, 10_000, 100_000, 1_000_000, ticks.SECOND)[bits % 9]
    return at + -at % grain

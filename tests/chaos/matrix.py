"""The faults of the APIs, of Entra and of clocks: what each is, what Alertwell does, and the test that shows it.

`Drill`s are run as they stand here (test_fault_matrix_api, test_fault_matrix_entra); the other rows name a test that has the
fault. `rows` gives all of them in the order of a page, and `table` writes a part as Markdown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from service import model
from service.auth import aadsts
from service.simulator import chaos

Part = Literal["api", "network", "quota", "entra", "clock", "poison"]
TITLES: dict[Part, str] = {
    "api": "Answers of the APIs",
    "network": "The way to the APIs",
    "quota": "Quotas",
    "entra": "Entra",
    "clock": "Clocks",
    "poison": "Poison",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the page; `test` is a path under tests/ and a function's name."""

    part: Part
    fault: str
    does: str
    test: str


@dataclass(frozen=True, slots=True)
class Drill:
    """A fault that can be planned for one tenant of the simulator, and what the tenant's stream shows while it stands.

    It stands until it is mended, or comes `times` times. `says` is in the reason that people read, `cause` the word that alarms
    use. `most` bounds the requests of one poll, those for tokens among them: seven windows with two quick retries each, as a
    stream asks that has failed for a while. `own_app`: the tenant has an app of its own, since the fault is the app's.
    `resumed`: a person says when to go on, else it would take minutes. `does` is told where the state does not say enough.
    """

    fault: str
    planned: chaos.Fault | str
    state: model.StreamState = "degraded"
    says: str = ""
    surface: chaos.Surface = "siem"
    source: str = "siem"
    cause: str | None = None
    times: int | None = None
    most: int = 21
    own_app: bool = False
    resumed: bool = False
    does: str = ""


_SECONDS = chaos.Fault("status", 429, seconds=2, retry="seconds")
_DATE = chaos.Fault("status", 429, seconds=3, retry="date")
_BARE = chaos.Fault("status", 429, seconds=2)
_SOME = 4
"""Times: each 429 halves the pace, so one that stood as long as the slowest fault would be felt for minutes after it."""
_SLOW = chaos.Fault("slow", seconds=60)
_LINK = chaos.Fault("foreign_link", location="https://elsewhere.invalid/next?$skiptoken=x")
_PART = "the API brought a part only (206)"
_FAULT = "the API has a fault ({})"
_CUT = "What is stored stays; the window is read again"

API: tuple[Drill, ...] = (
    Drill("the connection is reset before the answer", "reset", says="ended the connection", most=42),
    Drill("the connection is reset inside the body", "reset-inside", says="ended in the middle"),
    Drill("a body that drips", _SLOW, says="did not answer in time"),
    Drill("no answer at all", "hang", says="did not answer in time"),
    Drill("a body that ends half-way, JSON cut off", "truncated", says="the answer "),
    Drill("a web page with 200", "html", says="text/html in place of JSON"),
    Drill("a wrong content type", "wrong-type", says="text/plain in place of JSON"),
    Drill(
        "a gzip bomb",
        chaos.Fault("bomb", size=8 * 1024 * 1024),
        says="over 1048576 bytes",
        most=45,
        does="Given up at MAX_BODY_BYTES; the window is halved, down to a millisecond at most",
    ),
    Drill("204", "204", says="204, which is not a whole list"),
    Drill(
        "206",
        "206",
        says=_PART,
        does="What came is stored and proves nothing; the window is read again by each poll",
    ),
    Drill("301", "301", "needs_attention", "redirects (301)", cause="redirected"),
    Drill(
        "302", "302", says="redirects (302)", does="Never followed, for the token goes with it; tried again"
    ),
    Drill("400", "400", says="400"),
    Drill(
        "401 once",
        "401",
        "ok",
        times=1,
        does="The token is renewed, once, and the request repeated; nothing shows",
    ),
    Drill("401 for ever", "401", "needs_attention", "refuses a new token (401)", cause="unauthorized"),
    Drill("403", "403", "needs_attention", "forbids the access (403)", cause="forbidden"),
    Drill(
        "404", "404", says="is not there (404)", does="`degraded`; `retired` after a day, while Entra answers"
    ),
    Drill(
        "410", "410", says="is not there (410)", does="`degraded`; `retired` after a day, while Entra answers"
    ),
    Drill("429 with seconds", _SECONDS, "throttled", "throttled by Microsoft until", times=_SOME, most=2),
    Drill("429 with a date", _DATE, "throttled", "throttled by Microsoft until", times=_SOME, most=2),
    Drill("429 without any time", _BARE, "throttled", "throttled by Microsoft (429)", times=_SOME, most=2),
    Drill("500", "500", says=_FAULT.format(500)),
    Drill("502", "502", says=_FAULT.format(502)),
    Drill("503", "503", says=_FAULT.format(503)),
    Drill("503 that says how long", "503-retry", says=_FAULT.format(503)),
    Drill("503 with a web page", "503-html", says=_FAULT.format(503)),
    Drill("504", "504", says=_FAULT.format(504)),
    Drill("records twice in an answer", "twice", "ok", does="Counted as duplicates; each is held once"),
    Drill(
        "older versions after newer ones",
        "older",
        "ok",
        does="Counted as duplicate or stale; the newest is held",
    ),
    Drill(
        "records of wrong shapes among sound ones",
        "strange",
        "ok",
        does="Kept in soc.rejects; the others are stored",
    ),
    # what the APIs of mutable records do differently
    Drill(
        "mde_alerts: 429 with the time in the body",
        _BARE,
        "throttled",
        "until",
        "mde",
        "mde_alerts",
        times=_SOME,
        most=2,
    ),
    Drill(
        "xdr_incidents: 429 with the time in the body",
        _BARE,
        "throttled",
        "until",
        "xdr",
        "xdr_incidents",
        times=_SOME,
        most=2,
    ),
    Drill(
        "graph_alerts: 429 with seconds",
        _SECONDS,
        "throttled",
        "until",
        "graph",
        "graph_alerts",
        times=_SOME,
        most=2,
    ),
    Drill(
        "mde_alerts: no list in the envelope",
        "not-a-list",
        says="the answer ",
        surface="mde",
        source="mde_alerts",
    ),
    Drill(
        "graph_alerts: no list in the envelope",
        "not-a-list",
        says="the answer ",
        surface="graph",
        source="graph_alerts",
    ),
    Drill(
        "xdr_incidents: half of the records with 206",
        "206",
        says=_PART,
        surface="xdr",
        source="xdr_incidents",
    ),
    Drill(
        "graph_alerts: half of the records with 206",
        "206",
        says=_PART,
        surface="graph",
        source="graph_alerts",
    ),
    Drill("mde_alerts: 500", "500", says=_FAULT.format(500), surface="mde", source="mde_alerts"),
    Drill("graph_incidents: 500", "500", says=_FAULT.format(500), surface="graph", source="graph_incidents"),
    Drill(
        "graph_alerts: a link to another host",
        _LINK,
        says="next link refused",
        surface="graph",
        source="graph_alerts",
        does="Never followed, for the token goes with it; tried again",
    ),
    Drill("graph_alerts: truncated", "truncated", says="the answer ", surface="graph", source="graph_alerts"),
    Drill("xdr_incidents: truncated", "truncated", says="the answer ", surface="xdr", source="xdr_incidents"),
)


def _aadsts(number: int, verdict: aadsts.Verdict) -> Drill:
    """A code that Entra may answer, as the table of `auth.aadsts` has it; the tenant has an app of its own."""
    words = f"AADSTS{number}: {verdict.what}"
    fault = chaos.Fault("aadsts", code=number, error="odd_error" if verdict is aadsts.UNKNOWN else "")
    if number == 90055:
        return Drill(words, fault, "throttled", "Entra throttles", "token", own_app=True)
    if number == 50196:
        return Drill(words, fault, "throttled", "AADSTS50196", "token", own_app=True, resumed=True)
    if verdict.who == "R" or number == 50000:  # with its status, 500, it may as well pass
        return Drill(words, fault, says=f"AADSTS{number}", surface="token", own_app=True)
    return Drill(
        words, fault, "needs_attention", f"AADSTS{number}", "token", cause=verdict.code, own_app=True
    )


_SLOW_TOKEN = chaos.Fault("slow", seconds=2)
_NO_OBJECT = "gave no JSON object"
ENTRA: tuple[Drill, ...] = (
    Drill("429 with seconds", _SECONDS, "throttled", "Entra throttles", "token", most=3),
    Drill("429 without any time", _BARE, "throttled", "Entra throttles", "token", most=3),
    *(
        Drill(f"{code}", code, says=f"Entra has a fault ({code}", surface="token", most=3)
        for code in ("500", "502", "503", "504")
    ),
    Drill("503 with a web page", "503-html", says="Entra has a fault (503)", surface="token", most=3),
    Drill("a web page with 200", "html", says=_NO_OBJECT, surface="token", most=3),
    Drill("JSON cut off", "truncated", says=_NO_OBJECT, surface="token", most=3),
    Drill("204", "204", says=_NO_OBJECT, surface="token", most=3),
    Drill("403 without a word", "403", says=_NO_OBJECT, surface="token", most=3),
    Drill("302", "302", says="gave a redirect (302)", surface="token", most=3),
    Drill(
        "the connection is reset before the answer",
        "reset",
        says="ended the connection",
        surface="token",
        most=3,
    ),
    Drill(
        "the connection is reset inside the body",
        "reset-inside",
        says="ended the connection",
        surface="token",
    ),
    Drill("a slow answer", _SLOW_TOKEN, "ok", surface="token", does="Waited for, up to ten seconds in all"),
    Drill(
        "a token of another tenant",
        "foreign-token",
        "needs_attention",
        "token of another tenant",
        "token",
        cause="wrong_tenant",
    ),
    Drill("a token that ends in five minutes", "short-token", "ok", surface="token", does="Renewed in time"),
    Drill(
        "mde_alerts: a token without its role",
        "no-roles",
        "needs_attention",
        "lacks",
        "token",
        "mde_alerts",
        cause="role_missing",
    ),
    Drill("the tenant's metadata: 500", "500", says="Entra has a fault (500", surface="metadata"),
    Drill("the tenant's metadata: 429", _SECONDS, "throttled", "Entra throttles", "metadata"),
    Drill("the tenant's metadata: a web page", "html", says=_NO_OBJECT, surface="metadata"),
    Drill("the tenant's metadata: cut off", "truncated", says=_NO_OBJECT, surface="metadata"),
    Drill("the tenant's metadata: reset", "reset", says="ended the connection", surface="metadata"),
    Drill("the tenant's metadata: 302", "302", says="gave a redirect (302)", surface="metadata"),
    # one code of each kind: test_aadsts_table has all of them
    *(_aadsts(number, verdict) for verdict, number in {v: n for n, v in aadsts.BY_NUMBER.items()}.items()),
    _aadsts(12345678, aadsts.UNKNOWN),
)

_NETWORK = "chaos/test_fault_matrix_network.py::test_a_broken_way_is_said_and_heals"
_CLOCK = "chaos/test_fault_matrix_clock.py::"
_POISON = "chaos/test_fault_matrix_poison.py::"
_SEARCHED = "Found by halving, and left as a gap of milliseconds with its reason; the rest is stored; tried again each hour"
ELSEWHERE: tuple[Row, ...] = (
    Row(
        "api", "410 or 404 for a day", "`retired`; FALLBACK_SOURCE takes its place", "ingest/test_fallback.py"
    ),
    Row(
        "api",
        "graph_incidents: 500 over the alerts of incidents",
        "The incidents are stored without them and nothing is proven; the sentence names the way out",
        "ingest/test_sources_trust.py::test_a_service_that_always_breaks_over_alerts",
    ),
    Row(
        "api",
        "an answer of another window than asked for",
        "Stored, and nothing is proven",
        "ingest/test_poll_windows.py::test_a_record_of_2099_stops_nothing",
    ),
    Row(
        "api", "an answer that is empty though there are alerts", "Found by the sweep", "ingest/test_sweep.py"
    ),
    Row(
        "api",
        "answers that are cut without a word",
        "Counted as full and split",
        "ingest/test_poll_windows.py::test_answers_that_are_cut_lose_nothing",
    ),
    *(
        Row(
            "network",
            fault,
            "`degraded`, says which side; no token leaves; tried again, up to every 15 min",
            _NETWORK,
        )
        for fault in (
            "connection refused",
            "a DNS at fault",
            "a host name that does not exist",
            "a certificate of an unknown CA",
            "an expired certificate",
            "a certificate for another name",
            "no TLS at all",
            "dropped before TLS",
        )
    ),
    Row(
        "quota",
        "mde_alerts, xdr_incidents, graph_alerts, graph_incidents: the quota is used up, as by another app",
        "One refused request, then it waits as long as header or body say; what was filed meanwhile is held in the end",
        "chaos/test_fault_matrix_quota.py::test_a_quota_that_others_use_up",
    ),
    Row(
        "quota",
        "our own requests against the documented quotas",
        "Kept before the API has to say 429",
        "unit/test_transport_pace.py",
    ),
    Row(
        "entra",
        "no answer at all",
        "Given up after ten seconds in all; `degraded`",
        "auth/test_tokens.py::test_deadline",
    ),
    Row(
        "entra",
        "the shared credential is refused",
        "All its tenants wait on one probe; a mended file heals at once",
        "ingest/test_attention.py::test_a_wrong_secret_is_said_and_its_file_heals_it",
    ),
    Row(
        "entra",
        "one customer's directory refuses the shared credential",
        "That tenant waits, no other",
        "auth/test_breaker.py::test_one_tenant_does_not_speak_for_all",
    ),
    Row("entra", "every AADSTS code that is known", "Its kind and its word", "auth/test_aadsts_table.py"),
    Row(
        "clock",
        "ten minutes ahead or behind from the start",
        "Windows, tokens and what is shown follow the Date of the answers; nothing of the future is proven",
        _CLOCK + "test_a_clock_that_is_wrong_from_the_start",
    ),
    Row(
        "clock",
        "a step of ten minutes, either way, while it runs",
        "Schedules go on within two seconds, windows follow after three answers; no lease is lost",
        _CLOCK + "test_a_clock_that_steps",
    ),
    Row(
        "clock",
        "one host with a wrong Date",
        "The median of five answers counts",
        "ingest/test_poll_failures.py::test_one_wrong_clock_does_not_move_the_others",
    ),
    Row(
        "clock",
        "no Date, or one more than a day off",
        "Alerts are stored, nothing is proven, and the stream says so",
        "ingest/test_poll_failures.py::test_without_a_credible_date_nothing_is_proven",
    ),
    Row(
        "clock",
        "an assertion outside of its time",
        "Signed again by Entra's own Date",
        "auth/test_app_credentials.py",
    ),
    Row(
        "poison",
        "wrong types, odd dates, NUL, lone surrogates, huge numbers, deep nesting, 10 MiB of text, doubled names,"
        " FullIds of 513 bytes, records of other tenants, what is no record; for each source",
        "Stored as far as it goes, else kept whole in soc.rejects with the reason; items of the answer add up",
        _POISON + "test_hostile_records_cost_themselves",
    ),
    Row(
        "poison",
        "records changed at random; for each source",
        "No poll ends in a bug, and items add up",
        _POISON + "test_any_records_are_stored_or_kept",
    ),
    Row(
        "poison",
        "an instant over which the API breaks (500); for each source",
        _SEARCHED,
        _POISON + "test_an_instant_that_breaks_the_api",
    ),
    Row(
        "poison",
        "a record that breaks the JSON of its answer",
        _SEARCHED,
        "ingest/test_poll_failures.py::test_a_body_that_cannot_be_read_costs_its_own_milliseconds",
    ),
    Row(
        "poison",
        "a record that is too large alone",
        _SEARCHED,
        "ingest/test_poll_windows.py::test_a_record_that_is_too_large_alone_stays_a_gap",
    ),
    Row(
        "poison",
        "what PostgreSQL refuses",
        "Found by halving under savepoints, kept in soc.rejects; the rest is stored",
        "store/test_store_refused.py::test_one_bad_record_costs_itself_only",
    ),
    Row(
        "poison",
        "one incident of a gap that breaks the service",
        "Held without its alerts, as a gap that says so",
        "ingest/test_sources_trust.py::test_one_incident_of_a_gap_that_breaks_the_service",
    ),
)

_SHOWS: dict[str, str] = {
    "ok": "Nothing shows",
    "degraded": "`degraded`: tried again, at first soon, then up to every 15 min",
    "throttled": "`throttled`: waits as long as it was told, at most an hour",
    "needs_attention": "`needs_attention`: tried once an hour, and at once when a person says so",
}


def rows() -> list[Row]:
    """Every fault with what Alertwell does, in the order of a page."""
    tests: dict[Part, str] = {
        "api": "chaos/test_fault_matrix_api.py::test_each_fault_costs_its_own_tenant_time_and_nobody_an_alert",
        "entra": "chaos/test_fault_matrix_entra.py::test_entra_at_fault_for_one_tenant_costs_no_other_and_no_alert",
    }
    made = [
        Row(part, drill.fault, drill.does or _said(drill), tests[part])
        for part, drills in (("api", API), ("entra", ENTRA))
        for drill in drills
    ]
    return [row for part in TITLES for row in (*made, *ELSEWHERE) if row.part == part]


def _said(drill: Drill) -> str:
    cause = f" (`{drill.cause}`)" if drill.cause else ""
    return _SHOWS[drill.state] + cause


def table(part: Part) -> str:
    """The faults of one part as a Markdown table."""
    lines = ["| Fault | What Alertwell does | Test |", "|---|---|---|"]
    lines += [
        f"| {row.fault} | {row.does} | `tests/{row.test.partition('::')[0]}` |"
        for row in rows()
        if row.part == part
    ]
    return "\n".join(lines)

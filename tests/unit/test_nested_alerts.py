"""Incidents and the alerts inside of them: what is cut where, and what costs what."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from uuid import UUID

import pytest

from service import model
from service.sources import contract, records, registry

TENANT = UUID("11111111-1111-1111-1111-111111111111")
WINDOW = model.Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 1, 1, tzinfo=UTC))
XDR = registry.get("xdr_incidents")


def incident(number=1, *, alerts=None, updated="2026-10-01T00:30:00Z", **more):
    inside = {} if alerts is None else {"alerts": alerts}
    return {"incidentId": number, "lastUpdateTime": updated, "incidentName": "x", **inside, **more}


def alert(name="a", updated="2026-10-01T00:20:00Z", **more):
    return {"alertId": name, "lastUpdatedTime": updated, **more}


def read(*incidents):
    return read_raw(json.dumps({"value": incidents}).encode())


def read_raw(body):
    return contract.whole(XDR.read(body, WINDOW, TENANT))


def only(page):
    (found,) = page.incidents
    return found


def test_alerts_count_for_the_steps_of_an_answer():
    """Others have their turn after a hundred records, whatever they are, and the page is the same."""
    body = json.dumps(
        {"value": [incident(n, alerts=[alert(f"{n} {m}") for m in range(60)]) for n in range(5)]}
    ).encode()
    steps = XDR.read(body, WINDOW, TENANT)
    assert len([*steps]) == 2  # before the third incident and the fifth
    assert read_raw(body).nested == 300


def test_alerts_are_cut_out():
    """The incident's raw has everything but its alerts, whatever stands around them; each alert's raw is its own bytes."""
    body = (
        b'{"value": [{"tags": ["alerts"] , "alerts" : [ {"alertId" : "a", "lastUpdatedTime":"2026-10-01T00:20:00Z","n":1.50} ]\n'
        b', "incidentId": 7, "lastUpdateTime": "2026-10-01T00:30:00Z", "big": 12345678901234567890, "x": [{"alerts": 1}]}]}'
    )
    page = read_raw(body)
    found = only(page)
    assert json.loads(found.raw) == {
        "tags": ["alerts"],
        "incidentId": 7,
        "lastUpdateTime": "2026-10-01T00:30:00Z",
        "big": 12345678901234567890,
        "x": [{"alerts": 1}],
    }
    assert page.alerts[0].raw == b'{"alertId" : "a", "lastUpdatedTime":"2026-10-01T00:20:00Z","n":1.50}'
    assert (page.alerts[0].incident_id, found.alert_ids) == ("7", ["a"])


def test_an_incident_without_alerts_in_the_answer():
    """Absent or null alerts say nothing of how many there are; an empty list says that there are none."""
    found = read(incident(1), incident(2, alerts=[]), incident(3) | {"alerts": None}).incidents
    assert [each.alert_ids for each in found] == [None, [], None]


@pytest.mark.parametrize("odd", ["none", 5, True, {"a": {}}])
def test_alerts_that_are_no_list(odd):
    """The incident is stored, and what stood in the place of its alerts is a reject of its own."""
    page = read(incident(alerts=odd))
    assert only(page).alert_ids is None
    assert (page.items, page.nested, page.nested_rejects) == (1, 1, 1)
    (reject,) = page.rejects
    assert reject == model.Reject("alerts not an array of alerts", json.dumps(odd).encode())


def test_alerts_that_go_on_elsewhere():
    """A list that the service has cut is said to be: one reject that is the same whatever the link, beside what it shows."""
    cut = {"alerts@odata.nextLink": "https://api.security.microsoft.com/api/incidents/1/alerts?$skiptoken=x"}
    page = read(
        incident(alerts=[alert("a"), alert("b")], **cut), incident(2, alerts=[]) | {next(iter(cut)): None}
    )
    assert (page.items, page.nested, page.nested_rejects) == (2, 3, 1)
    assert [each.full_id for each in page.alerts] == ["a", "b"]
    (reject,) = page.rejects
    assert reject.reason.startswith("alerts of an incident cut off: ")
    assert json.loads(reject.raw) == {"incident": "1", "alerts shown": 2}
    bare = read(incident(**cut))
    assert (only(bare).alert_ids, bare.nested, bare.nested_rejects) == (None, 1, 1)


def test_one_bad_alert_costs_itself():
    """A nested record that cannot be stored is a reject; its incident and its neighbours stay."""
    bad = [
        5,
        {"alertId": "x"},
        alert("y", tenantId="22222222-2222-2222-2222-222222222222"),
        alert("z" * 3000),
    ]
    page = read(incident(alerts=[alert("a"), *bad, alert("b")]))
    assert only(page).alert_ids == ["a", "b"]
    assert (page.items, page.nested, page.nested_rejects, page.duplicates) == (1, 6, 4, 0)
    assert [json.loads(reject.raw) for reject in page.rejects] == bad


def test_numbers_that_jsonb_cannot_hold():
    """Inside of an alert they cost the alert, in the incident's own fields the incident with its alerts."""
    body = json.dumps({"value": [incident(1, alerts=[alert("a", n="@"), alert("b")]), incident(2, n="#")]})
    page = read_raw(body.replace('"@"', "1e999999").replace('"#"', "-1e999999").encode())
    assert [each.incident_id for each in page.incidents] == ["1"]
    assert [each.full_id for each in page.alerts] == ["b"]
    assert [reject.reason.partition(":")[0] for reject in page.rejects] == ["number out of range"] * 2


def test_a_rejected_incident_keeps_its_alerts_in_the_reject():
    """An incident of another tenant brings nothing in: it and its alerts are one reject, whole."""
    value = incident(alerts=[alert("a")], tenantId="22222222-2222-2222-2222-222222222222")
    page = read(value, incident(2, alerts=[alert("b")]))
    assert [each.full_id for each in page.alerts] == ["b"]
    assert (page.items, page.nested, page.nested_rejects) == (2, 1, 0)
    assert json.loads(page.rejects[0].raw) == value


def test_merged_incidents():
    """An alert that still names the incident that ended follows the one that stays; another one's it leaves alone."""
    inside = [alert("a", incidentId=1), alert("b"), alert("c", incidentId=9)]
    page = read(incident(1, alerts=inside, redirectIncidentId=7, status="Redirected"))
    assert [each.incident_id for each in page.alerts] == ["7", "7", "9"]
    assert (only(page).redirect_incident_id, only(page).status) == ("7", "redirected")
    assert only(read(incident(1, redirectIncidentId=1))).redirect_incident_id is None


def test_the_newest_counts():
    """Of an incident, and of an alert in several incidents, the newest version is kept, the last of equally new ones."""
    page = read(
        incident(1, alerts=[alert("a", title="old"), alert("a", "2026-10-01T00:25:00Z", title="new")]),
        incident(
            1,
            updated="2026-10-01T00:31:00Z",
            alerts=[alert("a", title="older"), alert("b")],
            status="Resolved",
        ),
        incident(1, alerts=[]),
        incident(2, alerts=[alert("b", title="again")]),
    )
    assert [(each.incident_id, each.status) for each in page.incidents] == [
        ("1", "resolved"),
        ("2", "unknown"),
    ]
    assert [(each.full_id, each.title, each.incident_id) for each in page.alerts] == [
        ("a", "new", "1"),
        ("b", "again", "2"),
    ]
    assert (page.items, page.duplicates, page.nested, page.nested_duplicates) == (4, 2, 5, 3)
    assert [each.alert_ids for each in page.incidents] == [["a", "b"], ["b"]]


def test_the_last_digit_tells_versions_apart():
    """Of an incident and of an alert inside, whichever comes first."""
    page = read(
        incident(1, updated="2026-10-01T00:30:00.0000009Z", alerts=[], status="Resolved"),
        incident(
            1,
            updated="2026-10-01T00:30:00.0000008Z",
            alerts=[
                alert("a", "2026-10-01T00:20:00.0000002Z", title="new"),
                alert("a", "2026-10-01T00:20:00.0000001Z", title="old"),
            ],
        ),
    )
    assert (only(page).status, [each.title for each in page.alerts]) == ("resolved", ["new"])


def test_the_hash_is_of_content_not_of_order():
    """The same alerts in another order are no change of the incident; another alert is, another version of one is not."""

    def digest(*inside, **more):
        return only(read(incident(alerts=list(inside), **more))).content_hash

    first = digest(alert("a"), alert("b"))
    assert first == digest(alert("b"), alert("a"))
    assert first == digest(alert("a", title="changed"), alert("b"))
    assert first != digest(alert("a"))
    assert first != digest(alert("a"), alert("b"), status="Resolved")
    assert digest() != only(read(incident())).content_hash


@pytest.mark.parametrize("escape", [r"\u0000", r"\ud800"])
def test_escapes_that_jsonb_refuses(escape):
    """The exact bytes are kept of what holds them: the incident's own fields, or one of its alerts."""
    own = json.dumps({"value": [incident(alerts=[alert("a"), alert("b")], note="@")]}).replace("@", escape)
    page = read_raw(own.encode())
    found = only(page)
    exact = json.dumps(incident(alerts=None, note="@") | {"alerts": None}).replace("@", escape)
    assert json.loads(found.raw)["note"] == "\ufffd"
    assert json.loads(found.raw_exact, strict=False) == json.loads(exact, strict=False)
    assert found.content_hash == records.content_hash(found.raw_exact + b"\0a\0b")
    assert [each.raw_exact for each in page.alerts] == [None, None]

    middle = json.dumps(alert("b", title="@", incidentId=1)).replace("@", escape)
    inside = json.dumps(incident(alerts=[alert("a"), "#", alert("c")])).replace('"#"', middle)
    page = read_raw(f'{{"value": [{inside}]}}'.encode())
    assert only(page).raw_exact is None
    assert [each.raw_exact for each in page.alerts] == [None, middle.encode(), None]
    assert page.alerts[1].title == "\ufffd"
    assert page.alerts[1].content_hash == records.content_hash(middle.encode())


def test_an_incident_that_is_not_json():
    """Within a malformed record nothing can be told apart: the whole of it is one reject, the others are read."""
    good = json.dumps(incident(2, alerts=[alert("b")]))
    bad = '{"incidentId": 1, "lastUpdateTime": "2026-10-01T00:30:00Z", "alerts": [{"alertId": nothing}]}'
    page = read_raw(f'{{"value": [{bad}, {good}]}}'.encode())
    assert [each.incident_id for each in page.incidents] == ["2"]
    assert page.rejects[0].raw == bad.encode()
    assert page.rejects[0].reason.startswith("not JSON: ")


def test_a_list_of_tiny_values_is_no_list_of_alerts():
    """Millions of empty objects in the place of alerts are one reject, not millions."""
    page = read(incident(alerts=[{}] * 5000))
    assert [reject.reason for reject in page.rejects] == ["alerts not an array of alerts"]
    assert (only(page).alert_ids, page.nested) == (None, 1)


def test_an_incident_with_2000_alerts():
    """It is read whole, and takes little more memory than the text of its alerts."""
    evidence = [
        {"entityType": "Process", "processCommandLine": "x" * 200, "sha1": "0" * 40} for _ in range(20)
    ]
    inside = [alert(f"da{number}_1", entities=evidence, title=f"alert {number}") for number in range(2000)]
    body = json.dumps({"value": [incident(alerts=inside), incident(2)]}).encode()
    del inside
    tracemalloc.start()
    try:
        page = read_raw(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (page.items, page.nested, len(page.alerts), len(page.incidents)) == (2, 2000, 2000, 2)
    assert len(page.incidents[0].alert_ids) == 2000
    assert len(page.incidents[0].raw) < 200
    assert peak < 1.3 * len(body)


def test_where_an_alert_is_counts_for_one_that_does_not_say_so():
    """The same bytes in another incident are other content unless they name their incident themselves."""
    silent, telling = alert(), alert(incidentId=1)
    one, other, merged = (
        [read(incident(number, alerts=[each], **more)).alerts[0].content_hash for each in (silent, telling)]
        for number, more in ((1, {}), (2, {}), (1, {"redirectIncidentId": 5}))
    )
    assert one[0] != other[0]
    assert one[1] == other[1]
    assert one == merged

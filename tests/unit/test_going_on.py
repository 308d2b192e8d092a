"""When an answer is full, and where it may be gone on from there: never to another host."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from service import model
from service.sources import contract, odata, registry

TENANT = UUID("11111111-1111-1111-1111-111111111111")
WINDOW = model.Window(datetime(2026, 10, 1, tzinfo=UTC), datetime(2026, 10, 1, 1, tzinfo=UTC))
BASE = "https://graph.microsoft.com"
LINK = BASE + "/v1.0/security/alerts_v2?$top=1000&$skiptoken=a+b%2Fc=="
RECORD = {
    "mde_alerts": {"id": "x", "lastUpdateTime": "2026-10-01T00:00:00Z"},
    "xdr_incidents": {"incidentId": 1, "lastUpdateTime": "2026-10-01T00:00:00Z"},
    "graph_alerts": {"id": "x", "lastUpdateDateTime": "2026-10-01T00:00:00Z"},
    "graph_incidents": {"id": "x", "lastUpdateDateTime": "2026-10-01T00:00:00Z"},
}
TOPS = {"mde_alerts": 10_000, "xdr_incidents": 100, "graph_alerts": 1_000, "graph_incidents": 50}
SKIPPING = ("mde_alerts", "xdr_incidents")
LINKING = ("graph_alerts", "graph_incidents")

every_source = pytest.mark.parametrize("name", TOPS)


def read(name, count, link=None, asked=None, base_url=BASE):
    source = registry.get(name)
    record = json.dumps(RECORD[name] | {"description": "long enough for an alert"})
    body = '{"value":[' + ",".join([record] * count) + "]"
    if link is not None:
        body += ',"@odata.nextLink":' + json.dumps(link)
    asked = asked or source.request(WINDOW, {})
    return contract.whole(source.read(f"{body}}}".encode(), WINDOW, TENANT, asked=asked, base_url=base_url))


@every_source
def test_full_at_the_size_that_was_asked_for(name):
    """As many records as `$top`, repeated and unreadable ones counted, may have been cut; one less is all there is."""
    top = int(dict(registry.get(name).request(WINDOW, {}).query)["$top"])
    assert top == TOPS[name]
    assert read(name, top).full
    assert read(name, top + 1).full
    assert not read(name, top - 1).full
    assert read(name, top - 1).next is None


@every_source
def test_a_link_says_that_more_follows(name):
    """A short page with a link is not the end, whatever the link is."""
    for link in (LINK, "", 5, {"a": 1}):
        assert read(name, 1, link).full
    assert not read(name, 1, None).full


@pytest.mark.parametrize("name", SKIPPING)
def test_on_by_skip(name):
    """The same request goes on behind what was read, page after page, until one is short."""
    first = read(name, TOPS[name])
    asked = registry.get(name).request(WINDOW, {})
    assert first.next.query == (*asked.query, ("$skip", str(TOPS[name])))
    second = read(name, TOPS[name] + 5, asked=first.next)
    assert dict(second.next.query)["$skip"] == str(2 * TOPS[name] + 5)
    assert dict(second.next.query) | {"$skip": "0"} == dict(asked.query) | {"$skip": "0"}
    assert (second.next.service, second.next.path, second.next.quota_group) == (
        asked.service,
        asked.path,
        asked.service,
    )
    last = read(name, 3, asked=second.next)
    assert (last.full, last.next) == (False, None)
    assert read(name, 0, LINK).next is None  # nothing read is nothing to go on from


@pytest.mark.parametrize("name", SKIPPING)
def test_a_link_is_not_followed_where_skip_is_documented(name):
    """Whatever host such a link names, the way on is the request's own."""
    page = read(name, 7, "https://evil.example/")
    assert (page.next.path, dict(page.next.query)["$skip"]) == (
        registry.get(name).request(WINDOW, {}).path,
        "7",
    )
    assert page.warnings == ()


@pytest.mark.parametrize("name", LINKING)
def test_on_by_link(name):
    """The service's link is followed word for word below the same base address, with the headers of the request."""
    page = read(name, 1, LINK)
    asked = registry.get(name).request(WINDOW, {})
    assert (page.next.path, page.next.query) == (
        "/v1.0/security/alerts_v2?$top=1000&$skiptoken=a+b%2Fc==",
        (),
    )
    assert (page.next.headers, page.next.service, page.next.quota_group) == (
        asked.headers,
        "graph",
        "graph",
    )
    assert page.warnings == ()
    further = read(name, 1, LINK + "1", asked=page.next)
    assert further.next.path.endswith("a+b%2Fc==1")


@pytest.mark.parametrize("name", LINKING)
def test_the_last_page_behind_a_link(name):
    """A page that a link led to and that has none itself is the last, even with as many records as were asked for."""
    followed = read(name, 1, LINK).next
    assert not read(name, TOPS[name], asked=followed).full
    assert read(name, TOPS[name]).full
    assert read(name, TOPS[name]).next is None


@pytest.mark.parametrize(
    ("base", "link", "path"),
    [
        (BASE, "https://GRAPH.microsoft.com:443/v1.0/x?a=1", "/v1.0/x?a=1"),
        ("https://localhost:8443/graph", "https://localhost:8443/graph/v1.0/x?a=1", "/v1.0/x?a=1"),
        ("https://localhost:8443/graph/", "https://localhost:8443/graph/v1.0/x", "/v1.0/x"),
        (BASE, BASE + "/x?" + "a" * 7000, "/x?" + "a" * 7000),
    ],
)
def test_links_that_stay(base, link, path):
    """Case and the usual port make no difference, and a base address may have a path."""
    page = read("graph_alerts", 1, link, base_url=base)
    assert (page.next.path, page.warnings) == (path, ())


@pytest.mark.parametrize(
    ("link", "why"),
    [
        ("https://evil.example/v1.0/security/alerts_v2?$skiptoken=x", "it leads to evil.example"),
        ("https://graph.microsoft.com.evil.example/v1.0", "it leads to graph.microsoft.com.evil.example"),
        ("https://graph.microsoft.com@evil.example/v1.0", "it is not a plain https address"),
        ("https://evil.example@graph.microsoft.com/v1.0", "it is not a plain https address"),
        ("https://graph.microsoft.com:8443/v1.0", "it leads to port 8443 of graph.microsoft.com"),
        ("https://graph.microsoft.com:0/v1.0", "it leads to port 0 of graph.microsoft.com"),
        ("http://graph.microsoft.com/v1.0", "it is not a plain https address"),
        ("//graph.microsoft.com/v1.0", "it is not a plain https address"),
        ("/v1.0/security/alerts_v2?$skiptoken=x", "it is not a plain https address"),
        ("https://graph.microsoft.com\\@evil.example/", "it is not a plain address"),
        ("https://graph.microsoft.com/x\r\nHost: evil.example", "it is not a plain address"),
        ("https://graph.microsoft.com/x#y", "it is not a plain address"),
        ("https://graph.microsoft.com/ä", "it is not a plain address"),
        ("https://[half/v1.0", "it is not a plain address"),
        ("https://graph.microsoft.com:99999/v1.0", "it is not a plain address"),
        ("https://graph.microsoft.com", "it leads to another path"),
        ("https://graph.microsoft.com/v1.0/../beta/x", "it leads to another path"),
        ("https://graph.microsoft.com/v1.0/%2E%2e/beta/x", "it leads to another path"),
        ("https://graph.microsoft.com/v1.0/.%2e", "it leads to another path"),
        ("https://ev%69l!.example/", "it leads to an odd host"),
        (BASE + "/x?" + "a" * 9000, "it has 9030 characters"),
        ("", "it is not a plain address"),
        (5, "it is not a plain address"),
    ],
)
@pytest.mark.parametrize("name", LINKING)
def test_links_that_are_refused(name, link, why):
    """Such a link is not followed and is named in one warning; what came with it is kept, as a full answer."""
    page = read(name, 1, link)
    assert (page.items, page.full, page.next) == (1, True, None)
    (warning,) = page.warnings
    assert warning == f"next link refused: {why}"


@pytest.mark.parametrize("up", ["..", "%2e%2e", ".%2E", "x/../..", "x%2F..%2f..", ".", "..;"])
def test_a_link_that_climbs_is_refused(up):
    """A path that begins below the base address and ends beside it leads to another path, however it is spelled."""
    base = "https://localhost:8443/graph"
    page = read("graph_alerts", 1, f"{base}/{up}/other?a=1", base_url=base)
    assert (page.next, page.warnings) == (None, ("next link refused: it leads to another path",))
    dotted = read("graph_alerts", 1, f"{base}/v1.0/.hidden/a..b?x=/../", base_url=base)
    assert dotted.next.path == "/v1.0/.hidden/a..b?x=/../"


def test_a_link_to_where_it_came_from():
    """The same page again brings nothing: refused, so that no poll goes round in circles."""
    first = read("graph_alerts", 1, LINK)
    again = read("graph_alerts", 1, LINK, asked=first.next)
    assert (again.next, again.warnings) == (None, ("next link refused: it leads back to the same page",))


@every_source
def test_without_the_request_there_is_no_way_on(name):
    """Who does not say what was asked, and of whom, learns that the answer is full, and nothing more."""
    body = json.dumps({"value": [RECORD[name]], "@odata.nextLink": LINK}).encode()
    page = contract.whole(registry.get(name).read(body, WINDOW, TENANT))
    assert (page.full, page.next, page.warnings) == (True, None, ())


def test_the_margin_is_a_millisecond():
    """Requests overlap their neighbours by that much on each side."""
    assert odata.MARGIN.total_seconds() == 0.001

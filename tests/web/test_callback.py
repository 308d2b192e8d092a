"""The consent callback by itself: hostile queries, what its answers may hold, and how much of a flood reaches the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import aiohttp
import asyncpg
import pytest
import structlog

from service import metrics
from service.auth import consent, sealing
from service.store import consents, invitations
from service.store import pool as doors
from service.web import callback, pages, server

CONTOSO = "11111111-1111-1111-1111-111111111111"
KEYS = sealing.Sealer([sealing.generate_key()])
HOSTILE = "%3Cscript%3Ehunter2%3C%2Fscript%3E"


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[doors.Database]:
    async with doors.open_database(database_url, size=2) as opened:
        yield opened


@asynccontextmanager
async def served(
    database: doors.Database, gate: callback.Gate | None = None
) -> AsyncIterator[tuple[str, aiohttp.ClientSession, metrics.Metrics]]:
    measured = metrics.Metrics("0")
    taking = callback.Callback(database, KEYS, measured, gate)
    application = callback.application(taking, "/of/us/consent")
    async with (
        server.Server("127.0.0.1", 0, application, setting="PUBLIC_PORT") as listening,
        aiohttp.ClientSession() as session,
    ):
        yield f"http://127.0.0.1:{listening.port}", session, measured


def state(invitation_id: UUID | None = None, days: float = 1) -> str:
    return consent.State(invitation_id or uuid4(), datetime.now(UTC) + timedelta(days=days)).signed(KEYS)


async def invited(database: doors.Database) -> UUID:
    wanted = invitations.Wanted(UUID(CONTOSO), "Contoso", "public", None, ("graph_alerts",), "v2")
    [made], _ = await invitations.invite(database, [wanted], valid=timedelta(days=1), actor="ada@desk")
    return made.invitation_id


@pytest.mark.parametrize(
    ("query", "status", "outcome"),
    [
        ("", 400, "stateless"),
        (f"code=x&session_state={HOSTILE}", 400, "stateless"),
        (f"error={HOSTILE}&error_description={HOSTILE}", 400, "stateless"),
        (f"admin_consent=True&tenant={CONTOSO}&state={HOSTILE}", 400, "forged"),
        (f"error=access_denied&state={HOSTILE}", 400, "forged"),
        ("state=GOOD&state=GOOD", 400, "unreadable"),
        (f"admin_consent=True&tenant={CONTOSO}&tenant={CONTOSO}&state=GOOD", 400, "unreadable"),
        (f"admin_consent=True&tenant={HOSTILE}&state=GOOD", 400, "unreadable"),
        (f"admin_consent=True&tenant={CONTOSO}%00&state=GOOD", 400, "unreadable"),
        (f"admin_consent=hunter2&tenant={CONTOSO}&state=GOOD", 400, "unreadable"),
        (f"tenant={CONTOSO}&state=GOOD", 400, "unreadable"),
        ("admin_consent=True&state=GOOD", 400, "unreadable"),
        (f"admin_consent=True&tenant={CONTOSO}&state=GOOD&a=%ff", 400, "unreadable"),
        ("&".join(f"hunter2{n}=1" for n in range(30)), 400, "unreadable"),
        ("state=" + "hunter2" * 900, 400, "unreadable"),
        (f"admin_consent=True&tenant={CONTOSO}&state=OLD", 400, "expired"),
        (f"admin_consent=True&tenant={CONTOSO}&state=GOOD", 400, "unknown"),
    ],
)
async def test_hostile_queries(database: doors.Database, query: str, status: int, outcome: str):
    """Each is refused with a page of ours that repeats nothing, counted, and logged without any of its values."""
    query = query.replace("GOOD", state()).replace("OLD", state(days=-1))
    async with served(database) as (base, session, measured):
        with structlog.testing.capture_logs() as logged:
            async with session.get(f"{base}/of/us/consent?{query}") as answer:
                text = await answer.text()
        assert answer.status == status
        assert text == pages.PAGES[outcome].html
        assert measured.consent_callbacks.labels(outcome)._value.get() == 1
        assert [(line["event"], line["why"]) for line in logged] == [("consent_refused", outcome)]
        assert "hunter2" not in str(logged)
        assert {name: answer.headers[name] for name in pages.HEADERS} == dict(pages.HEADERS)
        assert "Server" not in answer.headers
        assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/consent", 404),
        ("GET", "/of/us/consent/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/livez", 404),
        ("HEAD", "/of/us/consent", 405),
        ("POST", "/of/us/consent", 405),
    ],
)
async def test_nothing_else_is_there(database: doors.Database, method: str, path: str, status: int):
    """Other paths and methods are pages without content, with the same headers; a HEAD uses no link up."""
    async with (
        served(database) as (base, session, measured),
        session.request(method, f"{base}{path}?state={state()}") as answer,
    ):
        assert answer.status == status
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert not list(measured.consent_callbacks.collect()[0].samples)


async def test_pages_allow_no_script_and_load_nothing():
    """The policy names the one style by its hash; no page links to anything."""
    words = ("<script", "<a ", "<img", "src=", "http:", "https:")
    assert [page.title for page in pages.PAGES.values() if any(word in page.html for word in words)] == []
    assert "unsafe" not in pages.HEADERS["Content-Security-Policy"]


async def test_idle_connections_do_not_pile_up(database: doors.Database):
    """Whoever opens connections and says nothing cannot use up the process's files, and shuts nobody out."""
    async with served(database) as (base, session, _):
        port = int(base.rpartition(":")[2])
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(server.MOST + 50)]
        try:
            async with session.get(f"{base}/of/us/consent") as answer:
                assert answer.status == 400
            ended = [reader for reader, _ in idle[:50] if await reader.read() == b""]
            assert len(ended) == 50
        finally:
            for _, writer in idle:
                writer.close()


async def test_a_flood_of_one_link_is_held_back(database: doors.Database, pool: asyncpg.Pool):
    """Of many answers to one link few reach the database in a minute; others' links are not held back by it."""
    one = state(await invited(database))
    query = f"admin_consent=True&tenant={CONTOSO}&state="
    async with served(database, callback.Gate(a_link=3)) as (base, session, _):

        async def ask(text: str) -> int:
            async with session.get(f"{base}/of/us/consent?{query}{text}") as answer:
                return answer.status

        statuses = [await ask(one) for _ in range(8)]
        other = await ask(state())
    assert statuses == [200, 200, 200, 429, 429, 429, 429, 429]
    assert other == 400
    assert await pool.fetchval("SELECT answers FROM alertwell.invitation") == 3


async def test_a_flood_of_links_is_held_back(database: doors.Database):
    """All links together reach the database so often a minute, and no oftener; refusals beyond have no log line."""
    query = f"admin_consent=True&tenant={CONTOSO}&state="
    async with served(database, callback.Gate(a_minute=2)) as (base, session, measured):
        with structlog.testing.capture_logs() as logged:
            for _ in range(5):
                async with session.get(f"{base}/of/us/consent?{query}{state()}") as answer:
                    await answer.read()
    assert measured.consent_callbacks.labels("unknown")._value.get() == 2
    assert measured.consent_callbacks.labels("throttled")._value.get() == 3
    assert len(logged) == 2


async def test_an_answer_while_the_database_is_away_is_not_lost(database: doors.Database, pool: asyncpg.Pool):
    """It is told to come again, and the link is as good as before."""
    good = state(await invited(database))
    query = f"admin_consent=True&tenant={CONTOSO}&state={good}"
    async with served(database) as (base, session, _):
        await pool.execute("ALTER TABLE alertwell.invitation RENAME TO away")
        await pool.execute(
            "CREATE VIEW alertwell.invitation AS SELECT * FROM alertwell.away WHERE pg_terminate_backend(pg_backend_pid())"
        )
        async with session.get(f"{base}/of/us/consent?{query}") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "60")
        await pool.execute("DROP VIEW alertwell.invitation")
        await pool.execute("ALTER TABLE alertwell.away RENAME TO invitation")
        async with session.get(f"{base}/of/us/consent?{query}") as answer:
            assert answer.status == 200


async def test_links_fill_no_table(database: doors.Database, pool: asyncpg.Pool):
    """A link that leaked is audited so often, and then no more."""
    invitation_id = await invited(database)
    outcomes = [
        await consents.give(database, invitation_id, uuid4()) for _ in range(consents.MOST_ANSWERS + 5)
    ]
    assert outcomes.count("wrong_tenant") == consents.MOST_ANSWERS
    assert set(outcomes[consents.MOST_ANSWERS :]) == {"too_often"}
    count = "SELECT count(*) FROM alertwell.audit WHERE action = 'consent.refused'"
    assert await pool.fetchval(count) == consents.MOST_ANSWERS

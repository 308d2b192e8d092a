"""The page that a sign-in's browser comes back to: on this machine alone, one answer, nothing repeated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from service import errors
from service.web import loopback


@pytest.fixture
async def door() -> AsyncIterator[loopback.Loopback]:
    """Listening."""
    async with loopback.Loopback() as listening:
        listening.expect("s&1")
        yield listening


@pytest.fixture
async def browser() -> AsyncIterator[aiohttp.ClientSession]:
    """Any client."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_only_this_machine_reaches_it(door: loopback.Loopback):
    """The address says localhost, as Entra wants it; what listens is 127.0.0.1."""
    assert door.address.startswith("http://localhost:")
    assert door._server.host == "127.0.0.1"


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_one_answer(door: loopback.Loopback, browser: aiohttp.ClientSession, method: str):
    """The first one counts, by query or form; whoever comes later is told so, and nothing is repeated."""
    sent = {"code": "1.<b>", "state": "s&1"}
    how = {"params": sent} if method == "GET" else {"data": sent}
    async with browser.request(method, f"{door.address}/", **how) as answer:
        page = await answer.text()
        assert answer.status == 200
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "Server" not in answer.headers
    assert "<b>" not in page
    async with browser.post(f"{door.address}/", data={"code": "2", "state": "s&1"}) as second:
        assert second.status == 400
    assert await door.answer(0) == sent


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_an_answer_to_another_sign_in(
    door: loopback.Loopback, browser: aiohttp.ClientSession, method: str
):
    """A code or an error without our state ends nothing, whichever page sent it: refused, and ours is still taken."""
    answer: dict[str, str]
    for answer in ({"code": "x"}, {"code": "x", "state": "s"}, {"error": "access_denied", "state": "é"}):
        how = {"params": answer} if method == "GET" else {"data": answer}
        async with browser.request(method, f"{door.address}/", **how) as refused:
            assert refused.status == 400
    async with browser.post(f"{door.address}/", data={"code": "1", "state": "s&1"}) as taken:
        assert taken.status == 200
    assert await door.answer(0) == {"code": "1", "state": "s&1"}


async def test_nothing_is_taken_before_a_state_is_expected(browser: aiohttp.ClientSession):
    """The door listens before there is anything to wait for."""
    async with (
        loopback.Loopback() as listening,
        browser.get(f"{listening.address}/?code=x&state=") as answer,
    ):
        assert answer.status == 400


async def test_what_is_no_answer_is_not_taken(door: loopback.Loopback, browser: aiohttp.ClientSession):
    """An icon, an empty query, a field twice, too much of it: refused, and the answer is still waited for."""
    for path, form, status in (
        ("/favicon.ico", None, 404),
        ("/", None, 404),
        ("/?code=1&code=2&state=s", None, 404),
        ("/", {"code": "x" * 7_000, "state": "s"}, 404),
        ("/", {"code": "x" * 70_000, "state": "s"}, 413),
    ):
        method = "GET" if form is None else "POST"
        async with browser.request(method, door.address + path, data=form) as answer:
            assert answer.status == status
    with pytest.raises(errors.BadInput, match="nobody has signed in within 0 minutes"):
        await door.answer(0)


async def test_it_is_gone_at_the_end(browser: aiohttp.ClientSession):
    """Nothing listens any more, and who waited is told."""
    async with loopback.Loopback() as listening:
        address = listening.address
        waiting = asyncio.create_task(listening.answer(60))
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    with pytest.raises(aiohttp.ClientConnectorError):
        await browser.get(address)

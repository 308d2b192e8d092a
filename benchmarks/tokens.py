"""What tokens cost: real MSAL over TLS against a token service of 100 ms latency, in a process of its own.

    .venv/bin/python benchmarks/tokens.py                                # all three, 10,000 tenants
    .venv/bin/python benchmarks/tokens.py --scale 0.1 --credential certificate

    warm     a look-up of a token that is held
    cold     the first token of each tenant, as many asking at once as there are polls (MAX_CONCURRENT_POLLS)
    refused  every tenant asks again and again for a minute while Entra refuses the one credential they share

Each prints one table row a figure. They are no tests: they fail only where the result is wrong. Run them on a quiet machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import parse_qs
from uuid import UUID

import jwt
from aiohttp import web

from service import clouds, errors, model
from service.auth import modes, tokens
from service.simulator import certificates
from service.transport import session as sessions
from tests.simulator import keys

LATENCY = 0.1
ASKING = 512
APP = "55555555-5555-5555-5555-555555555555"
AUDIENCE = "https://graph.windows.net"


class Service:
    """Metadata and tokens after a while, for every tenant; tokens of the size that Entra's have."""

    def __init__(self) -> None:
        self.asked = 0
        self.refusing = False

    async def metadata(self, request: web.Request) -> web.Response:
        await asyncio.sleep(LATENCY)
        base = f"https://{request.host}/{request.match_info['tenant']}"
        return web.json_response(
            {
                "issuer": f"{base}/v2.0",
                "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
                "token_endpoint": f"{base}/oauth2/v2.0/token",
                "padding": "x" * 1200,
            }
        )

    async def token(self, request: web.Request) -> web.Response:
        self.asked += 1
        form = parse_qs(await request.text())
        await asyncio.sleep(LATENCY)
        if self.refusing or not ("client_secret" in form or "client_assertion" in form):
            return web.json_response({"error": "invalid_client", "error_codes": [7000222]}, status=401)
        claims = {
            "tid": request.match_info["tenant"],
            "aud": AUDIENCE,
            "exp": int(time.time()) + 3600,
            "padding": "x" * 1000,
        }
        signed = jwt.encode(claims, "k" * 32, algorithm="HS256")
        return web.json_response({"token_type": "Bearer", "expires_in": 3600, "access_token": signed})

    async def control(self, request: web.Request) -> web.Response:
        self.refusing = request.query.get("refusing") == "1"
        return web.json_response({"asked": self.asked})


async def serve(folder: Path) -> None:
    """The token service's process: says where it is on stdout, ends when stdin closes."""
    service = Service()
    app = web.Application()
    app.router.add_get("/{tenant}/v2.0/.well-known/openid-configuration", service.metadata)
    app.router.add_post("/{tenant}/oauth2/v2.0/token", service.token)
    app.router.add_get("/control", service.control)
    issued = certificates.issue(folder)
    running = web.AppRunner(app, access_log=None)
    await running.setup()
    await web.TCPSite(running, "127.0.0.1", 0, ssl_context=issued.server_context()).start()
    print(json.dumps([f"https://localhost:{running.addresses[0][1]}", str(issued.ca_file)]), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await running.cleanup()


def row(name: str, figure: str, aim: str) -> None:
    print(f"| {name} | {figure} | {aim} |", flush=True)


def shared(kind: str, folder: Path) -> modes.SharedApp:
    if kind == "client_secret":
        return modes.SharedApp(APP, "a secret")
    pair = keys.pair(begins="2026-01-01", ends="2099-01-01")
    file = folder / "app.pem"
    file.write_text(pair.key_pem + pair.certificate_pem)
    return modes.SharedApp(APP, certificate=file)


async def measure(authority: str, ca_file: Path, scale: float, app: modes.SharedApp) -> None:
    tenants = [
        model.Access(model.Tenant(UUID(int=number), f"Tenant {number}", region="eu"))
        for number in range(1, int(10_000 * scale) + 1)
    ]
    async with sessions.open_session(ca_file, connections=ASKING) as session:

        def provider() -> tokens.Tokens:
            return tokens.Tokens(
                clouds.Endpoints({"authority": authority}), session, shared=app, ca_file=ca_file
            )

        async def control(refusing: bool) -> int:
            async with session.get(f"{authority}/control", params={"refusing": int(refusing)}) as answer:
                return int(json.loads(await answer.read())["asked"])

        made = provider()
        await cold(made, tenants)
        await warm(made, tenants)
        await made.close()
        before = await control(refusing=True)
        made = provider()
        asked = await refused(made, tenants)
        await made.close()
        requests = await control(refusing=False) - before
        row("refused: requests for tokens in a minute", f"{requests} (of {asked} polls)", "a handful")


async def cold(made: tokens.Tokens, tenants: list[model.Access]) -> None:
    waiting = iter(tenants)
    most = 0

    async def ask() -> None:
        nonlocal most
        for access in waiting:
            await made.token(access, "siem")
            most = max(most, threading.active_count())

    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu, started = usage.ru_utime + usage.ru_stime, time.monotonic()
    await asyncio.gather(*(ask() for _ in range(ASKING)))
    took = time.monotonic() - started
    usage = resource.getrusage(resource.RUSAGE_SELF)
    row(f"cold: {len(tenants)} tenants", f"{took:.1f} s", "under 180 s for 10,000")
    row("cold: CPU a token", f"{(usage.ru_utime + usage.ru_stime - cpu) / len(tenants) * 1e3:.1f} ms", "–")
    row("cold: peak RSS", f"{usage.ru_maxrss / 1024:.0f} MiB", "under 500 MiB")
    row("cold: threads", str(most), "none a tenant")


async def warm(made: tokens.Tokens, tenants: list[model.Access]) -> None:
    rounds = max(1, 200_000 // len(tenants))
    started = time.perf_counter()
    for _ in range(rounds):
        for access in tenants:
            await made.token(access, "siem")
    each = (time.perf_counter() - started) / rounds / len(tenants)
    row("warm: a look-up", f"{each * 1e6:.2f} µs", "under 20 µs")


async def refused(made: tokens.Tokens, tenants: list[model.Access]) -> int:
    """Polls in one minute, each tenant's as often as there is time, at most 512 at once."""
    asked, until = 0, time.monotonic() + 60

    async def ask(mine: list[model.Access]) -> None:
        nonlocal asked
        while time.monotonic() < until:
            for access in mine:
                try:
                    await made.token(access, "siem")
                except errors.CredentialRefused:
                    asked += 1
            await asyncio.sleep(10)

    await asyncio.gather(*(ask(tenants[number::ASKING]) for number in range(ASKING)))
    return asked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--credential", choices=["client_secret", "certificate"], default="client_secret")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve(given.serve))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, __file__, "--serve", name]
        service = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            authority, ca_file = json.loads(service.stdout.readline())
            print(
                f"{given.credential}, Python {platform.python_version()}\n\n| what | figure | aim |\n|---|---|---|"
            )
            work = measure(authority, Path(ca_file), given.scale, shared(given.credential, folder))
            asyncio.run(asyncio.wait_for(work, 900))
        finally:
            assert service.stdin is not None
            service.stdin.close()
            service.wait(10)


if __name__ == "__main__":
    main()

"""Whether a run let out a secret: the app's secret, passwords of the database, a token of any tenant; wherever `leaks` looks."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tests.chaos import fleet, leaks, logs, stage

PAGES = ("metrics", "livez", "readyz", "nowhere")


async def kept(running: stage.Stage) -> list[str]:
    """Each secret that is somewhere: in a log of replicas, of commands or of PostgreSQL, in the command line or on the port of a
    replica, in a column of the database. A replica is started for it, and ended.
    """
    replica = running.replicas[0]
    before = logs.listened(replica.log)
    await replica.start()
    try:
        await fleet.until(lambda: logs.listened(replica.log) > before, 60)
        assert replica.pid
        server = [running.cluster._folder / name for name in ("server.log", "server.log.1")]
        written = [*running.logs, running.storm.log, *server]
        found = await leaks.hunt(
            await canaries(running),
            leaks.Places(
                files=[each for each in written if each.exists()],
                processes=[replica.pid],
                urls=[f"http://127.0.0.1:{logs.port(replica.log)}/{page}" for page in PAGES],
                dsn=running.cluster.admin_dsn,
            ),
        )
    finally:
        await replica.end()
    return [f"{each.canary}, {each.form}, in {each.place}: {each.around}" for each in found]


async def canaries(running: stage.Stage) -> dict[str, str]:
    """What must not be seen."""
    file = Path(running.defender.settings["ALERTWELL_CLIENT_SECRET_FILE"])
    secret = (await asyncio.to_thread(file.read_text)).strip()
    token = await running.defender.token(running.customers[0].tenant_id, secret)
    return {
        "client secret": secret,
        "database password": _password(running.cluster.dsn),
        "superuser's password": _password(running.cluster.admin_dsn),
        "readers' password": _password(running.followers[0].dsn),
        # all tokens of one key begin alike
        "a token": token.partition(".")[0],
        **leaks.of_token("our own token", token),
    }


def _password(dsn: str) -> str:
    return unquote(urlsplit(dsn).password or "")

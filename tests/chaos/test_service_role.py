"""The whole of collecting by a login that is a member of alertwell_service and of nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from service.auth import sealing
from service.ingest import retention
from service.store import feed, pool, roles
from tests.ingest import processes, stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until
from tests.store import rows


def days_ago(days: float) -> str:
    """A point in time as the commands take it."""
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def test_the_whole_of_collecting_as_the_service(stage: stages.Stage, admin_url: str):
    """Enrolling, polls, gaps, a backfill, a rewind, a sweep, incidents, numbering, retention, invitations and what people look at
    need no right beyond the service's, on a database that another role has migrated.
    """
    keys = stage.folder / "keys"
    keys.write_text(sealing.generate_key() + "\n")
    own = stage.shown.add_tenant("33333333-3333-3333-3333-333333333333", "Tailspin", own_app=True).app
    secret = stage.folder / "own_secret"
    secret.write_text(own.secret)
    now = stage.shown.clock()
    for n in range(30):
        stages.file(stage.shown, CONTOSO, f"a{n}", now - n * 60 * 10_000_000)
    stages.file(stage.shown, FABRIKAM, "old", now - 30 * 60 * 60 * 10_000_000)
    async with rows.role(admin_url, roles.SERVICE) as dsn:
        narrow = dataclasses.replace(stage, dsn=dsn)
        environment = {
            **os.environ,
            **narrow.environment(),
            "ALERTWELL_SEALING_KEYS_FILE": str(keys),
            "ALERTWELL_PUBLIC_URL": "https://alerts.example.com",
            "ALERTWELL_INITIAL_LOOKBACK": "1h",
        }

        async def alertwell(*words: str, code: int = 0) -> str:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "service", *words, cwd=processes.ROOT, env=environment,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said = (await process.communicate())[0].decode()
            assert process.returncode == code, (words, said)
            return said

        await asyncio.gather(
            alertwell("tenants", "add", CONTOSO, "Contoso", "--region", "eu", "--source", "siem", "--source", "xdr_incidents"),
            alertwell("tenants", "add", FABRIKAM, "Fabrikam", "--region", "eu", "--label", "team=blue"),
            alertwell(
                "tenants", "add", own.tenant_id, "Tailspin", "--region", "eu", "--client-id", own.app_id,
                "--secret-file", str(secret),
            ),
            alertwell("tenants", "invite", "Wingtip"),
        )  # fmt: skip
        settings = {"sealing_keys_file": str(keys), "sweep_interval": "2s", "sweep_span": "30s"}
        async with narrow.collecting(**settings):
            await narrow.stored(CONTOSO)
            await asyncio.gather(
                alertwell("backfill", "Fabrikam", "--source", "siem", "--since", days_ago(2), "--no-wait"),
                alertwell(
                    "rewind", "Contoso", "--source", "siem", "--since", days_ago(0.02), "--reason", "to see"
                ),
                alertwell("status", "--json"),
                alertwell("tenants", "show", "Contoso"),
                alertwell("tenants", "pause", "Tailspin"),
            )
            await narrow.stored(FABRIKAM)

            async def swept() -> bool:
                return await stage.books.rows.fetchval(
                    "SELECT bool_or(last_verified_at IS NOT NULL) FROM soc.coverage"
                )

            async def numbered() -> bool:
                return await stage.books.rows.fetchval(
                    "SELECT head_seq > 30 AND unnumbered = 0 FROM soc.feed"
                )

            await until(swept)
            await until(numbered)
        async with pool.open_database(dsn, size=2) as opened:
            everything = timedelta(microseconds=1)
            keep = retention.Keep(everything, everything, everything, everything)
            await retention.prune(opened, keep)
            assert await feed.number(opened) == 0
        refused = await alertwell("tenants", "remove", "Tailspin", "--purge", "--yes", code=2)
        assert "some commands are for the role that owns the schema" in refused
    owner = await asyncpg.connect(stage.dsn)
    try:
        assert await owner.fetchval("SELECT count(*) FROM soc.audit") >= 6
        assert (
            await owner.fetchval(
                "SELECT count(*) FROM alertwell.tenant WHERE tenant_id = $1", UUID(own.tenant_id)
            )
            == 1
        )
    finally:
        await owner.close()

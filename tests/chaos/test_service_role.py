"""The whole of collecting by a login that is a member of alertwell_service and of nothing else."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import structlog
from typer.testing import CliRunner

from service.auth import sealing
from service.cli import main
from service.ingest import retention
from service.store import feed, pool, roles
from tests.ingest import stages
from tests.ingest.stages import CONTOSO, FABRIKAM
from tests.ingest.waiting import until
from tests.store import rows

TAILSPIN = "33333333-3333-3333-3333-333333333333"


def days_ago(days: float) -> str:
    """A point in time as the commands take it."""
    return (datetime.now(UTC) - timedelta(days=days)).isoformat()


async def test_the_whole_of_collecting_as_the_service(stage: stages.Stage, admin_url: str):
    """Enrolling, polls, gaps, a backfill, a rewind, a sweep, incidents, numbering, retention, invitations and what people look at
    need no right beyond the service's, on a database that another role has migrated.
    """
    keys = stage.folder / "keys"
    keys.write_text(sealing.generate_key() + "\n")
    own = stage.shown.add_tenant(TAILSPIN, "Tailspin", own_app=True).app
    secret = stage.folder / "own_secret"
    secret.write_text(own.secret)
    now = stage.shown.clock()
    for n in range(30):
        stages.file(stage.shown, CONTOSO, f"a{n}", now - n * 60 * 10_000_000)
    stages.file(stage.shown, FABRIKAM, "old", now - 30 * 60 * 60 * 10_000_000)
    async with rows.role(admin_url, roles.SERVICE) as dsn:
        narrow = dataclasses.replace(stage, dsn=dsn)
        environment = {
            **narrow.environment(),
            "ALERTWELL_SEALING_KEYS_FILE": str(keys),
            "ALERTWELL_PUBLIC_URL": "https://alerts.example.com",
            "ALERTWELL_INITIAL_LOOKBACK": "1h",
        }

        async def alertwell(*words: str, code: int = 0) -> str:
            result = await asyncio.to_thread(
                CliRunner().invoke, main.app, words, env=environment, prog_name="alertwell"
            )
            assert result.exit_code == code, (words, result.output)
            return result.output

        for words in (
            ("tenants", "add", CONTOSO, "Contoso", "--region", "eu", "--source", "siem", "--source", "xdr_incidents"),
            ("tenants", "add", FABRIKAM, "Fabrikam", "--region", "eu", "--label", "team=blue"),
            (
                "tenants", "add", TAILSPIN, "Tailspin", "--region", "eu", "--client-id", own.app_id,
                "--secret-file", str(secret),
            ),
            ("tenants", "invite", "Wingtip"),
        ):  # fmt: skip
            await alertwell(*words)
        settings = {"sealing_keys_file": str(keys), "sweep_interval": "2s", "sweep_span": "30s"}
        async with narrow.collecting(**settings):
            await narrow.stored(CONTOSO)
            for words in (
                ("backfill", "Fabrikam", "--source", "siem", "--since", days_ago(2), "--no-wait"),
                ("rewind", "Contoso", "--source", "siem", "--since", days_ago(0.02), "--reason", "to see"),
                ("status", "--json"),
                ("tenants", "show", "Contoso"),
                ("tenants", "pause", "Tailspin"),
            ):
                await alertwell(*words)
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
            await owner.fetchval("SELECT count(*) FROM alertwell.tenant WHERE tenant_id = $1", UUID(TAILSPIN))
            == 1
        )
    finally:
        await owner.close()
        structlog.reset_defaults()

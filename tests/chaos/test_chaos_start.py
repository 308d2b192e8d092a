"""A replica that starts while PostgreSQL comes and goes."""

from __future__ import annotations

from service.store import schema
from tests.ingest import conftest, stages

books, database, stage = conftest.books, conftest.database, conftest.stage


async def test_a_connection_lost_between_opening_and_checking_is_waited_for(stage, monkeypatch):
    """PostgreSQL ends the connection under the first look at the schema: the replica looks again, and collects."""
    real, looks = schema.check, []

    async def check(database):
        looks.append(database)
        if len(looks) == 1:
            async with database.connection() as connection:
                await connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        await real(database)

    monkeypatch.setattr(schema, "check", check)
    await stage.enrol(stages.CONTOSO)
    async with stage.collecting():
        await stage.stored()
    assert len(looks) >= 2  # each heartbeat looks, too

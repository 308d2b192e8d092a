"""`tenants invite --wait`: an invitation from its link to the first alerts, one line for each step as it happens."""

from __future__ import annotations

import asyncio
import time
from uuid import UUID

from service.cli import output
from service.store import invitations, pool

_LOOK = 1.0
_FIRST_WINDOW = 300.0


async def follow(opened: pool.Database, invitation: invitations.Invitation) -> int:
    """Until it is settled: 0 proven, 1 refused, expired or withdrawn. That the link was opened is not seen by us."""
    output.say(
        f"\nwaiting for {output.printable(invitation.name)} (Ctrl-C ends the waiting, not the invitation)"
    )
    said: tuple[str, str | None, int] | None = None
    given = None
    while True:
        rows = await invitations.listed(opened, invitation.invitation_id)
        if not rows:
            output.say("purged: the tenant was removed with all that is held of it")
            return 1
        [row] = rows
        if row["used_at"] != given:  # seen in whatever state: a proof may be quicker than we look
            given = row["used_at"]
            output.say(f"{output.when(given)} consent given; asking Entra for a token of the tenant")
        now = (row["state"], row["state_reason"], row["proofs"])
        if now != said:
            said = now
            if (line := _line(*now)) is not None:
                output.say(f"{output.when(row['updated_at'])} {output.printable(line)}")
        if row["state"] == "proven":
            await _first_window(opened, row["tenant_id"], row["sources"])
            return 0
        if row["state"] in ("refused", "expired", "withdrawn"):
            return 1
        await asyncio.sleep(_LOOK)


def _line(state: str, reason: str | None, proofs: int) -> str | None:
    match state:
        case "open":
            return None
        case "given":
            return f"attempt {proofs}: {reason}" if reason else None
        case "proven":
            return "proven: a token of the tenant, its roles, and one call for each source"
        case _:
            return f"{state}: {reason}" if reason else state


async def _first_window(opened: pool.Database, tenant_id: UUID, sources: list[str]) -> None:
    """Wait until every source has brought its first window, or a few minutes: what polls is another process."""
    until = time.monotonic() + _FIRST_WINDOW
    while time.monotonic() < until:
        read = await invitations.first_windows(opened, tenant_id, sources)
        if len(read) == len(sources):
            for row in read:
                output.say(
                    f"first window of {row['source']} collected: {output.many(row['alerts'], 'alert')}"
                )
            return
        await asyncio.sleep(_LOOK)
    output.warn(
        "no first window within 5 minutes: does a service run on this database? See: alertwell status"
    )

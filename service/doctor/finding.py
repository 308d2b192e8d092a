"""What a check found, and the time that it may take."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from service import errors

Grade = Literal["ok", "warning", "broken"]
GRADES: Final[tuple[Grade, ...]] = ("broken", "warning", "ok")
"""Worst first."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`area` is a word (settings, database, clock, horizon, host, credential, tenant), `subject` what of it; `remedy` is empty
    where nothing is to be done. No text holds a secret.
    """

    area: str
    subject: str
    ok: Grade
    sentence: str
    remedy: str = ""


def sorted_by_grade(findings: Sequence[Finding]) -> list[Finding]:
    """Broken ones first, else in the order in which they came."""
    return sorted(findings, key=lambda found: GRADES.index(found.ok))


async def within(
    seconds: float, check: Awaitable[Sequence[Finding]], area: str, subject: str
) -> Sequence[Finding]:
    """The findings of a check, or that it took too long, or what went wrong in it."""
    try:
        async with asyncio.timeout(seconds):
            return await check
    except TimeoutError:
        return [
            Finding(
                area,
                subject,
                "broken",
                f"no answer within {seconds:g} s",
                "Is it up, and not behind a firewall?",
            )
        ]
    except errors.AlertwellError as error:
        return [Finding(area, subject, "broken", str(error))]

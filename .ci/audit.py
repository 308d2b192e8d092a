"""Ask the advisories about every locked dependency, and say in one line what came of it.

    .venv/bin/python .ci/audit.py [LOCK …]      the locks of the tree where none is named

pip-audit alone is not enough of an answer: where it cannot ask about a package it leaves it out, and ends as if all were well.
Here that is told apart. Exit code 0: asked about all or some, and nothing is known of those; or nothing could be asked, which is
said. Exit code 1: something is known, which is listed.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

TREE = Path(__file__).parents[1]
LOCKS = (TREE / "requirements.lock", TREE / "requirements-dev.lock")
_PINNED = re.compile(r"^([\w.-]+)==([^\s;\\]+)", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """What the advisories know. `asked` of `locked` packages could be asked about; `known` are lines, one a finding."""

    locked: int
    asked: int
    known: tuple[str, ...]

    @property
    def code(self) -> int:
        """The exit code."""
        return 1 if self.known else 0

    def line(self) -> str:
        """One line for people."""
        if self.known:
            return f"audit: FAILED, {len(self.known)} known in {self.asked} of {self.locked} locked packages"
        if not self.asked:
            return (
                f"audit: NOT DONE, the advisories cannot be asked from here ({self.locked} locked packages)"
            )
        return f"audit: nothing is known of {self.asked} of {self.locked} locked packages"


def judge(report: str, locked: int) -> Verdict:
    """What pip-audit's JSON comes to; what is no JSON says that it could not ask."""
    try:
        found = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return Verdict(locked, 0, ())
    asked = [each for each in found if "skip_reason" not in each]
    known = [
        f"{each['name']} {each['version']}: {flaw['id']}, mended in {' '.join(flaw['fix_versions']) or 'no version'}"
        for each in asked
        for flaw in each["vulns"]
    ]
    return Verdict(locked, len(asked), tuple(known))


def main(locks: list[Path], *more: str) -> int:
    """Ask, print, and give the exit code."""
    pinned = {found for lock in locks for found in _PINNED.findall(lock.read_text("utf-8"))}
    listed = [word for lock in locks for word in ("--requirement", str(lock))]
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--format", "json", "--progress-spinner", "off", "--timeout", "10",
         "--disable-pip", "--no-deps", *listed, *more],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    verdict = judge(done.stdout, len(pinned))
    for each in verdict.known:
        print(f"  {each}")
    print(verdict.line())
    return verdict.code


if __name__ == "__main__":
    sys.exit(main([Path(each) for each in sys.argv[1:]] or list(LOCKS)))

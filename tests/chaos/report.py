"""What a run found: values, their JSON, and a table for people."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos import verdict, vitals


@dataclass
class Delays:
    """Seconds from the moment that the API shows an alert to the moment that a reader of the feed has it."""

    calm: Sequence[float] = ()
    rough: Sequence[float] = ()

    def table(self) -> Mapping[str, Mapping[str, float | int | None]]:
        """Count, median, 99th percentile and maximum without and with faults."""

        def figures(values: Sequence[float]) -> Mapping[str, float | int | None]:
            p50, p99, most = (verdict.percentile(values, share) for share in (0.5, 0.99, 1.0))
            return {
                "alerts": len(values),
                **{
                    name: None if value is None else round(value, 2)
                    for name, value in zip(("p50", "p99", "max"), (p50, p99, most), strict=True)
                },
            }

        return {"without faults": figures(self.calm), "with faults": figures(self.rough)}


@dataclass
class Report:
    """Everything that is printed; `violations` decides the exit code."""

    command: str
    seed: int
    seconds: float
    cores: int = field(default_factory=lambda: os.cpu_count() or 1)
    tenants: int = 0
    streams: int = 0
    replicas: int = 0
    alerts: dict[str, int] = field(default_factory=dict)
    incidents: dict[str, int] = field(default_factory=dict)
    claims: dict[str, int] = field(default_factory=dict)
    feed: dict[str, int] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    delays: Delays = field(default_factory=Delays)
    events: dict[str, int] = field(default_factory=dict)
    faults: dict[str, int] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    healed_seconds: float | None = None
    logs: dict[str, int] = field(default_factory=dict)
    database: dict[str, Any] = field(default_factory=dict)
    growths: list[vitals.Growth] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)

    def json(self) -> str:
        """All of it."""
        told = dataclasses.asdict(self)
        told["delays"] = self.delays.table()
        told["growths"] = [each._asdict() for each in self.growths]
        return json.dumps(told, indent=2, default=str)

    def print(self, console: Console) -> None:
        """The table, and then each violation."""
        table = Table(
            box=None,
            pad_edge=False,
            show_header=False,
            title=f"{self.command} (seed {self.seed})",
            title_justify="left",
        )
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        for name, told in self._rows():
            table.add_row(name, told)
        console.print(table, highlight=False)
        for each in self.violations:
            console.print(f"VIOLATION: {each}", style="red", highlight=False, markup=False, soft_wrap=True)
        console.print("NOT AS PROMISED" if self.violations else "all as promised", style="bold")

    def _names(self) -> Mapping[str, str]:
        """How many spans each surface had, and of how many names."""
        spans: dict[str, list[int]] = {}
        for name, count in self.faults.items():
            spans.setdefault(name.split()[0], []).append(count)
        return {surface: f"{sum(counts)} of {len(counts)} names" for surface, counts in spans.items()}

    def _rows(self) -> list[tuple[str, str]]:
        rows = [
            (
                "size",
                _told({"tenants": self.tenants, "streams": self.streams, "replicas": self.replicas})
                + f", {self.seconds:.0f} s, {self.cores} cores",
            ),
            ("alerts", _told(self.alerts)),
            ("incidents", _told(self.incidents)),
            ("coverage claims", _told(self.claims)),
            ("feed", _told(self.feed)),
            ("items of polls", _told(self.items)),
        ]
        for name, figures in self.delays.table().items():
            rows.append((f"delay {name}", _told(figures) + " (seconds, API to reader)"))
        rows += [
            ("events", _told(self.events)),
            ("spans of faults", _told(self._names())),
            ("faults fired", _told(self.fired)),
            ("healed after", "never" if self.healed_seconds is None else f"{self.healed_seconds:.0f} s"),
            ("log lines", _told(self.logs)),
            ("database", _told(self.database)),
        ]
        for each in self.growths:
            rss = " to ".join(f"{value / vitals.MIB:.0f}" for value in each.rss)
            threads, files = (f"{before} to {after}" for before, after in (each.threads, each.files))
            held = f"RSS {rss} MiB, threads {threads}, files {files}"
            rows.append((each.name, f"{each.hours * 60:.1f} min; {held}; {each.mib_an_hour:+.1f} MiB/h"))
        return rows


def _told(figures: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{name} {value:,}" if isinstance(value, int) else f"{name} {value}"
        for name, value in figures.items()
    )

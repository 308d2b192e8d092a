"""The bars of docs/performance.json; runs where benchmarks/rivals.lock is installed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure


def main() -> None:
    figures = json.loads(Path(sys.argv[1]).read_text())["figures"]
    rows = [
        row
        for row in figures
        if row["unit"] == "alerts/s" and row["what"].startswith(("ingest", "the floor"))
    ]
    mpl.rcParams["svg.hashsalt"] = "alertwell"  # equal figures, equal file
    shown = Figure(figsize=(8, 0.6 * len(rows) + 1))
    axes = shown.subplots()
    bars = axes.barh([row["what"] for row in rows], [row["value"] for row in rows], color="#2f6f8f")
    axes.bar_label(bars, fmt="{:,.0f}", padding=4)
    axes.invert_yaxis()
    axes.set_xlabel("alerts a second, in one run on one machine")
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)
    shown.tight_layout()
    shown.savefig(sys.argv[2], metadata={"Date": None})


if __name__ == "__main__":
    main()

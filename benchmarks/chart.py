"""The chart of the pages: restorations a second by batch size, from results/restore_*.json.

python benchmarks/chart.py
"""

from __future__ import annotations

import json
from pathlib import Path

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from timer import RESULTS

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "throughput.svg"

# Okabe and Ito's colours, told apart by colour-blind readers, with a marker each.
STYLE = {
    "denoising": ("#0072B2", "o"),
    "inpainting": ("#D55E00", "s"),
    "compressed sensing": ("#009E73", "^"),
}


def main() -> None:
    """Draw and write."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    for kind, line in (("cuda", "-"), ("cpu", "--")):
        path = Path(RESULTS / f"restore_{kind}.json")
        document = json.loads(path.read_text())
        for problem, (colour, marker) in STYLE.items():
            rows = [
                row
                for row in document["rows"]
                if row["problem"] == problem and row["method"] == "JPMAP()"
            ]
            axes.plot(
                [row["batch"] for row in rows],
                [row["per_second"] for row in rows],
                line,
                color=colour,
                marker=marker,
                label=f"{problem}, {document['device']}",
            )
    axes.set_xscale("log", base=4)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yscale("log")
    axes.set_xlabel("images in a batch")
    axes.set_ylabel("restorations a second, JPMAP()")
    axes.grid(True, which="major", color="#d8dbe0", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    # The same numbers give the same file: no date, and no random names in it.
    with rc_context({"svg.hashsalt": "throughput"}):
        figure.savefig(OUTPUT, metadata={"Date": None})


if __name__ == "__main__":
    main()

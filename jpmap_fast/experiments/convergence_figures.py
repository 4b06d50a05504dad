"""Figures of the experiment ``convergence``."""

from __future__ import annotations

from typing import Any

import torch

from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.histories import title_row
from jpmap_fast.experiments.section import FigureFile
from jpmap_fast.experiments.statistics import bootstrap_interval
from jpmap_fast.experiments.style import CYCLE, GREY, MARKERS, axes_grid

ADAM = "alternating, Adam (published)"
PROJECTED = "JPMAP, adaptive (projected)"

# Relative distance that counts as having reached the best objective, and the least one drawn.
REACHED, FLOOR = 1e-3, 1e-5


def curves(context: Context, found: dict[str, dict[str, Any]]) -> FigureFile:
    """Median relative distance to the best J1 by iteration, with quartiles."""
    figure, axes = axes_grid(1, len(found), width=3.9, height=3.3, sharey=True)
    levels = torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)
    for panel, values in zip(axes[0], found.values(), strict=True):
        longest = max(len(of["excess"]) for of in values["runs"].values())
        for (key, of), colour, marker in zip(values["runs"].items(), CYCLE, MARKERS, strict=False):
            low, middle, high = torch.quantile(of["excess"].clamp_min(FLOOR), levels, dim=1)
            last = len(middle) - 1
            panel.fill_between(range(last + 1), low, high, color=colour, alpha=0.13, lw=0)
            marked = sorted({min(n, last) for n in (0, 1, 2, 4, 10, 30, 100, 300)})
            (line,) = panel.plot(middle, color=colour, marker=marker, ms=5, label=key)
            line.set(markevery=marked, ls="--" if key == ADAM else "-")
            # The exhaustive rule's curve lies on it.
            line.set_linewidth(4.5 if key == PROJECTED else 1.6)
            # Where all the images are finished the curve stays where it is.
            panel.plot([last, longest - 1], [middle[-1]] * 2, color=colour, lw=0.8, ls=":")
        panel.axhline(REACHED, color=GREY, lw=0.9, ls="-.")
        panel.set_xscale("symlog", linthresh=1)
        panel.set_yscale("log")
        panel.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        panel.set_xlim(0, longest)
        panel.set_xlabel("iteration n")
    axes[0][0].set_ylabel(r"$(J_1 - J_1^\star)\, /\, J_1^\star$")
    axes[0][0].text(0.02, REACHED, "0.1%", fontsize=8, color=GREY, va="bottom")
    title_row(figure, axes[0], [values["title"] for values in found.values()])
    return context.save(
        "convergence_curves",
        figure,
        "Relative distance of J1 to the least J1 known of each image, by iteration: median over "
        f"images, and quartiles shaded. Distances under {FLOOR:g} are drawn there; a dotted end is "
        "that of images that are all finished. An iteration of a projected descent is a whole "
        "minimisation over z, one by Adam up to 3,000 gradient steps, one of alternate convex "
        "search a single pass of the encoder.",
    )


def basins(
    context: Context, found: dict[str, dict[str, Any]], starts: tuple[int, ...]
) -> FigureFile:
    """Share of images whose best start reaches the best objective known, by number of starts."""
    figure, axes = axes_grid(1, len(found), width=3.5, height=2.9, sharey=True)
    for panel, values in zip(axes[0], found.values(), strict=True):
        for (key, reached), colour, marker in zip(
            values["reached"].items(), CYCLE, MARKERS, strict=False
        ):
            shares = 100 * reached.double()
            low, high = zip(*(bootstrap_interval(row) for row in shares), strict=True)
            panel.fill_between(starts, low, high, color=colour, alpha=0.13, lw=0)
            panel.plot(starts, shares.mean(1), color=colour, marker=marker, ms=5, label=key)
        panel.set_xscale("log", base=2)
        panel.set_xticks(starts, [str(k) for k in starts])
        panel.set_ylim(0, 103)
        panel.set_xlabel("starts K")
    axes[0][0].set_ylabel("images that reach the best\nobjective within 0.1% (%)")
    title_row(figure, axes[0], [values["title"] for values in found.values()])
    return context.save(
        "convergence_starts",
        figure,
        "Share of images whose best of K starts is within 0.1% of the best objective known, with "
        "95% bootstrap intervals over images. The first start is the encoder's code (blue) or "
        "z = 0, the others are draws from N(0, I), the same for all. CSGM is held to the best "
        "latent objective known, the others to the best J1.",
    )

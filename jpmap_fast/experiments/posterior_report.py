"""Histograms, tables and text on the calibration of posterior draws."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._figures import Row
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.histories import percent
from jpmap_fast.experiments.pictures import save_rows
from jpmap_fast.experiments.posterior_ranks import BINS, chi_square_p, histogram
from jpmap_fast.experiments.section import Cell, FigureFile, Table
from jpmap_fast.experiments.style import BLUE, GREY, ORANGE, axes_grid

PANELS = ("log density", "|z|", "||x - mean||")
# Of so many histograms the least p of a right sampler is rarely below.
REFUSED = 0.001
Found = dict[str, dict[str, Any]]


def p_values(ranks: dict[str, Tensor], bare: bool = False) -> dict[str, float]:
    """P-values of the histograms of ranks, of those without weights if ``bare``."""
    return {
        name: chi_square_p(values)
        for name, values in ranks.items()
        if values.dtype == torch.int64 and name.startswith("bare ") == bare
    }


def histograms(context: Context, found: Found) -> FigureFile:
    """Rank histograms of three statistics, a row a problem, with the controls."""
    figure, axes = axes_grid(len(found), len(PANELS), width=3.3, height=2.1, sharex=True)
    for row, own in zip(axes, found.values(), strict=True):
        for panel, name in zip(row, PANELS, strict=True):
            ranks = own["truths"][name]
            expected = len(ranks) / BINS
            place = [100 / BINS * number for number in range(BINS)]
            counts = histogram(ranks).tolist()
            panel.bar(place, counts, 100 / BINS, align="edge", color=BLUE, alpha=0.6)
            half = 2.576 * math.sqrt(expected * (1 - 1 / BINS))
            panel.axhspan(expected - half, expected + half, color=GREY, alpha=0.25)
            for ranks_, colour, label in (
                (own["truths"].get(f"bare {name}"), ORANGE, "without weights"),
                (own["wrong"][name], GREY, "gamma x 1.2"),
            ):
                if ranks_ is not None:
                    scale = len(ranks) / len(ranks_)
                    steps = (scale * histogram(ranks_)).tolist()
                    panel.step(place, steps, where="post", color=colour, label=label)
            panel.set_title(f"{own['title'].split(',')[0]}: {name}", fontsize=9)
        row[0].set_ylabel("truths")
    for panel in axes[-1]:
        panel.set_xlabel("rank of the truth among 99 draws")
    # Where both lines are, but drawn where there is room.
    axes[0][-1].legend(*axes[0][0].get_legend_handles_labels(), loc="upper right", fontsize=7.5)
    return context.save(
        "ranks",
        figure,
        "Ranks of truths of the prior among their posterior draws: flat within the band (99% of a "
        "bin) where draws are calibrated. Lines: the same draws with their weights left out, and "
        "draws under a gamma 1.2 times that of the truths (of fewer truths, scaled).",
    )


def pictures(context: Context, which: str, own: dict[str, Any]) -> FigureFile:
    """Digits, mean, deviation and draws."""
    rows = [Row(name, images) for name, images in own["digits"]["shown"].items()]
    caption = "Digits of the test set, E[x | y], three standard deviations of each pixel and draws."
    return save_rows(context, f"draws_{which}", own["title"], rows, caption)


def rank_table(found: Found) -> Table:
    """The least p-values, and those of the controls."""
    rows: list[list[Cell]] = []
    for own in found.values():
        right, bare = p_values(own["truths"]), p_values(own["truths"], bare=True)
        wrong = p_values(own["wrong"])
        worst = min(right, key=lambda name: right[name])
        rows.append(
            [
                own["title"],
                len(own["truths"]["|z|"]),
                right[worst],
                worst,
                min(bare.values()),
                min(wrong.values()),
                float(own["truths"]["ess"].median()),
                percent(~(own["truths"]["pareto_k"] <= 0.7)),
            ]
        )
    columns = (
        "problem; truths; least p; of; least p without weights; least p with gamma x 1.2; "
        "effective draws, median; k-hat above 0.7, %"
    )
    return Table(
        "Simulation-based calibration",
        columns.split("; "),
        rows,
        f"Chi-square tests of histograms of {BINS} bins: of each code, the log density, |z|, the "
        "centre pixel, the mean of x and ||x - E[x | y]||. A right sampler has a least p below "
        f"{REFUSED:g} about once in eighty problems. The controls have to be below it: a wrong "
        "gamma with few truths, weights left out with 600 or more.",
    )


def coverage_table(found: Found) -> Table:
    """How often 90% sets cover truths of the prior."""
    rows: list[list[Cell]] = []
    for own in found.values():
        ranks = own["truths"]
        codes = torch.stack([v for name, v in ranks.items() if name[0] == "z"])
        rows.append(
            [
                own["title"],
                percent(ranks["log density"] >= 10),
                percent((codes >= 5) & (codes < 95)),
                100 * float(ranks["pixels"].mean()),
                percent(ranks["||x - mean||"] < 90),
            ]
        )
    columns = "problem; z, highest density, %; each code, %; pixels, %; ||x - mean||, %"
    note = "Truths of the prior covered by 90% sets of their posterior."
    return Table("Coverage of truths of the prior", columns.split("; "), rows, note)


def digit_table(found: Found) -> Table:
    """How often 90% sets cover digits, as they are and calibrated."""
    rows: list[list[Cell]] = []
    for own in found.values():
        of = own["digits"]
        row: list[Cell] = [own["title"]]
        for kind in ("plain", "calibrated"):
            row += [100 * float(of[f"{what} {kind}"].mean()) for what in ("pixels", "ink")]
            row.append(100 * float(of[f"radius {kind}"].mean()))
        rows.append([*row, of["radius_factor"], float(of["psnr"].mean())])
    columns = (
        "problem; pixels, %; pixels of ink, %; ||x - mean||, %; calibrated: pixels, %; "
        "pixels of ink, %; ||x - mean||, %; factor of the radius; PSNR of the mean (dB)"
    )
    return Table(
        "Coverage of digits of the test set by 90% sets",
        columns.split("; "),
        rows,
        "Ink: pixels above 0.05. Calibrated: factors of other digits, by grey value and for the "
        "distance to the mean; they promise the share of all pixels of a grey value of E[G | y], "
        "and of images for the distance.",
    )


def text(found: Found, truths: int, calibration: int, digits: int) -> list[str]:
    """What was done, and what came out."""
    right = {which: min(p_values(own["truths"]).values()) for which, own in found.items()}
    passed = [which for which, p in right.items() if p > REFUSED]
    controls = {
        "the weights left out": [min(p_values(o["truths"], True).values()) for o in found.values()],
        "gamma 1.2 times too large": [min(p_values(o["wrong"]).values()) for o in found.values()],
    }
    caught = "; ".join(
        f"{name}: {sum(p < REFUSED for p in values)} of {len(values)} problems"
        for name, values in controls.items()
    )
    plain = [100 * float(own["digits"]["radius plain"].mean()) for own in found.values()]
    made = [100 * float(own["digits"]["radius calibrated"].mean()) for own in found.values()]
    return [
        f"{truths} truths are drawn from the prior, measured, and ranked among 99 draws of their "
        "posteriors. Where draws are right every rank is equally probable. No histogram is "
        f"refused (least p above {REFUSED:g}) in {len(passed)} of {len(found)} problems. The same "
        f"test refuses wrong samplers - {caught}.",
        f"Digits are no draws of the prior: of {digits} the 90% balls about the mean hold "
        f"{min(plain):.0f} to {max(plain):.0f}%, and with factors made of {calibration} other "
        f"digits {min(made):.0f} to {max(made):.0f}%, standard error "
        f"{100 * math.sqrt(0.09 * (1 / digits + 1 / calibration)):.1f}.",
    ]

"""Tables over methods: quality with intervals and win rates, objectives reached."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jpmap_fast.experiments.methods import CSGM_1, ORIGINAL
from jpmap_fast.experiments.section import Cell, Table
from jpmap_fast.experiments.statistics import bootstrap_interval, share_within, win_rate

Runs = dict[str, dict[str, Any]]


def best_known(runs: list[dict[str, Any]]) -> dict[str, Tensor]:
    """The least J1 and the least latent objective that any run reached, per image [B].

    A run on the first images alone counts for those.
    """
    number = max(len(run["psnr"]) for run in runs)
    best = {}
    for key in ("j1", "latent"):
        least = torch.full((number,), torch.inf, dtype=torch.float64)
        for run in runs:
            if key in run:
                value = run[key].double()
                least[: len(value)] = torch.minimum(least[: len(value)], value)
        best[key] = least
    return best


def quality_table(runs: Runs, what: str, title: str) -> Table:
    """PSNR and SSIM of x (``what`` = "x") or of G(z) ("decoded") by method."""
    end = "" if what == "x" else "_decoded"
    rivals = [name for name in (CSGM_1, ORIGINAL) if name in runs]
    rows: list[list[Cell]] = []
    for name, run in runs.items():
        if f"psnr{end}" not in run:
            continue
        psnr, ssim = run[f"psnr{end}"], run[f"ssim{end}"]
        row: list[Cell] = [name, len(psnr)]
        for values, digits in ((psnr, 2), (ssim, 3)):
            low, high = bootstrap_interval(values)
            row.append(f"{float(values.mean()):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")
            row.append(f"{float(values.double().median()):.{digits}f}")
        for rival in rivals:
            row.append(None if name == rival else _wins(psnr, runs[rival][f"psnr{end}"]))
        rows.append(row)
    columns = [
        "method",
        "images",
        "PSNR, dB: mean [95%]",
        "median",
        "SSIM: mean [95%]",
        "median",
        *(f"wins against {rival}" for rival in rivals),
    ]
    note = (
        "Intervals: percentile bootstrap of the mean over images. Wins: share of the images with "
        "the higher PSNR, on the images that both restored; a tie counts half. Values are not "
        "clipped."
    )
    return Table(title, columns, rows, note)


def objective_table(runs: Runs, best: dict[str, Tensor]) -> Table:
    """How near each method comes to the least objective known."""
    rows: list[list[Cell]] = []
    for name, run in runs.items():
        if "j1" not in run:
            continue
        number = len(run["psnr"])
        row: list[Cell] = [name, number, f"{float(run['converged'].double().mean()):.1%}"]
        for key in ("j1", "latent"):
            least = best[key][:number]
            excess = run[key].double() / least - 1
            row.append(f"{share_within(run[key], least):.1%}")
            row += [f"{float(value):+.2%}" for value in (excess.mean(), excess.median())]
        rows.append(row)
    columns = [
        "method",
        "images",
        "converged",
        "J1 within 0.1% of the best known",
        "mean excess",
        "median",
        "latent objective within 0.1%",
        "mean excess",
        "median",
    ]
    note = (
        "Shares of the images, excess relative to the best known. J1 is taken at the best x for "
        "each code, beta = 1/gamma^2; the latent objective is F(G(z)) + ||z||^2/2. Joint MAP "
        "minimises the first, CSGM and MAP-z the second. Best known: over all methods here and 32 "
        "starts of each."
    )
    return Table("Objectives reached", columns, rows, note)


def _wins(mine: Tensor, theirs: Tensor) -> str:
    both = min(len(mine), len(theirs))
    return f"{win_rate(mine[:both], theirs[:both]):.1%}"

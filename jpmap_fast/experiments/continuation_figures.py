"""Figures of the experiment ``continuation``."""

from __future__ import annotations

import math
from typing import Any

import torch

from jpmap_fast._figures import Row, grid_figure
from jpmap_fast._problems import Problem
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.histories import columns_to_show, held, iterates, stage_ends
from jpmap_fast.experiments.section import FigureFile
from jpmap_fast.experiments.style import BLACK, CYCLE, axes_grid
from jpmap_fast.priors import Prior
from jpmap_fast.priors.protocol import fixed_image_shape

COLUMNS = 8
DRAWN = ("beta", "gap", "objective", "psnr", "psnr_decoded")
LABELS = (
    r"$\beta_k / \beta_{\mathrm{JPMAP}}$",
    r"$\|x_k - G(z_k)\|$",
    r"$J_1(x_k, z_k)$ at $\beta_k$",
    "PSNR (dB)",
)


def _pictured(prior: Prior, of: dict[str, Any], number: int, device: torch.device) -> list[int]:
    """Images from the one that continuation changes least to the one that it changes most."""
    z, beta = held(of["z"]), of["beta"]
    first = z[[stage_ends(column)[0] for column in beta.T], torch.arange(z.shape[1])]
    change = (
        (prior.decode(z[-1].to(device)) - prior.decode(first.to(device))).flatten(1).norm(dim=1)
    )
    number = min(number, len(change))
    ranks = torch.linspace(0, len(change) - 1, number).round().long()
    chosen: list[int] = change.cpu().argsort()[ranks].tolist()
    return chosen


@torch.no_grad()
def pictures(
    context: Context, prior: Prior, problem: Problem, found: dict[str, Any], number: int
) -> FigureFile:
    """x_k and G(z_k) of ``number`` digits at chosen iterations of alpha = 1."""
    of, pixels = found["alpha 1"], problem.clean[0].numel()
    unit = prior.gamma**-2
    rows: list[Row] = []
    for image in _pictured(prior, of, number, context.device):
        beta, gap = of["beta"][:, image], of["gap"][:, image]
        steps = columns_to_show(beta, gap, (10 / 255) ** 2 * pixels, COLUMNS)
        steps += [steps[-1]] * (COLUMNS - len(steps))
        z = of["z"][steps, image].to(context.device)
        weights = beta[steps].to(context.device)
        index = torch.full((COLUMNS,), image, device=context.device)
        there = iterates(problem, prior, z, weights, index)
        start = iterates(problem, prior, z, weights, index, published_start=True)
        x = torch.cat((start.x[:1], there.x[1:], problem.clean[image : image + 1]))
        error = (there.decoded[-1:] - problem.clean[image : image + 1]).abs()
        ratios = [f"{b / unit:.2g}" if b < 10 * unit else f"{b / unit:.0f}" for b in beta[steps]]
        captions = [f"k = {k}: {ratio}" for k, ratio in zip(steps, ratios, strict=True)]
        gaps = [f"{math.sqrt(float(g)):.2f}" for g in gap[steps]]
        rows += [
            Row("$x_k$", x, r"$\beta_k / \beta_{\mathrm{JPMAP}}$", [*captions, "original"]),
            Row(
                "$G(z_k)$",
                torch.cat((there.decoded, error)),
                r"$\|x_k - G(z_k)\|$",
                [*gaps, "|G(z) - original|"],
            ),
        ]
    figure = grid_figure(f"{problem.title}: Algorithm 2.4, alpha = 1", rows)
    caption = (
        f"{problem.title}. Iterates of Algorithm 2.4 (alpha = 1): x_k above, with k and "
        "beta_k / beta_JPMAP, and G(z_k) below, with ||x_k - G(z_k)||. First column: A^T y and "
        "G(0); then ends of stages, among them the first, the first below the gap of alpha = 10 "
        "and the last. From top to bottom the digits whose G(z) continuation changes least, as "
        f"much as half of the {len(problem.clean)} digits, and most. While beta is small x keeps "
        "what G cannot draw; in the end the two are the same picture."
    )
    return context.save(f"continuation_{problem.name}", figure, caption, pictures=True)


def curves(
    context: Context,
    prior: Prior,
    runs: dict[str, dict[str, Any]],
    alphas: tuple[float, float],
    number: int,
) -> FigureFile:
    """beta, gap, J1 and PSNR of ``number`` digits against iteration."""
    figure, axes = axes_grid(len(runs), 4, width=3.1, height=2.6)
    for row, found in zip(axes, runs.values(), strict=True):
        for image in range(min(number, found["alpha 1"]["beta"].shape[1])):
            for alpha, style in zip(alphas, ("-", (0, (3, 1.5))), strict=True):
                of = {key: found[f"alpha {alpha:g}"][key][:, image] for key in DRAWN}
                lines = [
                    (row[0], of["beta"] * prior.gamma**2, style),
                    (row[1], of["gap"].sqrt(), style),
                    (row[2], of["objective"], style),
                ]
                if alpha == 1:
                    lines += [(row[3], of["psnr"], "-"), (row[3], of["psnr_decoded"], ":")]
                last = int((~of["beta"].isnan()).sum()) - 1
                for panel, values, dashes in lines:
                    (line,) = panel.plot(values[: last + 1], color=CYCLE[image], lw=1.2, ls=dashes)
                    if panel is not row[3]:
                        line.set(marker="o", ms=5, markevery=[last])
                        line.set_markerfacecolor(CYCLE[image] if alpha == 1 else "white")
                    if panel is row[0] and alpha == 1:
                        line.set_label(f"digit {image}")
        for alpha, where, side in zip(alphas, (0.01, 0.99), ("left", "right"), strict=True):
            root = alpha / 255 * math.prod(fixed_image_shape(prior, "an experiment")) ** 0.5
            row[1].axhline(root, color=BLACK, lw=0.8, ls=":")
            row[1].annotate(
                rf"$\sqrt{{\varepsilon}}$, $\alpha$ = {alpha:g}",
                (where, root),
                xycoords=("axes fraction", "data"),
                xytext=(0, 2),
                textcoords="offset points",
                ha=side,
                fontsize=8,
            )
        for panel, label in zip(row, LABELS, strict=True):
            panel.set_xlabel("iteration k")
            panel.set_ylabel(label)
            panel.set_yscale("linear" if panel is row[3] else "log")
        row[0].set_title(found["title"].split(", sigma")[0], loc="left", fontsize=10)
    axes[0][0].legend(loc="lower right", frameon=False, fontsize=8, markerscale=0.7)
    axes[0][2].set_title(r"$\alpha$ = 1 solid, $\alpha$ = 10 dashed", loc="left", fontsize=9)
    axes[0][3].set_title(r"$x_k$ solid, $G(z_k)$ dotted ($\alpha$ = 1)", loc="left", fontsize=9)
    return context.save(
        "continuation_curves",
        figure,
        f"Algorithm 2.4 on {number} digits: coupling weight over 1 / gamma^2, coupling gap, J1 and "
        "PSNR by iteration. Dots mark where C <= 0 ended a run, full for alpha = 1 and hollow for "
        "alpha = 10. J1 rises where beta does, since it is another function then, and never in "
        "between.",
    )

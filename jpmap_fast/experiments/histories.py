"""What recorded runs tell: iterates rebuilt from their codes, rises of J1, candidates taken."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jpmap_fast._metrics import psnr
from jpmap_fast._problems import Problem
from jpmap_fast.algorithms import History
from jpmap_fast.priors import Prior
from jpmap_fast.priors.protocol import fixed_image_shape

CANDIDATES = ("z1", "z2", "z3", "none")

# Images rebuilt at a time: some 200 MB in float64.
CHUNK = 16_384


@dataclass(frozen=True)
class Iterates:
    """Pairs (x_k, z_k) and what is said of them.

    Attributes:
        x: x_k [N, C, H, W].
        decoded: G(z_k) [N, C, H, W].
        objective: J1(x_k, z_k) [N].
        gap: ||x_k - G(z_k)||^2 [N].
    """

    x: Tensor
    decoded: Tensor
    objective: Tensor
    gap: Tensor


def iterates(
    problem: Problem,
    prior: Prior,
    z: Tensor,
    beta: Tensor,
    image: Tensor,
    *,
    published_start: bool = False,
) -> Iterates:
    r"""The iterates of recorded codes: x_k = argmin_x J1(x, z_k) at the beta of iteration k,

        J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + 1/2 ||z||^2,

    written out, in the precision of z, independently of the kernels that recorded it.

    Args:
        z: z_k [N, k].
        beta: [N].
        image: [N] int64, to which image of the problem each of them belongs.
        published_start: x = A^T y, where Algorithm 2.3 begins, in place of the minimiser.
    """
    shape = fixed_image_shape(prior, "an experiment")
    operator = problem.operator.to(dtype=z.dtype).bind(shape, len(problem.y)).select(image)
    y = problem.y.to(z.dtype)[image]
    decoded = prior.decode(z).reshape(-1, *shape)
    sigma = torch.full_like(beta, problem.sigma)
    if published_start:
        x = operator.A_adjoint(y)
    else:
        x, _, _ = operator.x_update(decoded, y, z, beta, sigma)
    residual = (operator.A(x) - y).flatten(1).square().sum(dim=1)
    gap = (x - decoded).flatten(1).square().sum(dim=1)
    objective = residual / (2 * sigma**2) + beta / 2 * gap + z.square().sum(dim=1) / 2
    return Iterates(x, decoded, objective, gap)


@torch.no_grad()
def trace(
    problem: Problem, prior: Prior, history: History, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """What every recorded iterate of a run from the published start is worth, [T, B] each.

    Args:
        prior: in the precision ``dtype``, which need not be that of the run: the objective in
            float64 is a check of its own.

    Returns:
        "objective" J1, "psnr" of x_k and "psnr_decoded" of G(z_k), NaN once an image is finished.
    """
    clean = problem.clean.to(dtype)
    names = ("objective", "psnr", "psnr_decoded")
    found = {
        name: torch.full_like(history.objective, math.nan, dtype=torch.float64) for name in names
    }
    step, image = (~history.objective.isnan()).nonzero(as_tuple=True)
    # x_0 = A^T y is no minimiser: iteration 0 is evaluated apart from the others.
    for first in (True, False):
        chosen = ((step == 0) == first).nonzero()[:, 0]
        for rows in chosen.split(CHUNK):
            at = step[rows], image[rows]
            z, beta = history.z[at].to(dtype), history.beta[at].to(dtype)
            there = iterates(problem, prior, z, beta, at[1], published_start=first)
            found["objective"][at] = there.objective.double()
            found["psnr"][at] = psnr(there.x, clean[at[1]])
            found["psnr_decoded"][at] = psnr(there.decoded, clean[at[1]])
    return found


def cell(value: float | Tensor) -> int | float:
    """A number for a table, whole from 1,000 on, where four digits would need an exponent."""
    number = float(value)
    return round(number) if abs(number) >= 1000 else number


def percent(flags: Tensor | float) -> float:
    """A share, or the share of flags [N] that are set, in percent."""
    share = flags if isinstance(flags, float) else float(flags.double().mean())
    return round(100 * share, 1)


def title_row(figure: Any, row: Sequence[Any], titles: Sequence[str], columns: int = 3) -> None:
    """Titles of problems over axes, their noise left out, and one legend under all of them."""
    for panel, title in zip(row, titles, strict=True):
        panel.set_title(title.split(", sigma")[0], loc="left", fontsize=10)
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=8.5
    )


def held(values: Tensor) -> Tensor:
    """[T, B] with the last number of each image in place of the NaN after it."""
    filled = values.clone()
    for n in range(1, len(filled)):
        filled[n] = torch.where(filled[n].isnan(), filled[n - 1], filled[n])
    return filled


def largest_rise(objective: Tensor, beta: Tensor | None = None) -> Tensor:
    r"""max_n (J_{n+1} - J_n) / |J_n| of each image, 0 where J never rises.

    Args:
        objective: J_n [T, B]; NaN once an image is finished.
        beta: [T, B]; with a new beta J is another function, and no rise is counted there.

    Returns:
        [B] float64.
    """
    values = objective.double()
    relative = torch.nan_to_num((values[1:] - values[:-1]) / values[:-1].abs(), nan=0.0)
    if beta is not None:
        relative = torch.where(beta[1:] == beta[:-1], relative, 0.0)
    # The row of zeros is the answer where there is one iteration only.
    return torch.cat((torch.zeros_like(values[:1]), relative)).amax(dim=0)


def count_candidates(candidate: Tensor) -> Tensor:
    """How many images take z1, z2, z3 and none of them in each iteration.

    Args:
        candidate: [T, B] as in ``History``; row 0 is the start, -1 a finished image.

    Returns:
        [T - 1, 4] int64, in the order of ``CANDIDATES``.
    """
    moves = candidate[1:]
    return torch.stack([(moves == code).sum(dim=1) for code in (1, 2, 3, 0)], dim=1)


def substantial(objective: Tensor, candidate: Tensor, relative: float) -> Tensor:
    """The candidates [T, B], those that lower J1 by at most ``relative`` times J1 replaced by -1.

    Args:
        objective: J_n [T, B], NaN once an image is finished.
        candidate: [T, B].
    """
    before, after = objective[:-1].double(), objective[1:].double()
    small = ~((before - after) > relative * before.abs())
    kept = candidate.clone()
    kept[1:][small] = -1
    return kept


def stages(beta: Tensor) -> Tensor:
    """How many values beta [T, B] takes for each image, NaN left out: [B] int64."""
    changed = (beta[1:] != beta[:-1]) & ~beta[1:].isnan()
    return 1 + changed.sum(dim=0)


def stage_ends(beta: Tensor) -> list[int]:
    """The last iteration at each value of one image's beta [T], NaN left out; never iteration 0."""
    last = int((~beta.isnan()).sum()) - 1
    values = beta.tolist()
    return [n for n in range(1, last + 1) if n == last or values[n + 1] != values[n]]


def columns_to_show(beta: Tensor, gap: Tensor, epsilon: float, number: int) -> list[int]:
    """At most ``number`` iterations that tell the story of one image.

    They are the start, the end of the first stage, the first stage to end with
    ||x - G(z)||^2 <= epsilon, the last iteration, and stage ends spread over the rest.

    Args:
        beta, gap: of one image [T], NaN once it is finished.
    """
    ends = stage_ends(beta)
    met = [n for n in ends if float(gap[n]) <= epsilon]
    chosen = {0, ends[0], ends[-1], *met[:1]}
    rest = [n for n in ends if n not in chosen]
    while rest and len(chosen) < number:
        # The stage end that is farthest from all those shown.
        best = max(rest, key=lambda n: min(abs(n - shown) for shown in chosen))
        chosen.add(best)
        rest.remove(best)
    return sorted(chosen)


def published_growth(beta: Tensor, gap: Tensor, alpha: float, pixels: int) -> Tensor:
    """Factors exp(rho C) that the published update asks for wherever beta did grow, [M].

    C = ||x - G(z)||^2 - epsilon at the end of a stage, rho = 100 / n, epsilon = (alpha/255)^2 n.

    Args:
        beta, gap: [T, B] as in ``History``.
        pixels: n.
    """
    grew = (beta[1:] != beta[:-1]) & ~beta[1:].isnan()
    excess = gap[:-1][grew].double() - (alpha / 255) ** 2 * pixels
    return (100 / pixels * excess).exp()

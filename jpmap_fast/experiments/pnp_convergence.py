"""Whether plug-and-play ADMM converges where it is proved to, and where it is not."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from jpmap_fast._metrics import psnr
from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast.algorithms import largest_weight
from jpmap_fast.denoisers import LipschitzDenoiser, load_denoiser
from jpmap_fast.experiments.baselines.tuned import tuned
from jpmap_fast.experiments.context import Context
from jpmap_fast.experiments.digit_images import digits
from jpmap_fast.experiments.pnp_convergence_report import (
    condition_table,
    curves,
    numbers,
    text,
    weight_table,
)
from jpmap_fast.experiments.section import Section

LOCAL = 10  # offset of the generator of the noise at which local constants are measured
# Weights of the figure over the tuned one, and over the bound where that is not 0.
OVER_TUNED = (0.1, 1.0, 10.0, 100.0)
OVER_BOUND = (0.5, 0.95)


@dataclass(frozen=True)
class Sizes:
    """How many images and iterations, and how many images and power iterations for local L."""

    images: int
    iterations: int
    local_images: int
    power_iterations: int = 30


def run(context: Context, name: str, sizes: Sizes | None = None) -> Section:
    """The experiment.

    Source: E. Ryu et al., "Plug-and-play methods provably converge with properly trained
    denoisers", ICML 2019, Theorem 2.
    """
    pick = context.settings.pick
    sizes = sizes or Sizes(pick(5, 100), pick(80, 400), pick(2, 50))
    denoiser = load_denoiser("mnist", context.device)
    found = {}
    for which in PAPER:
        generator = context.generator(PAPER.index(which))
        problem = make_problem(which, digits(sizes.images), generator, context.device)
        found[which] = _one_problem(context, which, problem, denoiser, sizes)
    section = Section(name, "Plug-and-play ADMM: where convergence is proved, and where it occurs")
    section.figures = [curves(context, found)]
    section.tables = [condition_table(found), weight_table(found, sizes.images, sizes.iterations)]
    section.text = text(found, denoiser)
    section.data = {which: numbers(values) for which, values in found.items()}
    section.seconds = context.seconds
    return section


@torch.no_grad()
def trace(
    problem: Problem,
    denoiser: Any,
    denoiser_sigma: float,
    weight: float,
    iterations: int,
    keep: tuple[int, ...] = (),
) -> dict[str, Any]:
    r"""The iteration of ``PnPADMM`` written out, for a fixed number of steps and with its record.

    Args:
        denoiser: D(x, s).
        denoiser_sigma: s > 0.
        weight: lambda > 0.
        iterations: K.
        keep: iterations k whose v_k - u_k, what the denoiser is given, is kept.

    Returns:
        "residual" ||v_{k+1} - v_k|| / sqrt(n) [K, B], k from 0; "v" [B, C, H, W], the last one;
        "inputs" [len(keep), B, C, H, W].
    """
    y = problem.y
    operator = problem.operator.bind(tuple(problem.clean.shape[1:]), len(y))
    sigma = y.new_full((len(y),), problem.sigma)
    beta = torch.full_like(sigma, weight / denoiser_sigma**2)
    nothing = y.new_zeros(len(y), 1)
    v = operator.A_adjoint(y)
    u = torch.zeros_like(v)
    residual, inputs = [], []
    for k in range(iterations):
        if k in keep:
            inputs.append(v - u)
        x = denoiser(v - u, denoiser_sigma)
        target = (x + u).contiguous()
        fitted, _, _ = operator.x_update(target, y, nothing, beta, sigma)
        residual.append((fitted - v).flatten(1).square().mean(dim=1).sqrt())
        u, v = target - fitted, fitted
    return {"residual": torch.stack(residual), "v": v, "inputs": torch.stack(inputs or [v[:0]])}


@torch.no_grad()
def least_eigenvalue(problem: Problem) -> float:
    """The least eigenvalue of A^T A for the first image, 0 where it is rounding; dense, float64."""
    shape = tuple(problem.clean.shape[1:])
    operator = problem.operator.to(dtype=torch.float64).bind(shape, len(problem.y))
    pixels = problem.clean[0].numel()
    basis = torch.eye(pixels, dtype=torch.float64, device=problem.y.device)
    operator = operator.select(basis.new_zeros(pixels, dtype=torch.int64))
    gram = operator.A_adjoint(operator.A(basis.reshape(-1, *shape))).flatten(1)
    values = torch.linalg.eigvalsh((gram + gram.T) / 2)
    rounding = pixels * torch.finfo(torch.float64).eps * float(values[-1])
    least = float(values[0])
    return least if least > rounding else 0.0


def _one_problem(
    context: Context, which: str, problem: Problem, denoiser: LipschitzDenoiser, sizes: Sizes
) -> dict[str, Any]:
    """Constants, condition and runs of one degradation."""
    settings = tuned("pnp-admm", "mnist", which)
    s, weight = settings["denoiser_sigma"], settings["weight"]
    eigenvalue = context.step(f"{which} eigenvalue", lambda: {"least": least_eigenvalue(problem)})
    least = eigenvalue["least"]
    bound = largest_weight(denoiser.lipschitz, s, problem.sigma, least)
    weights = {weight * factor for factor in OVER_TUNED}
    weights |= {bound * factor for factor in OVER_BOUND if bound > 0}
    last = sizes.iterations - 1
    keep = tuple(sorted({0, min(1, last), min(10, last), last}))

    def record(lam: float) -> dict[str, Any]:
        of = trace(problem, denoiser, s, lam, sizes.iterations, keep if lam == weight else ())
        of["psnr"] = psnr(of.pop("v"), problem.clean)
        if lam != weight:
            del of["inputs"]
        return of

    runs = {
        lam: context.step(f"{which} lambda={lam:.6g}", partial(record, lam))
        for lam in sorted(weights)
    }
    number = sizes.local_images
    inputs = runs[weight].pop("inputs")[:, :number].to(context.device)

    def local() -> dict[str, Any]:
        noise = torch.randn(problem.clean.shape, generator=context.generator(LOCAL))
        clean = problem.clean[:number]
        images = torch.cat((clean, clean + s * noise[:number].to(context.device)))
        seen = {"images": images, "iterates": inputs.flatten(0, 1)}
        return {
            key: denoiser.local_lipschitz(x, s, iterations=sizes.power_iterations)
            for key, x in seen.items()
        }

    constants = context.step(f"{which} local constants", local)
    return {
        "title": problem.title,
        "lipschitz": denoiser.lipschitz,
        "local_images": float(constants["images"].max()),
        "local_iterates": float(constants["iterates"].max()),
        "denoiser_sigma": s,
        "mu": least / problem.sigma**2,
        "bound": bound,
        "weight": weight,
        "runs": runs,
    }

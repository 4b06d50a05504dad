"""Choose the settings of total variation, EPLL and plug-and-play ADMM on training images.

    python benchmarks/tune_baselines.py --data FOLDER --set mnist --method tv --method epll

For each problem: the greatest mean PSNR on a coarse grid, then on finer ones around the best, and
the result into the package's tuned.json, beside what is there. FOLDER is that of
train_supervised.py. A step of EPLL takes a CPU a quarter of a second for one face.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast._problems import PAPER, Problem, make_problem
from jpmap_fast.algorithms import Algorithm
from jpmap_fast.experiments.baselines import EPLL, TotalVariation, load_mixture
from jpmap_fast.experiments.baselines.training_images import training_images
from jpmap_fast.experiments.baselines.tuned import FILE

PROBLEMS = {"mnist": PAPER, "faces": ("inpainting",)}
METHODS = ("tv", "epll", "pnp-admm")

# Steps of EPLL: 100 digits of all three problems stay below half a minute on a CPU core.
STEPS = {"denoising": 8, "inpainting": 30, "compressed-sensing": 20}


# Gain in dB for which the search leaves its first grid: total variation is flat towards weight 0.
WORTH = 0.02


@dataclass(frozen=True)
class Axis:
    """Values of a setting, ascending and evenly spaced, by their ratios or by differences."""

    values: tuple[float, ...]
    linear: bool = False

    def around(self, best: float) -> Axis:
        """Half as wide steps around ``best``; an axis of one value stays."""
        if len(self.values) == 1:
            return self
        if self.linear:
            step = (self.values[1] - self.values[0]) / 2
            return Axis((best - step, best, best + step), True)
        ratio = math.sqrt(self.values[1] / self.values[0])
        return Axis((best / ratio, best, best * ratio))


def search(
    axes: dict[str, Axis], score: Callable[[dict[str, float]], float], rounds: int
) -> tuple[dict[str, float], float, int]:
    """The best settings on the grid of the axes and on ``rounds`` finer ones.

    The first grid goes on beyond its borders as long as the best lies there and gains by it.

    Returns:
        settings, their score, number of settings tried.
    """
    known: dict[tuple[float, ...], float] = {}

    def best_of(grid: dict[str, Axis]) -> dict[str, float]:
        for point in itertools.product(*(axis.values for axis in grid.values())):
            point = tuple(float(f"{value:.4g}") for value in point)
            if point not in known:
                known[point] = score(dict(zip(axes, point, strict=True)))
                print(dict(zip(axes, point, strict=True)), f"{known[point]:.3f} dB", flush=True)
        found = max(known, key=lambda point: known[point])
        return dict(zip(axes, found, strict=True))

    best = best_of(axes)
    for _ in range(6):
        borders = {
            name: axis
            for name, axis in axes.items()
            if len(axis.values) > 1
            and not axis.values[0] * 1.001 < best[name] < axis.values[-1] * 0.999
        }
        if not borders:
            break
        before = max(known.values())
        moved = {name: _doubled(axis, best[name]) for name, axis in borders.items()}
        best = best_of({name: moved.get(name, Axis((best[name],))) for name in axes})
        if max(known.values()) < before + WORTH:
            break
    grid = axes
    for _ in range(rounds):
        grid = {name: axis.around(best[name]) for name, axis in grid.items()}
        best = best_of(grid)
    return best, known[tuple(best.values())], len(known)


def _doubled(axis: Axis, best: float) -> Axis:
    if axis.linear:
        step = axis.values[1] - axis.values[0]
        return Axis((best - step, best, best + step), True)
    ratio = axis.values[1] / axis.values[0]
    return Axis((best / ratio, best, best * ratio))


def geometric(first: float, last: float, steps: int) -> tuple[float, ...]:
    """Noise levels from ``first`` to ``last``."""
    ratio = last / first
    return tuple(float(f"{first * ratio ** (i / (steps - 1)):.4g}") for i in range(steps))


def candidates(
    method: str, images: str, problem: str, device: str
) -> tuple[dict[str, Axis], Callable[[dict[str, float]], tuple[dict[str, Any], Algorithm]]]:
    """What to try, and the settings and the algorithm of a point."""
    axes: dict[str, Axis]
    if method == "tv":
        axes = {"weight": Axis((0.5, 1.0, 2.0, 4.0, 8.0))}
        return axes, lambda point: (point, TotalVariation(**point))
    if method == "epll":
        mixture = load_mixture(images, device)
        axes = {"first": Axis((0.2, 0.4)), "last": Axis((0.025, 0.05, 0.1))}
        if images == "faces":
            axes["last"] = Axis((0.025, 0.05))
        if problem == "denoising":
            axes["sigma_scale"] = Axis((0.7, 1.0, 1.4286))
        if problem == "inpainting":
            axes["start"] = Axis((0.3, 0.4, 0.5), linear=True)

        def settings(point: dict[str, float]) -> tuple[dict[str, Any], Algorithm]:
            rest = dict(point)
            levels = geometric(rest.pop("first"), rest.pop("last"), STEPS[problem])
            found = {"noise_levels": levels, **rest}
            return found, EPLL(mixture, **found)

        return axes, settings
    from jpmap_fast.denoisers import load_denoiser

    denoiser = load_denoiser(images, device)
    sigma = 110 / 255 if problem == "denoising" else 10 / 255
    # lambda / s^2 couples x to the denoised image, at 1 / sigma^2 as strongly as y does.
    axes = {
        "denoiser_sigma": Axis(tuple(level / 255 for level in (12.5, 25, 50, 100))),
        "coupling": Axis(tuple(factor / sigma**2 for factor in (0.004, 0.02, 0.1, 0.5, 2.5))),
    }

    def pnp(point: dict[str, float]) -> tuple[dict[str, Any], Algorithm]:
        s = point["denoiser_sigma"]
        found = {"denoiser_sigma": s, "weight": float(f"{point['coupling'] * s**2:.4g}")}
        return found, jf.PnPADMM(denoiser, **found)

    return axes, pnp


def shape_of(clean: torch.Tensor) -> jf.ModulePrior:
    """A prior that has the shape of the images and the device, and nothing else."""
    blank = nn.Linear(1, clean[0].numel()).to(clean.device).requires_grad_(False)
    shape = (clean.shape[1], clean.shape[2], clean.shape[3])
    return jf.ModulePrior(nn.Flatten(), blank, gamma=1.0, latent_dim=1, image_shape=shape)


def main() -> None:
    """Search, print, and keep what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(PROBLEMS), required=True)
    parser.add_argument("--method", choices=METHODS, action="append", help="all by default")
    parser.add_argument("--problem", choices=PAPER, action="append", help="all by default")
    parser.add_argument("--images", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=2, help="of refinement")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=FILE)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    images, _ = training_images(options.data, options.set)
    generator = torch.Generator().manual_seed(options.seed)
    chosen = torch.randperm(len(images), generator=generator)[: options.images]
    clean = images[chosen].float() / 255
    device = torch.device(options.device)
    prior = shape_of(clean.to(device))
    for name in options.problem or PROBLEMS[options.set]:
        problem = make_problem(name, clean, generator, device)
        for method in options.method or METHODS:
            try:
                axes, build = candidates(method, options.set, name, options.device)
            except (ImportError, ValueError) as error:
                print(f"{method}, {name}: left out, {error}")
                continue
            print(f"{options.set}, {problem.title}, {method}", flush=True)

            def score(point: dict[str, float], problem: Problem = problem, build: Any = build):
                result = jf.restore(
                    problem.y, problem.operator, prior, problem.sigma, method=build(point)[1]
                )
                return float(psnr(result.x, problem.clean).mean().nan_to_num(-math.inf))

            point, value, tried = search(axes, score, options.rounds)
            entry = {
                "settings": build(point)[0],
                "psnr": round(value, 2),
                "tried": tried,
                "problem": problem.title,
                "chosen_on": f"{len(clean)} training images, seed {options.seed}",
            }
            print(entry, flush=True)
            keep(options.output, method, options.set, name, entry)


def keep(path: Path, method: str, images: str, problem: str, entry: dict[str, Any]) -> None:
    """Put an entry into the file in the place of an older one."""
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    settings = content.setdefault("settings", {})
    settings.setdefault(method, {}).setdefault(images, {})[problem] = entry
    path.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

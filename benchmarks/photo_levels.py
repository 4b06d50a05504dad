"""Noise levels of ``EncoderContinuation`` by kind of measurement, chosen on training pictures.

    python benchmarks/photo_levels.py --prior photos-grey --pictures FOLDER [--device cuda]
    python benchmarks/photo_levels.py --prior patches --pictures FOLDER --side 96 --number 6

For every kind of operator and every number of steps: coordinate descent over the first level, the
last one over sigma, and the coupling weight, of blurs the noise that decides it, for the mean PSNR
over the kind's problems on the centres of 24 pictures. With ``patches`` those of ``PatchJPMAP``,
and for denoising too. Writes results/photo_levels.json, or patch_levels.json;
``algorithms/encoder_schedule.py`` holds what was chosen.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from shake_kernels import shake_kernel
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast.algorithms import ALGORITHMS
from jpmap_fast.algorithms.encoder_schedule import Levels
from jpmap_fast.data.any_size import load_pictures
from jpmap_fast.priors.protocol import default_method

Problems = list[tuple[jf.Operator, float]]
FIRST = tuple(level / 255 for level in (15, 30, 49, 75, 100, 130, 180, 255))
LAST = (0.18, 0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8)
STARTS = {"inpainting": (130 / 255, 1.0, 0.23), "denoising": (1 / 255, 0.5, 0.35)}
WEIGHT = (0.05, 0.1, 0.15, 0.23, 0.35, 0.5, 0.75, 1.0, 1.5)
NOISE = (0.15, 0.2, 0.25, 0.33, 0.42, 0.55)  # of blurs, in place of the weight


def mask(share: float, side: int) -> Tensor:
    """Pixels observed with a probability, the same for every picture."""
    generator = torch.Generator().manual_seed(round(1000 * share))
    return (torch.rand(side, side, generator=generator) < share).float()


def kinds(side: int) -> dict[str, tuple[Problems, tuple[int, ...]]]:
    """Problems of every kind, with noise in 255ths, and numbers of steps to try."""
    blurs = [jf.gaussian_kernel(1.6), jf.motion_kernel(15.0, 30.0)]
    blurs += [shake_kernel(17, 101), shake_kernel(23, 102)]  # none of those that are judged by
    return {
        "denoising": ([(jf.Denoising(), s) for s in (15.0, 25.0, 50.0)], (2, 3, 5)),
        "blur": ([(jf.Blur(k), s) for k in blurs for s in (2.55, 7.65)], (6, 8, 12, 16)),
        "super-resolution": (
            [
                (jf.SuperResolution(f, kernel), s)
                for f in (2, 4)
                for kernel in ("box", "bicubic")
                for s in (0.5, 5.0)
            ],
            (6, 8, 12, 16),
        ),
        "inpainting": (
            [(jf.Inpainting(mask(p, side)), s) for p in (0.2, 0.5) for s in (2.55, 10.0)],
            (10, 20, 30, 40),
        ),
    }


def quality(x: Tensor, prior: Any, problems: Problems, levels: Levels) -> float:
    """Mean PSNR in dB."""
    total = 0.0
    for operator, sigma in problems:
        settings = {name: getattr(levels, name) for name in ("steps", "first", "last", "weight")}
        if levels.noise is not None:
            assert isinstance(operator, jf.Blur)
            settings["weight"] = float(operator.weight_for_noise(levels.noise, levels.last))
        method = ALGORITHMS[default_method(prior)](**settings)
        generator = torch.Generator(x.device).manual_seed(0)
        operator = operator.to(x.device)
        y = operator.measure(x, sigma / 255, generator=generator)
        found = jf.restore(y, operator, prior, sigma / 255, method=method, chunk_size=len(x)).x
        total += float(jf.psnr(found.clamp(0, 1), x).mean())
    return total / len(problems)


def searched(
    judge: Callable[[Levels], float], levels: Levels, sweeps: int = 2
) -> tuple[Levels, float]:
    """Coordinate descent over the three lists, neighbours first."""
    best, unchanged = judge(levels), 0
    coupling = {"weight": WEIGHT} if levels.noise is None else {"noise": NOISE}
    for name, values in cycle({**coupling, "first": FIRST, "last": LAST}.items()):
        before = levels
        for direction in (-1, 1):
            while True:
                at = min(range(len(values)), key=lambda i: abs(values[i] - getattr(levels, name)))
                if not 0 <= at + direction < len(values):
                    break
                tried = replace(levels, **{name: values[at + direction]})
                found = judge(tried)
                if found <= best + 1e-3:
                    break
                levels, best = tried, found
        unchanged = unchanged + 1 if levels == before else 0
        if unchanged >= 3:
            return levels, best
    raise AssertionError("cycle ends by return")


def main() -> None:
    """Search and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prior", default="photos-grey")
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", help="kinds; all by default")
    parser.add_argument("--steps", type=int, nargs="*", help="numbers of steps; all by default")
    parser.add_argument("--side", type=int, default=256, help="of the pictures' centres")
    parser.add_argument("--number", type=int, default=24, help="of pictures")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    prior = jf.load_prior(arguments.prior, device=device)
    x = pictures(arguments.pictures, prior.channels, arguments.side, arguments.number).to(device)
    patches = default_method(prior) == "patch-jpmap"
    output = arguments.output or RESULTS / f"{'patch' if patches else 'photo'}_levels.json"
    rows = []
    for kind, (problems, numbers) in kinds(arguments.side).items():
        if kind not in (arguments.only or [kind]) or (kind == "denoising" and not patches):
            continue
        for steps in arguments.steps or numbers:
            start = Levels(steps, *STARTS.get(kind, (49 / 255, 1.0, 0.23)))
            if kind == "blur" and not patches:
                start = replace(start, weight=None, noise=0.33)
            levels, psnr = searched(lambda tried: quality(x, prior, problems, tried), start)  # noqa: B023
            print(f"{kind}: {levels} {psnr:.3f} dB", flush=True)
            rows.append({"kind": kind, **asdict(levels), "psnr": round(psnr, 3)})
    write(output, {"pictures": len(x), "rows": rows}, device)


def pictures(folder: Path, channels: int, side: int, number: int) -> Tensor:
    """The centres of every eighth picture of a folder, [number, C, side, side]."""
    found = []
    for picture in load_pictures(folder, channels).pictures[: 8 * number : 8]:
        x = picture.float() / 255
        top, left = (x.shape[1] - side) // 2, (x.shape[2] - side) // 2
        found.append(x[:, top : top + side, left : left + side])
    return torch.stack(found)


if __name__ == "__main__":
    main()

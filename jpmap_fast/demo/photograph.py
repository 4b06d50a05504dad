"""The demo's photograph: inpainted, deblurred and enlarged."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jpmap_fast import _figures as figures
from jpmap_fast._masks import random_masks
from jpmap_fast._metrics import psnr
from jpmap_fast._restore import restore
from jpmap_fast.data.example_photograph import photograph
from jpmap_fast.operators import Blur, Inpainting, Operator, SuperResolution, gaussian_kernel
from jpmap_fast.priors import load_prior

FIGURE = "photograph.png"


@dataclass(frozen=True)
class Damage:
    """What was done to the photograph.

    Attributes:
        name: of the problem.
        title: the same in words.
        operator: A.
        sigma: standard deviation of the noise, for values in [0, 1].
        shown: measurements as a picture of the photograph's size.
    """

    name: str
    title: str
    operator: Operator
    sigma: float
    shown: Callable[[Tensor], Tensor]


def damages(clean: Tensor, generator: torch.Generator) -> list[Damage]:
    """The three problems of the demo, on the photograph's device."""
    mask = random_masks(1, (1, *clean.shape[2:]), 0.7, generator).to(clean.device)
    blur = Blur(gaussian_kernel(2.0)).to(clean.device)
    return [
        Damage(
            "inpainting",
            "70% of the pixels missing, noise 5/255",
            Inpainting(mask),
            5 / 255,
            lambda y: figures.mark_missing(y, mask),
        ),
        Damage("deblurring", "blur of 2 pixels, noise 2.5/255", blur, 2.5 / 255, lambda y: y),
        Damage(
            "super-resolution",
            "half the size, noise 2.5/255",
            SuperResolution(2),
            2.5 / 255,
            lambda y: F.interpolate(y, scale_factor=2.0),
        ),
    ]


def restore_photograph(
    folder: str | Path, seed: int = 0, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Restore the bundled photograph from three measurements of it, and draw ``photograph.png``.

    Args:
        folder: of the figure; it exists.
        seed: of mask and noise.
        device: where to compute.

    Returns:
        By problem: title, sigma, the PSNR of the measurement shown as a picture and of the
        restored one in dB, and seconds.

    Raises:
        ImportError: matplotlib or torchmetrics is not installed.
    """
    generator = torch.Generator().manual_seed(seed)
    clean = photograph().to(device)
    prior = load_prior("photos", device=device)
    found: dict[str, Any] = {}
    seen, made = [], []
    problems = damages(clean, generator)
    for damage in problems:
        noise = torch.randn(damage.operator.A(clean).shape, generator=generator).to(clean.device)
        y = damage.operator.A(clean) + damage.sigma * noise
        if damage.name == "inpainting":
            y = y * damage.operator.A(torch.ones_like(clean))
        begin = time.perf_counter()
        x = restore(y, damage.operator, prior, damage.sigma).x
        seconds = time.perf_counter() - begin
        shown = damage.shown(y)
        found[damage.name] = {
            "title": damage.title,
            "sigma": damage.sigma,
            "psnr_measured": float(psnr(shown, clean)),
            "psnr": float(psnr(x, clean)),
            "seconds": seconds,
        }
        seen.append(shown)
        made.append(x)
    captions = [f"{one['psnr']:.1f} dB" for one in found.values()]
    count = len(problems)
    rows = [
        figures.Row("measured", torch.cat(seen).cpu(), captions=[d.name for d in problems]),
        figures.Row("restored", torch.cat(made).cpu(), "prior photos", captions),
        figures.Row("original", clean.cpu().expand(count, -1, -1, -1)),
    ]
    figures.save_grid(Path(folder) / FIGURE, "A photograph", rows, tile=2.4)
    return {"figure": FIGURE, "problems": found}


def format_photograph(results: dict[str, Any]) -> str:
    """What ``restore_photograph`` found, as a table in plain text."""
    lines = ["photograph        measured  restored         s"]
    for name, one in results["problems"].items():
        before, after = (f"{one[key]:5.2f} dB" for key in ("psnr_measured", "psnr"))
        lines.append(f"{name:16}  {before}  {after}  {one['seconds']:8.2f}")
    return "\n".join(lines)

"""Training of denoisers whose residual keeps its Lipschitz constant."""

from __future__ import annotations

import math
import time
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from jpmap_fast._metrics import psnr
from jpmap_fast._surroundings import DrawingFrom
from jpmap_fast._validate import positive
from jpmap_fast.denoisers.lipschitz import LipschitzDenoiser
from jpmap_fast.training.denoiser_recipe import DenoiserRecipe
from jpmap_fast.training.denoiser_step import DenoiserStep
from jpmap_fast.training.trainer import as_float, check_images

# Steps between two looks at the clock, each of which waits for the GPU.
CHUNK = 50


def train_denoiser(
    images: Tensor,
    *,
    device: torch.device | str | None = None,
    seconds: float | None = None,
    progress: bool = True,
    cuda_graph: bool = True,
    **settings: Any,
) -> tuple[LipschitzDenoiser, dict[str, Any]]:
    r"""Train a ``LipschitzDenoiser`` by Adam on the mean of

        ||D(x + s n, s) - x||^2,    n standard normal, s uniform in [sigma_low, sigma_high].

    Each step divides the convolutions by their spectral norms as one step of power iteration, warm
    started, estimates them, and differentiates through the quotient. At the end the norms are
    found to convergence and divided by, after which inference is plain convolutions.

    Args:
        images: [N, C, H, W], uint8 (0 to 255) or floating point in [0, 1].
        device: where to train; the CPU by default.
        seconds: stop after so much time, and let the learning rate fall in that time if it is less
            than ``steps`` take. What comes out then depends on how fast the machine is.
        progress: show a bar with the loss.
        cuda_graph: on a GPU, capture the training step in a CUDA graph.
        settings: those of ``DenoiserRecipe``.

    Returns:
        The denoiser on ``device``, in evaluation mode, gradients off; and what happened: the
        recipe, steps, seconds, losses (mean squared error a pixel, of ``CHUNK`` steps each) and the
        norms that power iteration left, over those it should have left.

    Raises:
        ValueError, TypeError: settings or images do not fit; the training diverges.

    Source: Ryu et al., ICML 2019, section 4; T. Miyato et al., ICLR 2018.
    """
    recipe = DenoiserRecipe(**settings)
    if seconds is not None:
        positive("seconds", seconds)
    place = torch.device("cpu" if device is None else device)
    images = check_images("images", images).to(place)
    with DrawingFrom(torch.Generator().manual_seed(recipe.seed)):
        denoiser = LipschitzDenoiser(
            tuple(images.shape[1:]), recipe.lipschitz, recipe.width, recipe.depth
        )
    step = DenoiserStep(denoiser.to(place).train(), recipe, cuda_graph)
    begin = time.perf_counter()
    losses = _descend(step, images, recipe, seconds, progress)
    spent = time.perf_counter() - begin
    estimated = step.bake()
    denoiser.requires_grad_(False).eval()
    log = {
        "recipe": asdict(recipe),
        "image_shape": list(images.shape[1:]),
        "images": len(images),
        "steps": min(len(losses) * CHUNK, recipe.steps),
        "seconds": spent,
        "losses": losses,
        "estimated_over_true_norms": estimated,
    }
    return denoiser, log


def _descend(
    step: DenoiserStep,
    images: Tensor,
    recipe: DenoiserRecipe,
    seconds: float | None,
    progress: bool,
) -> list[float]:
    """Steps until they or the time are used up; the loss of each ``CHUNK`` of them.

    Raises:
        ValueError: the training diverges.
    """
    generator = torch.Generator(device=images.device).manual_seed(recipe.seed)
    losses: list[float] = []
    begin = time.perf_counter()
    done, share = 0, 0.0
    with tqdm(total=recipe.steps, unit="step", desc="train", disable=not progress) as bar:
        while share < 1:
            step.set_learning_rate(recipe.learning_rate_at(share))
            number = min(CHUNK, recipe.steps - done)
            total = torch.zeros((), device=images.device)
            for _ in range(number):
                total += step(*_draw(images, recipe, generator))
            losses.append(float(total) / number)
            if not math.isfinite(losses[-1]):
                raise ValueError(
                    f"training diverged within {done + number} steps; use a smaller learning_rate "
                    f"than {recipe.learning_rate_at(recipe.rise):g}"
                )
            done += number
            spent = time.perf_counter() - begin
            share = max(done / recipe.steps, 0.0 if seconds is None else spent / seconds)
            bar.set_postfix({"rmse * 255": f"{255 * math.sqrt(losses[-1]):.2f}"}, refresh=False)
            bar.update(number)
    return losses


@torch.no_grad()
def denoising_psnr(
    denoiser: LipschitzDenoiser, images: Tensor, sigma: float, seed: int = 0, batch_size: int = 500
) -> tuple[float, float]:
    """Mean over the images of the PSNR of x + s n and of D(x + s n, s) against x, in dB.

    Args:
        denoiser: to be judged.
        images: x [N, C, H, W], uint8 or floating point in [0, 1].
        sigma: s > 0.
        seed: of the noise, drawn on the CPU.
        batch_size: images at a time.
    """
    positive("sigma", sigma)
    images = check_images("images", images, denoiser.image_shape)
    generator = torch.Generator().manual_seed(seed)
    device = denoiser.first.device
    before = after = 0.0
    for batch in images.split(batch_size):
        clean = as_float(batch.cpu())
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        before += float(psnr(noisy, clean).sum())
        after += float(psnr(denoiser(noisy.to(device), sigma).cpu(), clean).sum())
    return before / len(images), after / len(images)


def _draw(
    images: Tensor, recipe: DenoiserRecipe, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Clean images, unit noise and noise levels of a batch."""
    size, device = recipe.batch_size, images.device
    index = torch.randint(len(images), (size,), generator=generator, device=device)
    clean = as_float(images[index])
    if recipe.mirror:
        mirrored = torch.rand(size, generator=generator, device=device) < 0.5
        clean = torch.where(mirrored.reshape(-1, 1, 1, 1), clean.flip(3), clean)
    noise = torch.randn(clean.shape, generator=generator, device=device)
    uniform = torch.rand(size, generator=generator, device=device)
    return clean, noise, recipe.sigma_low + (recipe.sigma_high - recipe.sigma_low) * uniform

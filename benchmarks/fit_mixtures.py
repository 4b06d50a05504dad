"""Fit the Gaussian mixture of patches that EPLL restores with.

    python benchmarks/fit_mixtures.py --data FOLDER --set mnist --output mixture-mnist.safetensors

FOLDER has mnist.npz (x_train) or faces_train.npz (x), uint8.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast.experiments.baselines import EPLL, fit_mixture, load_mixture, save_mixture
from jpmap_fast.experiments.baselines.training_images import training_images
from jpmap_fast.priors.overlapping import extract_patches

# Components and patches that a CPU core fits in a few minutes.
PATCH_SIZE = 6
COMPONENTS = {"mnist": 100, "faces": 100}
PATCHES = {"mnist": 200_000, "faces": 60_000}


def random_patches(images: torch.Tensor, number: int, generator: torch.Generator) -> torch.Tensor:
    """Patches [number, d] of places drawn at random, a few of each of many images."""
    each = 20
    chosen = torch.randperm(len(images), generator=generator)[: -(-number // each)]
    parts = []
    for part in chosen.split(500):
        patches = extract_patches(images[part].float() / 255, PATCH_SIZE).mT
        places = torch.rand(patches.shape[:2], generator=generator).argsort(dim=1)[:, :each]
        parts.append(patches[torch.arange(len(part))[:, None], places].flatten(0, 1))
    return torch.cat(parts)[:number]


def main() -> None:
    """Fit, write, and print the likelihood and a denoising of images held out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(COMPONENTS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, default=240, help="of the fit, at most")
    parser.add_argument("--components", type=int)
    parser.add_argument("--patches", type=int)
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = torch.Generator().manual_seed(options.seed)
    images, held_out = training_images(options.data, options.set)
    number = options.patches or PATCHES[options.set]
    components = options.components or COMPONENTS[options.set]
    patches = random_patches(images, number, generator).to(options.device)
    begin = time.perf_counter()
    mixture, likelihood = fit_mixture(
        patches,
        components,
        iterations=options.iterations,
        seconds=options.seconds,
        generator=generator,
    )
    seconds = time.perf_counter() - begin
    recipe = {
        "images": options.set,
        "patch_size": PATCH_SIZE,
        "patches": len(patches),
        "iterations": options.iterations,
        "seconds": round(seconds),
        "seed": options.seed,
    }
    save_mixture(mixture, options.output, recipe)

    stored = load_mixture(options.output, options.device)
    clean = held_out[:20].float().to(options.device) / 255
    noise = torch.randn(clean.shape, generator=generator).to(options.device)
    operator = jf.Denoising()
    print(
        {
            "set": options.set,
            "components": components,
            "patches": len(patches),
            "seconds": round(seconds, 1),
            "log_likelihood_training": round(likelihood, 2),
            "log_likelihood_held_out": round(
                float(EPLL(stored).log_likelihood(clean).mean())
                / extract_patches(clean[:1], PATCH_SIZE).shape[2],
                2,
            ),
            "bytes": options.output.stat().st_size,
        }
    )
    prior = jf.ModulePrior(
        torch.nn.Flatten(),
        torch.nn.Identity(),
        gamma=1.0,
        latent_dim=1,
        image_shape=clean.shape[1:],
    )
    for level in (25, 110):
        y = clean + level / 255 * noise
        begin = time.perf_counter()
        found = jf.restore(y, operator, prior, level / 255, method=EPLL(stored)).x
        seconds = time.perf_counter() - begin
        print(
            f"denoising {level}/255: {float(psnr(y, clean).mean()):.2f} dB to "
            f"{float(psnr(found, clean).mean()):.2f} dB, {seconds / len(clean):.3f} s an image"
        )


if __name__ == "__main__":
    main()

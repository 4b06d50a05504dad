"""Batched conjugate gradients against the same loop in eager torch, in one run.

    python benchmarks/bench_conjugate_gradient.py --device cuda

The system is that of compressed sensing known as a pair of functions, (sigma^2 I + A A^T / beta) on
m = 1,200 measurements of images of n = 12,288 pixels, 64 images, float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from timer import RESULTS, median_seconds, write
from torch import Tensor

from jpmap_fast import _conjugate_gradient as module
from jpmap_fast import kernels
from jpmap_fast.kernels import reference

M, N, IMAGES = 1200, 12_288, 64
NAMES = ("conjugate_gradient_step", "conjugate_gradient_direction")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    generator = torch.Generator(device=device).manual_seed(0)
    matrix = torch.randn(M, N, generator=generator, device=device) / M**0.5
    rhs = torch.randn(IMAGES, M, generator=generator, device=device)

    def apply(v: Tensor) -> Tensor:
        return 1e-3 * v + (v @ matrix) @ matrix.T / 100

    def solve() -> Tensor:
        return module.conjugate_gradient(apply, rhs, tolerance=1e-5, max_iterations=200).x

    repeats = 20 if device.type == "cuda" else 5
    mine, found = median_seconds(solve, device, repeats, warm_up=2), solve()
    fused = {name: getattr(kernels, name) for name in NAMES}
    try:
        for name in NAMES:
            setattr(kernels, name, getattr(reference, name))
        eager, expected = median_seconds(solve, device, repeats, warm_up=2), solve()
    finally:
        for name in NAMES:
            setattr(kernels, name, fused[name])
    products = median_seconds(lambda: apply(rhs), device, repeats)
    document = {
        "what": "batched conjugate gradients against the same loop in eager torch",
        "measurements": M,
        "pixels": N,
        "images": IMAGES,
        "seconds": mine,
        "eager_seconds": eager,
        "ratio": eager / mine,
        "one_product_seconds": products,
        "relative_difference": float((found - expected).norm() / expected.norm()),
    }
    print(document)
    write(options.output or RESULTS / f"conjugate_gradient_{device.type}.json", document, device)


if __name__ == "__main__":
    main()

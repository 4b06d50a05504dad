"""The pictures of the pages: what is bundled, degraded and restored.

python benchmarks/picture.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._figures import Row, mark_missing, save_grid
from jpmap_fast._masks import random_masks
from jpmap_fast.data import portrait
from jpmap_fast.demo.photograph import FIGURE, restore_photograph

OUTPUT = Path(__file__).resolve().parent.parent / "docs" / "images" / "restorations.png"
SIDE = 448  # both 28 and 64 pixels divide it: tiles are enlarged without interpolation
MISSING = 0.8
SIGMA = 10 / 255


def tile(image: Tensor) -> Tensor:
    """An image [C, H, W] as [3, SIDE, SIDE]."""
    factors = [SIDE // size for size in image.shape[1:]]
    enlarged = image.repeat_interleave(factors[0], 1).repeat_interleave(factors[1], 2)
    return enlarged.expand(3, -1, -1)


def main() -> None:
    """Restore and draw."""
    generator = torch.Generator().manual_seed(0)
    digits = jf.mnist_test_digits(4)[0]
    face = portrait()

    def masked(image: Tensor) -> tuple[jf.Operator, Callable[[Tensor], Tensor]]:
        mask = random_masks(1, image.shape[1:], MISSING, generator)
        return jf.Inpainting(mask), lambda y: mark_missing(y, mask)

    def shown(operator: jf.Operator) -> tuple[jf.Operator, Callable[[Tensor], Tensor]]:
        return operator, lambda y: y

    soft = jf.gaussian_kernel(2.0)
    cases = [
        ("80% missing", digits[2:3], "mnist", SIGMA, *masked(digits)),
        ("noise 110/255", digits[3:4], "mnist", 110 / 255, *shown(jf.Denoising())),
        ("a quarter a side", digits[:1], "mnist", SIGMA, *shown(jf.SuperResolution(4))),
        ("80% missing", face, "faces", SIGMA, *masked(face)),
        ("blurred", face, "faces", SIGMA, *shown(jf.Blur(soft))),
        ("a quarter a side", face, "faces", SIGMA, *shown(jf.SuperResolution(4))),
    ]
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for _, clean, prior, sigma, operator, show in cases:
        y = operator.measure(clean, sigma, generator)
        restored = jf.restore(y, operator, prior, sigma, generator=generator).x
        columns.append((tile(show(y)[0]), tile(restored[0]), tile(clean[0])))
    measured, restored, clean = (torch.stack(row) for row in zip(*columns, strict=True))
    rows = [
        Row("measured", measured, captions=[name for name, *_ in cases]),
        Row("restored", restored, "JPMAP()"),
        Row("original", clean),
    ]
    save_grid(OUTPUT, "Two priors, trained once; four degradations", rows)
    restore_photograph(OUTPUT.parent)
    for path in (OUTPUT, OUTPUT.parent / FIGURE):  # a third as large
        Image.open(path).convert("RGB").quantize(256).save(path, optimize=True)


if __name__ == "__main__":
    main()

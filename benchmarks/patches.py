"""Photographs by the prior ``patches``, and EPLL with the same mixture on the same inputs.

    python benchmarks/patches.py --data FOLDER [--device cuda] [--only PART ...]

FOLDER as for photos.py. Parts: denoising-15, denoising-25, denoising-50 (BSD68), deblurring (a
Gaussian), shake (eight kernels), inpainting (Set12), epll (three pictures of Set12). What a run
does not measure stays as it was in results/patches_DEVICE.json, which is written after every part.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from photos import Bench, merged, psnr
from shake_kernels import shake_kernels
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf

ORDER = ("denoising", "deblurring", "inpainting", "epll")
EPLL_PICTURES = {"01.png", "02.png", "05.png"}


def denoising(bench: Bench, prior: jf.PatchPrior, sigma: int) -> None:
    """BSD68, grey."""
    pictures = bench.pictures("BSD68")
    bench.judge("denoising", {"set": "BSD68"}, pictures, jf.Denoising(), sigma, prior)


def deblurring(bench: Bench, prior: jf.PatchPrior) -> None:
    """Set12's pictures of 256 x 256 under a Gaussian blur."""
    _deblurring(bench, prior, {"gaussian 1.6": jf.gaussian_kernel(1.6, 25)})


def shake(bench: Bench, prior: jf.PatchPrior) -> None:
    """The same under the eight of a shaking hand."""
    _deblurring(bench, prior, {f"shake {n}": k for n, k in enumerate(shake_kernels(), 1)})


def _deblurring(bench: Bench, prior: jf.PatchPrior, kernels: dict[str, Tensor]) -> None:
    pictures = [x for x in bench.pictures("Set12") if x.shape[-2:] == (256, 256)]
    for name, kernel in kernels.items():
        row = {"set": "Set12, 256 x 256", "kernel": name}
        bench.judge("deblurring", row, pictures, jf.Blur(kernel), 2.55, prior)


def inpainting(bench: Bench, prior: jf.PatchPrior) -> None:
    """Set12's pictures of 256 x 256 with four fifths of the pixels missing."""
    pictures = [x for x in bench.pictures("Set12") if x.shape[-2:] == (256, 256)]

    def masked(x: Tensor) -> jf.Operator:
        generator = torch.Generator().manual_seed(x.shape[-1])
        return jf.Inpainting((torch.rand(x.shape[-2:], generator=generator) < 0.2).float())

    row = {"set": "Set12, 256 x 256", "missing": "80%"}
    bench.judge("inpainting", row, pictures, masked, 10, prior)


def epll(bench: Bench, prior: jf.PatchPrior) -> None:
    """Denoising by the method and by EPLL, which is given a wide Gaussian of a patch's mean."""
    sigma = 25
    for name in sorted(EPLL_PICTURES):
        (x,) = bench.pictures("Set12", only={name})
        y = x + sigma / 255 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x)
        row: dict[str, Any] = {"part": "epll", "picture": name, "sigma": sigma}
        for key, method in (("patches", None), ("EPLL", bench.epll)):
            found = jf.restore(y, jf.Denoising(), prior, sigma / 255, method=method).x
            row[key] = round(psnr(found, x), 2)
        bench.rows.append(row)
        print(row, flush=True)


def tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The tables of the pages: quality, and beside EPLL."""
    quality = [
        [
            row["part"],
            ", ".join(str(row[n]) for n in ("set", "kernel", "missing") if n in row),
            row["sigma"],
            row["pictures"],
            f"{row['patches']:.2f}",
        ]
        for row in rows
        if row["part"] != "epll"
    ]
    columns = ["picture", "patches", "EPLL"]
    beside = [[row[name] for name in columns] for row in rows if row["part"] == "epll"]
    head = ["", "pictures", "noise, 255ths", "how many", "patches"]
    return {
        "quality": {"columns": head, "rows": quality, "note": "Mean PSNR in dB, 8 bits."},
        "epll": {"columns": columns, "rows": beside},
    }


PARTS = {
    **{f"denoising-{s}": lambda b, p, s=s: denoising(b, p, s) for s in (15, 25, 50)},
    "deblurring": deblurring,
    "shake": shake,
    "inpainting": inpainting,
    "epll": epll,
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS))
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    output = RESULTS / f"patches_{device.type}.json"
    prior = jf.load_prior("patches", device=device)
    for name in arguments.only or PARTS:
        bench = Bench(arguments.data, device, rivals=False, name="patches")
        PARTS[name](bench, prior)
        rows = merged(output, bench.rows)
        rows.sort(key=lambda row: (ORDER.index(row["part"]), row["sigma"]))
        write(output, {"rows": rows, "tables": tables(rows)}, device)


if __name__ == "__main__":
    main()

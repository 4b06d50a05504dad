"""Photographs: priors ``photos`` and ``photos-grey`` on test pictures, rivals on the same inputs.

    python benchmarks/photos.py --data FOLDER [--device cuda] [--only PART ...] [--rivals]

FOLDER holds BSD68, Set12, Set5, bsds500_train and bsds500_test; of Set12 the picture that is part
of a training photograph is left out. Parts: denoising, deblurring, super-resolution, inpainting,
colour, speed. Every row has the mean over a set of the PSNR of pictures rounded to 8
bits. With --rivals total variation (its weight chosen for each problem on crops of two training
pictures), for blurs EPLL with the mixture of the prior ``patches``, and for colour ``bm3d`` of
PyPI. Writes results/photos_DEVICE.json after every part; what a run does not measure stays in it.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from shake_kernels import shake_kernels
from timer import RESULTS, median_seconds, write
from torch import Tensor
from torch.nn import functional as F

import jpmap_fast as jf
from jpmap_fast.data.any_size import load_pictures

HELD_OUT = Path(__file__).parent / "held_out_photographs.txt"
# The starfish is a part of a photograph that was trained on, 12003 of bsds500_train.
TRAINED_ON = {"Set12": {"04.png"}}
TV_WEIGHTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)


class Bench:
    """Pictures, priors and what was measured.

    Args:
        data: folder of the sets.
        device: where.
        rivals: whether to run others on the same inputs.
        name: of what is measured, in the rows.
    """

    def __init__(
        self, data: Path, device: torch.device, rivals: bool, name: str = "photos"
    ) -> None:
        self.data, self.device, self.rivals, self.name = data, device, rivals, name
        self.rows: list[dict[str, Any]] = []

    @cached_property
    def grey(self) -> Any:
        """The prior for grey pictures."""
        return jf.load_prior("photos-grey", device=self.device)

    @cached_property
    def patches(self) -> Any:
        """The prior of patches."""
        return jf.load_prior("patches", device=self.device)

    @property
    def colour(self) -> Any:
        """The prior for colour."""
        return jf.load_prior("photos", device=self.device)

    def pictures(self, name: str, channels: int = 1, only: set[str] | None = None) -> list[Tensor]:
        """Pictures [1, C, H, W] of a set."""
        found = load_pictures(self.data / name, channels)
        return [
            picture[None].to(self.device).float() / 255
            for picture, file in zip(found.pictures, found.names, strict=True)
            if (only is None or file in only) and file not in TRAINED_ON.get(name, set())
        ]

    def judge(
        self,
        part: str,
        row: dict[str, Any],
        pictures: list[Tensor],
        operator: jf.Operator | Callable[[Tensor], jf.Operator],
        sigma: float,
        prior: Any,
        rivals: dict[str, Callable[[Tensor, jf.Operator], Tensor]] | None = None,
    ) -> None:
        """Measure every picture, restore it by everybody, note the mean PSNR of each."""
        values: dict[str, list[float]] = {}
        for number, x in enumerate(pictures):
            made = operator if isinstance(operator, jf.Operator) else operator(x)
            made = made.to(self.device)
            generator = torch.Generator().manual_seed(number)
            noise = torch.randn(made.A(x).shape, generator=generator).to(self.device)
            y = made.A(x) + sigma / 255 * noise
            found = jf.restore(y, made, prior, sigma / 255).x
            values.setdefault(self.name, []).append(psnr(found, x))
            for name, rival in (rivals or {}).items():
                values.setdefault(name, []).append(psnr(rival(y, made), x))
        means = {name: round(statistics.mean(each), 3) for name, each in values.items()}
        self.rows.append({"part": part, **row, "sigma": sigma, "pictures": len(pictures), **means})
        print(self.rows[-1], flush=True)

    def total_variation(self, operator: Any, sigma: float) -> Callable[[Tensor, Any], Tensor]:
        """TV with the weight that is best on crops of two training pictures."""
        from jpmap_fast.experiments.baselines import TotalVariation

        def run(y: Tensor, made: Any, weight: float) -> Tensor:
            method = TotalVariation(weight=weight, max_iterations=500)
            return jf.restore(y, made, self.grey, sigma / 255, method=method).x

        train = self.pictures("bsds500_train")[:80:40]
        train = [x[..., 64:192, 64:192] for x in train]

        def score(weight: float) -> float:
            total = 0.0
            for x in train:
                made = operator if isinstance(operator, jf.Operator) else operator(x)
                made = made.to(self.device)
                generator = torch.Generator(self.device).manual_seed(1)
                y = made.measure(x, sigma / 255, generator=generator)
                total += psnr(run(y, made, weight), x)
            return total

        best = max(TV_WEIGHTS, key=score)
        return lambda y, made: run(y, made, best)

    @cached_property
    def epll(self) -> Any:
        """EPLL with the mixture of ``patches``, and a wide Gaussian of means."""
        from jpmap_fast.experiments.baselines import EPLL
        from jpmap_fast.experiments.baselines.mixture import deepinv_mixture

        mixture = self.patches.patch
        assert isinstance(mixture, jf.PatchMixture)
        covariances = (mixture.covariances + 1.0).float()
        return EPLL(deepinv_mixture(mixture.log_weights.softmax(0), covariances))

    def patch_likelihood(self, sigma: float) -> Callable[[Tensor, Any], Tensor]:
        """EPLL for blurs, with the levels of Zoran and Weiss: beta = 50, 100, ... 3200."""
        levels = tuple((50.0 * 2**n) ** -0.5 for n in range(7))
        method = replace(self.epll, noise_levels=levels, start=0.5)
        return lambda y, made: jf.restore(y, made, self.patches, sigma / 255, method=method).x


def psnr(found: Tensor, x: Tensor) -> float:
    """Of a picture rounded to 8 bits, in dB."""
    rounded = (found.clamp(0, 1) * 255).round() / 255
    return -10 * math.log10(float((rounded - x).square().mean()))


def denoising(bench: Bench) -> None:
    """BSD68 and Set12, grey."""
    for name in ("BSD68", "Set12"):
        pictures = bench.pictures(name)
        for sigma in (15, 25, 50):
            bench.judge("denoising", {"set": name}, pictures, jf.Denoising(), sigma, bench.grey)


def colour(bench: Bench) -> None:
    """Forty photographs kept out of all training."""
    pictures = bench.pictures("bsds500_test", 3, set(HELD_OUT.read_text().split()))
    for sigma in (25, 50):
        rivals = {"bm3d": _bm3d(sigma)} if bench.rivals else None
        row = {"set": "bsds500_test, held out"}
        bench.judge("colour", row, pictures, jf.Denoising(), sigma, bench.colour, rivals)


def _bm3d(sigma: float) -> Callable[[Tensor, Any], Tensor]:
    import bm3d

    def run(y: Tensor, made: Any) -> Tensor:
        picture = y[0].permute(1, 2, 0).cpu().double().numpy()
        found = torch.from_numpy(bm3d.bm3d_rgb(picture, sigma / 255)).float()
        return found.permute(2, 0, 1)[None].to(y.device)

    return run


def deblurring(bench: Bench) -> None:
    """Set12's pictures of 256 x 256: a Gaussian blur, and eight of a shaking hand."""
    pictures = [x for x in bench.pictures("Set12") if x.shape[-2:] == (256, 256)]
    kernels = {"gaussian 1.6": jf.gaussian_kernel(1.6, 25)}
    kernels |= {f"shake {n}": kernel for n, kernel in enumerate(shake_kernels(), 1)}
    for name, kernel in kernels.items():
        for sigma in (2.55,) if name.startswith("gaussian") else (2.55, 7.65):
            operator = jf.Blur(kernel)
            rivals = None
            if bench.rivals:
                tv = bench.total_variation(operator, sigma)
                rivals = {"total variation": tv, "EPLL": bench.patch_likelihood(sigma)}
            row = {"set": "Set12, 256 x 256", "kernel": name}
            bench.judge("deblurring", row, pictures, operator, sigma, bench.grey, rivals)


def super_resolution(bench: Bench) -> None:
    """Set5 in colour, from bicubic reductions and block means, without noise to speak of."""
    for factor in (2, 3, 4):
        pictures = [
            x[..., : x.shape[-2] // factor * factor, : x.shape[-1] // factor * factor]
            for x in bench.pictures("Set5", 3)
        ]

        def bicubic(y: Tensor, made: Any, factor: int = factor) -> Tensor:
            return F.interpolate(y, scale_factor=factor, mode="bicubic", align_corners=False)

        for kernel in ("bicubic", "box"):
            operator = jf.SuperResolution(factor, kernel)
            row = {"set": "Set5", "factor": factor, "kernel": kernel}
            rivals = {"bicubic": bicubic}
            bench.judge("super-resolution", row, pictures, operator, 0.5, bench.colour, rivals)


def inpainting(bench: Bench) -> None:
    """Set12 with half and four fifths of the pixels missing."""
    pictures = bench.pictures("Set12")
    for share in (0.5, 0.2):

        def masked(x: Tensor, share: float = share) -> jf.Operator:
            generator = torch.Generator().manual_seed(x.shape[-1])
            return jf.Inpainting((torch.rand(x.shape[-2:], generator=generator) < share).float())

        tv = bench.total_variation(masked, 10) if bench.rivals else None
        rivals = {"total variation": tv} if tv else None
        row = {"set": "Set12", "missing": f"{round(100 * (1 - share))}%"}
        bench.judge("inpainting", row, pictures, masked, 10, bench.grey, rivals)


def speed(bench: Bench) -> None:
    """Deblurring by a Restorer, one picture and many; denoising."""
    device = bench.device
    side = 512 if device.type == "cuda" else 256
    generator = torch.Generator().manual_seed(0)
    for name, operator, sigma in (
        ("denoising", jf.Denoising(), 25 / 255),
        ("deblurring", jf.Blur(jf.gaussian_kernel(1.6, 25)), 2.55 / 255),
    ):
        for batch in (1, 32) if device.type == "cuda" else (1,):
            x = torch.rand(batch, 1, side, side, generator=generator).to(device)
            served = jf.Restorer(
                operator.to(device),
                bench.grey,
                sigma,
                batch_size=batch,
                image_shape=(1, side, side),
            )
            y = operator.to(device).measure(x, sigma)

            def call(served: jf.Restorer = served, y: Tensor = y) -> Any:
                return served(y)

            seconds = median_seconds(call, device, 20 if device.type == "cuda" else 5, 2)
            row = {"problem": name, "side": side, "batch": batch, "ms": round(1e3 * seconds, 2)}
            row["per second"] = round(batch / seconds, 1)
            bench.rows.append({"part": "speed", **row})
            print(row, flush=True)


def merged(output: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a file with these put over those of the same problem, and behind them.

    What a run does not measure, such as others on the same inputs, stays as it was measured.
    """
    named = ("part", "set", "kernel", "factor", "missing", "picture", "problem", "side", "batch")

    def key(row: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(str(row.get(name)) for name in (*named, "sigma"))

    known = json.loads(output.read_text())["rows"] if output.is_file() else []
    both = {key(row): row for row in known}
    for row in rows:
        both[key(row)] = {**both.get(key(row), {}), **row}
    return list(both.values())


def tables(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The tables of the pages: quality, and time by the call."""
    named = ("set", "kernel", "factor", "missing")
    quality = [
        [
            row["part"],
            ", ".join(f"x{row[n]}" if n == "factor" else str(row[n]) for n in named if n in row),
            row["sigma"],
            row["pictures"],
            f"{row['photos']:.2f}",
            "; ".join(f"{n} {row[n]:.2f}" for n in RIVALS if n in row) or None,
        ]
        for row in rows
        if row["part"] != "speed"
    ]
    speed = [
        [row["problem"], f"{row['side']} x {row['side']}", row["batch"], row["ms"]]
        for row in rows
        if row["part"] == "speed"
    ]
    head = ["", "pictures", "noise, 255ths", "how many", "photos", "others, same inputs"]
    return {
        "quality": {"columns": head, "rows": quality, "note": "Mean PSNR in dB, 8 bits."},
        "speed": {"columns": ["", "size", "batch", "ms"], "rows": speed},
    }


RIVALS = ("total variation", "EPLL", "bicubic", "bm3d")
PARTS = {
    "denoising": denoising,
    "colour": colour,
    "deblurring": deblurring,
    "super-resolution": super_resolution,
    "inpainting": inpainting,
    "speed": speed,
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS))
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    output = arguments.output or RESULTS / f"photos_{device.type}.json"
    bench = Bench(arguments.data, device, arguments.rivals)
    for name in arguments.only or PARTS:
        begin = time.perf_counter()
        PARTS[name](bench)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        rows = merged(output, bench.rows)
        write(output, {"rows": rows, "tables": tables(rows)}, device)


if __name__ == "__main__":
    main()

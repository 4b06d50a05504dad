"""A hierarchical prior beside ``photos-grey`` on the same inputs: autoencoder and joint objective.

    python benchmarks/hierarchical.py --data FOLDER --prior WEIGHTS [--device cuda]
        [--only PART ...] [--pictures N] [--iterations N] [--output FILE]

FOLDER holds BSD68 and Set12. Parts: likelihood, denoising, deblurring, samples; and
joint-denoising and joint-deblurring, the joint objective at several temperatures on the first N
pictures of each set. Every row has the mean PSNR of pictures rounded to 8 bits: ``photos`` is
``photos-grey``, ``autoencoder`` the hierarchical prior by method "encoder", ``joint T`` its joint
objective at temperature T. Writes results/hierarchical_DEVICE.json after every part, and the
samples as a picture beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from photos import Bench
from PIL import Image
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf

TEMPERATURES = (0.0, 0.25, 0.5, 1.0)
SAMPLE_TEMPERATURES = (1.0, 0.85, 0.7)
SIGMAS = (15, 25, 50)
BLUR_SIGMA = 2.55
Rivals = dict[str, Callable[[Tensor, Any], Tensor]]


class HierarchicalBench(Bench):
    """That of the photographs, with a hierarchical prior.

    Args:
        data: folder of the sets.
        device: where.
        weights: of the prior.
        few: pictures of a set for what takes long.
        iterations: of the joint objective, at most.
        output: JSON file, beside which pictures lie.
    """

    def __init__(
        self,
        data: Path,
        device: torch.device,
        weights: Path,
        few: int,
        iterations: int,
        output: Path,
    ) -> None:
        super().__init__(data, device, rivals=False)
        self.prior = jf.load_prior(weights, device=device)
        if not isinstance(self.prior, jf.HierarchicalPhotoPrior):
            raise ValueError(
                f"--prior: expected a HierarchicalPhotoPrior, got {type(self.prior).__name__}"
            )
        self.few, self.iterations, self.output = few, iterations, output

    def methods(self, sigma: float, joint: bool) -> Rivals:
        """What restores with the hierarchical prior, by name."""

        def by(method: Any) -> Callable[[Tensor, Any], Tensor]:
            return lambda y, made: jf.restore(y, made, self.prior, sigma / 255, method=method).x

        found: Rivals = {"autoencoder": by("encoder")}
        if joint:
            for t in TEMPERATURES:
                method = jf.HierarchicalJPMAP(temperature=t, max_iterations=self.iterations)
                found[f"joint {t:g}"] = by(method)
        return found


def likelihood(bench: HierarchicalBench) -> None:
    """Bits a value of clean pictures, at most."""
    for name in ("BSD68", "Set12"):
        pictures = bench.pictures(name)
        bits = statistics.mean(float(bench.prior.log_likelihood_bound(x)) for x in pictures)
        row = {"part": "likelihood", "set": name, "pictures": len(pictures), "bits": round(bits, 3)}
        bench.rows.append({**row, "gamma, 255ths": round(255 * bench.prior.gamma, 2)})
        print(bench.rows[-1], flush=True)


def _denoising(bench: HierarchicalBench, part: str, joint: bool) -> None:
    for name in ("Set12", "BSD68"):
        pictures = bench.pictures(name)[: bench.few if joint else None]
        for sigma in SIGMAS:
            rivals = bench.methods(sigma, joint)
            bench.judge(part, {"set": name}, pictures, jf.Denoising(), sigma, bench.grey, rivals)


def _deblurring(bench: HierarchicalBench, part: str, joint: bool) -> None:
    pictures = [x for x in bench.pictures("Set12") if x.shape[-2:] == (256, 256)]
    row = {"set": "Set12, 256 x 256", "kernel": "gaussian 1.6"}
    operator, rivals = jf.Blur(jf.gaussian_kernel(1.6, 25)), bench.methods(BLUR_SIGMA, joint)
    few = pictures[: bench.few if joint else None]
    bench.judge(part, row, few, operator, BLUR_SIGMA, bench.grey, rivals)


def samples(bench: HierarchicalBench) -> None:
    """A row of six samples of 128 x 128 for every temperature, as a PNG file."""
    rows = []
    for temperature in SAMPLE_TEMPERATURES:
        generator = torch.Generator().manual_seed(0)
        x = bench.prior.sample(6, (128, 128), temperature=temperature, generator=generator)
        rows.append(x[:, 0].clamp(0, 1).permute(1, 0, 2).reshape(128, -1))
    path = bench.output.with_suffix(".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet = (255 * torch.cat(rows)).round().byte().cpu().numpy()
    Image.fromarray(np.ascontiguousarray(sheet)).save(path)
    print(f"written: {path}")


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean PSNR, a line for each part, set and noise level."""
    names = ("photos", "autoencoder", *(f"joint {t:g}" for t in TEMPERATURES))
    lines = [
        [row["part"], row["set"], row["sigma"], row["pictures"], *(row.get(n) for n in names)]
        for row in rows
        if "sigma" in row
    ]
    head = ["", "pictures", "noise, 255ths", "how many", *names]
    return {"columns": head, "rows": lines, "note": "Mean PSNR in dB, 8 bits."}


PARTS: dict[str, Callable[[HierarchicalBench], None]] = {
    "likelihood": likelihood,
    "samples": samples,
    "denoising": lambda bench: _denoising(bench, "denoising", joint=False),
    "deblurring": lambda bench: _deblurring(bench, "deblurring", joint=False),
    "joint-denoising": lambda bench: _denoising(bench, "joint-denoising", joint=True),
    "joint-deblurring": lambda bench: _deblurring(bench, "joint-deblurring", joint=True),
}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--prior", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="*", choices=tuple(PARTS))
    parser.add_argument("--pictures", type=int, default=6)
    parser.add_argument("--iterations", type=int, default=10)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    output = arguments.output or RESULTS / f"hierarchical_{device.type}.json"
    bench = HierarchicalBench(
        arguments.data, device, arguments.prior, arguments.pictures, arguments.iterations, output
    )
    for name in arguments.only or PARTS:
        begin = time.perf_counter()
        PARTS[name](bench)
        print(f"{name}: {time.perf_counter() - begin:.0f} s", flush=True)
        write(output, {"rows": bench.rows, "table": table(bench.rows)}, device)


if __name__ == "__main__":
    main()

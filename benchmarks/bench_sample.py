"""Images a second of `sample` and of a `Sampler`, truths of the prior `mnist`.

    python benchmarks/bench_sample.py [--device cuda] [--batches 64 1024 8192] [--output FILE]
        [--problems ...] [--profile]

512 draws an image in three rounds; `sample` does extra rounds, more starts and chains where its
defaults ask for them, a `Sampler` none. ``codes`` has moments and codes (draws=0), ``draws`` 100
images an image besides. A run is the median of three after one that warms up; memory is the peak of
torch's allocator. --profile prints where the time of the last batch goes.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import torch
from posterior_calibration import SHAPE, SIGMA, STUDIED, operator
from timer import RESULTS, median_seconds, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._versions import device_name


def measured(name: str, batch: int, device: torch.device) -> tuple[Tensor, jf.Operator, float]:
    """Measurements of truths of the prior, their operator and noise level."""
    prior = jf.load_prior("mnist")
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        x = prior.decode(torch.randn(batch, prior.latent_dim, generator=g))
        x = x + prior.gamma * torch.randn(batch, *SHAPE, generator=g)
    whole, sigma = operator(name, batch, g), SIGMA.get(name, 10 / 255)
    y = whole.measure(x, sigma=sigma, generator=g)
    return y.to(device), whole.to(device), sigma


def speed(name: str, batch: int, device: torch.device, profile: bool) -> dict[str, Any]:
    """Images a second of one problem and batch."""
    y, whole, sigma = measured(name, batch, device)
    prior = jf.load_prior("mnist", device=device)
    found: dict[str, Any] = {"problem": name, "batch": batch}

    def run(draws: int) -> jf.Posterior:
        g = torch.Generator().manual_seed(0)
        return jf.sample(y, whole, prior, sigma, draws=draws, generator=g)

    for kind, draws in (("codes", 0), ("draws", 100)):
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = median_seconds(lambda d=draws: run(d), device, repeats=3, warm_up=1)
        found[f"{kind}_images_a_second"] = round(batch / seconds)
        if device.type == "cuda":
            found[f"{kind}_peak_GB"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
    sampler = jf.Sampler(whole, prior, sigma, batch_size=batch, draws=0)
    g = torch.Generator().manual_seed(0)
    seconds = median_seconds(partial(sampler, y, g), device, repeats=5, warm_up=1)
    found["sampler_images_a_second"] = round(batch / seconds)
    found["sampler_trusted_%"] = round(100 * float(sampler(y, g).converged.double().mean()), 1)
    posterior = run(0)
    found["converged_%"] = round(100 * posterior.status.count("converged") / batch, 1)
    found["evaluations_mean"] = round(float(posterior.evaluations.double().mean()))
    print(found, flush=True)
    if profile:
        print(profiled(lambda: run(0), device))
    return found


def profiled(function: Any, device: torch.device) -> str:
    """A table of the operators that take most of a call."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as kept:
        function()
    order = "self_cuda_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return kept.key_averages().table(sort_by=order, row_limit=25, max_name_column_width=60)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batches", type=int, nargs="+", default=None)
    parser.add_argument("--problems", nargs="+", default=list(STUDIED))
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    batches = chosen.batches or ([64, 1024, 8192] if device.type == "cuda" else [1, 64])
    rows = [
        speed(name, batch, device, chosen.profile and batch == batches[-1])
        for name in chosen.problems
        for batch in batches
    ]
    path = chosen.output or RESULTS / f"sample_{device.type}.json"
    columns = ["problem", "batch", "sample", "with 100 draws", "Sampler", "trusted by it, %"]
    keys = ("problem", "batch", "codes_images_a_second", "draws_images_a_second")
    keys += ("sampler_images_a_second", "sampler_trusted_%")
    note = f"Images a second on {device_name(device)}, 512 draws of codes an image."
    table = {"columns": columns, "rows": [[row[key] for key in keys] for row in rows], "note": note}
    write(path, {"sample": rows, "table": table}, device)


if __name__ == "__main__":
    main()

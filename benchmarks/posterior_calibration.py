"""Is `sample` calibrated, how many draws are its draws worth, and does E[x | y] pay?

    OMP_NUM_THREADS=1 python benchmarks/posterior_calibration.py [--truths 600]
        [--problems denoising blur ...] [--digits FILE]

For each problem, with the prior `mnist`:

- simulation-based calibration: truths of the prior, 99 draws each; the rank of the truth among the
  draws in each code, the log density, |z|, the centre pixel, the mean of x and ||x - E[x | y]||, 20
  bins, chi-square p-values; how often 90% sets cover; the same with the weights left out, which has
  to be refused;
- effective draws, k-hat, misfits of truths, log evidence against 16,384 draws;
- on digits of the test set: PSNR of E[x | y] against JPMAP(starts=8), the deepest of many modes;
- the time of a call without draws of x, CPU seconds of one thread, the least of some calls;
- with --digits, an .npz file of MNIST with ``x_test``, for the first three: how often 90% intervals
  and balls of ``jf.Calibration`` cover its first 2,000 digits, calibrated on the 1,000 after them.

Writes results/posterior_<device>.json; a problem measured anew replaces its old entry.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timer import RESULTS, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._metrics import psnr
from jpmap_fast._prepared import prepare
from jpmap_fast.experiments.posterior_ranks import DRAWS, all_ranks, chi_square_p
from jpmap_fast.sampling.model import Model

SHAPE = (1, 28, 28)
SIGMA = {"denoising": 110 / 255}
# Digits whose coverage is measured, and those that calibrate it.
TESTED, FITTED = 2000, 1000


def operator(name: str, count: int, generator: torch.Generator) -> jf.Operator:
    """The operator of a problem, for ``count`` images."""
    if name == "denoising":
        return jf.Denoising()
    if name == "inpainting":
        return jf.Inpainting(jf.random_masks(count, SHAPE, 0.8, generator))
    if name == "compressed-sensing":
        return jf.CompressedSensing.gaussian(140, SHAPE, generator)
    if name == "blur":
        return jf.Blur(jf.gaussian_kernel(1.5))
    if (
        name == "linear-operator"
    ):  # rows and columns summed over four pixels, by conjugate gradients
        return jf.LinearOperator(
            lambda x: x.unflatten(2, (7, 4)).sum(3),
            lambda y: y[:, :, :, None].expand(-1, -1, -1, 4, -1).flatten(2, 3) * 1.0,
        )
    raise ValueError(name)


# Those of the study that the sampler goes back to, and two more.
STUDIED = ("denoising", "inpainting", "compressed-sensing")
PROBLEMS = (*STUDIED, "blur", "linear-operator")


def calibration(name: str, truths: int, method: Any) -> dict[str, Any]:
    """Simulation-based calibration on truths of the prior."""
    prior = jf.load_prior("mnist")
    g = torch.Generator().manual_seed(7)
    sigma = SIGMA.get(name, 10 / 255)
    z = torch.randn(truths, prior.latent_dim, generator=g)
    with torch.no_grad():
        x = prior.decode(z) + prior.gamma * torch.randn(truths, *SHAPE, generator=g)
    whole = operator(name, truths, g)
    y = whole.measure(x, sigma=sigma, generator=g)
    bound = whole.bind(SHAPE, truths, like=y)
    kept: dict[str, list[Tensor]] = {}
    seconds = 0.0
    for rows in torch.arange(truths).split(50):
        part = bound.select(rows).operator
        began = time.perf_counter()
        found = jf.sample(y[rows], part, prior, sigma, draws=DRAWS, method=method, generator=g)
        seconds += time.perf_counter() - began
        told = all_ranks(found, z[rows], x[rows], (y[rows], part, prior, sigma), g)
        below = (found.x < x[rows][:, None]).sum(dim=1)
        told["pixels"] = ((below >= 5) & (below < 95)).double().flatten(1).mean(dim=1)
        for key in ("ess", "pareto_k", "misfit_p_value", "evaluations", "log_evidence"):
            told[key] = getattr(found, key)
        for key, value in told.items():
            kept.setdefault(key, []).append(value)
    of = {key: torch.cat(value) for key, value in kept.items()}
    statistics = [key for key in of if of[key].dtype == torch.int64 and key != "evaluations"]
    p = {key: chi_square_p(of[key]) for key in statistics}
    own = {key: value for key, value in p.items() if not key.startswith("bare")}
    codes = torch.stack([of[f"z{i + 1}"] for i in range(z.shape[1])])
    return {
        "truths": truths,
        "sbc_p": {key: round(value, 5) for key, value in own.items()},
        "sbc_least_p": round(min(own.values()), 5),
        "without_weights_least_p": min(v for key, v in p.items() if key.startswith("bare")),
        "coverage_of_90%": {
            "z, highest density": percent(of["log density"] >= 10),
            "z, marginals": percent((codes >= 5) & (codes < 95)),
            "pixels": round(100 * float(of["pixels"].mean()), 1),
            "||x - mean||": percent(of["||x - mean||"] < 90),
        },
        "ess_median": round(float(of["ess"].median())),
        "ess_1%": round(float(of["ess"].quantile(0.01))),
        "pareto_k_above_0.7_%": percent(~(of["pareto_k"] <= 0.7)),
        "misfit_flagged_%": percent(of["misfit_p_value"] < 0.01),
        "evaluations_mean": round(float(of["evaluations"].double().mean())),
        "ms_per_image_with_99_draws": round(1e3 * seconds / truths, 1),
        **first_rounds(y[:100], bound.select(torch.arange(100)).operator, prior, sigma),
    }


def first_rounds(y: Tensor, part: jf.Operator, prior: jf.Prior, sigma: float) -> dict[str, Any]:
    """Draws of 512 without extra rounds, and their log evidence against 16,384, of 100 truths."""
    g = torch.Generator().manual_seed(3)
    options: dict[str, Any] = {"draws": 0, "generator": g}
    short = jf.sample(
        y, part, prior, sigma, method=jf.AMIS(extra_rounds=0, fallback=None), **options
    )
    rounds = (1024, 1024, 2048, 4096, 8192)
    few = slice(0, 40)
    bound = part.bind(SHAPE, len(y), like=y).select(torch.arange(40)).operator
    way = jf.AMIS(rounds=rounds, extra_rounds=0, fallback=None)
    long = jf.sample(y[few], bound, prior, sigma, method=way, **options)
    apart = (short.log_evidence[few] - long.log_evidence).abs()
    told: dict[str, Any] = {
        "ess_a_draw_median": round(float(short.ess.median()) / 512, 3),
        "ess_at_least_100_%": percent(short.ess >= 100),
    }
    good = apart[(short.pareto_k[few] <= 0.7) & torch.isfinite(apart)]
    if good.numel():  # known for operators with a determinant alone
        told["log_evidence_apart_median"] = round(float(good.median()), 4)
        told["log_evidence_apart_99%"] = round(float(good.quantile(0.99)), 4)
    return {"first_512": told}


def digits(name: str, count: int) -> dict[str, Any]:
    """Real digits: PSNR of E[x | y], deepest modes."""
    g = torch.Generator().manual_seed(5)
    sigma = SIGMA.get(name, 10 / 255)
    x = jf.mnist_test_digits(count)[0]
    part = operator(name, count, g)
    y = part.measure(x, sigma=sigma, generator=g)
    began = time.perf_counter()
    found = jf.sample(y, part, "mnist", sigma, draws=0, generator=g)
    seconds = time.perf_counter() - began
    several = jf.restore(y, part, "mnist", sigma, method=jf.JPMAP(starts=8), generator=g)
    many = jf.restore(y, part, "mnist", sigma, method=jf.JPMAP(starts=48), generator=g)
    with torch.no_grad():
        model = Model(prepare(y, part, "mnist", sigma).problem)
        ends = torch.stack((found.modes[:, 0], many.z), dim=1).double()
        height = model.log_joint(ends)
    gain = psnr(found.mean, x) - psnr(several.x, x)
    boot = torch.randint(count, (4000, count), generator=g)
    spread = gain[boot].mean(dim=1)
    return {
        "digits": count,
        "psnr_mean": round(float(psnr(found.mean, x).mean()), 2),
        "psnr_jpmap_8_starts": round(float(psnr(several.x, x).mean()), 2),
        "psnr_gain": round(float(gain.mean()), 3),
        "psnr_gain_95%": [round(float(spread.quantile(q)), 3) for q in (0.025, 0.975)],
        "deepest_mode_found_%": percent(height[:, 0] >= height[:, 1] - 0.5),
        "ess_at_least_100_%": percent(found.ess >= 100),
        "pareto_k_above_0.7_%": percent(~(found.pareto_k <= 0.7)),
        "misfit_flagged_%": percent(found.misfit_p_value < 0.01),
        "ms_per_image": round(1e3 * seconds / count, 1),
    }


def times(name: str, repeats: int = 7) -> dict[str, float]:
    """Milliseconds an image and core of calls with draws=0, on truths and on digits."""
    prior, sigma = jf.load_prior("mnist"), SIGMA.get(name, 10 / 255)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    told = {}
    for what, batch in (("truths", 16), ("truths", 64), ("digits", 64)):
        g = torch.Generator().manual_seed(11)
        if what == "digits":
            x = jf.mnist_test_digits(batch)[0]
        else:
            z = torch.randn(batch, prior.latent_dim, generator=g)
            with torch.no_grad():
                x = prior.decode(z) + prior.gamma * torch.randn(batch, *SHAPE, generator=g)
        part = operator(name, batch, g)
        y = part.measure(x, sigma=sigma, generator=g)
        best = float("inf")
        for _ in range(repeats):
            began = time.process_time()
            jf.sample(y, part, prior, sigma, draws=0, generator=g.manual_seed(1))
            best = min(best, time.process_time() - began)
        told[f"{what}, batch {batch}"] = round(1e3 * best / batch, 2)
    torch.set_num_threads(threads)
    return told


def real_coverage(name: str, file: Path) -> dict[str, Any]:
    """How often calibrated 90% intervals and balls cover digits of the test set, in per cent."""
    g = torch.Generator().manual_seed(13)
    sigma = SIGMA.get(name, 10 / 255)
    x = torch.from_numpy(np.load(file)["x_test"][: TESTED + FITTED]).float()[:, None] / 255
    whole = operator(name, len(x), g).bind(SHAPE, len(x), like=x)
    held, other = torch.arange(TESTED), torch.arange(TESTED, TESTED + FITTED)
    made = jf.calibrate("mnist", whole.select(other).operator, sigma, x[other], generator=g)
    kept: dict[str, list[Tensor]] = {}
    for rows in held.split(250):
        part = whole.select(rows).operator
        y = part.measure(x[rows], sigma=sigma, generator=g)
        found = jf.sample(y, part, "mnist", sigma, draws=0, generator=g)
        low, high = found.interval(0.9, made)
        apart = (x[rows] - found.mean).flatten(1).double()
        told = {
            "inside": (x[rows] >= low) & (x[rows] <= high),
            "bin": torch.bucketize(found.decoded.contiguous(), torch.tensor(made.edges)),
            "ball": apart.norm(dim=1) <= made.radius(found),
            "white ball": apart.norm(dim=1) <= found.var.double().sum(dim=(1, 2, 3)).sqrt(),
        }
        for key, value in told.items():
            kept.setdefault(key, []).append(value)
    of = {key: torch.cat(value) for key, value in kept.items()}
    by_bin = [percent(of["inside"][of["bin"] == b]) for b in range(len(made.edges) + 1)]
    return {
        "digits": TESTED,
        "calibrated_on": FITTED,
        "pixels": percent(of["inside"]),
        "pixels_by_grey_value": by_bin,
        "||x - mean||": percent(of["ball"]),
        "||x - mean|| within its expectation, uncalibrated": percent(of["white ball"]),
    }


def tables(found: dict[str, Any]) -> dict[str, Any]:
    """The tables of the pages: on truths of the prior, and on real digits."""
    truths = [
        [
            name,
            of["truths"],
            of["sbc_least_p"],
            of["without_weights_least_p"],
            *(of["coverage_of_90%"][key] for key in ("z, marginals", "pixels", "||x - mean||")),
            of["ess_median"],
            of["ms_per_image_and_core"]["truths, batch 16"],
        ]
        for name, of in found.items()
    ]
    head = ["", "truths", "least p", "without weights", "z, %", "pixels, %", "norm(x - mean), %"]
    real = [
        [
            name,
            of["real"]["psnr_gain"],
            " to ".join(f"{end:+.2f}" for end in of["real"]["psnr_gain_95%"]),
            of["real"]["deepest_mode_found_%"],
            of["real"]["misfit_flagged_%"],
            *(of.get("real_90%", {}).get(key) for key in ("pixels", "||x - mean||")),
        ]
        for name, of in found.items()
    ]
    columns = ["", "gain of the mean, dB", "95%", "deepest mode, %", "misfits, %", "pixels, %"]
    return {
        "truths": {
            "columns": [*head, "ESS of 512", "ms an image and core"],
            "rows": truths,
            "note": "Coverage is that of sets of 90%; p of ranks, the least of 13 statistics.",
        },
        "real": {
            "columns": [*columns, "norm(x - mean), %"],
            "rows": real,
            "note": "Coverage is that of calibrated sets of 90%, on 2,000 digits.",
        },
    }


def percent(condition: Tensor) -> float:
    """How often it holds, in per cent."""
    return round(100 * float(condition.double().mean()), 1)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--truths", type=int, default=600)
    parser.add_argument("--bundled", type=int, default=200, help="digits of the package")
    parser.add_argument("--digits", type=Path, help="an .npz file with x_test")
    parser.add_argument("--problems", nargs="+", default=PROBLEMS, choices=PROBLEMS)
    options = parser.parse_args()
    place = RESULTS / "posterior_cpu.json"
    found: dict[str, Any] = json.loads(place.read_text()) if place.is_file() else {}
    for name in options.problems:
        found[name] = calibration(name, options.truths, jf.AMIS())
        found[name]["real"] = digits(name, options.bundled)
        found[name]["ms_per_image_and_core"] = times(name)
        if options.digits is not None and name in STUDIED:
            found[name]["real_90%"] = real_coverage(name, options.digits)
        print(name, found[name], flush=True)
        kept = {k: v for k, v in found.items() if k in PROBLEMS}
        write(place, {**kept, "tables": tables(kept)}, torch.device("cpu"))


if __name__ == "__main__":
    main()

"""What draws of codes with 64 entries are worth: `sample` with the prior `faces`.

    python benchmarks/posterior_faces.py [--device cuda] [--truths 64] [--faces FILE --images 32]
        [--residuals white covariance] [--output FILE]

Truths of the prior, and with --faces an .npz file with ``x``, [N, 3, 64, 64] in [0, 1], held-out
faces. For each problem: effective draws and k-hat of what importance sampling gave, how often
chains had to go on and whether they agree, coverage of 90% intervals (codes of truths, pixels of
both; +-3.7 points of two standard errors would be 64 independent truths), E[x | y] against JPMAP in
dB, seconds an image. A problem measured anew replaces its old entry.
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
from jpmap_fast._versions import device_name
from jpmap_fast.sampling.weighted import MALA_DRAWS

DRAWS = 99
SIGMA = {"denoising": 0.2, "inpainting": 10 / 255, "blur": 10 / 255}


def operator(name: str, count: int, shape: tuple[int, ...], g: torch.Generator) -> jf.Operator:
    """The operator of a problem for ``count`` pictures."""
    if name == "denoising":
        return jf.Denoising()
    if name == "inpainting":
        return jf.Inpainting(jf.random_masks(count, shape, 0.8, g))
    return jf.Blur(jf.gaussian_kernel(1.5))


def truths(prior: jf.Prior, count: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Codes and pictures of the prior, with its noise."""
    z = torch.randn(count, prior.latent_dim, generator=g)
    device = next(prior.parameters()).device
    noise = prior.gamma * torch.randn(count, *prior.image_shape, generator=g)
    return z, prior.decode(z.to(device)).cpu() + noise


def measured(
    name: str, x: Tensor, z: Tensor | None, prior: jf.Prior, residual: str, device: torch.device
) -> dict[str, Any]:
    """What is told of the pictures x [B, C, H, W] of one problem, drawn with codes z or real."""
    g = torch.Generator().manual_seed(11)
    whole, sigma = operator(name, len(x), tuple(x.shape[1:]), g), SIGMA[name]
    y, whole, x = (
        whole.measure(x, sigma=sigma, generator=g).to(device),
        whole.to(device),
        x.to(device),
    )
    model = None if residual == "white" else residual
    begin = time.perf_counter()
    p = jf.sample(y, whole, prior, sigma, draws=DRAWS, residual=model, generator=g)
    seconds = time.perf_counter() - begin
    best = jf.restore(y, whole, prior, sigma, residual=model, generator=g)
    gain = (psnr(p.mean, x) - psnr(best.x, x)).double()
    chains = p.sampler == MALA_DRAWS
    below = (p.x < x[:, None]).sum(dim=1)
    found = {
        "problem": name,
        "pictures": "truths" if z is not None else "held-out faces",
        "residual": residual,
        "count": len(x),
        "ess_median": round(float(p.ess.median())),
        "ess_least": round(float(p.ess.min())),
        "pareto_k_median": round(float(p.pareto_k[~chains].median()), 2),
        "chains_%": percent(chains),
        "r_hat_above_1.05_%": percent(p.r_hat > 1.05),
        "converged_%": round(100 * p.status.count("converged") / len(x), 1),
        "misfits_%": percent(p.misfit_p_value < 0.01),
        "pixels_%": percent((below >= 5) & (below < 95)),
        "gain_of_mean_dB": round(float(gain.mean()), 3),
        "gain_error_dB": round(float(gain.std() / len(gain) ** 0.5), 3),
        "psnr_restored_dB": round(float(psnr(best.x, x).mean()), 2),
        "seconds_an_image": round(seconds / len(x), 3),
    }
    if z is not None:
        rank = (p.z < z.to(device)[:, None]).sum(dim=1)
        found["codes_%"] = percent((rank >= 5) & (rank < 95))
    print(found, flush=True)
    return found


def table(rows: list[dict[str, Any]], device: torch.device) -> dict[str, Any]:
    """For the pages."""
    columns = {
        "problem": "problem",
        "pictures": "pictures",
        "residual": "model of p(x given z)",
        "count": "number",
        "ess_median": "ESS",
        "chains_%": "chains, %",
        "converged_%": "trusted, %",
        "misfits_%": "misfits, %",
        "codes_%": "codes, %",
        "pixels_%": "pixels, %",
        "psnr_restored_dB": "restored, dB",
        "gain_of_mean_dB": "gain of the mean, dB",
        "seconds_an_image": "seconds an image",
    }
    cells = [[row.get(key) for key in columns] for row in rows]
    note = f"Coverage is that of 90% intervals. On {device_name(device)}."
    return {"columns": list(columns.values()), "rows": cells, "note": note}


def percent(hit: Tensor) -> float:
    """How often, in per cent."""
    return round(100 * float(hit.double().mean()), 1)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--truths", type=int, default=64)
    parser.add_argument("--faces", type=Path)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--problems", nargs="+", default=list(SIGMA), choices=list(SIGMA))
    parser.add_argument("--residuals", nargs="+", default=["white"])
    parser.add_argument("--output", type=Path)
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    prior = jf.load_prior("faces", device=device)
    path = chosen.output or RESULTS / f"posterior_faces_{device.type}.json"
    rows = json.loads(path.read_text())["rows"] if path.exists() else []
    for residual in chosen.residuals:
        for name in chosen.problems:
            z, x = truths(prior, chosen.truths, torch.Generator().manual_seed(5))
            # Truths of the white model say nothing of another.
            new = [measured(name, x, z, prior, residual, device)] if residual == "white" else []
            if chosen.faces:
                faces = torch.from_numpy(np.load(chosen.faces)["x"][: chosen.images]).float()
                new.append(measured(name, faces, None, prior, residual, device))
            keys = [(row["problem"], row["pictures"], row["residual"]) for row in new]
            rows = [
                r for r in rows if (r["problem"], r["pictures"], r["residual"]) not in keys
            ] + new
            write(path, {"rows": rows, "table": table(rows, device)}, device)


if __name__ == "__main__":
    main()

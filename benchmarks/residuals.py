"""Models of p(x|z) beside white noise: decibels and seconds on the same measurements, in one run.

    python benchmarks/residuals.py [--images 500] [--device cuda]

The bundled prior ``mnist`` on test digits that none of its models was fitted on. For every problem
and model the mean PSNR of JPMAP()'s x, what it is over the white model with the 95% bootstrap
interval of the mean difference, and the median time of a batch of 64 over that of the white model.
Writes results/residuals_DEVICE.json.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from timer import RESULTS, median_seconds, write

import jpmap_fast as jf
from jpmap_fast.experiments.statistics import bootstrap_interval

MODELS = ("white", "pixel", "covariance", "grey")
TIMED = 64


def problems(number: int) -> dict[str, tuple[jf.Operator, float]]:
    """Operators by name, with the deviation of their noise."""
    shape, generator = (1, 28, 28), torch.Generator().manual_seed(5)
    masks = jf.random_masks(number, shape, 0.8, generator)
    return {
        "denoising, 110/255": (jf.Denoising(), 110 / 255),
        "80% missing, a mask each, 10/255": (jf.Inpainting(masks), 10 / 255),
        "80% missing, one mask, 10/255": (jf.Inpainting(masks[0]), 10 / 255),
        "140 random measurements, 10/255": (
            jf.CompressedSensing.gaussian(140, shape, generator),
            10 / 255,
        ),
        "blur 1.5, 10/255": (jf.Blur(jf.gaussian_kernel(1.5)), 10 / 255),
        "super-resolution x2, 10/255": (jf.SuperResolution(2), 10 / 255),
    }


def compared(
    name: str, operator: jf.Operator, sigma: float, digits: torch.Tensor
) -> list[dict[str, Any]]:
    """A row for each model that the operator can have."""
    device = digits.device
    generator = torch.Generator().manual_seed(6)
    y = operator.measure(digits.cpu(), sigma, generator=generator).to(device)
    operator = operator.to(device)
    some = operator.select(torch.arange(TIMED, device=device))
    rows, white, base = [], None, None
    for model in MODELS:
        if model == "grey" and not isinstance(operator, (jf.Denoising, jf.Inpainting)):
            continue
        result = jf.restore(y, operator, PRIOR.to(device), sigma, residual=model)
        quality = jf.psnr(result.x, digits).double().cpu()

        def once(model: str = model) -> None:
            jf.restore(y[:TIMED], some, PRIOR, sigma, residual=model)

        seconds = median_seconds(once, device, repeats=5, warm_up=1)
        white = quality if white is None else white
        base = seconds if base is None else base
        gain = quality - white
        low, high = bootstrap_interval(gain) if model != "white" else (0.0, 0.0)
        rows.append(
            {
                "problem": name,
                "residual": model,
                "psnr": float(quality.mean()),
                "gain": float(gain.mean()),
                "interval": [low, high],
                "seconds over white": seconds / base,
                "converged": int(result.converged.sum()),
                "path": result.path,
            }
        )
        print(rows[-1], flush=True)
    return rows


def table(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """One line a problem."""
    lines = []
    for name in dict.fromkeys(row["problem"] for row in rows):
        own = {row["residual"]: row for row in rows if row["problem"] == name}
        cells: list[Any] = [name, f"{own['white']['psnr']:.2f}"]
        for model in MODELS[1:]:
            row = own.get(model)
            if row is None:
                cells.append("-")
                continue
            low, high = row["interval"]
            time = f"x{row['seconds over white']:.1f} time"
            cells.append(f"{row['gain']:+.2f} [{low:.2f}, {high:.2f}], {time}")
        lines.append(cells)
    return {"columns": ["problem", "white, dB", *MODELS[1:]], "rows": lines}


PRIOR = jf.load_prior("mnist")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    digits = jf.mnist_test_digits(arguments.images)[0].to(device)
    rows = []
    for name, (operator, sigma) in problems(len(digits)).items():
        rows += compared(name, operator, sigma, digits)
    found = {"images": len(digits), "table": table(rows), "rows": rows}
    write(RESULTS / f"residuals_{device.type}.json", found, device)


if __name__ == "__main__":
    main()

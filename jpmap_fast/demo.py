"""The demo: bundled test digits, degraded in three ways, restored by CSGM and by JPMAP."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast import figures
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm
from jpmap_fast.data.digits import mnist_test_digits
from jpmap_fast.masks import random_masks
from jpmap_fast.metrics import psnr, ssim
from jpmap_fast.operators import CompressedSensing, Denoising, Inpainting, Operator
from jpmap_fast.priors import Prior, load_prior
from jpmap_fast.restore import restore
from jpmap_fast.result import Result
from jpmap_fast.versions import versions

MISSING = 0.8
MEASUREMENTS = 140
COLUMNS = 10  # images in a figure

NOTES = {
    "sigma": "standard deviation of the noise, for pixel values in [0, 1]",
    "psnr": "of the restored image x, in dB, values in [0, 1] and not clipped; for CSGM x = G(z)",
    "psnr_decoded": "of the decoded code G(z)",
    "j1": "J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + ||z||^2 / 2 at "
    "beta = 1/gamma^2, over all of y. For CSGM x is the exact minimiser of J1 for the z it found, "
    "so that both methods are compared by one yardstick; its other figures are those of x = G(z)",
    "seconds": "wall time of one call on all images, divided by the number of images, after one "
    "call on a single image that is not counted",
    "means": "over all images; per_image holds the single values",
}


@dataclass(frozen=True)
class _Problem:
    """One degradation of the clean images."""

    name: str
    title: str
    operator: Operator
    sigma: float
    measured_label: str
    measured_detail: str
    display: Callable[[Tensor], Tensor]  # measurements y to images that can be shown


@dataclass(frozen=True)
class _Run:
    """One method on one problem."""

    result: Result
    psnr: Tensor  # [B]
    psnr_decoded: Tensor  # [B]
    ssim: Tensor  # [B]
    j1: Tensor  # [B]
    seconds: float


def run_demo(
    output: str | Path,
    images: int = 32,
    *,
    prior: Prior | str | Path = "mnist",
    seed: int = 0,
    device: str | torch.device = "cpu",
    csgm: CSGM | None = None,
    jpmap: JPMAP | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Restore MNIST test digits from noise, from 20% of their pixels and from 140 measurements.

    Writes ``results.json`` and a figure for each problem into ``output``.

    Args:
        output: folder, made if need be.
        images: number of bundled test digits, 1 to 500.
        prior: a prior for images [1, 28, 28], or its name or path.
        seed: of masks, measurement matrix, noise and random starts.
        device: where to compute.
        csgm: settings of the baseline; ``CSGM()`` if None.
        jpmap: settings of the method; ``JPMAP()`` if None.
        progress: show a progress bar.

    Returns:
        What ``results.json`` holds.

    Raises:
        ImportError: matplotlib or torchmetrics (the extra ``demo``) is not installed.
        ValueError: a setting is out of range, or the prior is for other images.
        OSError: the folder cannot be written.
    """
    started = time.perf_counter()
    clean, labels = mnist_test_digits(images)
    ssim(clean[:1], clean[:1])  # a missing extra is reported before any work
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    model = load_prior(prior) if isinstance(prior, (str, Path)) else prior
    if tuple(model.image_shape) != tuple(clean.shape[1:]):
        raise ValueError(
            f"prior: expected one for images of shape {list(clean.shape[1:])}, "
            f"got {list(model.image_shape)}"
        )
    if isinstance(model, torch.nn.Module):
        model = model.to(device)
    methods: dict[str, Algorithm] = {"csgm": csgm or CSGM(), "jpmap": jpmap or JPMAP()}
    generator = torch.Generator().manual_seed(seed)
    problems = _problems(clean, generator)
    results: dict[str, Any] = {
        "settings": {
            "images": images,
            "labels": labels.tolist(),
            "seed": seed,
            "prior": str(prior) if isinstance(prior, (str, Path)) else type(prior).__name__,
            "gamma": float(model.gamma),
            "beta": float(model.gamma) ** -2,
            "device": str(device),
            "threads": torch.get_num_threads(),
            "methods": {name: _settings(method) for name, method in methods.items()},
        },
        "notes": NOTES,
        "versions": versions(),
        "problems": {},
    }
    with _Bar(progress, len(problems) * (len(methods) + 1)) as bar:
        for problem in problems:
            y = problem.operator.measure(clean, problem.sigma, generator=generator)
            runs = {}
            for name, method in methods.items():
                bar.describe(f"{problem.name}: {name}")
                runs[name] = _run(problem, y, clean, model, method, seed, torch.device(device))
                bar.advance()
            bar.describe(f"{problem.name}: figure")
            figure = folder / f"{problem.name}.png"
            _draw(figure, problem, clean, y, runs)
            bar.advance()
            results["problems"][problem.name] = {
                "title": problem.title,
                "sigma": problem.sigma,
                "figure": figure.name,
                **{name: _summary(run) for name, run in runs.items()},
            }
    results["seconds_total"] = time.perf_counter() - started
    text = json.dumps(results, indent=2, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    return results


def format_table(results: dict[str, Any]) -> str:
    """The means of ``run_demo`` as a table in plain text."""
    header = ("problem", "method", "PSNR x", "PSNR G(z)", "SSIM", "J1", "converged", "ms/image")
    lines = [header]
    count = results["settings"]["images"]
    for name, problem in results["problems"].items():
        for method in results["settings"]["methods"]:
            row = problem[method]
            lines.append(
                (
                    name,
                    method,
                    *(_number(row[key], 2) for key in ("psnr", "psnr_decoded")),
                    _number(row["ssim"], 3),
                    _number(row["j1"], 1),
                    f"{row['converged']}/{count}",
                    _number(1000 * row["seconds"], 2),
                )
            )
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    rows = []
    for line in lines:
        words = [line[i].ljust(widths[i]) for i in (0, 1)]
        words += [line[i].rjust(widths[i]) for i in range(2, len(header))]
        rows.append("  ".join(words))
    rows.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(rows)


def _problems(clean: Tensor, generator: torch.Generator) -> list[_Problem]:
    shape = tuple(clean.shape[1:])
    masks = random_masks(len(clean), shape, MISSING, generator)
    sensing = CompressedSensing.gaussian(MEASUREMENTS, shape, generator=generator)
    return [
        _Problem(
            "denoising",
            "Denoising, sigma = 110/255",
            Denoising(),
            110 / 255,
            "measured",
            "",
            lambda y: y,
        ),
        _Problem(
            "inpainting",
            f"Inpainting, {MISSING:.0%} of the pixels missing, sigma = 10/255",
            Inpainting(masks),
            10 / 255,
            "measured",
            "blue = missing",
            lambda y: figures.mark_missing(y, masks[: len(y)]),
        ),
        _Problem(
            "compressed-sensing",
            f"Compressed sensing, {MEASUREMENTS} random measurements of {clean[0].numel()} pixels, "
            "sigma = 10/255",
            sensing,
            10 / 255,
            r"measured, as $A^T y$",
            f"{MEASUREMENTS} numbers",
            sensing.A_adjoint,
        ),
    ]


def _run(
    problem: _Problem,
    y: Tensor,
    clean: Tensor,
    prior: Prior,
    method: Algorithm,
    seed: int,
    device: torch.device,
) -> _Run:
    operator = problem.operator.to(device)
    y = y.to(device)

    def solve(operator: Operator, y: Tensor) -> Result:
        generator = torch.Generator().manual_seed(seed)
        return restore(y, operator, prior, problem.sigma, method=method, generator=generator)

    first = torch.zeros(1, dtype=torch.int64, device=device)
    solve(operator.select(first), y[:1])
    _wait(device)
    begin = time.perf_counter()
    result = solve(operator, y)
    _wait(device)
    seconds = time.perf_counter() - begin
    beta = torch.full_like(result.objective, float(prior.gamma) ** -2)
    sigma = torch.full_like(result.objective, problem.sigma)
    # The exact x for the z found: what J1 means for a method that knows no x of its own.
    with torch.no_grad():
        _, j1, _ = operator.x_update(result.decoded, y.to(beta.dtype), result.z, beta, sigma)
    x, decoded = result.x.cpu(), result.decoded.cpu()
    return _Run(
        result,
        psnr(x, clean.to(x.dtype)),
        psnr(decoded, clean.to(x.dtype)),
        ssim(x, clean),
        j1.cpu(),
        seconds,
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _summary(run: _Run) -> dict[str, Any]:
    count = len(run.psnr)
    return {
        "psnr": _mean(run.psnr),
        "psnr_decoded": _mean(run.psnr_decoded),
        "ssim": _mean(run.ssim),
        "j1": _mean(run.j1),
        "seconds": run.seconds / count,
        "seconds_all_images": run.seconds,
        "converged": int(run.result.converged.sum()),
        "per_image": {
            "psnr": _finite(run.psnr),
            "psnr_decoded": _finite(run.psnr_decoded),
            "ssim": _finite(run.ssim),
            "j1": _finite(run.j1),
            "iterations": run.result.iterations.tolist(),
            "status": run.result.status,
        },
    }


def _draw(path: Path, problem: _Problem, clean: Tensor, y: Tensor, runs: dict[str, _Run]) -> None:
    count = min(COLUMNS, len(clean))

    def row(label: str, images: Tensor, values: Tensor) -> figures.Row:
        mean = _mean(values)
        detail = f"mean of {len(values)}: {_number(mean, 2)} dB"
        return figures.Row(
            label, images[:count], detail, [f"{value:.1f} dB" for value in values[:count].tolist()]
        )

    csgm, jpmap = runs["csgm"], runs["jpmap"]
    figures.save_grid(
        path,
        problem.title,
        [
            figures.Row("original", clean[:count], "MNIST test digits"),
            figures.Row(
                problem.measured_label, problem.display(y[:count]), problem.measured_detail
            ),
            row("CSGM", csgm.result.x, csgm.psnr),
            row("JPMAP x", jpmap.result.x, jpmap.psnr),
            row("JPMAP G(z)", jpmap.result.decoded, jpmap.psnr_decoded),
        ],
    )


def _settings(method: Algorithm) -> dict[str, Any]:
    """A method's name and settings, as JSON can hold them."""
    fields = vars(method)
    plain = (bool, int, float, str, type(None))
    return {
        "name": type(method).__name__,
        **{k: v if isinstance(v, plain) else repr(v) for k, v in fields.items()},
    }


def _finite(values: Tensor) -> list[float | None]:
    """A list in which NaN and infinity, which JSON does not know, are None."""
    return [v if np.isfinite(v) else None for v in values.double().tolist()]


def _mean(values: Tensor) -> float | None:
    return _finite(values.double().mean()[None])[0]


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


class _Bar:
    """A progress bar, or nothing."""

    def __init__(self, shown: bool, total: int) -> None:
        self._bar: Any = None
        if shown:
            from tqdm.auto import tqdm

            self._bar = tqdm(total=total, unit="step")

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def describe(self, text: str) -> None:
        if self._bar is not None:
            self._bar.set_description(text)

    def advance(self) -> None:
        if self._bar is not None:
            self._bar.update()

"""The demo from the digits to the figures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from jpmap_fast._files import plain, write_json
from jpmap_fast._metrics import ssim
from jpmap_fast._problems import Problem, degradation
from jpmap_fast._versions import versions
from jpmap_fast.algorithms import CSGM, JPMAP, Algorithm
from jpmap_fast.data.digits import mnist_test_digits
from jpmap_fast.demo.method_run import run_method
from jpmap_fast.demo.photograph import restore_photograph
from jpmap_fast.demo.show import draw
from jpmap_fast.priors import Prior, load_prior
from jpmap_fast.priors.protocol import bound

PROBLEMS = ("denoising", "inpainting", "compressed-sensing")

NOTES = {
    "sigma": "standard deviation of the noise, for pixel values in [0, 1]",
    "psnr": "of the restored image x, in dB, values in [0, 1] and not clipped; for CSGM x = G(z)",
    "psnr_decoded": "of the decoded code G(z)",
    "j1": "J1(x, z) = ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G(z)||^2 + ||z||^2 / 2 at "
    "beta = 1/gamma^2, y being 0 where nothing is observed. For CSGM x is the exact minimiser of "
    "J1 for the z it found, so that both methods are compared by one yardstick; its other figures "
    "are those of x = G(z)",
    "seconds": "wall time of one call on all images, divided by the number of images, after one "
    "call on a single image that is not counted",
    "means": "over all images; per_image holds the single values",
}


def run_demo(
    output: str | Path,
    images: int = 32,
    *,
    prior: Prior | str | Path = "mnist",
    seed: int = 0,
    device: str | torch.device = "cpu",
    csgm: CSGM | None = None,
    jpmap: JPMAP | None = None,
    photograph: bool = True,
    progress: bool = False,
) -> dict[str, Any]:
    """Restore a photograph, then MNIST test digits, from measurements of several kinds.

    The photograph is inpainted, deblurred and enlarged; the digits are restored from noise, from
    20% of their pixels and from 140 measurements. Writes ``results.json``, ``photograph.png`` and a
    figure for each problem of digits into ``output``.

    Args:
        output: folder, made if need be.
        images: number of bundled test digits, 1 to 500.
        prior: a prior for images [1, 28, 28], or its name or path.
        seed: of masks, measurement matrix, noise and random starts.
        device: where to compute.
        csgm: settings of the baseline; ``CSGM()`` if None.
        jpmap: settings of the method; ``JPMAP()`` if None.
        photograph: begin with the photograph.
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
    model = _model(prior, tuple(clean.shape[1:]), device)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    picture = restore_photograph(folder, seed, device) if photograph else None
    methods: dict[str, Algorithm] = {"csgm": csgm or CSGM(), "jpmap": jpmap or JPMAP()}
    problems = _problems(clean, seed, device)
    settings = {
        "images": images,
        "labels": labels,
        "seed": seed,
        **_circumstances(prior, model, methods, device),
    }
    found: dict[str, Any] = {problem.name: {} for problem in problems}
    steps = [(problem, name) for problem in problems for name in methods]
    with tqdm(steps, unit="run", disable=not progress) as bar:
        for problem, name in bar:
            bar.set_description(f"{problem.name}: {name}")
            found[problem.name][name] = run_method(problem, model, methods[name], seed)
    for problem in problems:
        runs = found[problem.name]
        figure = folder / f"{problem.name}.png"
        draw(figure, problem, runs["csgm"], runs["jpmap"])
        found[problem.name] = {
            "title": problem.title,
            "sigma": problem.sigma,
            "figure": figure.name,
            **{name: run.summary() for name, run in runs.items()},
        }
    results: dict[str, Any] = plain(
        {
            "settings": settings,
            "notes": NOTES,
            "versions": versions(),
            "photograph": picture,
            "problems": found,
            "seconds_total": time.perf_counter() - started,
        }
    )
    write_json(folder / "results.json", results)
    return results


def _circumstances(
    prior: Prior | str | Path,
    model: Prior,
    methods: dict[str, Algorithm],
    device: str | torch.device,
) -> dict[str, Any]:
    return {
        "prior": str(prior) if isinstance(prior, (str, Path)) else type(prior).__name__,
        "gamma": float(model.gamma),
        "beta": float(model.gamma) ** -2,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "methods": {name: _settings(method) for name, method in methods.items()},
    }


def _model(
    prior: Prior | str | Path, image_shape: tuple[int, ...], device: str | torch.device
) -> Prior:
    """The prior on the device.

    Raises:
        ValueError: it is for other images.
    """
    model = load_prior(prior) if isinstance(prior, (str, Path)) else prior
    model = bound(model, image_shape)
    return model.to(device) if isinstance(model, torch.nn.Module) else model


def _problems(clean: Tensor, seed: int, device: str | torch.device) -> list[Problem]:
    generator = torch.Generator().manual_seed(seed)
    shape = tuple(clean.shape[1:])
    made = [degradation(name, len(clean), shape, generator) for name in PROBLEMS]
    return [one.of(clean, generator, device) for one in made]


def _settings(method: Algorithm) -> dict[str, Any]:
    """A method's name and settings, as JSON can hold them."""
    kept = (bool, int, float, str, type(None))
    return {
        "name": type(method).__name__,
        **{k: v if isinstance(v, kept) else repr(v) for k, v in vars(method).items()},
    }

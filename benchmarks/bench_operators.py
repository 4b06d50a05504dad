"""The x-update of every operator against DeepInverse's ``prox_l2`` on the same inputs.

    python benchmarks/bench_operators.py --device cpu [--output FILE]

Both solve argmin_x ||A x - y||^2 / (2 sigma^2) + beta/2 ||x - G||^2; ours returns J1 and the
coupling gap of every image as well. Errors are relative to a solve in float64.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import deepinv
import torch
from timer import RESULTS, median_seconds, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._versions import device_name

SIGMA, GAMMA = 0.1, 0.15
BATCHES = [(64, (1, 28, 28)), (16, (3, 64, 64)), (64, (3, 64, 64))]
MATRICES = [(64, (1, 28, 28), 140), (16, (3, 64, 64), 1200)]


@dataclass
class Case:
    """One operator on one batch.

    Attributes:
        name: of the operator.
        batch, image_shape: of the images.
        ours: the operator.
        theirs: DeepInverse's.
    """

    name: str
    batch: int
    image_shape: tuple[int, ...]
    ours: jf.BoundOperator
    theirs: Any


def cases(device: torch.device) -> Iterator[Case]:
    """The same A in both packages."""
    physics = deepinv.physics
    for batch, shape in BATCHES:
        g = torch.Generator().manual_seed(0)
        mask = (torch.rand(shape[1:], generator=g) < 0.5).float()
        kernel = jf.gaussian_kernel(1.5)
        filter_ = kernel[None, None].to(device)
        full = mask.expand(shape).contiguous().to(device)
        pairs: list[tuple[str, jf.Operator, Any]] = [
            ("denoising", jf.Denoising(), physics.Denoising()),
            ("inpainting", jf.Inpainting(mask), physics.Inpainting(shape, mask=full)),
            ("blur", jf.Blur(kernel), physics.BlurFFT(shape, filter=filter_)),
        ]
        for factor in (2, 4):
            down = physics.Downsampling(shape, filter=filter_, factor=factor, padding="circular")
            pairs.append((f"super-resolution x{factor}", jf.SuperResolution(factor, kernel), down))
        for name, ours, theirs in pairs:
            bound = ours.to(device).bind(shape)
            yield Case(name, batch, shape, bound, theirs.to(device))
    for batch, shape, m in MATRICES:
        g = torch.Generator().manual_seed(0)
        sensing = jf.CompressedSensing.gaussian(m, shape, generator=g).to(device)
        theirs = physics.CompressedSensing(m, shape, device=device)
        theirs._A.copy_(sensing.matrix)
        theirs._A_adjoint.copy_(sensing.matrix.T)
        yield Case(f"compressed sensing m={m}", batch, shape, sensing.bind(shape), theirs)


def exact(case: Case, decoded: Tensor, y: Tensor) -> Tensor:
    """The same x-update in float64 on the CPU, by conjugate gradients on the operator itself."""
    operator = case.ours.to("cpu", torch.float64)
    slow = jf.LinearOperator(operator.A, operator.A_adjoint, tolerance=1e-13, max_iterations=5000)
    decoded, y = decoded.double().cpu(), y.double().cpu()
    one = torch.ones(case.batch, dtype=torch.float64)
    x, _, _ = slow.x_update(decoded, y, one[:, None], one / GAMMA**2, one * SIGMA)
    return x


def measure(case: Case, device: torch.device, repeats: int) -> dict[str, Any]:
    """One row of the result."""
    g = torch.Generator().manual_seed(1)
    shape = (case.batch, *case.image_shape)
    clean, decoded = (torch.rand(shape, generator=g).to(device) for _ in range(2))
    clean_y = case.ours.A(clean)
    y = clean_y + SIGMA * torch.randn(clean_y.shape, generator=g).to(device)
    z = torch.zeros(case.batch, 8, device=device)
    sigma = torch.full((case.batch,), SIGMA, device=device)
    beta = torch.full((case.batch,), 1 / GAMMA**2, device=device)
    gamma = GAMMA**2 / SIGMA**2

    calls: dict[str, Callable[[], Any]] = {
        "jpmap_fast": lambda: case.ours.x_update(decoded, y, z, beta, sigma)[0],
        "deepinv": lambda: case.theirs.prox_l2(decoded, y, gamma),
    }
    truth = exact(case, decoded, y)
    with torch.no_grad():
        error = {
            name: float((call().double().cpu() - truth).norm() / truth.norm())
            for name, call in calls.items()
        }
        seconds = {name: median_seconds(call, device, repeats) for name, call in calls.items()}
    row = {
        "operator": case.name,
        "batch": case.batch,
        "image_shape": list(case.image_shape),
        "seconds": seconds,
        "relative_error": error,
        "times_faster": seconds["deepinv"] / seconds["jpmap_fast"],
    }
    size = f"{case.batch} x {'x'.join(map(str, case.image_shape))}"
    print(
        f"{case.name:26s} {size:14s} {seconds['jpmap_fast'] * 1e3:8.3f} ms "
        f"{seconds['deepinv'] * 1e3:9.3f} ms  {row['times_faster']:7.2f} x   "
        f"errors {error['jpmap_fast']:.1e} {error['deepinv']:.1e}",
        flush=True,
    )
    return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--repeats", type=int, default=50)
    options = parser.parse_args()
    device = torch.device(options.device)
    rows = [measure(case, device, options.repeats) for case in cases(device)]
    lines = [
        [
            row["operator"],
            f"{row['batch']} x {'x'.join(map(str, row['image_shape']))}",
            f"{row['seconds']['jpmap_fast'] * 1e3:.3g}",
            f"{row['seconds']['deepinv'] * 1e3:.3g}",
            f"{row['times_faster']:.1f}",
            f"{row['relative_error']['jpmap_fast']:.0e}",
            f"{row['relative_error']['deepinv']:.0e}",
        ]
        for row in rows
    ]
    columns = [
        "x-update (float32)",
        "images",
        "jpmap_fast, ms",
        "DeepInverse, ms",
        "times faster",
        "relative error",
        "DeepInverse's",
    ]
    note = (
        f"Measured on {device_name(device)}, torch {torch.__version__}, "
        f"deepinv {deepinv.__version__}; errors against a float64 solve."
    )
    document = {
        "what": "x-update against deepinv's prox_l2, same inputs, same run",
        "deepinv": deepinv.__version__,
        "sigma": SIGMA,
        "gamma": GAMMA,
        "rows": rows,
        "table": {"columns": columns, "rows": lines, "note": note},
    }
    default = RESULTS / f"operators_{device.type}.json"
    write(options.output or default, document, device)


if __name__ == "__main__":
    main()

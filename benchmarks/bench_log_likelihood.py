"""The data term of many draws an image, compiled, against the same by decoding in chunks.

    python benchmarks/bench_log_likelihood.py [--device cuda] [--output FILE]

``compiled`` is ``mlp_log_likelihood``; ``chunks`` the objective's value at as many rows as two
million numbers of decoded images have; ``torch`` the same by plain ``torch.nn.functional.linear``.
GFLOP/s count the products of a whole decode, whatever was computed of it: with a mask for each
image the compiled operator leaves out what was not observed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timer import RESULTS, median_seconds, write
from torch import Tensor

import jpmap_fast as jf
from jpmap_fast._problems import SIGMA, Degradation, compressed_sensing, denoising
from jpmap_fast._versions import device_name
from jpmap_fast.kernels.activations import ACTIVATIONS
from jpmap_fast.kernels.mlp import mlp_log_likelihood
from jpmap_fast.objective import Projection, WeightedLeastSquares
from jpmap_fast.objective.least_squares import half_squared_norm
from jpmap_fast.priors.mlp_decoder import MLPDecoder
from jpmap_fast.priors.protocol import make_decoder

SHAPE = (1, 28, 28)
ROOM = 1 << 21  # numbers of decoded images that are held at a time


def problems(batch: int, device: torch.device) -> dict[str, WeightedLeastSquares]:
    """Objectives of the three degradations, with another mask for every image."""
    prior = jf.load_prior("mnist", device=device)
    decoder = make_decoder(prior)
    g = torch.Generator().manual_seed(0)
    masks = jf.Inpainting(jf.random_masks(batch, SHAPE, 0.8, generator=g))
    digits = jf.mnist_test_digits(min(batch, 500))[0]
    digits = digits[torch.arange(batch) % len(digits)]  # each with noise of its own
    made = {}
    for degradation in (
        denoising(),
        Degradation("inpainting", "80% missing", masks, SIGMA),
        compressed_sensing(SHAPE, g),
    ):
        given = degradation.of(digits, g, device)
        ones = torch.ones(batch, device=device)
        bound = given.operator.bind(SHAPE, batch)
        f = Projection(bound, decoder)(given.y, ones / prior.gamma**2, given.sigma * ones)
        assert isinstance(f, WeightedLeastSquares)
        made[degradation.name] = f
    return made


def in_chunks(f: WeightedLeastSquares, z: Tensor, value: Callable[..., Tensor]) -> Tensor:
    """The data term of z [B, N, k] by a function of an objective and its codes."""
    rows = torch.arange(len(z), device=z.device).repeat_interleave(z.shape[1])
    flat, size = z.flatten(0, 1), ROOM // f.decoder.size
    parts = [
        value(f.select(rows[i : i + size]), flat[i : i + size]) for i in range(0, len(rows), size)
    ]
    return torch.cat(parts).reshape(z.shape[:2])


def by_objective(f: WeightedLeastSquares, codes: Tensor) -> Tensor:
    """With the package's own products."""
    constant = 0 if f.constant is None else f.constant
    return half_squared_norm(codes) - f.value(codes) + constant


def by_torch(f: WeightedLeastSquares, codes: Tensor) -> Tensor:
    """With torch's products."""
    decoder = f.decoder
    assert isinstance(decoder, MLPDecoder)
    h = codes
    for layer, name in zip(decoder.layers, decoder.activations, strict=True):
        h = ACTIVATIONS[name].value(torch.nn.functional.linear(h, layer.weight, layer.bias))
    if f.matrix is not None and f.matrix.dense is not None:
        h = torch.nn.functional.linear(h, f.matrix.dense[0].weight)
    residual = f.target - (h if f.scale is None else h * f.scale)
    return -0.5 * (residual * f.weight * residual).double().sum(dim=1)


def measure(f: WeightedLeastSquares, batch: int, number: int, repeats: int) -> dict[str, Any]:
    """One objective with N draws an image."""
    device = f.target.device
    g = torch.Generator().manual_seed(1)
    z = torch.randn(batch, number, 8, generator=g).to(device)
    form = f.fused()
    assert not isinstance(form, str), form
    calls = {
        "compiled": lambda: mlp_log_likelihood(z, form),
        "chunks": lambda: in_chunks(f, z, by_objective),
        "torch": lambda: in_chunks(f, z, by_torch),
    }
    exact = calls["torch"]()
    products = sum(
        layer.weight.numel()
        for layer in [*f.decoder.layers, *([f.matrix] if f.matrix else [])]  # type: ignore[attr-defined]
    )
    row: dict[str, Any] = {"batch": batch, "draws": number}
    for name, call in calls.items():
        row[f"{name}_error"] = float(((call() - exact) / exact).abs().max())
        seconds = median_seconds(call, device, repeats, warm_up=1) / (batch * number)
        row[f"{name}_ns"] = 1e9 * seconds
        row[f"{name}_gflops"] = 2 * products / seconds / 1e9
    return row


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--batches", type=int, nargs="+")
    parser.add_argument("--draws", type=int, nargs="+", default=[128, 512])
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    threads = options.threads if device.type == "cpu" else [torch.get_num_threads()]
    batches = options.batches or ([1, 64] if device.type == "cpu" else [1, 64, 8192])
    rows, lines = [], []
    for batch in batches:
        for name, f in problems(batch, device).items():
            for number in options.draws:
                for count in threads:
                    torch.set_num_threads(count)
                    row = measure(f, batch, number, options.repeats)
                    row = {"problem": name, "threads": count, **row}
                    rows.append(row)
                    times = [row[f"{way}_ns"] for way in ("compiled", "chunks", "torch")]
                    ratio = times[1] / times[0]
                    lines.append(
                        [name, batch, number, count, *(f"{t:.0f}" for t in times)]
                        + [f"{row['compiled_gflops']:.0f}", f"{ratio:.2f}"]
                    )
                    print(*lines[-1], flush=True)
    document = {
        "what": "mlp_log_likelihood against decoding in chunks",
        "rows": rows,
        "table": {
            "columns": [
                "problem",
                "images",
                "draws an image",
                "threads",
                "ns a draw",
                "in chunks",
                "plain torch",
                "GFLOP/s of a whole decode",
                "times faster than chunks",
            ],
            "rows": lines,
            "note": f"On {device_name(device)}, torch {torch.__version__}.",
        },
    }
    write(options.output or RESULTS / f"log_likelihood_{device.type}.json", document, device)


if __name__ == "__main__":
    main()

"""Fit the residual models of a bundled prior and put them into its file, all else as it is.

    python benchmarks/fit_residuals.py mnist mnist.npz --key x_train --images 20000 --rank 128

prints the variance that each model explains. Deviations and factors are stored in half precision.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import jpmap_fast as jf
from jpmap_fast.priors.load import BUNDLED
from jpmap_fast.residuals.files import PREFIX, packed


def main() -> None:
    """Fit and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("prior", choices=jf.available_priors())
    parser.add_argument("data", type=Path, help="training pictures, as `jpmap-fast train` reads")
    parser.add_argument("--key")
    parser.add_argument("--images", type=int, default=20_000)
    parser.add_argument("--rank", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    prior = jf.load_prior(arguments.prior, device=arguments.device)
    found = jf.load_images(arguments.data, key=arguments.key, as_bytes=True)
    images = found.images[: arguments.images].to(arguments.device)
    models = jf.fit_residuals(prior, images, rank=arguments.rank, progress=print)
    path = BUNDLED / f"{arguments.prior}.safetensors"
    with safe_open(path, "pt") as file:
        header = file.metadata()
        names = [name for name in file.keys() if not name.startswith(PREFIX)]
        tensors = {name: file.get_tensor(name) for name in names}
    carried, laws = packed(models)
    header["residuals"] = json.dumps(laws)
    tensors |= {name: value.cpu().half().contiguous() for name, value in carried.items()}
    save_file(tensors, str(path), metadata=header)
    covariance = models["covariance"]
    shared = covariance.factor.square().sum() / models["pixel"].diagonal.sum()
    print(f"gamma {prior.gamma:.4f}; pixels {models['pixel'].diagonal.mean().sqrt():.4f}")
    print(f"rank {arguments.rank} holds {float(shared):.1%} of the variance; {models['grey']}")
    print(f"{len(images)} pictures, {time.perf_counter() - begin:.0f} s, {torch.__version__}")


if __name__ == "__main__":
    main()

"""Train the eight priors of the experiments generative-quality and sigma-dvae.

Fully connected VAEs of MNIST, 784-256-256-8 (half as wide as the paper's, so that all eight fit
into the package), alike in everything but the encoder's input noise sigma_DVAE.

    python benchmarks/train_sigma_dvae.py mnist.npz --device cuda
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

import jpmap_fast as jf
from jpmap_fast._files import write_json
from jpmap_fast.experiments.sigma_dvae import BUNDLED, LEVELS, file_name
from jpmap_fast.training import Recipe, reconstruction_psnr, train


def main() -> None:
    """Train, print the reconstruction of test digits, write weights and a log."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="npz file with x_train and x_test")
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--output", type=Path, default=BUNDLED)
    parser.add_argument("--hidden", type=int, nargs="+", default=[256, 256])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--levels", type=int, nargs="+", default=list(LEVELS))
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    with np.load(options.images, allow_pickle=False) as arrays:
        images, test = (torch.from_numpy(arrays[name])[:, None] for name in ("x_train", "x_test"))
    rows = []
    for level in options.levels:
        recipe = Recipe(
            latent_dim=8,
            hidden=tuple(options.hidden),
            sigma_dvae=level / 255,
            epochs=options.epochs,
            batch_size=512,
            learning_rate=7e-4,
            schedule="cosine",
            weight_decay=0.07,
        )
        begin = time.perf_counter()
        settings = asdict(recipe)
        prior = train(images, device=options.device, progress=False, **settings)
        seconds = time.perf_counter() - begin
        psnr = reconstruction_psnr(prior, test.to(options.device))
        row = {"sigma_dvae": level, "gamma": prior.gamma, "psnr": psnr, "seconds": seconds}
        print(row, flush=True)
        rows.append(row)
        jf.save_prior(prior, options.output / file_name(level), recipe=settings, half=True)
    log = {"network": [784, *options.hidden, 8], "epochs": options.epochs, "priors": rows}
    path = options.output / "mnist-sigma-dvae.json"
    write_json(path, log, indent=1)


if __name__ == "__main__":
    main()

"""Trains the bundled denoisers and writes what their cards say.

    python benchmarks/train_denoisers.py --data FOLDER --set mnist --device cuda --output FILE
    python benchmarks/train_denoisers.py --data FOLDER --set faces --device cuda --output FILE

FOLDER holds mnist.npz (array x_train, uint8 [N, 28, 28]) or faces_train.npz (array x, uint8
[N, 3, 64, 64]). The last ``HELD_OUT`` images are not trained on. FILE is a safetensors file in half
precision; a JSON file of the same name lies beside it with the losses, the PSNR on the images held
out and the Lipschitz constants of the denoiser as it is read back.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jpmap_fast._files import write_json
from jpmap_fast._versions import device_name
from jpmap_fast.denoisers import (
    convolution_norm,
    convolution_norm_bound,
    load_denoiser,
    save_denoiser,
)
from jpmap_fast.training.denoiser import denoising_psnr, train_denoiser

HELD_OUT = 500
LEVELS = (5, 10, 25, 50, 75, 110)  # grey levels
# Seconds are those of the steps alone; reading, norms and figures take ten more on a GPU.
SETS: dict[str, dict[str, Any]] = {
    "mnist": {
        "file": ("mnist.npz", "x_train"),
        "seconds": 62.0,
        "recipe": {"sigma_high": 110 / 255, "batch_size": 128, "steps": 60_000},
    },
    "faces": {
        "file": ("faces_train.npz", "x"),
        "seconds": 95.0,
        "recipe": {"sigma_high": 60 / 255, "batch_size": 64, "steps": 50_000, "mirror": True},
    },
}


def read_images(folder: Path, name: str, key: str) -> Tensor:
    """uint8 [N, C, H, W] of an archive."""
    with np.load(folder / name) as archive:
        images = torch.from_numpy(archive[key])
    if images.dtype != torch.uint8:
        raise SystemExit(f"{folder / name}: expected uint8 in {key}, got {images.dtype}")
    return images[:, None] if images.dim() == 3 else images


def main() -> None:
    """Train, write, read back, judge."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the images")
    parser.add_argument("--set", choices=sorted(SETS), required=True)
    parser.add_argument("--output", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, help="of the steps; 0: as many as --steps say")
    parser.add_argument("--steps", type=int, help="at most")
    parser.add_argument("--lipschitz", type=float, default=0.9)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--learning-rate", type=float, help="1e-2 / width by default")
    parser.add_argument("--precision", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--no-cuda-graph", action="store_true")
    parser.add_argument("--held-out", type=int, default=HELD_OUT, help="images at the end")
    options = parser.parse_args()

    begin = time.perf_counter()
    chosen = SETS[options.set]
    images = read_images(options.data, *chosen["file"])
    train, held_out = images[: -options.held_out], images[-options.held_out :]
    recipe = {
        **chosen["recipe"],
        "lipschitz": options.lipschitz,
        "width": options.width,
        "depth": options.depth,
        "learning_rate": options.learning_rate,
        "precision": options.precision,
    }
    for name in ("steps", "batch_size"):
        if getattr(options, name) is not None:
            recipe[name] = getattr(options, name)
    seconds = chosen["seconds"] if options.seconds is None else options.seconds
    trained, log = train_denoiser(
        train,
        device=options.device,
        seconds=seconds or None,
        cuda_graph=not options.no_cuda_graph,
        **recipe,
    )
    save_denoiser(trained, options.output, log["recipe"], half=True)
    print(
        f"{log['steps']} steps in {log['seconds']:.1f} s, written to {options.output}", flush=True
    )

    denoiser = load_denoiser(options.output, options.device)
    height, width = denoiser.image_shape[1:]
    kernels = (denoiser.first, *denoiser.hidden, denoiser.last)
    norms = [convolution_norm(kernel, height, width) for kernel in kernels]
    above = [convolution_norm_bound(kernel, height, width) for kernel in kernels]
    high = recipe["sigma_high"]
    log["psnr"] = []
    print("sigma * 255   noisy   denoised   largest local L of 32 noisy images")
    generator = torch.Generator().manual_seed(1)
    for level in (level for level in LEVELS if level / 255 <= high):
        sigma = level / 255
        before, after = denoising_psnr(denoiser, held_out, sigma)
        clean = held_out[:32].float() / 255
        noisy = clean + sigma * torch.randn(clean.shape, generator=generator)
        local = float(denoiser.local_lipschitz(noisy.to(options.device), sigma).max())
        log["psnr"].append({"sigma": level, "noisy": before, "denoised": after, "local_L": local})
        print(f"{level:11d} {before:7.2f} {after:10.2f} {local:10.4f}", flush=True)
    log.update(
        {
            "set": options.set,
            "held_out": len(held_out),
            "device": device_name(torch.device(options.device)),
            "bytes": options.output.stat().st_size,
            "lipschitz": denoiser.lipschitz,
            "norms_of_file": norms,
            "lipschitz_of_file": float(np.prod(norms)),
            "lipschitz_of_file_from_above": float(np.prod(above)),
            "total_seconds": time.perf_counter() - begin,
        }
    )
    write_json(options.output.with_suffix(".json"), log, indent=1)
    print(
        f"L = {denoiser.lipschitz:g}; of the file {log['lipschitz_of_file']:.6f} by the "
        f"norms, at most {log['lipschitz_of_file_from_above']:.6f}; {log['bytes'] / 1e6:.2f} MB, "
        f"{log['total_seconds']:.0f} s in all"
    )


if __name__ == "__main__":
    main()

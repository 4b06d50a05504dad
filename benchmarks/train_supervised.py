"""Train the supervised network: x from A^T y, inpainting with 80% missing and sigma = 10/255.

    python benchmarks/train_supervised.py --data FOLDER --set mnist \
        --output unet-mnist.safetensors --device cuda

FOLDER has mnist.npz (x_train) or faces_train.npz (x), uint8. Masks and noise are drawn anew for
every image of every step, on the device. The learning rate follows the time, or the steps where
--steps is given: then two runs on one device see the same images.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn

from jpmap_fast._masks import random_masks
from jpmap_fast._metrics import psnr
from jpmap_fast.experiments.baselines import load_network, save_network
from jpmap_fast.experiments.baselines.network import build_network
from jpmap_fast.experiments.baselines.training_images import training_images

MISSING, SIGMA = 0.8, 10 / 255
WIDTHS = {"mnist": (32, 64, 128), "faces": (48, 80, 112, 128)}
SECONDS = {"mnist": 50.0, "faces": 80.0}
BATCH = {"mnist": 512, "faces": 128}


def measured(
    images: Tensor, generator: torch.Generator, missing: float = MISSING, sigma: float = SIGMA
) -> Tensor:
    """A^T y of images [B, C, H, W]: a mask of its own for each, noise where it observes."""
    masks = random_masks(len(images), tuple(images.shape[1:]), missing, generator)
    noise = torch.randn(images.shape, generator=generator, device=images.device)
    return masks * (images + sigma * noise)


def train(network: nn.Module, images: Tensor, options: argparse.Namespace) -> tuple[nn.Module, int]:
    """The running average of the network's weights, and the number of steps.

    Args:
        network: on the device.
        images: uint8 [N, C, H, W] on the device; faces are mirrored at random.
        options: seconds, steps, batch, learning_rate, seed, set.
    """
    device = images.device
    generator = torch.Generator(device).manual_seed(options.seed)
    network = network.to(memory_format=torch.channels_last).train()
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=options.learning_rate, weight_decay=1e-4, fused=True
    )
    order = torch.empty(0, dtype=torch.int64, device=device)
    begin = time.perf_counter()
    for step in itertools.count():
        # A GPU runs behind what has been asked of it; without waiting, time would not be its own.
        if device.type == "cuda" and step % 20 == 0:
            torch.cuda.synchronize()
        done = (time.perf_counter() - begin) / options.seconds
        done = step / options.steps if options.steps else done
        if done >= 1:
            return average, step
        warm_up = min(1.0, (step + 1) / 200)
        rate = options.learning_rate * warm_up * 0.5 * (1 + math.cos(math.pi * done))
        for group in optimizer.param_groups:
            group["lr"] = rate
        if len(order) < options.batch:
            order = torch.randperm(len(images), generator=generator, device=device)
        chosen, order = order[: options.batch], order[options.batch :]
        clean = images[chosen].float() / 255
        if options.set == "faces":
            mirrored = torch.rand(len(clean), generator=generator, device=device) < 0.5
            clean = torch.where(mirrored[:, None, None, None], clean.flip(3), clean)
        seen = measured(clean, generator).contiguous(memory_format=torch.channels_last)
        with torch.autocast(device.type, torch.bfloat16):
            found = network(seen)
        loss = (found.float() - clean).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            keep = min(0.999, step / (step + 10))
            theirs = [*network.parameters(), *network.buffers()]
            mine = [*average.parameters(), *average.buffers()]
            pairs = [(m, t) for m, t in zip(mine, theirs, strict=True) if m.is_floating_point()]
            torch._foreach_lerp_([m for m, _ in pairs], [t for _, t in pairs], 1 - keep)
    raise AssertionError("unreachable")


def main() -> None:
    """Train, write, and print the PSNR of images held out as the degradation changes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", choices=tuple(WIDTHS), required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--seconds", type=float, help="of training")
    parser.add_argument("--steps", type=int, help="in place of seconds")
    parser.add_argument("--batch", type=int)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    options.seconds = options.seconds or SECONDS[options.set]
    options.batch = options.batch or BATCH[options.set]
    torch.manual_seed(options.seed)
    images, held_out = training_images(options.data, options.set)
    widths, channels = WIDTHS[options.set], images.shape[1]
    network = build_network(channels, widths).to(options.device)
    begin = time.perf_counter()
    average, steps = train(network, images.to(options.device), options)
    seconds = time.perf_counter() - begin
    recipe = {
        "images": options.set,
        "missing": MISSING,
        "sigma": SIGMA,
        "steps": steps,
        "batch": options.batch,
        "learning_rate": options.learning_rate,
        "seconds": round(seconds),
        "seed": options.seed,
    }
    save_network(average, options.output, channels, widths, recipe)
    print(
        {
            "set": options.set,
            "parameters": sum(p.numel() for p in network.parameters()),
            "steps": steps,
            "epochs": round(steps * options.batch / len(images), 1),
            "seconds": round(seconds, 1),
            "bytes": options.output.stat().st_size,
        }
    )
    stored = load_network(options.output, options.device)
    clean = held_out.to(options.device).float() / 255
    for missing, level in ((0.8, 10), (0.5, 10), (0.7, 10), (0.9, 10), (0.95, 10), (0.8, 50)):
        generator = torch.Generator(options.device).manual_seed(options.seed + 1)
        seen = measured(clean, generator, missing, level / 255)
        with torch.no_grad():
            found = torch.cat([stored(part) for part in seen.split(100)])
        print(
            f"{missing:.0%} missing, sigma {level}/255: {float(psnr(found, clean).mean()):.2f} dB "
            f"(A^T y: {float(psnr(seen, clean).mean()):.2f} dB)",
            flush=True,
        )


if __name__ == "__main__":
    main()

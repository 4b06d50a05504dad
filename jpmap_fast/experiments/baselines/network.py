"""The supervised network: deepinv's U-Net, small, on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from jpmap_fast.experiments.baselines._deepinv import deepinv_module
from jpmap_fast.experiments.baselines._files import located, read, write

FORMAT = "jpmap-fast unet 1"


def build_network(channels: int, widths: tuple[int, ...]) -> nn.Module:
    """An untrained U-Net that adds what it finds to its input.

    Args:
        channels: of the images, C.
        widths: feature maps of each level, from full resolution down; images are padded to
            multiples of 2^(levels - 1).

    Raises:
        ImportError: deepinv is not installed.
    """
    network: nn.Module = deepinv_module("models", "the supervised network").UNet(
        in_channels=channels, out_channels=channels, channels_per_scale=list(widths)
    )
    return network


def save_network(
    network: nn.Module,
    path: str | Path,
    channels: int,
    widths: tuple[int, ...],
    recipe: dict[str, Any] | None = None,
) -> None:
    """Write a network of ``build_network(channels, widths)``, its kernels in half precision.

    Biases and the statistics of its normalisation, a few numbers, keep their precision.
    """
    tensors = {
        name: value.half() if value.is_floating_point() and value.dim() > 1 else value
        for name, value in network.state_dict().items()
    }
    write(path, FORMAT, tensors, channels=channels, widths=list(widths), recipe=recipe or {})


@torch.inference_mode(False)
def load_network(name_or_path: str | Path, device: torch.device | str | None = None) -> nn.Module:
    """A trained network in evaluation mode, float32.

    Args:
        name_or_path: "mnist" or "faces", both trained for inpainting of A^T y with 80% missing and
            sigma = 10/255; or a file of ``save_network``.
        device: where to; the CPU by default.

    Raises:
        ImportError: deepinv is not installed. FileNotFoundError: no such file.
        ValueError: an unknown name, or a damaged or foreign file.
    """
    path = located("unet", name_or_path)
    tensors, header = read(path, FORMAT)
    try:
        network = build_network(int(header["channels"]), tuple(header["widths"]))
        network.load_state_dict(tensors)  # to the precision of the network
    except (KeyError, TypeError, RuntimeError) as error:
        raise ValueError(f"{path}: its tensors do not fit its architecture ({error})") from error
    return network.to(device).requires_grad_(False).eval()
